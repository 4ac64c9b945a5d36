"""The commands of `vision-bench coverage` that ask what coverage can tell.

vision-bench coverage diversity CONFIG      noise on important pixels against random ones
vision-bench coverage sensitivity CONFIG    inputs replaced by attacked ones
vision-bench coverage correlation CONFIG    coverage against impartiality and mistakes found
vision-bench coverage overhead CONFIG       the time it takes
"""

from __future__ import annotations

from collections.abc import Sequence

from vision_bench.commands import run_study
from vision_bench.coverage.questions.settings import (
    CorrelationSettings,
    DiversitySettings,
    OverheadSettings,
    SensitivitySettings,
)


def diversity(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage diversity`; returns 0."""
    run_study(
        DiversitySettings,
        "coverage diversity",
        "Measures what images with noise on their most relevant pixels add to a suite's coverage, "
        "against noise on random pixels and against as many more real images.",
        "vision_bench.coverage.questions.diversity:Diversity",
        arguments,
    )
    return 0


def sensitivity(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage sensitivity`; returns 0."""
    run_study(
        SensitivitySettings,
        "coverage sensitivity",
        "Replaces a share of a suite's correctly classified inputs by attacked ones (FGSM, PGD, "
        "CW), and compares the change of coverage with that by as many other clean images.",
        "vision_bench.coverage.questions.sensitivity:Sensitivity",
        arguments,
    )
    return 0


def correlation(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage correlation`; returns 0."""
    run_study(
        CorrelationSettings,
        "coverage correlation",
        "Correlates the coverage of clean and attacked suites with output impartiality, with the "
        "mistakes they find, and with their size, which confounds both.",
        "vision_bench.coverage.questions.correlation:Correlation",
        arguments,
    )
    return 0


def overhead(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage overhead`; returns 0."""
    run_study(
        OverheadSettings,
        "coverage overhead",
        "Times learning and measuring of each criterion alone and of all in one pass, against the "
        "model alone.",
        "vision_bench.coverage.questions.overhead:Overhead",
        arguments,
    )
    return 0
