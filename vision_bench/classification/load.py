"""Loads the model and the data that the settings of a classification name."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from aim_plugins.core.errors import did_you_mean
from vision_bench.classification.settings import ClassifySettings
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.models.architectures.cifar import checkpoint_url
from vision_bench.models.load import VisionModel, load_model


def load(settings: ClassifySettings) -> tuple[VisionModel, ClassificationData]:
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
        model = load_model(settings.model_name, weights=source, classes=classes, seed=0)
    except OSError as error:
        if not absent:
            raise
        raise OSError(f"{absent}: the download failed ({error})") from error
    known = [entry.name for entry in fields(model.preprocessing)]
    for name in settings.preprocessing:
        if name not in known:
            raise ValueError(
                f"preprocessing holds {name!r}, which is no field; {did_you_mean(name, known)}"
            )
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.preprocessing.items()
    }
    model = replace(model, preprocessing=replace(model.preprocessing, **changes))
    data.preprocessing = model.preprocessing
    return model, data


def _absent_weights(settings: ClassifySettings) -> str:
    """Says what is to be downloaded; empty if nothing is."""
    if settings.weights_source != "hub" or not settings.published_name:
        return ""
    url = checkpoint_url(settings.published_name)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = url.rpartition("/")[2]
    if (folder / name).is_file():
        return ""
    return (
        f"weights='hub' (--weights): {name} is not in {folder} but at {url}; fetch it and give "
        "the file"
    )
