"""`python -m vision_bench.classification`, whose flags are named as in AIM's val.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aim_plugins.core.commands import guarded, speak_plainly
from vision_bench.classification.settings import ClassifySettings
from vision_bench.commands import read_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 2 for bad input, 1 for a failure."""
    if argv is None:
        speak_plainly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _classify(arguments))


def _classify(arguments: Sequence[str]) -> int:
    settings, command = read_command(
        ClassifySettings,
        "python -m vision_bench.classification",
        "Accuracy, calibration and entropy of a classifier against noise strength, from one pass "
        "of the model. Under `accelerate launch` all processes share the pass.",
        arguments,
        config=False,
        given={"plot": False},
    )
    from vision_bench.classification.study import ClassificationStudy

    ClassificationStudy(settings, command).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
