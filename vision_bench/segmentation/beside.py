"""A segmentation model's quality under a change, beside its own, over the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aim_plugins.sweep.intervals import NORMAL_FACTOR
from aim_plugins.sweep.paired import Interval
from vision_bench.changes.beside import Beside
from vision_bench.confusion import MeanOver
from vision_bench.segmentation.curve import SegmentationCurve

HOW = (
    "by the jackknife over images, each left out of both models at once; p is that of a normal law"
)


def set_beside(
    strengths: Sequence[float],
    changed: Sequence[SegmentationCurve],
    whole: SegmentationCurve,
    mean_over: MeanOver = "present",
) -> list[Beside]:
    """Compares the mean IoU under a change with that of the model as it is.

    Both are of the lowest strength of the noise and its first draw, which both models share.

    Args:
        strengths: Strengths of the change.
        changed: What was counted at each of them.
        whole: The same of the model as it is, on the same images.
        mean_over: As in `SegmentationCurve.rows`.
    """
    before = whole.sampled_groups[0]
    base = float(before.metrics(mean_over)["miou"][0])
    found = []
    for strength, curve in zip(strengths, changed, strict=True):
        after = curve.sampled_groups[0]
        value = float(after.metrics(mean_over)["miou"][0])
        error = float(after.standard_errors(mean_over)["miou"][0])
        gain = value - base
        paired = float(after.errors_of_differences(before, mean_over)["miou"][0])
        p = math.erfc(abs(gain) / paired / math.sqrt(2)) if paired > 0 else float(gain == 0)
        found.append(
            Beside(strength, _around(value, error), _around(gain, paired), p, curve.images)
        )
    return found


def _around(value: float, error: float) -> Interval:
    reach = NORMAL_FACTOR * error
    return Interval(value, value - reach, value + reach)
