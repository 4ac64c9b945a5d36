"""What a calibration found, and what follows from it in words."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aim_plugins.steering.calibration.entries import CurvePoint, Entry, best_of
from aim_plugins.steering.calibration.verdicts import Verdict, verdicts
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.sweep.estimates import Estimate
from aim_plugins.sweep.intervals import student_factor
from aim_plugins.sweep.paired import Interval


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
                spread=2.0 if self.metric == "sentiment" else 1.0,
            )
            for name, other in held.items()
            if other is not None
        }

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
    by_loss = found.settings.budget_perplexity is not None
    return cost_interval(point.growth if by_loss else point.divergence)


def shown_sites(one: Entry) -> str:
    """Its sites for tables and pictures, which have little room."""
    return one.sites.removeprefix("model.")


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
    paid = f"which costs KL {shown(cost_interval(prompt.point.divergence), 3)} on plain text"
    if not verdict.is_clear:
        word = "is enough as far as this tells"
    else:
        word = "is not enough" if verdict.gain.value > 0 else "is enough"
    return f"The prompt, {paid}, {word}: {verdict.words}"


def sentences(found: Findings) -> list[str]:
    """What follows from the table, each with its intervals."""
    steered = found.of_kind("method")
    lines = []
    if reached := [one for one in steered if one.reached]:
        budget = found.settings.budget
        shares = [spent_at(found, one.point) for one in reached]
        if found.settings.budget_perplexity is None:
            low, high = (end(one.value for one in shares) / budget for end in (min, max))
            lines.append(
                f"On {found.texts} held-out plain texts the methods cost {low:.1%} to {high:.1%} "
                "of the budget, each with its interval in the table."
            )
    for one in steered:
        if not one.reached:
            lines.append(
                f"{one.name} does not spend the budget: at its strength {one.point.strength:.3g} "
                f"it costs {shown(spent_at(found, one.point), 3)}."
            )
    paid = {one.name: f"{one.point.divergence.value:.2g}" for one in found.entries}
    for name in ("prompt", "method"):
        lines += [
            f"{verdict.words}, at KL {paid[verdict.name]} against {paid[verdict.other]}."
            for verdict in found.against.get(name, ())
        ]
    return lines


def name_of(one: Entry) -> str:
    """A line with its sites and strength.

    A prompt has neither.
    """
    if one.kind in ("plain", "prompt"):
        return one.name
    return f"{one.name} at {one.sites}, λ {one.point.strength:.3g},"


def shown(one: Interval, digits: int = 2) -> str:
    """A value with its interval.

    >>> shown(Interval(0.5, 0.25, 0.75))
    '0.50 [0.25, 0.75]'
    """
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"
