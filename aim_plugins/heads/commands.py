"""`aim-plugins attribute`: which components of a causal model a task rests on."""

from __future__ import annotations

from collections.abc import Sequence

from aim_plugins.heads.settings import TaskAttributionSettings
from aim_plugins.sweep.task_command import run_task_study


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    return run_task_study(
        TaskAttributionSettings,
        "attribute",
        "Attributes the answers of a causal model to its attention heads, feed-forward neurons or "
        "blocks, by ablating them at random: what each adds to the right choice's margin in one "
        "task of multiple choice, how well that predicts ablations never seen, and an edit that "
        "ablates the few that matter most, judged on held-out documents beside edits at random. A "
        "killed run goes on when it is started again.",
        "aim_plugins.heads.study:TaskAttributionStudy",
        arguments,
    )
