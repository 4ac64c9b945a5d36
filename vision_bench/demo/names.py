"""The words that stand for the demo's models and data, as the package's table lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aim_plugins.demo_model import cache_folder

PREFIX = "demo:"
NAMES = ("dataset", "data-root", "resnet20", "scenes", "segformer", "photographs")


def resolve(value: Any) -> Any:
    """Replaces a word such as "demo:resnet20" by what it stands for, making that if need be.

    Args:
        value: Any value of a setting.

    Returns:
        A path or name, or None for a root that is not needed; a value that is no such word stays
        as it is.

    Raises:
        ValueError: If there is no such word.
        OSError: If the cache cannot be written; `AIM_PLUGINS_CACHE` chooses another.
    """
    if not (isinstance(value, str) and value.startswith(PREFIX)):
        return value
    name = value.removeprefix(PREFIX)
    if name not in NAMES:
        raise ValueError(f"{value!r} is none of {', '.join(PREFIX + name for name in NAMES)}")
    if name == "photographs":
        from vision_bench.demo.photographs import photographs_folder

        return str(photographs_folder())
    dataset, root = demo_dataset()
    if name == "dataset":
        return dataset
    if name == "data-root":
        return None if root is None else str(root)
    if name == "resnet20":
        from vision_bench.demo.train_classifier import WEIGHTS, classifier_folder

        return str(classifier_folder(dataset, root) / WEIGHTS)
    if name == "scenes":
        from vision_bench.demo.scenes import scenes_folder

        return str(scenes_folder(dataset, root))
    from vision_bench.demo.train_segmenter import segmenter_folder

    return str(segmenter_folder(dataset, root))


def demo_dataset() -> tuple[str, Path | None]:
    """The data that the demo's models are trained on, and the root that `load_dataset` needs.

    Fashion-MNIST is taken from where Debian's package dataset-fashion-mnist puts it, or from
    `FashionMNIST/raw`, torchvision's layout, in the cache folder; otherwise scikit-learn's digits.
    """
    from vision_bench.data.classification import DEBIAN_FASHION_MNIST

    if DEBIAN_FASHION_MNIST.is_dir():
        return "fashion-mnist", None
    if (cache_folder() / "FashionMNIST" / "raw").is_dir():
        return "fashion-mnist", cache_folder()
    return "digits", None
