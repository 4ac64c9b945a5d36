"""How accuracies, their differences and costs are written, on pages and in a terminal."""

from __future__ import annotations

from aim_plugins.sweep import paired
from aim_plugins.sweep.paired import in_points
from vision_bench.reengineering.baselines import Accuracy


def numbers(answers: Accuracy) -> list[float]:
    """An accuracy and the ends of its interval."""
    return [answers.value, *answers.interval]


def show_share(answers: Accuracy) -> str:
    """An accuracy with its interval."""
    low, high = answers.interval
    return f"{answers.value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def show_difference(answers: Accuracy, other: Accuracy) -> str:
    """By how much one accuracy is above another one on the same images."""
    return in_points(answers.against(other))


def verdict(answers: Accuracy, other: Accuracy) -> str:
    """Whether one accuracy is better than another one on the same images, in words."""
    return paired.verdict(answers.against(other))


def show_macs(macs: float) -> str:
    """A number of multiply-accumulates.

    >>> show_macs(40_813_184.0), show_macs(4.1e9)
    ('40.8 M', '4.1 G')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if macs >= size:
            return f"{macs / size:.3g} {letter}"
    return f"{macs:.3g}"
