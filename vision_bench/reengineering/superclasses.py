"""Superclasses of CIFAR-100 and ImageNet, which SeaM re-engineers models to.

`superclasses.json` beside this file lists them in the order by which SeaM's code numbers them:
CIFAR-100's twenty as published (https://www.cs.toronto.edu/~kriz/cifar.html), by the names of their
classes, and 67 of ImageNet (https://github.com/noameshed/novelty-detection, as SeaM's code has
them), by WordNet ids.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from aim_plugins.core.identity import seed_of
from vision_bench.data.classes import class_index
from vision_bench.data.names import dataset_name

_FILE = Path(__file__).with_name("superclasses.json")


@cache
def superclasses(dataset: str) -> Mapping[str, tuple[int, ...]]:
    """The superclasses of a data set, by name, with the indices of their classes.

    Args:
        dataset: "cifar100" or "imagenet".

    Raises:
        ValueError: If no superclasses of the data set were published.

    >>> superclasses("cifar100")["flowers"]
    (54, 62, 70, 82, 92)
    """
    listed = json.loads(_FILE.read_text(encoding="utf-8"))
    name = dataset_name(dataset)
    if name not in listed:
        raise ValueError(
            f"dataset={dataset!r} has no predefined superclasses, which "
            f"{' and '.join(listed)} have: choose classes by name, or superclass_type='random'"
        )
    # Both data sets number their classes by the order of these names.
    order = sorted(one for members in listed[name].values() for one in members)
    index = {one: place for place, one in enumerate(order)}
    return {
        title: tuple(sorted(index[one] for one in members))
        for title, members in listed[name].items()
    }


def predefined_superclass(dataset: str, chosen: str | int) -> tuple[int, ...]:
    """The classes of a published superclass.

    Args:
        dataset: "cifar100" or "imagenet".
        chosen: The superclass's name, or its index in SeaM's code.

    Raises:
        ValueError: If there is no such superclass, or it holds one class alone.
    """
    known = superclasses(dataset)
    titles = list(known)
    title = titles[class_index(chosen, titles, "target_superclass_idx")]
    if len(known[title]) == 1:
        raise ValueError(
            f"target_superclass_idx={chosen!r}: the superclass {title!r} of {dataset} holds one "
            "class alone, of which there is nothing to tell apart: choose another one, or make "
            "the problem binary"
        )
    return known[title]


def random_superclass(classes: Sequence[str], count: int, seed: int) -> tuple[int, ...]:
    """Classes drawn without replacement, in their own order.

    Args:
        classes: Names of all classes.
        count: How many are drawn.
        seed: Seed of the draw.

    Raises:
        ValueError: If fewer than two are asked for, or more than there are.
    """
    if not 2 <= count <= len(classes):
        raise ValueError(
            f"n_classes={count} is outside [2, {len(classes)}]: draw at least two of the "
            f"{len(classes)} classes"
        )
    drawn = random.Random(seed_of(seed, "superclass")).sample(range(len(classes)), count)
    return tuple(sorted(drawn))
