"""Loads the model that the settings of a segmentation name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from aim_plugins.core.commands import say
from vision_bench.data.names import CLASS_LIST
from vision_bench.data.segmentation_layouts import classes_of
from vision_bench.models.architectures.segformer import SEGFORMER_MODELS
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel
from vision_bench.segmentation.settings import SegmentSettings

_SHOWN = 8
"""Names in a message at most."""


def load_segmentation_model(settings: SegmentSettings) -> VisionModel:
    """Loads a config's model.

    What the model calls its classes is held against the data's names; where some differ, standard
    error tells.

    Raises:
        ValueError: If it is unknown, or no segmentation model of the data's classes, or one that
            counts them in another order.
    """
    names = classes_of(settings.dataset, Path(settings.data_root))
    classes = len(names)
    # By name and without a file, only the data set tells the number of classes.
    by_data = settings.model in SEGFORMER_MODELS and settings.weights in ("hub", "random")
    # Untrained weights too are the same in every process and every run.
    model = load_model(
        settings.model,
        weights=settings.weights,
        classes=classes if by_data else None,
        preprocessing=settings.preprocessing,
        seed=0,
    )
    if model.task != "segmentation":
        raise ValueError(
            f"model={settings.model!r} is a classifier: name a segmentation model, such as "
            "'segformer-b2'"
        )
    if model.classes != classes:
        raise ValueError(
            f"{model.name} has {model.classes} classes, but {settings.dataset} has {classes}: "
            "choose the data set it was trained for"
        )
    if model.class_names is not None:
        _compare(model.title, model.class_names, names, settings)
    return model


def _compare(
    title: str, model: Sequence[str], data: Sequence[str], settings: SegmentSettings
) -> None:
    """Holds the model's names of classes against the data's, and says where some differ.

    Raises:
        ValueError: If they are the same in another order.
    """
    ours, theirs = ([_plain(name) for name in names] for names in (model, data))
    different = [index for index in range(len(data)) if ours[index] != theirs[index]]
    own = settings.dataset == "folder"
    if not different:
        return
    first = different[0]
    if sorted(ours) == sorted(theirs):
        mend = "choose the data set it was trained for"
        if own:
            mend = (
                f"list them in {CLASS_LIST} in the model's order, and number labels likewise that "
                "are stored as indices (colours follow their names)"
            )
        raise ValueError(
            f"{title} has the classes {_listed(model, first)}, but {settings.data_root} has them "
            f"in another order, {_listed(data, first)}: {mend}"
        )
    # Published data have many names for the same classes.
    if not own or any(name.isdigit() for name in theirs):
        return
    counted = "1 class" if len(different) == 1 else f"{len(different)} classes"
    say(
        f"warning: {title} and {settings.data_root} call {counted} differently, the first is "
        f"class {first}, {model[first]!r} there and {data[first]!r} here: make sure that they are "
        "the same"
    )


def _plain(name: str) -> str:
    """A name without what spellings differ in.

    >>> _plain("Traffic_light") == _plain("traffic light")
    True
    """
    return re.sub(r"[\s_-]+", "", name).casefold()


def _listed(names: Sequence[str], first: int) -> str:
    """The names; of many, some from the first that differs."""
    if len(names) <= _SHOWN:
        return ", ".join(names)
    shown = names[first : first + _SHOWN]
    return f"{', '.join(shown)} (from {first} on)"
