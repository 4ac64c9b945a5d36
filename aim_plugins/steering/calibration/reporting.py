"""The lines of the table: effect and cost on the half that nothing was chosen on."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from aim_plugins.core.commands import say
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.choosing import Choosing, Chosen
from aim_plugins.steering.calibration.costs import UNCHANGED, Changed, prefix_tokens
from aim_plugins.steering.calibration.entries import CurvePoint, Entry, Kind
from aim_plugins.steering.calibration.prompting import PromptRival
from aim_plugins.steering.calibration.questions import Hits

_CURVE = 24
"""Held-out plain texts on which other strengths than the calibrated one are paid."""


class Reporting:
    """Measures the lines.

    Args:
        choosing: What was chosen on the other half, with what, and on what.
    """

    def __init__(self, choosing: Choosing) -> None:
        self.choosing = choosing
        self.measures, self.material = choosing.measures, choosing.material

    def plain(self) -> Entry:
        """The plain model."""
        [point] = self._points([UNCHANGED])
        return Entry("plain model", "plain", "", True, self.choosing.effect(Column()), point)

    def rival(self, rival: PromptRival) -> Entry:
        """A prompt, which stands at its own cost."""
        changed = Changed(prefix=prefix_tokens(self.measures.engine, rival.prefix))
        [point] = self._points([changed], rival)
        effect = self.choosing.effect(Column(), rival.prefix)
        return Entry(rival.name, "prompt", "", True, effect, point)

    def behind(self, chosen: Chosen, rival: PromptRival) -> list[Entry]:
        """A method behind a prompt, which spends the budget on top of what the prompt costs."""
        prefix = prefix_tokens(self.measures.engine, rival.prefix)
        return self.calibrated([chosen], "both", Changed(prefix=prefix), rival)

    def calibrated(
        self,
        chosen: Sequence[Chosen],
        kind: Kind = "method",
        reference: Changed = UNCHANGED,
        rival: PromptRival | None = None,
    ) -> list[Entry]:
        """Methods at the strengths that spend the budget, measured on the held-out half.

        Args:
            chosen: Their sites, and where to look for their strengths.
            kind: Kind of the lines.
            reference: What the budget is held against.
            rival: The prompt that they stand behind.
        """
        budget = self.choosing.budget
        say(f"calibrate: {len(chosen)} strengths on {budget.of}")
        spent = budget.spend(
            [functools.partial(one.candidate.at, prefix=reference.prefix) for one in chosen],
            [one.strength for one in chosen],
            fine=True,
            reference=reference,
        )
        entries = []
        for one, found in zip(chosen, spent, strict=True):
            candidate = one.candidate
            say(f"calibrate: {candidate.method} at {found.strength:.3g} on the held-out half")
            multiples = [1.0]
            effect = one.effect
            if rival is None:
                multiples += [one for one in self.measures.settings.curve if one != 1.0]
            else:
                effect = self.choosing.effect(candidate.at(found.strength).column, rival.prefix)
            strengths = [found.strength * multiple for multiple in multiples]
            point, *curve = self._points(
                [candidate.at(strength, reference.prefix) for strength in strengths], rival
            )
            entries.append(
                Entry(
                    candidate.method if rival is None else f"{rival.name} + {candidate.method}",
                    kind,
                    candidate.sites,
                    found.reached,
                    effect,
                    point,
                    tuple(sorted(curve, key=lambda one: one.strength)),
                    str(candidate.folder),
                    found.cost,
                )
            )
        return entries

    def _points(
        self, changed: Sequence[Changed], rival: PromptRival | None = None
    ) -> list[CurvePoint]:
        """Effect and cost on the held-out half, the first one's on all of its texts.

        Costs are held against the plain model.
        """
        measures, material = self.measures, self.material
        texts = material.texts.held_out
        costs = measures.costs(texts, changed[:1])
        costs += measures.costs(texts[:_CURVE], changed[1:])
        effects = measures.effects(
            material.prompts.held_out,
            [one.column for one in changed],
            "" if rival is None else rival.prefix,
        )
        answers: list[Hits] = [()] * len(changed)
        if (questions := material.questions) is not None:
            answers = questions.hits(questions.held_out, changed)
        return [
            CurvePoint(
                next((change.strength for change in one.column.changes), 0.0),
                cost.divergence,
                cost.growth,
                effect,
                measures.metric,
                measures.settings.samples,
                hits,
            )
            for one, cost, effect, hits in zip(changed, costs, effects, answers, strict=True)
        ]
