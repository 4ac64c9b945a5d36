"""One model of several modules: what any of them retains, and heads for all their classes.

Either a new head is trained on what the union of the masks answers, or nothing is trained, and the
modules' own heads stand side by side. These have never seen each other's classes: nothing holds
their outputs to one scale, and a module asked of a class that it does not know answers as loudly as
any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.modulation.retained import MaskPoint
from vision_bench.reengineering.problem import Problem


def union_of(points: Sequence[MaskPoint]) -> MaskPoint:
    """Masks that retain what any of some masks does, without a head.

    Args:
        points: Masks of the same granularity on the same model.
    """
    return MaskPoint(
        _any([one.masks for one in points]), channels=_any([one.channels for one in points])
    )


def _any(masks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in masks]).any(0) for name in masks[0]}


def side_by_side(
    outputs: Sequence[Float[Tensor, "images _"]],
    groups: Sequence[Sequence[Sequence[int]]],
    problem: Problem,
) -> Float[Tensor, "images classes"]:
    """What modules answer with their own heads, a column for each class of the union.

    A class that several modules know has the largest of their outputs. A module that tells a class
    from all others answers with the log odds of that class.

    Args:
        outputs: Of each module, its head's outputs.
        groups: Of each module, for each output the model's classes that it stands for.
        problem: The union's.
    """
    columns = {group[0]: place for place, group in enumerate(problem.groups)}
    found = torch.full((len(outputs[0]), len(problem)), -torch.inf)
    for own, stands_for in zip(outputs, groups, strict=True):
        rest = [place for place, group in enumerate(stands_for) if len(group) > 1]
        scores = own - own[:, rest].logsumexp(1, keepdim=True) if rest else own
        for place, group in enumerate(stands_for):
            if len(group) == 1:
                column = columns[group[0]]
                found[:, column] = torch.maximum(found[:, column], scores[:, place])
    return found
