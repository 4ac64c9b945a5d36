"""How well attributions predict ablations that they were not learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.attribution import baselines
from aim_plugins.attribution.evaluation import (
    MeanOfExamples,
    TopEffects,
    correlations,
    fresh_masks,
    outputs_under,
    top_effects,
)
from aim_plugins.attribution.subject import Subject
from aim_plugins.core.commands import say
from aim_plugins.heads.ablated import Kept
from aim_plugins.heads.settings import TaskAttributionSettings

OWN = "attributions"
"""What ours are called beside baselines."""

TOP = 5
"""So many of each document's own components are ablated in the rank test, at most."""

_POINTS = 3000
"""So many predictions are drawn at most."""


@dataclass(frozen=True)
class Prediction:
    """Predictions held against the truth.

    Attributes:
        correlations: For each method and share of fresh masks, the correlation of predicted and
            true outputs of each document.
        predicted: Changes of outputs, of documents and masks of one share.
        true: The same in truth.
        share: That share, the nearest to what attributions were learned at.
        whole: The whole model's outputs of each document.
        top: What ablating each document's own first components does, beside others at random.
        size: How many those are.
    """

    correlations: Mapping[str, Mapping[float, Sequence[float]]]
    predicted: Sequence[float]
    true: Sequence[float]
    share: float
    whole: Sequence[float]
    top: TopEffects
    size: int


def hold_against_truth(
    subject: Subject,
    weights: Float[Tensor, "documents components"],
    settings: TaskAttributionSettings,
    kept: Kept,
) -> Prediction:
    """Compares predictions of attributions and of baselines with fresh masks.

    Args:
        subject: Model, components and documents.
        weights: Attributions.
        settings: Which shares, how many masks, which baselines.
        kept: Keeps what is computed.
    """
    methods = {OWN: weights}
    for name in settings.baselines:
        methods[name] = torch.tensor(kept(f"baseline {name}", _baseline(subject, name)))
    shares = sorted(settings.eval_alphas)
    shown = min(shares, key=lambda one: abs(one - settings.alpha))
    whole = torch.tensor(kept("whole", lambda: subject.whole().tolist()))
    found: dict[str, dict[float, list[float]]] = {name: {} for name in methods}
    points: tuple[list[float], list[float]] = [], []
    for share in shares:
        ablated = fresh_masks(len(subject.components), share, settings.eval_masks, settings.seed)
        outputs = torch.tensor(kept(f"fresh masks {share:g}", _truth(subject, ablated, share)))
        for name, own in methods.items():
            found[name][share] = correlations(own, ablated, outputs).tolist()
        if share == shown:
            predicted = -(torch.from_numpy(ablated).float() @ weights.T)
            points = _thinned(predicted, outputs - whole)
    size = min(TOP, len(subject.components))
    top = _read_top(kept("rank test", lambda: asdict(_rank_test(subject, weights, size, settings))))
    return Prediction(found, *points, shown, whole.tolist(), top, size)


def _baseline(subject: Subject, name: str) -> Callable[[], list[list[float]]]:
    def compute() -> list[list[float]]:
        say(f"attribute: baseline {name}")
        method = (
            baselines.leave_one_out
            if name == "leave_one_out"
            else baselines.gradient_times_parameter
        )
        found: list[list[float]] = method(subject).tolist()
        return found

    return compute


def _truth(subject: Subject, ablated: Any, share: float) -> Callable[[], list[list[float]]]:
    def compute() -> list[list[float]]:
        say(f"attribute: {len(ablated)} fresh masks of {share:g}")
        found: list[list[float]] = outputs_under(subject, ablated).tolist()
        return found

    return compute


def _rank_test(
    subject: Subject,
    weights: Float[Tensor, "documents components"],
    size: int,
    settings: TaskAttributionSettings,
) -> TopEffects:
    say(f"attribute: each document's own first {size}, and as many at random")
    return top_effects(subject, weights, size, draws=settings.random_edits, seed=settings.seed)


def _read_top(held: Mapping[str, Any]) -> TopEffects:
    means = {name: MeanOfExamples(**held[name]) for name in ("top", "drawn", "difference")}
    return TopEffects(**means, p=held["p"])


def _thinned(first: Tensor, second: Tensor) -> tuple[list[float], list[float]]:
    """Pairs of values, evenly taken where there are many."""
    step = max(1, -(-first.numel() // _POINTS))
    return first.flatten()[::step].tolist(), second.flatten()[::step].tolist()
