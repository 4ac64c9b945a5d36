"""The process that OpenCompass starts for one task of a sweep.

python -m aim_plugins.harnesses.opencompass.run.process {infer,eval} CONFIG
"""

from __future__ import annotations

import argparse
import time

from mmengine.config import Config
from opencompass.utils import get_logger


def main() -> None:
    """Runs the task; a failure of any cell raises and so ends with a non-zero status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["infer", "eval"])
    parser.add_argument("config", help="a task's configuration, as a runner dumps it")
    options = parser.parse_args()
    config = Config.fromfile(options.config, format_python_code=False)
    start = time.time()
    if options.kind == "infer":
        from aim_plugins.harnesses.opencompass.run.infer import SweepOpenICLInferTask

        SweepOpenICLInferTask(config).run()
    else:
        from aim_plugins.harnesses.opencompass.run.evaluate import SweepOpenICLEvalTask

        SweepOpenICLEvalTask(config).run()
    get_logger().info(f"time elapsed: {time.time() - start:.2f}s")


if __name__ == "__main__":
    main()
