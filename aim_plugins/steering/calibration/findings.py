"""What a calibration found, and what follows from it in words."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aim_plugins.steering.calibration.entries import CurvePoint, Entry, best_of
from aim_plugins.steering.calibration.verdicts import Verdict, spread_of, verdicts
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.sweep.estimates import Estimate
from aim_plugins.sweep.intervals import student_factor
from aim_plugins.sweep.paired import Interval, PairedDifference, paired_difference


@dataclass(frozen=True)
class Findings:
    """What a calibration found.

    Attributes:
        settings: What was asked for.
        metric: Name of the effect's measure.
        entries: The lines of the table: the plain model, prompts, methods, a method behind a
            prompt.
        promises: The gain that the screen promised each method at each choice of sites, in nats per
            token.
        texts: Held-out plain texts.
    """

    settings: CalibrationSettings
    metric: str
    entries: Sequence[Entry]
    promises: Mapping[str, Mapping[str, float]]
    texts: int

    def of_kind(self, *kinds: str) -> list[Entry]:
        """Lines of some kinds."""
        return [one for one in self.entries if one.kind in kinds]

    def _best(self, kind: str) -> Entry | None:
        found = self.of_kind(kind)
        lower = self.settings.lower_is_better
        return best_of(found, lower_is_better=lower) if found else None

    @property
    def plain(self) -> Entry:
        """The plain model."""
        return self.of_kind("plain")[0]

    @property
    def prompt(self) -> Entry | None:
        """The prompt that does most on the calibration half, which stands for prompts."""
        return self._best("prompt")

    @property
    def method(self) -> Entry | None:
        """The method that does most there."""
        return self._best("method")

    @functools.cached_property
    def against(self) -> dict[str, list[Verdict]]:
        """Verdicts by what lines are held against: the plain model, the prompt, the best method."""
        held = {"plain": self.plain, "prompt": self.prompt, "method": self.method}
        steered = self.of_kind("method", "both")
        return {
            name: verdicts(
                [one for one in steered if one is not other],
                other,
                lower_is_better=self.settings.lower_is_better,
                spread=spread_of(self.metric),
            )
            for name, other in held.items()
            if other is not None
        }

    def drop(self, point: CurvePoint, reference: CurvePoint | None = None) -> PairedDifference:
        """The accuracy that is lost on held-out questions of the budget's task.

        Args:
            point: A changed model.
            reference: What loses it; by default the plain model.
        """
        return paired_difference((reference or self.plain.point).hits, point.hits)

    def verdict(self, one: Entry, against: str) -> Verdict | None:
        """One line's verdict against "plain", "prompt" or "method"."""
        found = self.against.get(against, ())
        return next((verdict for verdict in found if verdict.name == one.name), None)


def cost_interval(found: Estimate) -> Interval:
    """A cost with its 95 % interval over texts; the ends are the value where it is unknown."""
    reach = student_factor(found.n) * found.stderr if found.stderr else 0.0
    return Interval(found.value, found.value - reach, found.value + reach)


def spent_at(found: Findings, point: CurvePoint) -> Interval:
    """The cost that the budget is of, at a strength."""
    if found.settings.task:
        return found.drop(point)
    by_loss = found.settings.budget_perplexity is not None
    return cost_interval(point.growth if by_loss else point.divergence)


def shown_price(found: Findings, point: CurvePoint) -> str:
    """What a line costs, with its interval and its unit: of a task's budget points, else KL."""
    if found.settings.task:
        return f"{shown_points(found.drop(point))} of {found.settings.task}"
    return f"KL {shown(cost_interval(point.divergence), 3)} on plain text"


def shown_sites(one: Entry) -> str:
    """Its sites for tables and pictures, which have little room."""
    return one.sites.removeprefix("model.")


def shown_strength(one: Entry) -> str:
    """Its strength, and why it spends no budget if it does not."""
    text = f"{one.point.strength:.3g}"
    if one.reached:
        return text
    return f"{text}, budget {'not reached' if one.point.strength else 'exceeded at any other'}"


