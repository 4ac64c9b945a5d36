"""Loads the model and the data that the settings of a classification name."""

from __future__ import annotations

from pathlib import Path

import torch

from aim_plugins.core.errors import first_few
from vision_bench.classifiers.settings import ClassifierSettings, TrainingSettings
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.models.architectures import cifar
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel


def load(settings: ClassifierSettings) -> tuple[VisionModel, ClassificationData]:
    """Loads model and data.

    Raises:
        ValueError: If a name, a file or a setting is not usable.
        FileNotFoundError: If a file is not there.
        OSError: If weights cannot be downloaded.
        ImportError: If a package is missing.
    """
    absent = _absent_weights(settings)
    try:
        data = load_dataset(
            settings.dataset,
            settings.data_folder,
            split=settings.split,
            limit=settings.limit,
            labels=settings.labels,
            on_error=settings.on_error,
        )
    except FileNotFoundError as error:
        # Told at once, as the data takes a while to get.
        also = f"; {absent}" if absent else ""
        raise FileNotFoundError(f"data_root (--data-root): {error}{also}") from error
    source, classes = settings.weights_source, len(data.classes)
    # Untrained weights too are the same in every process and every run.
    try:
        model = load_model(
            settings.model_name,
            weights=source,
            classes=classes,
            class_names=data.classes,
            prompts=settings.prompts,
            preprocessing=settings.preprocessing,
            seed=0,
        )
    except OSError as error:
        if not absent:
            raise
        raise OSError(f"{absent}: the download failed ({error})") from error
    if model.task != "classification":
        raise ValueError(
            f"model={settings.model!r} is a segmentation model: name a classifier, such as "
            "'torchvision:resnet50', or use `vision-bench segment evaluate`"
        )
    data.preprocessing = model.preprocessing
    return model, data


def load_training(
    settings: TrainingSettings, model: VisionModel, data: ClassificationData
) -> ClassificationData:
    """Loads the images that a classifier was trained on.

    Args:
        settings: Name them.
        model: The classifier.
        data: The data that it is measured on.

    Raises:
        ValueError: If a setting is not usable, or they are of other classes.
        FileNotFoundError: If a file is not there.
    """
    training = load_dataset(
        settings.dataset,
        settings.train_folder,
        split=settings.train_split,
        preprocessing=model.preprocessing,
        limit=settings.train_limit,
        on_error=settings.on_error,
    )
    if training.classes != data.classes:
        raise ValueError(
            f"train_split={settings.train_split!r} has the classes {first_few(training.classes)}, "
            f"and {data.title} {first_few(data.classes)}: give the data that the model was "
            "trained on"
        )
    return training


def _absent_weights(settings: ClassifierSettings) -> str:
    """Says what is to be downloaded; empty if nothing is."""
    if settings.weights_source != "hub" or not settings.published_name:
        return ""
    url = cifar.checkpoint_url(settings.published_name)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = url.rpartition("/")[2]
    if (folder / name).is_file():
        return ""
    return (
        f"weights='hub' (--weights): {name} is not in {folder} but at {url}; fetch it and give "
        "the file"
    )
