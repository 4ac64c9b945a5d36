"""Loads the model that the settings of a segmentation name."""

from __future__ import annotations

from pathlib import Path

from vision_bench.data.segmentation_layouts import classes_of
from vision_bench.models.architectures.segformer import SEGFORMER_MODELS
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel
from vision_bench.segmentation.settings import SegmentSettings


def load_segmentation_model(settings: SegmentSettings) -> VisionModel:
    """Loads a config's model.

    Raises:
        ValueError: If it is unknown, or no segmentation model of the data's classes.
    """
    classes = len(classes_of(settings.dataset, Path(settings.data_root)))
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
    return model
