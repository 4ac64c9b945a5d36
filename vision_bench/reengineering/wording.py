"""How accuracies, their differences and costs are written, on pages and in a terminal."""

from __future__ import annotations

from vision_bench.reengineering.baselines import Accuracy, PairedDifference, paired_difference


def numbers(answers: Accuracy) -> list[float]:
    """An accuracy and the ends of its interval."""
    return [answers.value, *answers.interval]


def show_share(answers: Accuracy) -> str:
    """An accuracy with its interval."""
    low, high = answers.interval
    return f"{answers.value:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def show_difference(answers: Accuracy, other: Accuracy) -> str:
    """By how much one accuracy is above another one on the same images."""
    return _signed(paired_difference(answers.right, other.right))


def verdict(answers: Accuracy, other: Accuracy) -> str:
    """Whether one accuracy is better than another one on the same images, in words."""
    found = paired_difference(answers.right, other.right)
    if found.low <= 0 <= found.high:
        word = "cannot be told apart"
    else:
        word = "better" if found.value > 0 else "worse"
    return f"{word}, {_signed(found)}, p = {found.p:.2g}"


def show_macs(macs: float) -> str:
    """A number of multiply-accumulates.

    >>> show_macs(40_813_184), show_macs(4.1e9)
    ('40.8 M', '4.1 G')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if macs >= size:
            return f"{macs / size:.3g} {letter}"
    return f"{macs:.3g}"


def _signed(one: PairedDifference) -> str:
    return f"{100 * one.value:+.1f} points [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
