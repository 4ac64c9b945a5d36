"""The re-engineering commands of `vision-bench`."""

from __future__ import annotations

from collections.abc import Sequence

from vision_bench.commands import run_study
from vision_bench.reengineering.composition.settings import ComposeSettings
from vision_bench.reengineering.settings import ReengineerSettings


def run(arguments: Sequence[str]) -> int:
    """Runs `vision-bench reengineer run`; returns 0."""
    run_study(
        ReengineerSettings,
        "reengineer run",
        "Re-engineers a trained classifier to the classes that are needed: learns which of its "
        "weights or channels they use, along a path from all to few, and measures what is left "
        "against the model itself. A killed run goes on when it is started again.",
        "vision_bench.reengineering.study:ReengineerStudy",
        arguments,
    )
    return 0


def compose(arguments: Sequence[str]) -> int:
    """Runs `vision-bench reengineer compose`; returns 0."""
    run_study(
        ComposeSettings,
        "reengineer compose",
        "Measures which weights or channels modules of one classifier share, and composes them to "
        "one model for all their classes. The config may be that of the modules, of which problem "
        "and masks are left aside.",
        "vision_bench.reengineering.composition.study:ComposeStudy",
        arguments,
        besides=(ReengineerSettings,),
    )
    return 0
