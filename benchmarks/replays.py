"""How often a calibration's verdicts call a line better where none is, on stored results.

    python -m benchmarks.replays [CALIBRATION.json ...]

By default those of `make demo-act`, whose figures are written. Of every prompt the effects are
dealt out anew among the prompt that the lines are held against and the lines, 200 times; no model
runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from aim_plugins.steering.calibration.replays import replay_verdicts
from aim_plugins.sweep.paired import LEVEL
from benchmarks._timing import RESULTS, write_result


def main(paths: Sequence[str]) -> None:
    """Replays them, and refuses verdicts that err more often than they say."""
    chosen = list(map(Path, paths)) or sorted((RESULTS / "demo").glob("act_*_calibration.json"))
    result = {}
    for path in chosen:
        found = replay_verdicts(path)
        result[path.stem] = asdict(found)  # unique in one folder, and no others are written
        print(
            f"{path}: {found.lines} lines, any better in {found.beaten.value:.1%} of "
            f"{found.count} replays, any better or worse in {found.called.value:.1%}; as they are "
            f"{found.found} are better"
        )
        if found.beaten.low > LEVEL:
            raise SystemExit(f"{path}: verdicts err in more than {LEVEL:.0%} of replays")
    if not paths:
        print(f"written: {write_result('replays', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
