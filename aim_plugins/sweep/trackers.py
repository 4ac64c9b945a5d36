"""Optional logging of finished curves to Weights & Biases and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.table import Point

STEPS_PER_STRENGTH = 1000
"""TensorBoard counts in whole steps: strength 0.25 is its step 250."""


@dataclass(frozen=True)
class Trackers:
    """Where finished curves are logged, as TASK/METRIC against strength.

    Attributes:
        wandb: Project of Weights & Biases, or None.
        tensorboard: Folder of TensorBoard's files, or None; its step is 1000 times the strength.

    Raises:
        ImportError: If the package of one is missing, before anything is computed.
    """

    wandb: str | None = None
    tensorboard: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("wandb", "tensorboard"):
            if getattr(self, name) is not None and find_spec(name) is None:
                raise ImportError(f"--{name} needs {name}: pip install {name}")

    def log(self, points: Iterable[Point], *, run_name: str) -> None:
        """Logs every curve.

        Args:
            points: The points.
            run_name: How a tracker names the run.
        """
        points = list(points)
        if self.wandb is not None:
            _log_to_wandb(points, self.wandb, run_name)
        if self.tensorboard is not None:
            _log_to_tensorboard(points, Path(self.tensorboard) / run_name)


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
    name = f"{point.task}/{point.metric}"
    second = point.second_strength
    return name if second is None else f"{name}@{format_strength(second)}"
