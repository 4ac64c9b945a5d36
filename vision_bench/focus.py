"""Focus modulation in words: which classes are pushed where, and what that does to all of them.

Source: AIM, arXiv 2603.12755, "focus modulation": ±|n|, n ~ N(0, σ²), on the logits of the targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.sweep.overview import Overview

_OTHERS = 8
"""Classes beside the targets that a summary shows."""

_NAMED = 3


def describe_focus(targets: Mapping[int, int] | None, names: Sequence[str]) -> str:
    """Says which classes are pushed where.

    Args:
        targets: Class index → +1 (more likely) or −1 (less likely); none for utility modulation.
        names: Names of all classes.

    Returns:
        The words; nothing for utility modulation.

    >>> describe_focus({1: 1, 0: 1, 2: -1}, ["crane", "owl", "tern"])
    'focus on owl and crane, away from tern'
    """
    parts = []
    for wanted, verb in ((1, "on"), (-1, "away from")):
        if pushed := [names[index] for index, sign in (targets or {}).items() if sign == wanted]:
            parts.append(f"{verb} {_join(pushed)}")
    return f"focus {', '.join(parts)}" if parts else ""


def focus_axis(targets: Mapping[int, int] | None, names: Sequence[str]) -> Axis:
    """The noise's strength, whose label says which classes it is added to.

    >>> focus_axis({1: -1}, ["crane", "owl"]).label
    'focus away from owl: noise std σ (logits)'
    """
    axis, words = GaussianNoise.axis, describe_focus(targets, names)
    return replace(axis, quantity=f"{words}: {axis.quantity}") if words else axis


def class_costs(
    stds: Sequence[float],
    correct: Float[Tensor, "draws levels classes"],
    truth: Float[Tensor, " classes"],
    predicted: Float[Tensor, "draws levels classes"],
    names: Sequence[str],
    targets: Mapping[int, int],
) -> Overview:
    """Recall and precision of the targets, and of the classes that lose most by their focus.

    Args:
        stds: Noise standard deviations in logit units, rising.
        correct: Right answers of each class, by draw.
        truth: Documents or pixels of each class.
        predicted: Answers of each class, by draw.
        names: Names of all classes.
        targets: Class index → +1 or −1.

    Returns:
        A table with the first, the middle and the last strength, of means over draws.
    """
    recall, precision = (correct / truth).mean(0), (correct / predicted).nanmean(0)
    loss = ((recall[0] - recall[-1]).nan_to_num(0), (precision[0] - precision[-1]).nan_to_num(0))
    order = (loss[0].maximum(loss[1])).argsort(descending=True, stable=True).tolist()
    others = [index for index in order if index not in targets and truth[index] > 0]
    levels = sorted({0, len(stds) // 2, len(stds) - 1})
    columns = ["class"]
    for metric in ("recall", "precision"):
        columns += [f"{metric} σ={format_strength(stds[level])}" for level in levels]
    rows = [
        [
            names[index],
            *(_share(of[level, index]) for of in (recall, precision) for level in levels),
        ]
        for index in [*targets, *others[:_OTHERS]]
    ]
    rest = len(others) - _OTHERS
    more = f"; {rest} more lose{'s' if rest == 1 else ''} less" if rest > 0 else ""
    words = describe_focus(targets, names).replace("focus", "Focus", 1)
    return Overview(
        "What focus does to each class",
        f"{words}: the classes in focus, then those that lose most{more}. classes.csv holds all.",
        columns=columns,
        rows=rows,
    )


def _share(value: Tensor) -> str:
    return "–" if value.isnan() else f"{float(value):.3f}"


def _join(names: Sequence[str]) -> str:
    """Names as an enumeration; of many the first.

    >>> _join(["owl"]), _join(["owl", "crane"]), _join(list("abcde"))
    ('owl', 'owl and crane', 'a, b, c and 2 more')
    """
    shown = list(names[:_NAMED])
    if len(names) > _NAMED:
        shown.append(f"{len(names) - _NAMED} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
