"""What a study found, in words and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from aim_plugins.reengineering.curve import Curve, Rates, Speed, Step
from aim_plugins.reengineering.settings import TaskModuleSettings
from aim_plugins.sweep.paired import in_points, show_p, verdict


@dataclass(frozen=True)
class Findings:
    """What a study found, for its front.

    Attributes:
        settings: What was asked.
        curve: The models.
        speed: Of the whole and the smaller model.
        deviation: The largest difference of a log-likelihood between smaller and masked model.
    """

    settings: TaskModuleSettings
    curve: Curve
    speed: Speed
    deviation: float

    @property
    def chosen(self) -> Step:
        """The step that the smaller model is of."""
        return self.curve.steps[self.curve.selected]


def headline(found: Findings) -> str:
    """The result in a sentence or two."""
    chosen, whole = found.chosen, found.curve.whole
    text = (
        f"With {count_of(chosen.neurons, whole.neurons)} neurons of each block"
        f"{_and_heads(chosen, whole)} kept ({chosen.parameters / whole.parameters:.1%} of the "
        "parameters), the model answers "
        f"{chosen.test.accuracy:.3f} of {len(chosen.test.right)} held-out documents right, the "
        f"whole one {whole.test.accuracy:.3f}: {verdict(chosen.test.against(whole.test))}."
    )
    if not found.curve.good:
        text += (
            f" No share was within {found.settings.tolerance:g} of the whole model on the "
            "validation documents; this is the largest."
        )
    return text


def count_of(count: int, whole: int) -> str:
    """How many of how many."""
    return f"{count} of {whole}"


def _and_heads(step: Step, whole: Step) -> str:
    """Key-value heads as a count: of few, as many stay as a configuration can have."""
    if not whole.head_groups:
        return ""
    if step.head_groups == whole.head_groups:
        return f" and all {whole.head_groups} key-value heads"
    return f" and {count_of(step.head_groups, whole.head_groups)} key-value heads"


def removal_sentences(curve: Curve) -> list[str]:
    """Where the ranking shows, and where something is lost, with difference, interval and p."""
    better, worse = [], []
    for step in curve.steps:
        gained = step.above_random
        if gained.is_clear and gained.value > 0:
            better.append(f"at {step.share:g} {in_points(gained)}, {show_p(gained.p)}")
        lost = step.test.against(curve.whole.test)
        if lost.is_clear and lost.value < 0:
            worse.append(f"at {step.share:g} {in_points(lost)}, {show_p(lost.p)}")
    sentences = []
    if better:
        draws = len(curve.steps[0].removals)
        sentences.append(
            "Ranked by importance, more is answered than after removal at random (mean of "
            f"{draws} draw{'s' * (draws > 1)}): {'; '.join(better)}."
        )
    else:
        sentences.append("No share shows that importance ranks better than chance.")
    if worse:
        sentences.append(f"Less is answered than by the whole model: {'; '.join(worse)}.")
    return sentences


def show_parameters(step: Step) -> str:
    """A number of parameters, in millions."""
    return f"{step.parameters / 1e6:.1f} M"


def show_rate(rate: float) -> str:
    """Tokens a second, to three digits at least.

    >>> show_rate(8.4567), show_rate(42.0), show_rate(1234.5)
    ('8.46', '42.0', '1234')
    """
    return f"{rate:.{max(0, 2 - math.floor(math.log10(rate)))}f}"


def show_ratio(rates: Rates) -> str:
    """How many times as fast the smaller model is, and whether that shows.

    >>> show_ratio(Rates([8.0, 8.0, 8.0], [9.0, 8.0, 7.0]))
    '1.00 times as fast (quartiles 0.88 to 1.12; cannot be told apart)'
    """
    low, middle, high = rates.quartiles
    told = "; cannot be told apart" if low <= 1 <= high else ""
    return f"{middle:.2f} times as fast (quartiles {low:.2f} to {high:.2f}{told})"


def smaller_sentences(found: Findings) -> list[str]:
    """Speed and answers of the smaller model."""
    reading, writing = found.speed.reading, found.speed.writing
    return [
        f"The smaller model reads {show_ratio(reading)} as the whole one, and writes "
        f"{show_ratio(writing)}; of {len(reading.whole)} rounds of both in turn.",
        "Log-likelihoods of the smaller and the masked model differ by at most "
        f"{found.deviation:.1g} nats.",
    ]
