"""Figures that others report, to be shown beside ours where model, weights and data are the same.

Sources: `AIM` is "AI Model Modulation with Logits Redistribution" (arXiv:2603.12755, WWW 2025), one
run per strength; `CIFAR` is the table of https://github.com/chenyaofo/pytorch-cifar-models, without
noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aim_plugins.sweep.table import Row

_AIM = "AIM, arXiv:2603.12755"
_CIFAR = "github.com/chenyaofo/pytorch-cifar-models"
_STDS = (0.0, 2.0, 4.0, 6.0, 10.0, 20.0)


@dataclass(frozen=True)
class PublishedCurve:
    """What a source reports of one metric.

    Attributes:
        source: Where it stands.
        documents: Size of the data set.
        values: The metric as a share, by noise standard deviation in logit units.
    """

    source: str
    documents: int
    values: Mapping[float, float]

    def rows(self, task: str, metric: str) -> list[Row]:
        """The figures as rows of a sweep's table, of the metric METRIC_published."""
        return [
            Row(task, f"{metric}_published", std, None, value, None, self.documents)
            for std, value in self.values.items()
        ]


def published_curve(
    model: str, data: str, metric: str, *, focus: Mapping[int, int] | None = None
) -> PublishedCurve | None:
    """Finds what is reported of a model with its published weights.

    Args:
        model: Name of the model, as in `vision_bench.models.load`.
        data: Name of the whole data set and its split, such as "cifar10-test".
        metric: "acc" for classification; "miou", "iou" or "recall" for segmentation, the latter
            two of the class in focus.
        focus: Target classes and signs of focus modulation; None for utility modulation.

    Returns:
        The figures, or None if there are none.

    >>> published_curve("cifar10_resnet56", "cifar10-test", "acc").values[6.0]
    0.6221
    """
    targets = tuple((focus or {}).items())
    curve = _AIM_CURVES.get((model, data, metric, targets))
    if curve is not None:
        return PublishedCurve(_AIM, _DOCUMENTS[data], dict(zip(_STDS, curve, strict=True)))
    dataset, _, architecture = model.partition("_")
    clean = _CIFAR_ACCURACY.get(architecture)
    if clean is None or metric != "acc" or targets or data != f"{dataset}-test":
        return None
    if dataset not in ("cifar10", "cifar100"):
        return None
    percent = clean[0 if dataset == "cifar10" else 1]
    return PublishedCurve(_CIFAR, _DOCUMENTS[data], {0.0: round(percent / 100, 4)})


_DOCUMENTS = {"cifar10-test": 10_000, "cifar100-test": 10_000, "ade20k-val": 2_000}

_PERSON = ((12, +1),)
_AIM_CURVES: dict[tuple[str, str, str, tuple[tuple[int, int], ...]], tuple[float, ...]] = {
    ("cifar10_resnet56", "cifar10-test", "acc", ()): (
        (0.9437, 0.9338, 0.8232, 0.6221, 0.3855, 0.2209)
    ),
    ("cifar100_resnet56", "cifar100-test", "acc", ()): (
        (0.7262, 0.6757, 0.5258, 0.3541, 0.1615, 0.0495)
    ),
    ("segformer-b2", "ade20k-val", "miou", ()): (0.4620, 0.3841, 0.2429, 0.1331, 0.0472, 0.0124),
    ("segformer-b2", "ade20k-val", "recall", _PERSON): (
        (0.9124, 0.9577, 0.9732, 0.9806, 0.9876, 0.9936)
    ),
    ("segformer-b2", "ade20k-val", "iou", _PERSON): (
        (0.7774, 0.7030, 0.5277, 0.3146, 0.1162, 0.0444)
    ),
    ("segformer-b2", "ade20k-val", "miou", _PERSON): (
        (0.4620, 0.4610, 0.4560, 0.4441, 0.4001, 0.2808)
    ),
}

# Top-1 accuracy in percent on CIFAR-10 and CIFAR-100.
_CIFAR_ACCURACY = {
    "resnet20": (92.60, 68.83),
    "resnet32": (93.53, 70.16),
    "resnet44": (94.01, 71.63),
    "resnet56": (94.37, 72.63),
    "vgg11_bn": (92.79, 70.78),
    "vgg13_bn": (94.00, 74.63),
    "vgg16_bn": (94.16, 74.00),
    "vgg19_bn": (93.91, 73.87),
    "mobilenetv2_x0_5": (92.88, 70.88),
    "mobilenetv2_x0_75": (93.72, 73.61),
    "mobilenetv2_x1_0": (93.79, 74.20),
    "mobilenetv2_x1_4": (94.22, 75.98),
    "shufflenetv2_x0_5": (90.13, 67.82),
    "shufflenetv2_x1_0": (92.98, 72.39),
    "shufflenetv2_x1_5": (93.55, 73.91),
    "shufflenetv2_x2_0": (93.81, 75.35),
    "repvgg_a0": (94.39, 75.22),
    "repvgg_a1": (94.89, 76.12),
    "repvgg_a2": (94.98, 77.18),
}
