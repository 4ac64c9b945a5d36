"""Optional logging of finished curves to Weights & Biases and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from aim_plugins.sweep.table import Point

STEPS_PER_STRENGTH = 1000
"""TensorBoard counts in whole steps: strength 0.25 is its step 250."""


def require_trackers(wandb: str | None, tensorboard: str | Path | None) -> None:
    """Refuses, before anything is computed, a tracker whose package is missing.

    Raises:
        ImportError: If it is missing.
    """
    for name, asked in (("wandb", wandb), ("tensorboard", tensorboard)):
        if asked is not None and find_spec(name) is None:
            raise ImportError(f"--{name} needs {name}: pip install {name}")


def log_points(
    points: Iterable[Point],
    *,
    run_name: str,
    wandb: str | None = None,
    tensorboard: str | Path | None = None,
) -> None:
    """Logs every curve as TASK/METRIC against strength.

    Args:
        points: The points.
        run_name: How a tracker names the run.
        wandb: Project of Weights & Biases, or None.
        tensorboard: Folder of TensorBoard's files, or None; its step is 1000 times the strength.
    """
    points = list(points)
    if wandb is not None:
        _log_to_wandb(points, wandb, run_name)
    if tensorboard is not None:
        _log_to_tensorboard(points, Path(tensorboard) / run_name)


def _log_to_wandb(points: list[Point], project: str, run_name: str) -> None:
    import wandb

    with wandb.init(project=project, name=run_name) as run:
        run.define_metric("*", step_metric="strength")
        for strength in sorted({point.strength for point in points}):
            here = [point for point in points if point.strength == strength]
            run.log({"strength": strength} | {_name(point): point.value for point in here})


def _log_to_tensorboard(points: list[Point], folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for point in points:
            step = round(point.strength * STEPS_PER_STRENGTH)
            writer.add_scalar(_name(point), point.value, global_step=step)


def _name(point: Point) -> str:
    return f"{point.task}/{point.metric}"
