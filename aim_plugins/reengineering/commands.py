"""`aim-plugins reengineer`: a smaller causal model for one task."""

from __future__ import annotations

from collections.abc import Sequence

from aim_plugins.reengineering.settings import TaskModuleSettings
from aim_plugins.sweep.task_command import run_task_study


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    return run_task_study(
        TaskModuleSettings,
        "reengineer",
        "Keeps the feed-forward neurons and attention heads of a causal model that one task of "
        "multiple choice needs: accuracy on held-out documents against the share that is kept, "
        "beside the whole model and removal at random, and a smaller checkpoint that transformers "
        "loads. A killed run goes on when it is started again.",
        "aim_plugins.reengineering.study:ReengineeringStudy",
        arguments,
    )
