"""What others report of a classifier's accuracy under noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aim_plugins.core.files import sha256_of
from vision_bench.classification.settings import ClassifySettings
from vision_bench.data.classification import ClassificationData
from vision_bench.models.architectures import cifar
from vision_bench.models.model import VisionModel
from vision_bench.models.preprocessing import PUBLISHED
from vision_bench.published import PublishedCurve, published_curve


def published_accuracy(
    settings: ClassifySettings,
    model: VisionModel,
    data: ClassificationData,
    targets: Mapping[int, int] | None,
) -> PublishedCurve | None:
    """What others report, if weights, data and preprocessing are those of the source."""
    found = published_curve(model.name, data.name, "acc", focus=targets)
    usual = settings.preprocessing in (None, PUBLISHED)
    if found is None or not usual or len(data) != found.documents:
        return None
    return found if _has_published_weights(model.name, settings.weights_source) else None


def _has_published_weights(name: str, weights: str | None) -> bool:
    """Whether weights are those of the published file, whose name carries its checksum."""
    if weights == "hub":
        return True
    if name not in cifar.CIFAR_MODELS or weights is None or not Path(weights).is_file():
        return False
    checksum = cifar.checkpoint_url(name).rpartition("-")[2].removesuffix(".pt")
    return sha256_of(weights).startswith(checksum)
