"""What a study of a module found, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vision_bench.reengineering.baselines import Accuracy
from vision_bench.reengineering.choices import Granularity
from vision_bench.reengineering.path import Choice, Epoch
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
class Held:
    """A module, or what is held against it: what it answers, and how large it is.

    Attributes:
        answers: Which test images it tells right.
        ratio: Share of weights and biases of convolutions and linear layers that is retained.
        macs: Multiply-accumulates for one image, of which masked weights are not counted.
    """

    answers: Accuracy
    ratio: float
    macs: float

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"answers": self.answers.to_json(), "ratio": self.ratio, "macs": self.macs}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Held:
        """Reads what `to_json` wrote."""
        answers = Accuracy.from_json(content["answers"])
        return cls(answers, content["ratio"], content["macs"])


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
        choice: By which rule.
        validation_images: How many these are.
        baselines: Of the whole model on the test images, by name.
        modules: Each module.
        controls: What was chosen without learning, of the same share as each module, by kind.
        macs: Multiply-accumulates of the whole model for one image.
        weights: Weights and biases of its convolutions and linear layers.
        kept: Of the selected one, the share of each layer's weights, or of each group's channels,
            that is retained.
        tuned: Of the selected one, of the whole model and of the controls, each fine-tuned as long,
            by name; none where that was not asked for.
        smaller: The selected one as a network of its own; None where that was not asked for.
        stopped: Why training ended early; empty where it did not.
    """

    problem: Problem
    title: str
    granularity: Granularity
    epochs: Sequence[Epoch]
    path: Sequence[Epoch]
    selected: int
    choice: Choice
    validation_images: int
    baselines: Mapping[str, Accuracy]
    modules: Sequence[Held]
    controls: Mapping[str, Sequence[Held]]
    macs: float
    weights: int
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
        """Whether no module is what was asked for."""
        return not self.choice.allows(self.chosen)

    def share_of(self, held: Held) -> float:
        """What the penalty presses on: the retained ratio, or of channels the share of MACs."""
        return held.ratio if self.granularity == "weight" else held.macs / self.macs

    @property
    def share_name(self) -> str:
        """What the share measures."""
        return "retained ratio" if self.granularity == "weight" else "retained MACs"
