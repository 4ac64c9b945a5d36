"""Settings of the calibration: methods, sites, the budget, and what the effect is measured by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from aim_plugins.core.files import existing_folder
from aim_plugins.core.settings import Count, Names, Natural, Positive, bound, option
from aim_plugins.modulation.sites import compile_site
from aim_plugins.steering.settings.evaluation import Decoding, EffectSettings, check_texts
from aim_plugins.steering.settings.model import ModelSettings
from aim_plugins.steering.settings.transports import MethodOptions, SentenceSettings
from aim_plugins.transport.vocabulary import (
    METHOD_NAMES,
    SLOW_METHODS,
    check_method,
    check_options,
    existing_transport,
)

DEFAULT_BUDGET = 0.1
"""Nats of KL per token."""
Growth = Annotated[float, bound("a ratio above 1, such as 1.1", lambda value: value > 1)]
Multiples = Annotated[Sequence[Positive], "separated by commas"]
_DROP = re.compile(r"(.+)=(0?\.\d+)")


def _is_drop(text: str) -> bool:
    found = _DROP.fullmatch(text)
    return found is not None and float(found[2]) > 0


TaskDrop = Annotated[
    str, bound("a task and the accuracy that it may lose, such as arc_easy=0.05", _is_drop)
]


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(ModelSettings, SentenceSettings, MethodOptions, Decoding, EffectSettings):
    """What is held against what, at which budget.

    Attributes:
        output: Folder for results; an interrupted run goes on when it is started again.
        methods: Methods to learn, separated by commas; by default all but lineas, which takes a
            thousand passes.
        transports: Folders of transports that are there, which stand in the table beside them.
        modules: Modules to transport all together, and by thirds of the depth, as patterns of their
            whole names.
        layers: Modules to transport one by one, as patterns; by default none.
        kept: Choices of sites that each method runs beside all modules, the best of a screen.
        perplexity: Plain text, a document a line, on which the cost is measured.
        prompts: Texts to continue: .jsonl with {"text": ...}, or .txt, one a line; a config may
            describe them.
        samples: Texts for each held-out prompt; sites are chosen on one.
        budget_kl: Mean KL of next-token distributions on plain text, in nats per token; by default
            this budget, at 0.1.
        budget_perplexity: Ratio of perplexities on plain text, such as 1.1, instead.
        budget_task: A task of multiple choice, and the accuracy that it may lose, instead:
            arc_easy=0.05 are 5 points.
        budget_limit: Questions of that task, drawn at random; by default all.
        include_path: Folder of tasks of your own, for budget_task.
        largest: Strength beyond which a budget counts as not reached.
        curve: Multiples of the calibrated strength at which effect and cost are measured too.
        instructions: Prompts to hold the methods against, put before every text.
        shots: Target sentences that stand before every text as examples; 0 for no such prompt.
        lower_is_better: The effect should fall, as toxicity.
        batch_size: Sentences or texts in a forward pass; four times as many are decoded together.
        max_length: Longest sequence in tokens; by default the model's window.
        force: Whether to run given transports that another model was fitted on.
    """

    output: Path = option(short="-o", metavar="OUT")
    methods: Names = option((), metavar="NAMES")
    transports: Sequence[Path] = option((), metavar="DIR")
    modules: Sequence[str] = option((), metavar="REGEX")
    layers: Sequence[str] = option((), metavar="REGEX")
    kept: Natural = 1
    perplexity: Sequence[Path] = option(metavar="FILE")
    prompts: str | Path | Mapping[str, Any] = option(metavar="FILE")
    samples: Count = 1
    budget_kl: Positive | None = None
    budget_perplexity: Growth | None = None
    budget_task: TaskDrop | None = option(None, metavar="TASK=DROP")
    budget_limit: Count | None = None
    include_path: str | None = option(None, metavar="FOLDER")
    largest: Positive = 32.0
    curve: Multiples = (0.5, 1.5)
    instructions: Sequence[str] = option((), metavar="TEXT")
    shots: Natural = 8
    lower_is_better: bool = False
    batch_size: Count = 16
    max_length: int | None = None
    force: bool = False

    def check(self) -> None:
        super().check()
        budgets = ("budget_kl", "budget_perplexity", "budget_task")
        if len(asked := [name for name in budgets if getattr(self, name) is not None]) > 1:
            raise ValueError(
                f"{' and '.join(asked)} are given together: methods are compared at one budget; "
                "keep one"
            )
        if self.budget_limit is not None and self.budget_task is None:
            raise ValueError(
                f"budget_limit={self.budget_limit} counts questions of a task, and no budget is of "
                "one: add --budget-task TASK=DROP, or leave it out"
            )
        if len(self.scorers) != 1:
            given = ", ".join(self.scorers) or "none is given"
            raise ValueError(
                f"one measure of the effect is needed ({given}): give one of --lexicon FILE, "
                "--judge MODEL, --classifier MODEL or --sentiment vader"
            )
        if self.samples > 1 and not self.do_sample:
            raise ValueError(
                f"samples={self.samples} asks for several texts of a prompt, and greedy decoding "
                "writes one: add --do-sample"
            )
        for name in self.methods:
            check_method(name)
        check_options(self.method_options, self.learned_methods)
        if self.has_sentences and not (self.modules or self.layers):
            raise ValueError("modules are missing: add --modules REGEX, such as '.*layernorm'")
        if not self.has_sentences and not self.transports:
            raise ValueError(
                "there is nothing to calibrate: add --source FILE --target FILE, or --transports "
                "DIR"
            )
        for pattern in (*self.modules, *self.layers):
            compile_site(pattern)

    def check_files(self) -> None:
        super().check_files()
        check_texts(self.prompts, self.perplexity)
        if self.budget_task is not None and self.include_path is not None:
            existing_folder(self.include_path, "include_path")
        for folder in self.transports:
            existing_transport(folder)

    @property
    def learned_methods(self) -> tuple[str, ...]:
        """Methods that are learned here."""
        quick = tuple(name for name in METHOD_NAMES if name not in SLOW_METHODS)
        return (tuple(self.methods) or quick) if self.has_sentences else ()

    @property
    def budget(self) -> float:
        """The budget: of KL, as a ratio of perplexities, or of accuracy."""
        if self.budget_task is not None:
            return float(self.budget_task.rpartition("=")[2])
        return self.budget_perplexity or self.budget_kl or DEFAULT_BUDGET

    @property
    def task(self) -> str:
        """The task whose accuracy the budget is of; empty where it is of plain text."""
        return (self.budget_task or "").rpartition("=")[0]

    @property
    def budget_text(self) -> str:
        """The budget in words."""
        if self.task:
            return f"{100 * self.budget:g} points of {self.task}"
        if self.budget_perplexity is not None:
            return f"{self.budget_perplexity:g} times the perplexity"
        return f"KL {self.budget:g}"
