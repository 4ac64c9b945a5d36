"""`aim-plugins transport calibrate`: methods and prompts at one budget of quality.

OUT/
  calibration.csv    a line for each method, prompt and strength: effect and cost, held out
  calibration.json   the same with every prompt's effect, the screen, and the verdicts
  transports/        what was learned, each at its sites
  curves/            pictures
  report.html
  manifest.json
  records/           finished batches, from which a killed run goes on

Strengths, sites and the prompt that stands for prompts are chosen on one half of the plain texts
and of the prompts to continue; everything that is reported was measured on the other half.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.loading import load_engine, local_name
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.steering.calibration.candidates import (
    Candidate,
    Sentences,
    candidate_at,
    given_candidates,
    learn,
)
from aim_plugins.steering.calibration.costs import (
    UNCHANGED,
    Changed,
    Tokens,
    encode_texts,
    prefix_tokens,
)
from aim_plugins.steering.calibration.entries import CurvePoint, Entry, Kind, best_of
from aim_plugins.steering.calibration.findings import Findings
from aim_plugins.steering.calibration.front import publish
from aim_plugins.steering.calibration.halves import Halves, split_halves, split_matched
from aim_plugins.steering.calibration.measures import Measures
from aim_plugins.steering.calibration.prompting import PromptRival, prompt_rivals
from aim_plugins.steering.calibration.screen import Promise, Screen, ScreenTexts
from aim_plugins.steering.calibration.sites import (
    SiteChoice,
    joint_choice,
    kept_choices,
    site_choices,
)
from aim_plugins.steering.commands.fit import read_sides
from aim_plugins.steering.inputs import check_scorers
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.texts import encode_prompts
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.transport.data.datasets import load_prompts, read_sentences
from aim_plugins.transport.maps import find_method

PILOT = 8
"""Plain texts of the calibration half on which every choice of sites gets its first strength."""
_ROUGH, _FINE = 0.1, 0.02
"""Share of the budget by which strengths may miss it while sites are chosen, and at the end."""
_SCREENED, _CURVE = 24, 24
"""Plain texts of the calibration half that the screen reads, and of the other half on which other
strengths than the calibrated one are paid."""

Promises = dict[str, dict[str, Promise]]
"""By method and choice of sites."""


def calibrate(settings: CalibrationSettings, command: Sequence[str]) -> None:
    """Runs `aim-plugins transport calibrate`."""
    CalibrationStudy(settings, command).run()


@dataclass(frozen=True)
class Chosen:
    """A candidate at the strength that the calibration half gives it.

    Attributes:
        candidate: The candidate.
        strength: The strength.
        cost: Its cost on the texts that it was searched on, in nats per token.
        reached: Whether the budget is spent.
        effect: Mean effect on the calibration half's prompts.
    """

    candidate: Candidate
    strength: float
    cost: float
    reached: bool
    effect: float


class CalibrationStudy(FolderStudy):
    """One calibration of a model.

    Args:
        settings: What is held against what.
        command: The words that repeat it, for the report.

    Raises:
        ValueError: If a file or a model that settings name is not usable.
        FileNotFoundError: If one is missing.
        ImportError: If a package is missing.
    """

    packages = ("aim-plugins", "transformers", "torch")

    def __init__(self, settings: CalibrationSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command, self.output = settings, command, settings.output
        check_scorers(settings)
        self.prompts = split_halves(load_prompts(settings.prompts), settings.seed, "prompts")
        documents = [one for path in settings.perplexity for one in read_sentences(path)]
        self.documents = list(dict.fromkeys(documents))
        split_halves(self.documents, settings.seed, "perplexity")  # refuses too few
        self.sentences = Sentences((), ())
        if settings.has_sentences:
            self.sentences = Sentences(*map(tuple, read_sides(settings)))

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = (
            "pretrained", "dtype", "max_length", "modules", "layers", "kept", "samples", "budget",
            "budget_perplexity", "largest", "curve", "instructions", "shots", "lower_is_better",
            "sentiment", "classifier", "label", "judge", "concept", "judge_question",
            "judge_answers", "judge_chat", "seed",
        )  # fmt: skip
        return {
            "command": "transport calibrate",
            **{name: getattr(settings, name) for name in names},
            "methods": settings.learned_methods,
            "options": settings.method_options,
            "transports": [str(one) for one in settings.transports],
            "sentences": fingerprint([self.sentences.source, self.sentences.target]),
            "texts": fingerprint(self.documents),
            "prompts": fingerprint([self.prompts.calibration, self.prompts.held_out]),
            "lexicon": settings.lexicon and settings.lexicon.read_text(encoding="utf-8").split(),
            "decoding": settings.decoding_record,
        }

    def load(self) -> None:
        settings = self.settings
        self.engine = load_engine(
            settings.pretrained, max_length=settings.max_length, **settings.loading
        )
        self.tokens = encode_texts(self.engine, self.documents)
        examples = self.sentences.target[: settings.shots]
        self.rivals = prompt_rivals(self.engine.tokenizer, settings.instructions, examples)
        longest = max((one.prefix for one in self.rivals), key=len, default="")
        asked = (*self.prompts.calibration, *self.prompts.held_out)
        encode_prompts(self.engine, [f"{longest}{one}" for one in asked], settings)
        self.choices: list[SiteChoice] = []
        if settings.learned_methods:
            model = self.engine.model
            grouped = choose_sites(model, settings.modules) if settings.modules else []
            single = choose_sites(model, settings.layers) if settings.layers else []
            self.choices = site_choices(grouped, single)
        taken = [*settings.learned_methods, *(one.name for one in self.rivals)]
        self.given = given_candidates(self.engine, settings.transports, taken, force=settings.force)

    def measure(self, store: SweepStore) -> None:
        store.pin_manifest(model_fingerprint=self.engine.fingerprint)
        store.update_manifest(model=Path(local_name(self.settings.pretrained)).name)
        self.engine.journal = store
        self.measures = Measures(self.engine, self.settings, store)
        self.texts = self._matched_texts()
        promises = self._screen(store)
        chosen = self._choose(self._candidates(promises), promises)
        plain, rivals = self._plain(), [self._rival(one) for one in self.rivals]
        methods = self._calibrated(chosen, UNCHANGED, "method")
        entries = [plain, *rivals, *methods]
        lower = self.settings.lower_is_better
        if rivals and methods:
            prompt = best_of(rivals, lower_is_better=lower)
            best = best_of(methods, lower_is_better=lower)
            [own] = [one for one in chosen if one.candidate.method == best.name]
            entries += self._behind(own, self.rivals[rivals.index(prompt)])
        self.findings = Findings(
            self.settings,
            self.measures.metric,
            entries,
            {
                method: {name: one.gain(self.measures.budget) for name, one in own.items()}
                for method, own in promises.items()
            },
            len(self.texts.held_out),
        )

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(self.output, self.findings, store.manifest)

    # On the calibration half ----------------------------------------------------------------------

    def _matched_texts(self) -> Halves[Tokens]:
        """Plain texts in halves that the plain model finds equally hard."""
        say(f"calibrate: reading {len(self.tokens)} plain texts")
        [plain] = self.measures.costs(self.tokens, [UNCHANGED])
        losses = [loss / count for loss, count in zip(plain.losses, plain.tokens, strict=True)]
        return split_matched(self.tokens, losses, self.settings.seed)

    def _screen(self, store: SweepStore) -> Promises:
        """What each method promises at each choice of sites, by their names."""
        methods = [one for one in self.settings.learned_methods if not find_method(one).joined]
        if not methods:
            return {}
        texts = self.texts.calibration[:_SCREENED]
        key = fingerprint(
            ["screen", self.engine.fingerprint, self.arguments, [list(one) for one in texts]]
        )
        if (record := store.read_batch(key)) is not None:
            return _read_promises(record)
        say(f"calibrate: screening {len(self.choices)} choices of sites for {len(methods)} methods")
        learned, held = self.sentences.part(0), self.sentences.part(1)
        patterns = [pattern for one in self.choices for pattern in one.patterns]
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
        screen = Screen(
            self.engine,
            ScreenTexts(source, target, texts),
            maps,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        found = {
            method: {one.name: screen.promise(method, one.sites) for one in self.choices}
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

    def _candidates(self, promises: Promises) -> list[Candidate]:
        """Each method at all modules and at the sites that promise most, and what was given."""
        candidates: list[Candidate] = []
        for method in self.settings.learned_methods:
            choices = [joint_choice(self.choices, stream=find_method(method).stream)]
            if method in promises:
                own, budget = promises[method], self.measures.budget
                gains = {name: one.gain(budget) for name, one in own.items()}
                choices = kept_choices(self.choices, gains, self.settings.kept)
            say(f"calibrate: learning {method} at {', '.join(one.name for one in choices)}")
            candidates += [
                candidate_at(
                    self.engine,
                    self.sentences,
                    method,
                    choice,
                    self.output,
                    batch_size=self.settings.batch_size,
                    options=self.settings.method_options,
                )
                for choice in choices
            ]
        return candidates + list(self.given)

    def _choose(self, candidates: Sequence[Candidate], promises: Promises) -> list[Chosen]:
        """The sites of each method that do most at the budget, on the calibration half."""
        say(f"calibrate: strengths of {len(candidates)} candidates")
        found = self.measures.spend(
            self.texts.calibration[:PILOT],
            [one.at for one in candidates],
            [self._first_strength(one, promises) for one in candidates],
            tolerance=_ROUGH,
        )
        say("calibrate: their effect on the calibration half")
        best: dict[str, Chosen] = {}
        sign = -1 if self.settings.lower_is_better else 1
        for candidate, spent in zip(candidates, found, strict=True):
            effect = self._effect(candidate.at(spent.strength).column)
            one = Chosen(candidate, spent.strength, spent.cost, spent.reached, effect)
            held = best.get(candidate.method)
            # One that spends the budget stands before one that cannot.
            if held is None or (one.reached, sign * effect) > (held.reached, sign * held.effect):
                best[candidate.method] = one
        return list(best.values())

    def _first_strength(self, candidate: Candidate, promises: Promises) -> float:
        """Where the search for a strength starts: where the screen expects the budget spent."""
        if candidate.method not in promises:
            return 1.0
        promise = promises[candidate.method][candidate.sites]
        return min(promise.strength(self.measures.budget), self.settings.largest)

    def _effect(self, column: Column, prefix: str = "") -> float:
        """Mean effect on the calibration half, from one text of each prompt."""
        [effects] = self.measures.effects(self.prompts.calibration, [column], prefix, samples=1)
        return statistics.fmean(effects)

    # On the half that reports ---------------------------------------------------------------------

    def _calibrated(
        self,
        chosen: Sequence[Chosen],
        reference: Changed,
        kind: Kind,
        rival: PromptRival | None = None,
    ) -> list[Entry]:
        """Strengths on all of the calibration half, then effect and cost on the other."""
        prefix = reference.prefix
        say(f"calibrate: {len(chosen)} strengths on {len(self.texts.calibration)} texts")
        spent = self.measures.spend(
            self.texts.calibration,
            [functools.partial(one.candidate.at, prefix=prefix) for one in chosen],
            [one.strength for one in chosen],
            tolerance=_FINE,
            reference=reference,
        )
        entries = []
        for one, found in zip(chosen, spent, strict=True):
            candidate = one.candidate
            say(f"calibrate: {candidate.method} at {found.strength:.3g} on the held-out half")
            multiples = [1.0]
            if rival is None:
                multiples += [one for one in self.settings.curve if one != 1.0]
            strengths = [found.strength * multiple for multiple in multiples]
            point, *curve = self._points([candidate.at(s, prefix) for s in strengths], rival)
            effect = one.effect
            if rival is not None:
                effect = self._effect(candidate.at(found.strength).column, rival.prefix)
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
                )
            )
        return entries

    def _points(
        self, changed: Sequence[Changed], rival: PromptRival | None = None
    ) -> list[CurvePoint]:
        """Effect and cost on the held-out half, the first one's on all of its texts.

        Costs are held against the plain model.
        """
        texts = self.texts.held_out
        costs = self.measures.costs(texts, changed[:1])
        costs += self.measures.costs(texts[:_CURVE], changed[1:])
        effects = self.measures.effects(
            self.prompts.held_out,
            [one.column for one in changed],
            "" if rival is None else rival.prefix,
        )
        return [
            CurvePoint(
                next((change.strength for change in one.column.changes), 0.0),
                cost.divergence,
                cost.growth,
                effect,
                self.measures.metric,
                self.settings.samples,
            )
            for one, cost, effect in zip(changed, costs, effects, strict=True)
        ]

    def _plain(self) -> Entry:
        [point] = self._points([UNCHANGED])
        return Entry("plain model", "plain", "", True, self._effect(Column()), point)

    def _rival(self, rival: PromptRival) -> Entry:
        """A prompt, which stands at its own cost."""
        changed = Changed(prefix=prefix_tokens(self.engine, rival.prefix))
        [point] = self._points([changed], rival)
        return Entry(rival.name, "prompt", "", True, self._effect(Column(), rival.prefix), point)

    def _behind(self, chosen: Chosen, rival: PromptRival) -> list[Entry]:
        """A method behind a prompt, which spends the budget on top of what the prompt costs."""
        prefix = prefix_tokens(self.engine, rival.prefix)
        return self._calibrated([chosen], Changed(prefix=prefix), "both", rival)


def _read_promises(record: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Promises:
    return {
        method: {name: Promise(**one) for name, one in own.items()}
        for method, own in record.items()
    }
