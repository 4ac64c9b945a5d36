"""What a model's image processor of transformers does, as preprocessing here.

`preprocessor_config.json` lies beside the weights. It may ask for more than images are prepared
with here; then it is refused instead of being half followed.
"""

from __future__ import annotations

from typing import Any

from vision_bench.models.model import Preprocessing

_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which `resample` holds."""

_UNSUPPORTED = ("do_center_crop", "do_flip_channel_order", "do_thumbnail")


def processor_settings(source: str, local: bool) -> Preprocessing | None:
    """Reads the image processor of a folder or hub name.

    Args:
        source: The folder, or OWNER/NAME.
        local: Whether the source is a folder.

    Returns:
        What it does to an image; None if there is no image processor.

    Raises:
        ValueError: If it does what images are not prepared with here.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError):
        return None
    for step in _UNSUPPORTED:
        if getattr(processor, step, None):
            raise _refusal(source, step, True)
    size, resize = _size(processor, source)
    mean, std = _normalisation(processor, source)
    return Preprocessing(
        size=size,
        mean=mean,
        std=std,
        interpolation=_interpolation(processor, source),
        resize=resize,
    )


def _size(processor: Any, source: str) -> tuple[int | None, Any]:
    if not processor.do_resize:
        return None, "square"
    size = {key: value for key, value in dict(processor.size or {}).items() if value is not None}
    if size.keys() == {"shortest_edge"}:
        return size["shortest_edge"], "short"
    if size.keys() == {"height", "width"} and size["height"] == size["width"]:
        return size["height"], "square"
    raise _refusal(source, "size", size)


def _interpolation(processor: Any, source: str) -> str:
    resample = getattr(processor, "resample", None)
    if resample is None or not processor.do_resize:
        return "bilinear"
    if int(resample) not in _INTERPOLATIONS:
        raise _refusal(source, "resample", int(resample))
    return _INTERPOLATIONS[int(resample)]


def _normalisation(processor: Any, source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation for values in [0, 1], whatever range the model wants."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.do_normalize:
        if processor.image_mean is None or processor.image_std is None:
            missing = "image_mean" if processor.image_mean is None else "image_std"
            raise _refusal(source, missing, None)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        if not len(mean) == len(std) == 3:
            raise _refusal(source, "image_mean", list(mean))
    factor = processor.rescale_factor if processor.do_rescale else 1
    # 255 · factor is exactly 1 for the usual factor, 1 / 255.
    scale = 255 * factor
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def _refusal(source: str, setting: str, value: object) -> ValueError:
    return ValueError(
        f"name={source!r}: its preprocessor_config.json says {setting}={value}, which images are "
        "not prepared with here: change it there to resizing to one side (height and width the "
        "same, or shortest_edge) and normalising three channels, or prepare images yourself and "
        "pass the model to wrap_model"
    )
