"""What a study of a module found: answers image by image, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from aim_plugins.sweep.intervals import wilson_interval
from vision_bench.reengineering.path import Epoch
from vision_bench.reengineering.problem import Problem

WHOLE, RESTRICTED, NEW_HEAD = "whole", "restricted", "whole, new head"
"""The whole model over all its classes, over the problem's alone, and with a head of its own."""


@dataclass(frozen=True)
class Answers:
    """Which images are told right, in the order of the data."""

    right: Bool[Tensor, " images"]

    @property
    def accuracy(self) -> float:
        """Share of images told right."""
        return float(self.right.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, over images."""
        return wilson_interval(self.accuracy, len(self.right))

    def to_json(self) -> str:
        """A digit for each image."""
        return "".join("1" if one else "0" for one in self.right.tolist())

    @classmethod
    def from_json(cls, text: str) -> Answers:
        return cls(torch.tensor([digit == "1" for digit in text], dtype=torch.bool))


@dataclass(frozen=True)
class Findings:
    """What the front shows.

    Attributes:
        problem: The target problem.
        title: The data set.
        granularity: What has a mask of its own.
        epochs: What each epoch left.
        path: The epochs of the modules that were kept, by falling share.
        selected: Which of them the validation images selected.
        least: The validation accuracy that it had to reach.
        baselines: Of the whole model on the test images, by name.
        modules: Of each module.
        controls: The same of what was chosen without learning, by kind.
        macs: Multiply-accumulates of the whole model for one image.
        parameters: Its parameters.
        stopped: Why training ended early; empty where it did not.
    """

    problem: Problem
    title: str
    granularity: str
    epochs: Sequence[Epoch]
    path: Sequence[Epoch]
    selected: int
    least: float
    baselines: Mapping[str, Answers]
    modules: Sequence[Answers]
    controls: Mapping[str, Sequence[Answers]]
    macs: float
    parameters: int
    stopped: str = ""

    @property
    def chosen(self) -> Epoch:
        """The epoch of the selected module."""
        return self.path[self.selected]

    @property
    def fell_short(self) -> bool:
        """Whether no module reached the accuracy that was asked for."""
        return self.chosen.accuracy < self.least
