"""What was found of each arm, in numbers, words and lines of tables."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aim_plugins.sweep.paired import Interval, PairedDifference, in_points, show_p
from vision_bench.reengineering.defects.inheritance import (
    UNKNOWN,
    Answers,
    common_images,
    inheritance_difference,
)
from vision_bench.reengineering.defects.settings import (
    ARMS,
    MAGNITUDE_MASKS,
    RANDOM_MASKS,
    RETRAIN,
    SEAM,
    STANDARD,
)


@dataclass(frozen=True)
class Finding:
    """One arm.

    Attributes:
        name: Its name.
        answers: Which test images it answers rightly.
        retained: Share of the public model's hidden weights that are not held at 0; None where it
            has none of them.
        validation: Accuracy on the validation split, on which the state was chosen.
        epoch: Which epoch's state it is, from 0.
        epochs: How many were run.
    """

    name: str
    answers: Answers
    retained: float | None
    validation: float
    epoch: int
    epochs: int


class Findings:
    """All arms of a study.

    Args:
        arms: Each of them, with standard fine-tuning among them.
        threshold: The share of the hidden weights that SeaM's masks were to remove.
        guessing: The best accuracy that constant or random answers have on the test images.
    """

    def __init__(self, arms: Sequence[Finding], threshold: float, guessing: float) -> None:
        self.arms = {one.name: one for one in arms}
        self.threshold, self.guessing = threshold, guessing

    def difference(self, name: str) -> PairedDifference:
        """The DIR of an arm less that of standard fine-tuning; unknown of the latter itself."""
        if name == STANDARD:
            return UNKNOWN
        return inheritance_difference(self.arms[name].answers, self.arms[STANDARD].answers)

    def common(self, name: str) -> int:
        """How many images that difference is over: those that both answer rightly."""
        return common_images(self.arms[name].answers, self.arms[STANDARD].answers)

    def is_untrained(self, name: str) -> bool:
        """Whether an arm's accuracy cannot be told apart from that of guessing."""
        return self.arms[name].answers.accuracy.low <= self.guessing

    @property
    def columns(self) -> list[str]:
        """Headings of the table."""
        return [
            "arm", "retained", "accuracy, %", "DIR, %", "DIR less standard, points",
            "over images",
        ]  # fmt: skip

    @property
    def rows(self) -> list[list[str]]:
        """Its lines, with 95 % intervals."""
        return [
            [
                name,
                "–" if one.retained is None else show_retained(one.retained),
                percent(one.answers.accuracy),
                percent(one.answers.inheritance_rate),
                percent(self.difference(name), signed=True),
                "–" if name == STANDARD else str(self.common(name)),
            ]
            for name, one in self.arms.items()
        ]

    @property
    def summary(self) -> str:
        """The result in a sentence or two."""
        if SEAM not in self.arms:
            rate = percent(self.arms[STANDARD].answers.inheritance_rate)
            return f"The attack overturns {rate} % of the right answers of standard fine-tuning."
        untrained = [one for one in (STANDARD, SEAM) if self.is_untrained(one)]
        if untrained:
            return (
                f"{self._retained} Nothing can be said of inherited defects: the accuracy of "
                f"{' and '.join(untrained)} cannot be told apart from guessing."
            )
        if self.arms[SEAM].retained == 1:
            return (
                f"{self._retained} SeaM's arm is standard fine-tuning, and nothing can be said of "
                "the defects that SeaM inherits."
            )
        return f"{self._retained} {self._compared}"

    @property
    def _retained(self) -> str:
        """How much SeaM's masks left, before what it is worth."""
        share = self.arms[SEAM].retained
        assert share is not None
        missed = f"prune_threshold={self.threshold:g} was not reached"
        if share == 1:
            return f"No weight was masked: {missed}."
        told = f"SeaM retains {show_retained(share)} of the hidden weights"
        return f"{told}." if 1 - share >= self.threshold else f"{told}: {missed}."

    @property
    def _compared(self) -> str:
        """What SeaM inherits, beside standard fine-tuning."""
        before = self.arms[STANDARD].answers.inheritance_rate.value
        after = self.arms[SEAM].answers.inheritance_rate.value
        gap = self.difference(SEAM)
        lost = self.arms[SEAM].answers.accuracy.value - self.arms[STANDARD].answers.accuracy.value
        said = "may inherit as many defects as standard fine-tuning"
        if gap.is_clear:
            more = "more" if gap.value > 0 else "fewer"
            said = f"inherits {more} defects than standard fine-tuning"
        return (
            f"It {said}. The attack on the public model overturns {100 * after:.1f} % of its "
            f"right answers, and {100 * before:.1f} % of standard fine-tuning's: on images that "
            f"both answer rightly, {in_points(gap)}, {show_p(gap.p)}. Its accuracy differs by "
            f"{100 * lost:+.1f} points."
        )

    @property
    def sentences(self) -> list[str]:
        """What else follows."""
        found = [f"{name}: {ARMS[name]}." for name in self.arms]
        if SEAM in self.arms and self.arms[SEAM].retained != 1:
            seam = self.arms[SEAM].answers
            gaps = {
                one: percent(inheritance_difference(seam, self.arms[one].answers), signed=True)
                for one in (MAGNITUDE_MASKS, RANDOM_MASKS)
                if one in self.arms
            }
            if gaps:
                told = " and ".join(f"{gap} against {one}" for one, gap in gaps.items())
                found.append(
                    "What SeaM's choice of weights adds to retaining as few of them, in points of "
                    f"DIR on common images: {told}."
                )
        found += [
            f"{name}: its accuracy of {percent(self.arms[name].answers.accuracy)} % cannot be told "
            f"apart from guessing ({100 * self.guessing:.1f} %): it is untrained, and its DIR says "
            "nothing."
            for name in self.arms
            if self.is_untrained(name)
        ]
        if RETRAIN in self.arms and not self.is_untrained(RETRAIN):
            rate = percent(self.arms[RETRAIN].answers.inheritance_rate)
            found.append(
                f"A network that never saw the public weights loses {rate} % of its right answers "
                "to the same images: as much is no inheritance."
            )
        return found

    @property
    def csv(self) -> str:
        """Every number as a table."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        triples = ("accuracy", "dir", "dir_less_standard")
        writer.writerow(
            ["arm", "retained", "validation", "epochs", "images", "right", "flipped"]
            + [f"{one}{end}" for one in triples for end in ("", "_low", "_high")]
            + ["right_with_standard"]
        )
        for name, one in self.arms.items():
            answers = one.answers
            intervals = (answers.accuracy, answers.inheritance_rate, self.difference(name))
            counts = (len(answers.clean), int(answers.clean.sum()), int(answers.flipped.sum()))
            ends = [end for each in intervals for end in (each.value, each.low, each.high)]
            texts = [repr(end) if math.isfinite(end) else "" for end in ends]
            facts = [name, one.retained, one.validation, one.epochs]
            writer.writerow([*facts, *counts, *texts, self.common(name)])
        return text.getvalue()

    def to_json(self, **also: Any) -> str:
        """Every number as JSON; what is unknown is null."""
        content = {
            name: {
                "retained": one.retained,
                "validation": one.validation,
                "epoch": one.epoch,
                "epochs": one.epochs,
                "images": len(one.answers.clean),
                "right": int(one.answers.clean.sum()),
                "flipped": int(one.answers.flipped.sum()),
                "accuracy": _plain(one.answers.accuracy),
                "dir": _plain(one.answers.inheritance_rate),
                "dir_less_standard": _plain(self.difference(name)),
                "right_with_standard": self.common(name),
            }
            for name, one in self.arms.items()
        }
        return json.dumps({**also, "arms": content}, indent=2) + "\n"


def show_retained(share: float) -> str:
    """A retained share, in percent; 100.0 only where nothing was removed.

    >>> show_retained(1.0), show_retained(0.99998), show_retained(0.382)
    ('100.0 %', '> 99.9 %', '38.2 %')
    """
    shown = f"{100 * share:.1f} %"
    return "> 99.9 %" if share < 1 and shown == "100.0 %" else shown


def percent(one: Interval, *, signed: bool = False) -> str:
    """A share with its interval, in percent.

    >>> percent(Interval(0.5, 0.25, 0.75)), percent(Interval(-0.1, -0.2, 0.05), signed=True)
    ('50.0 [25.0, 75.0]', '-10.0 [-20.0, +5.0]')
    """
    if not math.isfinite(one.value):
        return "–"
    sign = "+" if signed else ""
    value, low, high = (f"{100 * each:{sign}.1f}" for each in (one.value, one.low, one.high))
    return f"{value} [{low}, {high}]"


def _plain(one: Interval) -> Mapping[str, float] | None:
    return vars(one) if math.isfinite(one.value) else None
