"""The images beside what is said of them: gaps with their nearest images, inputs to label first."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from aim_plugins.coverage.gaps import Gap
from aim_plugins.sweep.page import Exhibit
from vision_bench.coverage.left_out import NearStretch
from vision_bench.coverage.priority import Priority, Ranked
from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import VisionData
from vision_bench.data.images import ImageSource, thumbnail


class Gallery:
    """Where the images of a report come from.

    Args:
        suite: The suite.
        training: The training images; None where a reference stands for them.
        candidates: What was prioritised.
    """

    def __init__(
        self,
        suite: ClassificationData,
        training: ClassificationData | None,
        candidates: VisionData | None,
    ) -> None:
        self.suite, self.training, self.candidates = suite, training, candidates

    def gap(self, gap: Gap) -> Exhibit:
        """A combination that training reaches and the suite does not."""
        pictures = {}
        if self.training is not None:
            label = self.training.classes[int(self.training.labels[gap.example])]
            pictures[f"training: {label}"] = thumbnail(self.training.images, gap.example)
        label = self.suite.classes[int(self.suite.labels[gap.nearest])]
        pictures[f"nearest of the suite: {label}"] = thumbnail(self.suite.images, gap.nearest)
        inputs = f"{gap.training_inputs} training input" + "s" * (gap.training_inputs != 1)
        missing = "; ".join(gap.differs)
        return Exhibit(pictures, f"{gap.label}: {inputs}", f"the nearest image lacks {missing}")

    def stretch(self, one: NearStretch) -> Exhibit:
        """A stretch of a neuron's training range that no image reaches."""
        label = self.suite.classes[int(self.suite.labels[one.nearest])]
        pictures = {f"nearest: {label}": thumbnail(self.suite.images, one.nearest)}
        low, high = one.stretch.low, one.stretch.high
        text = (
            f"no activation from {low:.3g} to {high:.3g}, {one.stretch.share:.0%} of its training "
            f"range; this image has {one.activation:.3g}"
        )
        return Exhibit(pictures, one.stretch.neuron, text)

    def ranked(self, place: int, one: Ranked) -> Exhibit:
        """An input worth labelling."""
        assert self.candidates is not None  # what was ranked is one of them
        images: ImageSource = self.candidates.images  # type: ignore[attr-defined]
        pictures = {one.name: thumbnail(images, one.position)}
        text = f"predicted {one.predicted}; DeepGini {one.gini:.2f}, its place {one.gini_rank}"
        return Exhibit(pictures, f"{place}. adds {one.gain}", text)


def gaps_csv(
    gaps: Sequence[Gap], training: ClassificationData | None, suite: ClassificationData
) -> str:
    """The gaps as a table."""
    header = [
        "neurons",
        "combination",
        "training_inputs",
        "example",
        "nearest",
        "distance",
    ]
    rows = [
        [
            one.label,
            one.description,
            one.training_inputs,
            "" if training is None else training.names[one.example],
            suite.names[one.nearest],
            repr(one.distance),
        ]
        for one in gaps
    ]
    return _csv([header, *rows])


def priority_csv(priority: Priority) -> str:
    """The inputs to label first, as a table."""
    header = ["rank", "image", "adds", "alone", "deep_gini", "deep_gini_rank", "predicted"]
    rows = [
        [place, one.name, one.gain, one.alone, repr(one.gini), one.gini_rank, one.predicted]
        for place, one in enumerate(priority.ranked, start=1)
    ]
    return _csv([header, *rows])


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
