"""vision-bench reengineer defects CONFIG      which defects reused models inherit"""

from __future__ import annotations

from collections.abc import Sequence

from vision_bench.commands import run_study
from vision_bench.reengineering.defects.settings import DefectsSettings


def defects(arguments: Sequence[str]) -> int:
    """Runs `vision-bench reengineer defects`; returns 0."""
    run_study(
        DefectsSettings,
        "reengineer defects",
        "Fine-tunes a public classifier for another data set, as usual and after masks have "
        "removed the weights that the data set doesn't need (SeaM), and measures how many right "
        "answers an attack crafted on the public model overturns: the defects that are inherited. "
        "A killed run goes on when it is started again.",
        "vision_bench.reengineering.defects.study:DefectsStudy",
        arguments,
    )
    return 0
