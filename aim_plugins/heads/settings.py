"""Settings of `aim-plugins attribute`, as a config and options give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.settings import (
    Count,
    Counts,
    Names,
    Natural,
    Part,
    Shard,
    Shares,
    bound,
    option,
    read_shard,
)
from aim_plugins.task_questions.settings import QuestionSettings, listed

DEFAULT_SIZES = (1, 2, 3, 4, 6, 8)
DEFAULT_ALPHAS = (0.025, 0.05, 0.1)

Masks = Annotated[int, bound("3 or more, since two always lie on a line", lambda one: one >= 3)]
Baseline = Literal["gradient", "leave_one_out"]
QuestionOutput = Literal["choice_margin", "log_likelihood", "mean_token_margin"]
NOUNS = {
    "attention_heads": "heads",
    "mlp_neurons": "neurons",
    "blocks": "blocks",
    "linear_rows": "rows",
    "linear_inputs": "inputs",
}
"""Components that a causal model may have, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class TaskAttributionSettings(QuestionSettings):
    """What `aim-plugins attribute` attributes to which components.

    Attributes:
        tasks: The task of multiple choice whose answers are attributed: one of lm-eval's tasks, or
            a group of them.
        references: Other tasks of multiple choice, which the edit is to leave as they are:
            components are ranked by what they add to the task beyond what they add to these.
        components: What is ablated: attention_heads, mlp_neurons, blocks, linear_rows or
            linear_inputs, all of them, or those whose name matches a pattern, as in
            mlp_neurons:model.layers.7.*.
        output_fn: What is attributed: choice_margin, by how much the right choice's log-likelihood
            is above that of the best other one; log_likelihood, that of the right choice alone; or
            mean_token_margin, by how much the logit of each of its tokens is above the largest
            other one, on average. Edits of the last are judged by the choice margin.
        alpha: Share of components ablated at random in each mask.
        num_ablations: Masks that attributions are learned from.
        gradient_passes: Masks at which derivatives by all components are taken besides.
        baselines: What attributions are held against: gradient (one pass), leave_one_out (a pass
            for each component).
        eval_alphas: Shares ablated in fresh masks, on which predictions are held against the truth;
            by default 0.025,0.05,0.1.
        eval_masks: Fresh masks of each share.
        direction: Whether the edit is to lower the margin of the right choice, or to raise it.
        edit_sizes: How many components an edit may ablate; which is chosen on validation documents.
            By default 1,2,3,4,6,8.
        random_edits: Edits at random, of as many components, that the chosen one is held against.
        split: Shares of the documents that attributions are learned from, that an edit's size is
            chosen on, and that results are of; by default 0.4,0.2,0.4.
        shard: Which part of the component dataset to build, and nothing else, as in 1/4: jobs of
            all parts may run at once in one folder, and a run without it goes on from there.
        batch_size: Documents in a pass, each under a mask of its own, with all of their choices.
        seed: Seed of the split, of masks, and of edits at random.
    """

    runs: ClassVar[str] = "attribute"
    elsewhere: ClassVar[tuple[str, ...]] = ("references", "also")

    references: Names = option((), metavar="NAMES")
    components: str = option("attention_heads", metavar="KIND[:PATTERN]")
    output_fn: QuestionOutput = "choice_margin"
    alpha: Part = 0.05
    num_ablations: Count = 200
    gradient_passes: Natural = 30
    baselines: Names = option(("gradient",), metavar="NAMES")
    eval_alphas: Shares = option(DEFAULT_ALPHAS, metavar="SHARES")
    eval_masks: Masks = 50
    direction: Literal["lower", "raise"] = "lower"
    edit_sizes: Counts = option(DEFAULT_SIZES, metavar="NUMBERS")
    random_edits: Count = 5
    shard: Shard | None = option(None, metavar="I/N")
    batch_size: Count = 64

    def check(self) -> None:
        super().check()
        if self.kind not in NOUNS:
            raise ValueError(f"components={self.components!r}: {did_you_mean(self.kind, NOUNS)}")
        for one in self.baselines:
            if one not in get_args(Baseline):
                raise ValueError(
                    f"baselines holds {one!r}: {did_you_mean(one, get_args(Baseline))}"
                )
        if max(self.eval_alphas) >= 1 or len(set(self.eval_alphas)) < len(self.eval_alphas):
            raise ValueError(
                f"eval_alphas={listed(self.eval_alphas)}: give different shares below 1"
            )

    @property
    def kind(self) -> str:
        """What a component is."""
        return self.components.partition(":")[0]

    @property
    def patterns(self) -> tuple[str, ...]:
        """Which of them."""
        found = self.components.partition(":")[2]
        return (found,) if found else ()

    @property
    def noun(self) -> str:
        """What several components are called."""
        return NOUNS[self.kind]

    @property
    def judged_by(self) -> str:
        """What edits are chosen and judged by, which follows from answers."""
        return "choice_margin" if self.output_fn == "mean_token_margin" else self.output_fn

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the component dataset to build, counted from 1, of how many."""
        place, count = read_shard(self.shard)
        return place + 1, count

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many components an edit may have, rising."""
        return tuple(sorted(set(self.edit_sizes)))
