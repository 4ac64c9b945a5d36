"""What the running call of a denoiser is at: its timestep and the rows of its batch.

Both are read from the call's arguments. Calls are not counted: some pipelines make two for a step.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

_DIGITS = 6
"""Decimal places of a timestep: those below are rounding of half precision and of 1 / 1000."""


class RunningCall(threading.local):
    """The call that a denoiser runs; each thread has its own.

    Attributes:
        batch: What it denoises, a row for each image and side of guidance.
        rows: Rows of its batch.
    """

    batch: Tensor
    rows: int
    _given: Any = None

    @property
    def timestep(self) -> float:
        """Its timestep, in the units of the denoiser.

        Raises:
            ValueError: If rows of the batch are at several.
        """
        # Read here rather than in the hook: on an accelerator it waits for the device.
        if isinstance(self._given, Tensor):
            found = self._given.detach().flatten().unique().tolist()
            if len(found) != 1:
                raise ValueError(
                    f"timestep: the denoiser is called with {len(found)} timesteps at once, and a "
                    "map belongs to one: run each step's rows in a call of their own"
                )
            self._given = found[0]
        return round(float(self._given), _DIGITS)

    @contextlib.contextmanager
    def watching(self, denoiser: nn.Module) -> Iterator[None]:
        """Reads the arguments of each call while the block runs.

        Raises:
            ValueError: In a call that has no timestep, or no tensor with the rows.
        """
        names = list(inspect.signature(type(denoiser).forward).parameters)[1:]

        def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            arguments = {**dict(zip(names, given, strict=False)), **named}
            first = arguments.get(names[0])
            if not isinstance(first, Tensor) or arguments.get("timestep") is None:
                raise ValueError(
                    f"pipeline: its denoiser {type(denoiser).__name__} is called without a tensor "
                    f"{names[0]!r} or without a timestep: such a pipeline cannot be transported"
                )
            self.batch, self.rows, self._given = first, len(first), arguments["timestep"]

        handle = denoiser.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def nearest_timestep(timesteps: Iterable[float], timestep: float) -> float:
    """The nearest of some timesteps; of two equally near the greater, which a run reaches earlier.

    >>> nearest_timestep([999.0, 499.0], 750.0), nearest_timestep([1.0, 0.5], 0.75)
    (999.0, 1.0)
    """
    return min(timesteps, key=lambda one: (abs(one - timestep), -one))
