"""Epochs of a training in one file: killed anywhere, it goes on from the last that was finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from vision_bench.reengineering.training import read_file, write_file

_OPTIMISER, _BEST = "optimiser", "best"


class Best:
    """The best state so far.

    Args:
        last_of_equals: Whether of equal ones the last is kept, else the first.

    Attributes:
        value: How good it is.
        epoch: Which one, from 0; -1 before there is any.
        state: Its tensors, copied.
        notes: What else is known of it.
    """

    def __init__(self, last_of_equals: bool = True) -> None:
        self.last_of_equals = last_of_equals
        self.value, self.epoch = -float("inf"), -1
        self.state: dict[str, Tensor] = {}
        self.notes: dict[str, Any] = {}

    def offer(self, value: float, epoch: int, state: Mapping[str, Tensor], **notes: Any) -> None:
        """Takes a better state; it is copied, as training goes on in place."""
        if value > self.value or (self.last_of_equals and value == self.value):
            self.value, self.epoch, self.notes = value, epoch, notes
            self.state = {name: one.detach().clone() for name, one in state.items()}


class Progress:
    """A training by epochs, and its best state.

    Args:
        parts: What is trained, by names without a dot; takes up what a former run left.
        optimiser: What trains it.
        schedule: Of its learning rates.
        file: Where everything is kept after each epoch, and taken up from; nowhere without one.
        best: Keeps the best state.

    Attributes:
        epochs: How many are finished.
        best: The best state.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        schedule: LRScheduler | None = None,
        *,
        file: Path | None = None,
        best: Best | None = None,
    ) -> None:
        self.parts, self.optimiser, self.schedule = parts, optimiser, schedule
        self.file, self.best, self.epochs = file, best or Best(), 0
        if file is not None and file.is_file():
            self._resume(file)

    def is_over(self, epochs: int, patience: int) -> bool:
        """Whether so many epochs are finished, or so many since the best one; 0 for no patience."""
        return self.epochs >= epochs or 0 < patience <= self.epochs - 1 - self.best.epoch

    def finish_epoch(self, value: float, state: Mapping[str, Tensor], **notes: Any) -> None:
        """Ends an epoch.

        Args:
            value: How good it is.
            state: What is kept where it is the best one.
            **notes: What else is kept of it, as JSON.

        Raises:
            OSError: If the file cannot be written.
        """
        self.best.offer(value, self.epochs, state, **notes)
        self.epochs += 1
        if self.file is not None:
            self._keep(self.file)

    def _keep(self, file: Path) -> None:
        moments = {
            f"{place}.{name}": one
            for place, held in self.optimiser.state_dict()["state"].items()
            for name, one in held.items()
            if isinstance(one, Tensor)
        }
        groups: dict[str, Mapping[str, Tensor]] = {_OPTIMISER: moments, _BEST: self.best.state}
        groups |= {name: part.state_dict() for name, part in self.parts.items()}
        tensors = {
            f"{group}.{name}": one for group, held in groups.items() for name, one in held.items()
        }
        best = self.best
        notes = {
            "epochs": self.epochs,
            "best": {"value": best.value, "epoch": best.epoch, "notes": best.notes},
            "rates": [group["lr"] for group in self.optimiser.param_groups],
            "steps": None if self.schedule is None else self.schedule.last_epoch,
        }
        write_file(file, tensors, notes)

    def _resume(self, file: Path) -> None:
        tensors, notes = read_file(file)
        groups: dict[str, dict[str, Tensor]] = {one: {} for one in (_OPTIMISER, _BEST, *self.parts)}
        for name, one in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = one
        for name, part in self.parts.items():
            part.load_state_dict(groups[name])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, one in groups[_OPTIMISER].items():
            place, _, kind = key.partition(".")
            moments.setdefault(int(place), {})[kind] = one
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        for rate, rated in zip(notes["rates"], self.optimiser.param_groups, strict=True):
            rated["lr"] = rate
        if self.schedule is not None:
            # Rates are a function of it alone.
            self.schedule.last_epoch = notes["steps"]
        self.epochs, best = notes["epochs"], notes["best"]
        self.best.value, self.best.epoch = best["value"], best["epoch"]
        self.best.state, self.best.notes = groups[_BEST], best["notes"]
