"""What a study of a module found, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_bench.reengineering.baselines import Accuracy
from vision_bench.reengineering.choices import Granularity
from vision_bench.reengineering.path import Epoch
from vision_bench.reengineering.problem import Problem
from vision_bench.reengineering.smaller import Smaller

WHOLE, RESTRICTED, NEW_HEAD = "whole", "restricted", "new head"
"""The whole model over all its classes, over the problem's alone, and with a head of its own."""

BASELINES = {
    WHOLE: "whole model, all classes",
    RESTRICTED: "whole model, restricted",
    NEW_HEAD: "whole model, new head",
}
"""What a person calls them."""


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
        by_share: Whether a share was asked for instead.
        baselines: Of the whole model on the test images, by name.
        modules: Of each module.
        controls: The same of what was chosen without learning, by kind.
        macs: Multiply-accumulates of the whole model for one image.
        module_macs: Those of each module, of which masked weights are not counted.
        parameters: Weights and biases of its convolutions and linear layers.
        kept: Of the selected one, the share of each layer's weights, or of each group's channels,
            that is retained.
        tuned: Of the selected one and of the whole model, each fine-tuned as long, by name; none
            where that was not asked for.
        smaller: The selected one as a network of its own; None where that was not asked for.
        stopped: Why training ended early; empty where it did not.
    """

    problem: Problem
    title: str
    granularity: Granularity
    epochs: Sequence[Epoch]
    path: Sequence[Epoch]
    selected: int
    least: float
    by_share: bool
    baselines: Mapping[str, Accuracy]
    modules: Sequence[Accuracy]
    controls: Mapping[str, Sequence[Accuracy]]
    macs: float
    module_macs: Sequence[float]
    parameters: int
    kept: Mapping[str, float]
    tuned: Mapping[str, Accuracy]
    smaller: Smaller | None
    stopped: str = ""

    @property
    def chosen(self) -> Epoch:
        """The epoch of the selected module."""
        return self.path[self.selected]

    @property
    def fell_short(self) -> bool:
        """Whether no module reached the accuracy that was asked for."""
        return not self.by_share and self.chosen.accuracy < self.least

    @property
    def share_name(self) -> str:
        """What the share measures."""
        return "retained ratio" if self.granularity == "weight" else "retained MACs"
