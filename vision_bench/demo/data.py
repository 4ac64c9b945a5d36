"""The data that the demo's models are trained on.

Fashion-MNIST is taken from where Debian's package dataset-fashion-mnist puts it, or from
`FashionMNIST/raw`, torchvision's layout, in the cache folder; otherwise scikit-learn's digits.
"""

from __future__ import annotations

from pathlib import Path

from aim_plugins.demo_model import cache_folder
from vision_bench.data import classification


def dataset_name() -> str:
    """Its name: "fashion-mnist" or "digits"."""
    installed = classification.DEBIAN_FASHION_MNIST.is_dir() or dataset_root() is not None
    return "fashion-mnist" if installed else "digits"


def dataset_root() -> Path | None:
    """Where it lies, as `load_dataset` takes it."""
    if classification.DEBIAN_FASHION_MNIST.is_dir():
        return None
    return cache_folder() if (cache_folder() / "FashionMNIST" / "raw").is_dir() else None
