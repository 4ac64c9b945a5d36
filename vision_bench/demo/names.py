"""The words that stand for the demo's models and data, as the package's table lists them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

PREFIX = "demo:"
WORDS = {
    "dataset": "vision_bench.demo.data:dataset_name",
    "data-root": "vision_bench.demo.data:dataset_root",
    "resnet20": "vision_bench.demo.train_classifier:classifier_weights",
    "lenet5": "vision_bench.demo.train_classifier:lenet_weights",
    "backdoored": "vision_bench.demo.train_backdoored:backdoored_weights",
    "scenes": "vision_bench.demo.scenes:scenes_folder",
    "segformer": "vision_bench.demo.train_segmenter:segmenter_folder",
    "photographs": "vision_bench.demo.photographs:photographs_folder",
    "crops": "vision_bench.demo.crops:crops_folder",
    "clip": "vision_bench.demo.text_to_image.train_clip:clip_folder",
    "text-to-image": "vision_bench.demo.text_to_image.train_pipeline:pipeline_folder",
}
"""By word, "module:function" that makes what it stands for if need be, and returns its place."""
ON_DEMAND = ("backdoored", "clip", "text-to-image")
"""What one demo alone needs: it is made when it is named."""


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
    if name not in WORDS:
        raise ValueError(f"{value!r} is none of {', '.join(PREFIX + name for name in WORDS)}")
    module, _, function = WORDS[name].partition(":")
    found = getattr(import_module(module), function)()
    return None if found is None else str(found)
