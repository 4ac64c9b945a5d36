"""Editing a model by attributions: which components to ablate for some examples and not others.

Source: arXiv:2404.11534, section 5 (COAR-Edit).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Aim = Literal["raise", "lower"]
"""Whether the outputs of the targets shall go up or down."""


def edit_scores(
    targets: Float[Tensor, "targets components"],
    references: Float[Tensor, "references _"],
) -> Float[Tensor, " components"]:
    """By how much components matter more for targets than for references, as t-statistics.

    Deviations are those of the examples themselves (divided by their number), as in the authors'
    code. One example has none, so of one target the references' alone counts; of one target and
    one reference the plain difference is returned. A component that all examples agree on has the
    score 0.

    Args:
        targets: Attributions of the examples that shall change.
        references: Attributions of those that shall not.

    Raises:
        ValueError: If there are none of either, or they have other components.
    """
    for name, given in (("targets", targets), ("references", references)):
        if not len(given):
            raise ValueError(f"{name}: there are none: give one example or more")
    if targets.shape[1] != references.shape[1]:
        raise ValueError(
            f"targets have attributions of {targets.shape[1]} components, references of "
            f"{references.shape[1]}: give those of one model"
        )
    own, other = targets.double(), references.double()
    difference = own.mean(0) - other.mean(0)
    if len(own) == len(other) == 1:
        return difference.float()
    squares = [one.var(0, correction=0) / len(one) for one in (own, other)]
    scores = difference / (squares[0] + squares[1]).sqrt()
    return torch.where(difference == 0, 0.0, scores).float()


def edited_components(scores: Float[Tensor, " components"], size: int, aim: Aim) -> list[int]:
    """The components to ablate: those of the lowest scores to raise the targets' outputs.

    Args:
        scores: What `edit_scores` found.
        size: How many components.
        aim: Whether to raise or to lower the targets' outputs.

    Raises:
        ValueError: If there are fewer components, or a score is NaN.
    """
    if scores.isnan().any():
        number = int(scores.isnan().nonzero()[0])
        raise ValueError(
            f"scores: that of component {number} is NaN, which has no rank: leave examples out "
            "whose attributions are NaN"
        )
    if not 1 <= size <= len(scores):
        raise ValueError(f"size={size}: give 1 to {len(scores)}, the number of components")
    order = torch.argsort(scores, descending=aim == "lower", stable=True)
    return order[:size].tolist()
