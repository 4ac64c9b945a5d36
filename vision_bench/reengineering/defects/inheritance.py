"""Which defects a fine-tuned classifier inherits: how many right answers an attack overturns.

The attack is crafted on the public model alone. A classifier that shares none of its defects still
loses some answers to it; that of random weights tells how many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.paired import Interval, PairedDifference, paired_difference

UNKNOWN = PairedDifference(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Answers:
    """Which test images a classifier answers rightly.

    Attributes:
        clean: As they are.
        attacked: Attacked.
    """

    clean: Bool[Tensor, " images"]
    attacked: Bool[Tensor, " images"]

    @property
    def flipped(self) -> Bool[Tensor, " images"]:
        """Right answers that the attack overturns."""
        return self.clean & ~self.attacked

    @property
    def accuracy(self) -> Interval:
        """Share of right answers to clean images, with Wilson's interval."""
        return _share(int(self.clean.sum()), len(self.clean))

    @property
    def inheritance_rate(self) -> Interval:
        """The defect inheritance rate (DIR): of the right answers, those that the attack overturns.

        Source: section IV-D of SeaM; `adversary_test` of its code.
        """
        return _share(int(self.flipped.sum()), int(self.clean.sum()))


def guessing_accuracy(labels: Int[Tensor, " images"], classes: int) -> float:
    """The best accuracy of answers that know nothing: all of one class, or at random.

    Args:
        labels: Of the test images.
        classes: How many classes there are.
    """
    return max(1 / classes, int(labels.bincount().max()) / len(labels))


def common_images(arm: Answers, standard: Answers) -> int:
    """How many images both answer rightly when clean, which their difference is taken over."""
    return int((arm.clean & standard.clean).sum())


def inheritance_difference(arm: Answers, standard: Answers) -> PairedDifference:
    """The DIR of an arm less that of standard fine-tuning, each image its own control.

    Taken over the images that both answer rightly when clean: of others, one of them cannot tell
    whether it inherits. It may therefore differ a little from the difference of their rates.

    Raises:
        ValueError: If they are of different images.
    """
    if len(arm.clean) != len(standard.clean):
        raise ValueError(
            f"arm has answers to {len(arm.clean)} images and standard to {len(standard.clean)}: "
            "give those to the same images"
        )
    both = arm.clean & standard.clean
    if not both.any():
        return UNKNOWN
    return paired_difference(arm.flipped[both].tolist(), standard.flipped[both].tolist())


def _share(count: int, total: int) -> Interval:
    if not total:
        return UNKNOWN
    share = count / total
    return Interval(share, *wilson_interval(share, total))