def headline(found: Findings) -> str:
    """The result in a sentence or two."""
    method, prompt, budget = found.method, found.prompt, found.settings.budget_text
    if method is None:
        return "No method was calibrated."
    text = (
        f"At a budget of {budget}, {name_of(method)} does most on the calibration half; on the "
        f"other {found.metric} is {shown(method.point.effect)}, of the plain model "
        f"{shown(found.plain.point.effect)}"
    )
    if prompt is None:
        return f"{text}."
    return f"{text}, and of {prompt.name} {shown(prompt.point.effect)}. {_enough(found)}."


def _enough(found: Findings) -> str:
    """Whether a prompt is enough, as far as the held-out prompts tell."""
    method, prompt = found.method, found.prompt
    assert method is not None and prompt is not None
    verdict = found.verdict(method, "prompt")
    assert verdict is not None
    paid = f"which costs {shown_price(found, prompt.point)}"
    if not verdict.is_clear:
        word = "is enough as far as this tells"
    else:
        word = "is not enough" if verdict.gain.value > 0 else "is enough"
    return f"The prompt, {paid}, {word}: {verdict.words}"


def sentences(found: Findings) -> list[str]:
    """What follows from the table, each with its intervals."""
    steered = found.of_kind("method")
    reached = [one for one in steered if one.reached]
    lines = []
    if found.settings.task:
        lines += [_lost(found, one) for one in found.of_kind("method", "both") if one.reached]
    elif reached and found.settings.budget_perplexity is None:
        budget = found.settings.budget
        shares = [one.point.divergence.value / budget for one in reached]
        lines.append(
            f"On {found.texts} held-out plain texts the methods cost {min(shares):.1%} to "
            f"{max(shares):.1%} of the budget, each with its interval in the table."
        )
    for one in steered:
        if not one.reached and not one.point.strength:
            lines.append(
                f"{one.name} exceeds the budget at every strength that was tried: its line is the "
                "plain model's."
            )
        elif not one.reached:
            cost = shown(spent_at(found, one.point), 3)
            if found.settings.task:
                cost = shown_price(found, one.point)
            lines.append(
                f"{one.name} does not spend the budget: at its strength {one.point.strength:.3g} "
                f"it costs {cost}."
            )
    for name in ("prompt", "method"):
        lines += [
            f"{verdict.words}, {_at_what(found, verdict)}."
            for verdict in found.against.get(name, ())
        ]
    return lines


def _lost(found: Findings, one: Entry) -> str:
    """What a line loses of the task's accuracy, and whether that is within the budget."""
    reference, name = found.plain, "the plain model"
    if one.kind == "both":
        assert found.prompt is not None
        reference, name = found.prompt, "the prompt alone"
    drop, budget = found.drop(one.point, reference.point), found.settings.budget
    if drop.high <= budget:
        word = "within the budget"
    elif drop.low > budget:
        word = "beyond the budget"
    else:
        word = "too few to tell whether that is within the budget"
    return (
        f"{one.name} loses {shown_points(drop)} against {name} on {len(one.point.hits)} held-out "
        f"questions of {found.settings.task} ({100 * one.spent:.1f} on those that its strength was "
        f"found on), {word}."
    )


def _at_what(found: Findings, verdict: Verdict) -> str:
    """What both sides of a verdict cost."""
    points = {one.name: one.point for one in found.entries}
    sides = [points[name] for name in (verdict.name, verdict.other)]
    if found.settings.task:
        lost = [f"{100 * found.drop(one).value:.1f}" for one in sides]
        return f"at {lost[0]} against {lost[1]} points lost on {found.settings.task}"
    paid = [f"{one.divergence.value:.2g}" for one in sides]
    return f"at KL {paid[0]} against {paid[1]}"


def name_of(one: Entry) -> str:
    """A line with its sites and strength.

    A prompt has neither.
    """
    if one.kind in ("plain", "prompt"):
        return one.name
    return f"{one.name} at {one.sites}, λ {one.point.strength:.3g},"


def shown_points(one: Interval) -> str:
    """A share with its interval, in percentage points.

    >>> shown_points(Interval(0.05, -0.012, 0.11))
    '5.0 points [-1.2, 11.0]'
    """
    value, low, high = (100 * end for end in (one.value, one.low, one.high))
    return f"{value:.1f} points [{low:.1f}, {high:.1f}]"


def shown(one: Interval, digits: int = 2) -> str:
    """A value with its interval.

    >>> shown(Interval(0.5, 0.25, 0.75))
    '0.50 [0.25, 0.75]'
    """
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"
