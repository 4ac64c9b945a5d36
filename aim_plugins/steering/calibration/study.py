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
and of the prompts to continue; everything that is reported was measured on the other half. Of the
questions of the budget's task one third chooses sites, one finds their strengths, one reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import say
from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.loading import load_engine, local_name
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.steering.calibration.budgets import Budget, TaskBudget, TextBudget
from aim_plugins.steering.calibration.candidates import Sentences, given_candidates
from aim_plugins.steering.calibration.choosing import Choices, Choosing, Chosen
from aim_plugins.steering.calibration.costs import UNCHANGED, Tokens, encode_texts
from aim_plugins.steering.calibration.entries import Entry, best_of
from aim_plugins.steering.calibration.findings import Findings
from aim_plugins.steering.calibration.front import publish
from aim_plugins.steering.calibration.halves import Halves, split_halves, split_matched
from aim_plugins.steering.calibration.measures import Material, Measures
from aim_plugins.steering.calibration.prompting import prompt_rivals
from aim_plugins.steering.calibration.questions import (
    TaskQuestions,
    budget_documents,
    check_room,
)
from aim_plugins.steering.calibration.reporting import Reporting
from aim_plugins.steering.calibration.sites import SiteChoice, site_choices
from aim_plugins.steering.commands.fit import read_sides
from aim_plugins.steering.inputs import check_scorers
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.texts import encode_prompts
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.task_documents import fingerprint_of
from aim_plugins.task_questions.questions import read_questions
from aim_plugins.transport.data.datasets import load_prompts, read_sentences


def calibrate(settings: CalibrationSettings, command: Sequence[str]) -> None:
    """Runs `aim-plugins transport calibrate`."""
    CalibrationStudy(settings, command).run()


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
        self.task_documents = budget_documents(settings)
        self.sentences = Sentences((), ())
        if settings.has_sentences:
            self.sentences = Sentences(*map(tuple, read_sides(settings)))

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        names = (
            "pretrained", "dtype", "max_length", "modules", "layers", "kept", "samples", "budget",
            "budget_perplexity", "budget_task", "largest", "curve", "instructions", "shots",
            "lower_is_better", "sentiment", "classifier", "label", "judge", "concept",
            "judge_question", "judge_answers", "judge_chat", "seed",
        )  # fmt: skip
        return {
            "command": "transport calibrate",
            **{name: getattr(settings, name) for name in names},
            "methods": settings.learned_methods,
            "options": settings.method_options,
            "transports": [str(one) for one in settings.transports],
            "sentences": fingerprint([self.sentences.source, self.sentences.target]),
            "texts": fingerprint(self.documents),
            "questions": fingerprint_of(self.task_documents),
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
        self.questions = read_questions(
            self.task_documents, self.engine.tokenizer, self.engine.max_length
        )
        examples = self.sentences.target[: settings.shots]
        self.rivals = prompt_rivals(self.engine.tokenizer, settings.instructions, examples)
        longest = max((one.prefix for one in self.rivals), key=len, default="")
        asked = (*self.prompts.calibration, *self.prompts.held_out)
        encode_prompts(self.engine, [f"{longest}{one}" for one in asked], settings)
        check_room(self.engine, self.questions, [one.prefix for one in self.rivals])
        sites: list[SiteChoice] = []
        if settings.learned_methods:
            model = self.engine.model
            grouped = choose_sites(model, settings.modules) if settings.modules else []
            single = choose_sites(model, settings.layers) if settings.layers else []
            sites = site_choices(grouped, single)
        taken = [*settings.learned_methods, *(one.name for one in self.rivals)]
        given = given_candidates(self.engine, settings.transports, taken, force=settings.force)
        self.choices = Choices(self.sentences, sites, given)

    def measure(self, store: SweepStore) -> None:
        store.pin_manifest(model_fingerprint=self.engine.fingerprint)
        store.update_manifest(model=Path(local_name(self.settings.pretrained)).name)
        self.engine.journal = store
        measures = Measures(self.engine, self.settings, store)
        self.material = self._material(measures)
        choosing = Choosing(measures, self.material, self._budget(measures), self.choices)
        promises = choosing.screen(self.arguments)
        chosen = choosing.choose(choosing.candidates(promises), promises)
        self.findings = Findings(
            self.settings,
            measures.metric,
            self._entries(Reporting(choosing), chosen),
            {method: choosing.gains(own) for method, own in promises.items()},
            len(self.material.texts.held_out),
        )

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(self.output, self.findings, store.manifest)

    def _material(self, measures: Measures) -> Material:
        """Plain texts in halves that are equally hard, prompts in halves, questions in thirds."""
        settings, questions = self.settings, None
        say(f"calibrate: reading {len(self.tokens)} plain texts")
        [plain] = measures.costs(self.tokens, [UNCHANGED])
        losses = [loss / count for loss, count in zip(plain.losses, plain.tokens, strict=True)]
        if self.questions:
            questions = TaskQuestions(self.engine, self.questions, batch_size=settings.batch_size)
        texts: Halves[Tokens] = split_matched(self.tokens, losses, settings.seed)
        return Material(self.prompts, texts, questions)

    def _budget(self, measures: Measures) -> Budget:
        if self.material.questions is not None:
            return TaskBudget(self.settings, self.material.questions)
        return TextBudget(measures, self.material.texts.calibration)

    def _entries(self, reporting: Reporting, chosen: Sequence[Chosen]) -> list[Entry]:
        """The lines of the table, the best method behind the best prompt last."""
        plain, rivals = reporting.plain(), [reporting.rival(one) for one in self.rivals]
        methods = reporting.calibrated(chosen)
        entries = [plain, *rivals, *methods]
        if rivals and methods:
            lower = self.settings.lower_is_better
            prompt = best_of(rivals, lower_is_better=lower)
            best = best_of(methods, lower_is_better=lower)
            [own] = [one for one in chosen if one.candidate.method == best.name]
            entries += reporting.behind(own, self.rivals[rivals.index(prompt)])
        return entries
