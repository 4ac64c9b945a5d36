"""Sites of each method, and the strength they begin with: chosen on the calibration half."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.budgets import Budget
from aim_plugins.steering.calibration.candidates import (
    Candidate,
    Sentences,
    candidate_at,
    learn,
)
from aim_plugins.steering.calibration.costs import encode_texts
from aim_plugins.steering.calibration.measures import Material, Measures
from aim_plugins.steering.calibration.screen import Promise, Screen, ScreenTexts
from aim_plugins.steering.calibration.sites import SiteChoice, joint_choice, kept_choices
from aim_plugins.transport.maps import find_method

_SCREENED = 24
"""Plain texts of the calibration half that the screen reads."""

Promises = dict[str, dict[str, Promise]]
"""By method and choice of sites."""


@dataclass(frozen=True)
class Chosen:
    """A candidate at the strength that the calibration half gives it.

    Attributes:
        candidate: The candidate.
        strength: The strength.
        reached: Whether the budget is spent.
        effect: Mean effect on the calibration half's prompts.
    """

    candidate: Candidate
    strength: float
    reached: bool
    effect: float


@dataclass(frozen=True)
class Choices:
    """What there is to choose from.

    Attributes:
        sentences: What methods learn from.
        sites: Where they may act.
        given: Transports that are there.
    """

    sentences: Sentences
    sites: Sequence[SiteChoice]
    given: Sequence[Candidate]


class Choosing:
    """Chooses the sites of each method.

    Args:
        measures: Measures effects.
        material: What is measured on.
        budget: What methods may spend.
        choices: What there is to choose from.
    """

    def __init__(
        self, measures: Measures, material: Material, budget: Budget, choices: Choices
    ) -> None:
        self.measures, self.material = measures, material
        self.budget, self.choices = budget, choices
        self.settings, self.engine = measures.settings, measures.engine

    def screen(self, arguments: Mapping[str, Any]) -> Promises:
        """What each method promises at each choice of sites, by their names.

        Args:
            arguments: What determines the study, in the key of the record.
        """
        methods = [one for one in self.settings.learned_methods if not find_method(one).joined]
        if not methods:
            return {}
        texts, store = self.material.texts.calibration[:_SCREENED], self.measures.store
        key = fingerprint(
            ["screen", self.engine.fingerprint, arguments, [list(one) for one in texts]]
        )
        if (record := store.read_batch(key)) is not None:
            return _read_promises(record)
        sites = self.choices.sites
        say(f"calibrate: screening {len(sites)} choices of sites for {len(methods)} methods")
        screen = self._screen(methods, texts)
        found = {
            method: {one.name: screen.promise(method, one.sites) for one in sites}
            for method in methods
        }
        store.write_batch(
            key,
            {
                method: {name: asdict(one) for name, one in own.items()}
                for method, own in found.items()
            },
        )
        return found

    def _screen(self, methods: Sequence[str], texts: Sequence[Sequence[int]]) -> Screen:
        """The screen of maps that half of the sentences teach, looked at with the other half."""
        learned, held = self.choices.sentences.part(0), self.choices.sentences.part(1)
        patterns = [pattern for one in self.choices.sites for pattern in one.patterns]
        settings = self.settings
        maps = {
            method: learn(
                self.engine,
                learned,
                method,
                list(dict.fromkeys(patterns)),
                batch_size=settings.batch_size,
                incremental="atonce",
                options=settings.method_options,
            ).maps.maps
            for method in methods
        }
        source, target = (encode_texts(self.engine, side) for side in (held.source, held.target))
        return Screen(
            self.engine,
            ScreenTexts(source, target, texts),
            maps,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )

    def candidates(self, promises: Promises) -> list[Candidate]:
        """Each method at all modules and at the sites that promise most, and what was given."""
        settings, sites = self.settings, self.choices.sites
        candidates: list[Candidate] = []
        for method in settings.learned_methods:
            choices = [joint_choice(sites, stream=find_method(method).stream)]
            if method in promises:
                choices = kept_choices(sites, self.gains(promises[method]), settings.kept)
            say(f"calibrate: learning {method} at {', '.join(one.name for one in choices)}")
            candidates += [
                candidate_at(
                    self.engine,
                    self.choices.sentences,
                    method,
                    choice,
                    settings.output,
                    batch_size=settings.batch_size,
                    options=settings.method_options,
                )
                for choice in choices
            ]
        return candidates + list(self.choices.given)

    def choose(self, candidates: Sequence[Candidate], promises: Promises) -> list[Chosen]:
        """The sites of each method that do most at the budget."""
        say(f"calibrate: strengths of {len(candidates)} candidates")
        found = self.budget.spend(
            [one.at for one in candidates],
            [self._first_strength(one, promises) for one in candidates],
            fine=False,
        )
        say("calibrate: their effect on the calibration half")
        best: dict[str, Chosen] = {}
        sign = -1 if self.settings.lower_is_better else 1
        for candidate, spent in zip(candidates, found, strict=True):
            effect = self.effect(candidate.at(spent.strength).column)
            one = Chosen(candidate, spent.strength, spent.reached, effect)
            held = best.get(candidate.method)
            # One that spends the budget stands before one that cannot.
            if held is None or (one.reached, sign * effect) > (held.reached, sign * held.effect):
                best[candidate.method] = one
        return list(best.values())

    def gains(self, promises: Mapping[str, Promise]) -> dict[str, float]:
        """What a method promises at the budget at each choice of sites, in nats per token."""
        return {name: one.gain(self.measures.nats) for name, one in promises.items()}

    def effect(self, column: Column, prefix: str = "") -> float:
        """Mean effect on the calibration half, from one text of each prompt."""
        prompts = self.material.prompts.calibration
        [effects] = self.measures.effects(prompts, [column], prefix, samples=1)
        return statistics.fmean(effects)

    def _first_strength(self, candidate: Candidate, promises: Promises) -> float:
        """Where the search for a strength starts: where the screen expects the budget spent."""
        if candidate.method not in promises:
            return 1.0
        promise = promises[candidate.method][candidate.sites]
        return min(promise.strength(self.measures.nats), self.settings.largest)


def _read_promises(record: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Promises:
    return {
        method: {name: Promise(**one) for name, one in own.items()}
        for method, own in record.items()
    }
