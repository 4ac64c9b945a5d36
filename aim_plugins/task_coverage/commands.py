"""`aim-plugins coverage`: what tasks exercise of a causal model."""

from __future__ import annotations

from collections.abc import Sequence

from aim_plugins.sweep.task_command import run_task_study
from aim_plugins.task_coverage.settings import TaskCoverageSettings


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    return run_task_study(
        TaskCoverageSettings,
        "coverage",
        "Measures what the documents of lm-eval tasks exercise of a causal model: coverage "
        "criteria of its neurons, and along learned directions, from one pass; against their "
        "ceilings, other documents and random tokens, with what one task adds to another. A killed "
        "run goes on when it is started again.",
        "aim_plugins.task_coverage.study:TaskCoverageStudy",
        arguments,
    )
