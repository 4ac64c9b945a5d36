"""What a study found, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from aim_plugins.attribution.evaluation import MeanOfExamples
from aim_plugins.core.errors import first_few
from aim_plugins.heads.pictures import WORDS
from aim_plugins.heads.prediction import OWN, Prediction
from aim_plugins.heads.settings import TaskAttributionSettings
from aim_plugins.heads.trials import Alone, EditPath, Outcome, in_nats, in_shares
from aim_plugins.modulation.components import Components
from aim_plugins.sweep.paired import (
    LEVEL,
    Interval,
    PairedDifference,
    holm,
    mean_interval,
    show_p,
    verdict,
)
from aim_plugins.task_documents import Document


@dataclass(frozen=True)
class Findings:
    """What a study found, for its front.

    Attributes:
        settings: What was asked.
        components: The components.
        weights: What each adds to the output of each document that was learned from.
        documents: Those documents.
        prediction: Predictions held against fresh masks.
        path: Edits of growing size.
        ranking: Numbers of components, those first that the edit ablates first.
        outcomes: The edit on held-out documents, of the task and of others.
        alone: The first of the ranking, ablated alone.
    """

    settings: TaskAttributionSettings
    components: Components
    weights: Float[Tensor, "documents components"]
    documents: Sequence[Document]
    prediction: Prediction
    path: EditPath
    ranking: Sequence[int]
    outcomes: Mapping[str, Outcome]
    alone: Sequence[Alone]

    @property
    def edit(self) -> list[int]:
        """The components that the edit ablates."""
        return list(self.ranking[: self.path.size])

    @property
    def words(self) -> str:
        """What is attributed."""
        return WORDS[self.settings.output_fn]

    @property
    def judged(self) -> str:
        """What edits are chosen and judged by."""
        return WORDS[self.settings.judged_by]

    @property
    def noun(self) -> str:
        """What components are called."""
        return self.settings.noun

    def count(self, number: int) -> str:
        """So many components."""
        return f"{number} {self.noun.removesuffix('s') if number == 1 else self.noun}"

    def name(self, number: int) -> str:
        """The name of a component."""
        return self.components.name(number)

    def contribution(self, number: int) -> Interval:
        """What a component adds to the output, with its interval over documents."""
        return mean_interval(self.weights[:, number].tolist())

    @cached_property
    def changes_alone(self) -> list[PairedDifference]:
        """What held-out outputs change by without each of `alone`, with p corrected by Holm."""
        whole = self.outcomes[self.settings.task].whole
        output = self.settings.judged_by
        found = [Outcome(output, whole, one.test, ()).output_change for one in self.alone]
        corrected = holm([one.p for one in found])
        return [replace(one, p=p) for one, p in zip(found, corrected, strict=True)]


def short(words: str) -> str:
    """An output in fewer words.

    >>> short("margin of the right choice")
    'margin'
    """
    return words.partition(" of ")[0]


def headline(found: Findings) -> str:
    """The result in a sentence or two."""
    own = found.outcomes[found.settings.task]
    size = found.path.size
    names = first_few([found.name(one) for one in found.edit], 4)
    return (
        f"Without {size} of {len(found.components)} {found.noun} ({names}) the {found.judged} "
        f"changes by {in_nats(own.output_change)} on {len(own.whole.right)} held-out documents, "
        f"{in_nats(own.beyond_random)} beyond {size} at random; the model answers "
        f"{in_shares(own.edited)} of them right, the whole one {in_shares(own.whole)}: "
        f"{verdict(own.accuracy_change)}."
    )


def component_sentences(found: Findings) -> list[str]:
    """Which components carry the answers, and whether held-out documents agree."""
    sentences = []
    tested = list(zip(found.alone, found.changes_alone, strict=True))
    for rank, (alone, change) in enumerate(tested[:3], 1):
        told = (
            "held-out documents show it" if _agrees(found, change) else "not shown by held-out ones"
        )
        sentences.append(
            f"{found.name(alone.number)}, selected as number {rank}, adds "
            f"{in_nats(found.contribution(alone.number))} to the {found.words}; without it alone "
            f"the {short(found.judged)} of held-out documents changes by {in_nats(change)}, "
            f"{show_p(change.p)} corrected for {found.count(len(found.alone))}: {told}."
        )
    return [*sentences, *_of_accuracy(found)]


def _of_accuracy(found: Findings) -> list[str]:
    """Where accuracy shows fewer components than outputs do, that it is too coarse."""
    whole = found.outcomes[found.settings.task].whole
    chances = holm([one.test.against(whole).p for one in found.alone])
    shown = sum(p < LEVEL for p in chances)
    if shown >= sum(one.is_clear for one in found.changes_alone):
        return []
    return [
        f"Accuracy is too coarse to tell {found.noun} apart by {len(whole.right)} documents: it "
        f"shows {shown or 'none'} of the {len(found.alone)} that were ablated alone (McNemar's "
        "exact p, by Holm), fewer than nats do."
    ]


def _agrees(found: Findings, change: PairedDifference) -> bool:
    """Whether the output moves as the edit is to move it, beyond chance."""
    return change.is_clear and (change.value > 0) == (found.settings.direction == "raise")


def prediction_sentences(found: Findings) -> list[str]:
    """How well effects are predicted, of each method, where attributions were learned."""
    sentences = []
    for share, own in found.prediction.correlations[OWN].items():
        text = f"At {share:g} ablated, predicted and true outputs correlate by {show_mean(own)}"
        others = [
            f"{name.replace('_', ' ')} {show_mean(by_share[share])}"
            for name, by_share in found.prediction.correlations.items()
            if name != OWN
        ]
        sentences.append(text + "".join(f"; {one}" for one in others) + ".")
    top = found.prediction.top
    word = "more" if top.difference.value > 0 else "less"
    sentences.append(
        f"Without its own first {found.count(found.prediction.size)} a document's output falls by "
        f"{_show(top.top)} nats, without as many at random by {_show(top.drawn)}: {word} by "
        f"{_show(top.difference)}, {show_p(top.p)}."
    )
    return sentences


def _show(one: MeanOfExamples) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def edit_sentences(found: Findings) -> list[str]:
    """What the edit changes on other tasks than the one of the headline, and whether it works."""
    sentences = []
    for name, one in found.outcomes.items():
        if name == found.settings.task:
            continue
        sentences.append(
            f"{name}, {len(one.whole.right)} documents: {in_shares(one.edited)} right with the "
            f"edit, {in_shares(one.whole)} without, {in_shares(one.random_accuracy)} with "
            f"{found.count(found.path.size)} at random: {verdict(one.accuracy_change)}; the "
            f"{found.judged} {in_nats(one.output_change)}, {show_p(one.output_change.p)}."
        )
    if max(found.path.moved) <= 0:
        beyond = " beyond what it does to the references'" * bool(found.path.references)
        sentences.append(
            f"No edit of these sizes could {found.settings.direction} the {found.judged} of "
            f"validation documents{beyond}; this is the one that came nearest."
        )
    return sentences


def show_mean(values: Sequence[float]) -> str:
    """A mean over documents with its interval, to three digits.

    >>> show_mean([0.5, 0.6, 0.7])
    '0.600 [0.352, 0.848]'
    """
    found = mean_interval(values)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
