"""The target problem: which of a model's classes a module is to tell apart.

SeaM has two kinds. Of a *multi-class* problem each output stands for one class of the model; images
of other classes are not part of it. Of a *binary* problem one output stands for the target class
and the other for all the rest, and the data has as many images of the rest as of the target.

Source: Qi et al., "Reusing Deep Neural Network Models through Model Re-engineering" (SeaM),
ICSE 2023, arXiv:2304.00245, section IV-A.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision_bench.data.classes import class_index, unique_names
from vision_bench.data.classification import ClassificationData
from vision_bench.data.drawing import draw, draw_of_each


@dataclass(frozen=True)
class Problem:
    """The outputs of a module.

    Attributes:
        names: What each output is called.
        groups: For each output, the indices of the model's classes that it stands for.
        balanced: Whether no output has more images than the first, as of a binary problem.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    balanced: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def outputs_of(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The output that stands for each class index; -1 where none does.

        >>> Problem(("a", "b"), ((4,), (0, 2))).outputs_of(torch.tensor([0, 1, 2, 4])).tolist()
        [1, -1, 1, 0]
        """
        found = torch.full_like(labels, -1)
        for output, group in enumerate(self.groups):
            found[torch.isin(labels, torch.tensor(group, device=labels.device))] = output
        return found


def multiclass(classes: Sequence[str], chosen: Iterable[str | int]) -> Problem:
    """The problem of telling some classes apart.

    Args:
        classes: Names of all classes of the model.
        chosen: Names or indices of those that are needed, in the order of the outputs.

    Raises:
        ValueError: If one is no class or named twice, or they are fewer than two.

    >>> multiclass(["cat", "dog", "owl"], ["owl", 0]).groups
    ((2,), (0,))
    """
    chosen = list(chosen)
    indices = [class_index(one, classes, "classes") for one in chosen]
    unique = unique_names(classes)
    for place, index in enumerate(indices):
        if index in indices[:place]:
            raise ValueError(f"classes={chosen!r} names {unique[index]!r} twice: name it once")
    if len(indices) < 2:
        raise ValueError(
            f"classes={chosen!r} holds {len(indices)} of the {len(classes)} classes: name at least "
            "two to be told apart, or one as the target of a binary problem"
        )
    return Problem(tuple(unique[one] for one in indices), tuple((one,) for one in indices))


def binary(classes: Sequence[str], target: str | int) -> Problem:
    """The problem of telling one class from all others.

    Args:
        classes: Names of all classes of the model.
        target: Name or index of the class.

    Raises:
        ValueError: If it is no class.

    >>> binary(["cat", "dog", "owl"], "dog")
    Problem(names=('dog', 'not dog'), groups=((1,), (0, 2)), balanced=True)
    """
    index = class_index(target, classes, "target_class")
    name = unique_names(classes)[index]
    others = tuple(one for one in range(len(classes)) if one != index)
    return Problem((name, f"not {name}"), ((index,), others), balanced=True)


def sub_dataset(data: ClassificationData, problem: Problem, *, seed: int = 0) -> ClassificationData:
    """The images that belong to a problem, labelled by its outputs, in their own order.

    Args:
        data: Images of all classes.
        problem: The problem.
        seed: Seed by which a balanced problem's images are drawn, without replacement.

    Raises:
        ValueError: If an output has no image.
    """
    labels = problem.outputs_of(data.labels)
    positions = [(labels == output).nonzero().flatten() for output in range(len(problem))]
    for name, group, found in zip(problem.names, problem.groups, positions, strict=True):
        if not len(found):
            classes = ", ".join(repr(data.classes[one]) for one in group[:3])
            raise ValueError(
                f"{data.title} holds no image for the output {name!r} (of the classes {classes}): "
                "give data that has some, or leave the class out"
            )
    if problem.balanced:
        most = len(positions[0])
        positions[1:] = [
            draw(found, most, seed, "negatives", output)
            for output, found in enumerate(positions[1:], start=1)
        ]
    kept = torch.cat(positions).sort().values
    part = ClassificationData(
        data.name,
        data.images.subset(kept.tolist()),
        labels[kept].tolist(),
        problem.names,
        preprocessing=data.preprocessing,
        on_error=data.on_error,
    )
    part.title = data.title
    return part


def split_off(
    data: ClassificationData, share: float, seed: int
) -> tuple[ClassificationData, ClassificationData]:
    """Parts data into two without common images, for training and for validation.

    Every class gives its share, to the nearest image, but at least one and never all.

    Args:
        data: The images.
        share: Share of each class that is split off, above 0 and below 1.
        seed: Seed of the draw.

    Returns:
        What is left, and what was split off, each in the order of the data.

    Raises:
        ValueError: If the share is outside (0, 1), or a class has one image alone.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"validation_share={share} is outside (0, 1): give the share of the training images "
            "that only selects"
        )
    for label, count in enumerate(data.labels.bincount().tolist()):
        if count == 1:
            raise ValueError(
                f"{data.title} holds one image alone of {data.classes[label]!r}, which cannot both "
                "train and validate: give more images, or leave the class out"
            )
    off = draw_of_each(data.labels, share, seed, "validation", least=1)
    rest, split = (data.subset(kept.nonzero().flatten().tolist()) for kept in (~off, off))
    return rest, split


def restricted_logits(
    logits: Float[Tensor, "n classes"], problem: Problem
) -> Float[Tensor, "n outputs"]:
    """For each output, the largest logit among the classes that it stands for.

    Args:
        logits: Of all classes of the model.
        problem: The problem.
    """
    return torch.stack([logits[:, list(group)].amax(1) for group in problem.groups], 1)


def predictions(logits: Float[Tensor, "n classes"], problem: Problem) -> Int[Tensor, " n"]:
    """The output that a model which knows nothing else but the problem's classes answers with.

    Args:
        logits: Of all classes of the model.
        problem: The problem.
    """
    return restricted_logits(logits, problem).argmax(1)
