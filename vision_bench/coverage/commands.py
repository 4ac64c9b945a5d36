"""The coverage commands of `vision-bench`.

vision-bench coverage run CONFIG            every criterion of a suite
vision-bench coverage importance CONFIG     whether important neurons matter more than random ones
vision-bench coverage combine FOLDER ...    what parts of a suite exercise together
vision-bench coverage sweep CONFIG          the same against the strength of a change

The commands of the other questions are in `questions.commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from vision_bench.commands import run_study
from vision_bench.coverage.combine_settings import CombineSettings
from vision_bench.coverage.questions.importance_settings import ImportanceQuestion
from vision_bench.coverage.settings import RunSettings
from vision_bench.coverage.sweep_settings import SweepSettings

_UNDER = 1
"""Exit status of coverage below what was asked for."""


def run(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage run`; returns 0, or 1 if coverage is below --fail-under."""
    study = run_study(
        RunSettings,
        "coverage run",
        "Measures what a test suite exercises of a classifier: twelve coverage criteria from one "
        "pass, against their ceilings and random suites of the same size, with what is left out by "
        "name. A killed run goes on when it is started again.",
        "vision_bench.coverage.study:CoverageStudy",
        arguments,
    )
    return _judge(study.missed)


def combine(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage combine`; returns 0, or 1 if below --fail-under."""
    study = run_study(
        CombineSettings,
        "coverage combine",
        "Joins what `coverage run --part` measured of parts of a suite, on several machines or in "
        "several jobs: the result is that of one run on all. All parts need one reference, and "
        "each counts once; otherwise nothing is written.",
        "vision_bench.coverage.combine:CombineStudy",
        arguments,
        config=False,
    )
    return _judge(study.missed)


def _judge(missed: Mapping[str, tuple[float, float]]) -> int:
    """Says what is below --fail-under; returns the exit status."""
    for name, (value, least) in missed.items():
        print(f"{name} is {value:.4g}, below fail_under={least:g}", file=sys.stderr)
    return _UNDER if missed else 0


def importance(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage importance`; returns 0."""
    run_study(
        ImportanceQuestion,
        "coverage importance",
        "Scores neurons by attributors, or by WISDOM's vote of them, and measures what accuracy "
        "loses without the most relevant ones, against random neurons of the network and of the "
        "same layers. A killed run goes on when it is started again.",
        "vision_bench.coverage.questions.importance:ImportanceStudy",
        arguments,
    )
    return 0


def sweep(arguments: Sequence[str]) -> int:
    """Runs `vision-bench coverage sweep`; returns 0."""
    run_study(
        SweepSettings,
        "coverage sweep",
        "Measures the coverage criteria of a test suite while the classifier is changed: by noise "
        "on its logits, all strengths from one pass, or by a transport of its activations. The "
        "curves stand beside the accuracy. A killed run goes on when it is started again.",
        "vision_bench.coverage.sweep:CoverageSweep",
        arguments,
    )
    return 0
