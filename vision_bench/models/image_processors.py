"""What a model's image processor of transformers does, as preprocessing here.

`preprocessor_config.json` lies beside the weights. It may ask for more than images are prepared
with here; then it is refused instead of being half followed: whatever is set and not known here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vision_bench.models.preprocessing import Interpolation, Preprocessing

_INTERPOLATIONS: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}
"""By Pillow's numbers, which `resample` holds."""

_HONOURED = frozenset(
    [
        "do_resize",
        "size",
        "resample",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
        "do_reduce_labels",
        "reduce_labels",
    ]
)
_WITHOUT_EFFECT = frozenset(
    [
        "image_processor_type",
        "feature_extractor_type",
        "processor_class",
        "auto_map",
        "do_convert_rgb",
        "default_to_square",
        "data_format",
        "input_data_format",
        "return_tensors",
        "device",
        "disable_grouping",
    ]
)
"""On an RGB image."""
_CROP = frozenset(["do_center_crop", "crop_size"])

_OF_A_STEP = {"crop_size": "do_center_crop", "pad_size": "do_pad", "size_divisor": "do_pad"}
"""By setting, the step without which it does nothing."""

_NEUTRAL = (None, False)
_OTHER_NEUTRAL = {"ensure_multiple_of": 1}


def processor_settings(source: str, local: bool, *, crops: bool = False) -> Preprocessing | None:
    """Reads the image processor of a folder or hub name.

    Args:
        source: The folder, or OWNER/NAME.
        local: Whether the source is a folder.
        crops: Whether it may cut out the middle of an image, which no segmentation does.

    Returns:
        What it does to an image; None if there is no image processor.

    Raises:
        ValueError: If it does what images are not prepared with here, or is no image processor.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        path = Path(source) / "preprocessor_config.json"
        if local and path.is_file():
            raise ValueError(f"{path}: transformers reads no image processor: {error}") from error
        return None
    honoured = _HONOURED | _CROP if crops else _HONOURED
    _refuse_unknown(processor.to_dict(), source, honoured)
    size, resize = _size(processor, source)
    mean, std = _normalisation(processor, source)
    return Preprocessing(
        size=size,
        crop=_crop(processor, source) if crops else None,
        mean=mean,
        std=std,
        interpolation=_interpolation(processor, source),
        resize=resize,
        # The name in published checkpoints, which transformers itself no longer reads.
        reduce_labels=any(
            bool(getattr(processor, name, None)) for name in ("do_reduce_labels", "reduce_labels")
        ),
    )


def _refuse_unknown(settings: dict[str, Any], source: str, honoured: frozenset[str]) -> None:
    """Refuses what may change numbers and is not followed here."""
    for name, value in settings.items():
        idle = not settings.get(_OF_A_STEP[name]) if name in _OF_A_STEP else False
        known = name in honoured or name in _WITHOUT_EFFECT or name.startswith("_")
        neutral = value in _NEUTRAL or value == _OTHER_NEUTRAL.get(name)
        if not (known or neutral or idle):
            raise _refusal(source, name, value)


def _size(processor: Any, source: str) -> tuple[int | None, Any]:
    if not processor.do_resize:
        return None, "square"
    size = {key: value for key, value in dict(processor.size or {}).items() if value is not None}
    if size.keys() == {"shortest_edge"}:
        return size["shortest_edge"], "short"
    if size.keys() == {"height", "width"} and size["height"] == size["width"]:
        return size["height"], "square"
    raise _refusal(source, "size", size)


def _crop(processor: Any, source: str) -> int | None:
    if not getattr(processor, "do_center_crop", False):
        return None
    sides = dict(processor.crop_size or {})
    if sides.get("height") is None or sides.get("height") != sides.get("width"):
        raise _refusal(source, "crop_size", sides)
    return int(sides["height"])


def _interpolation(processor: Any, source: str) -> Interpolation:
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
        f"model={source!r}: its preprocessor_config.json says {setting}={value}, which images are "
        "not prepared with here: change it there to resizing to one side (height and width the "
        "same, or shortest_edge) and normalising three channels, or prepare images yourself and "
        "pass the model to wrap_model"
    )
