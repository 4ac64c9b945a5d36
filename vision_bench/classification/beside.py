"""A classifier's accuracy under a change, beside its own: every image its own control."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.paired import Interval, paired_difference
from vision_bench.changes.beside import Beside
from vision_bench.logits.classes import CachedLogits

HOW = "Wilson's of shares, Agresti and Min's of differences; p is McNemar's, exact"


def right_answers(cached: CachedLogits) -> Bool[Tensor, " documents"]:
    """Which images are answered rightly without noise."""
    return cached.logits.argmax(1) == cached.labels


def set_beside(
    strengths: Sequence[float], changed: Sequence[CachedLogits], whole: CachedLogits
) -> list[Beside]:
    """Compares the accuracy under a change with that of the model as it is.

    Args:
        strengths: Strengths of the change.
        changed: Logits at each of them.
        whole: Those of the model as it is, of the same images.
    """
    before = right_answers(whole).tolist()
    found = []
    for strength, cached in zip(strengths, changed, strict=True):
        after, n = right_answers(cached).tolist(), len(before)
        gain, share = paired_difference(after, before), sum(after) / n
        value = Interval(share, *wilson_interval(share, n))
        found.append(Beside(strength, value, gain, gain.p, n))
    return found
