"""What people call models and data that configs name by libraries, paths and cache folders."""

from __future__ import annotations

import re
from pathlib import Path

HUB, RANDOM = "hub", "random"
"""Weights that are downloaded, and those of an untrained model."""

_DIGEST = re.compile(r"-[0-9a-f]{12}$")
"""What ends the names of the demo's folders in the cache."""


def plain_name(name: str) -> str:
    """A name as a person would say it: without library, data set, folders and digests.

    >>> [plain_name(name) for name in ("cifar10_resnet20", "timm:resnet50.a1_in1k", "segformer-b2")]
    ['resnet20', 'resnet50.a1_in1k', 'segformer-b2']
    >>> plain_name("/home/ann/.cache/vision/segformer-digits-87b0ff70b3f7")
    'segformer-digits'
    """
    # A model of pytorch-cifar-models may be trained on any data.
    without = re.sub(r"^(torchvision:|timm:|clip:|cifar100?_)", "", name)
    return _DIGEST.sub("", Path(without).name) or name


def spoken_name(name: str) -> str:
    """The name of a class as a person would write it: folders have underscores for spaces.

    >>> spoken_name("golden_retriever")
    'golden retriever'
    """
    return name.replace("_", " ").strip()


def check_weights(weights: str | None) -> None:
    """Refuses weights that can only be a file or folder, and are none.

    Raises:
        FileNotFoundError: If so.
    """
    if weights not in (None, HUB, RANDOM) and not Path(weights).exists():
        raise FileNotFoundError(f"weights={weights!r}: no such file")
