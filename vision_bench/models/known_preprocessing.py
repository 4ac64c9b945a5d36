"""What is known of a model's preprocessing: from what its weights were published with.

torchvision, timm and SegFormer's authors name the files of their own weights, most with a checksum
at the end, and `config.json` (timm) or `preprocessor_config.json` (transformers) may lie beside a
file, and a `.safetensors` file may say it in its header. Of any other file nothing is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from aim_plugins.core.files import existing, sha256_of
from aim_plugins.core.settings import make_settings
from vision_bench.models.image_processors import processor_settings
from vision_bench.models.names import plain_name
from vision_bench.models.preprocessing import KnownPreprocessing, Preprocessing

_PROCESSOR = "preprocessor_config.json"
HEADER = "preprocessing"
"""Name of the JSON in the header of a `.safetensors` file."""
_CHECKSUM = re.compile(r"-([0-9a-f]{8,})\.")
_SEGFORMER_FILE = re.compile(r"\d+x\d+(?:.*[._-])?(ade|city)")
"""Names such as segformer.b2.512x512.ade.160k.pth, of the authors and of mmsegmentation."""


def published_at(path: Path, urls: Sequence[str]) -> int | None:
    """Which of the published files a file is, by its name or by the checksum in theirs.

    Args:
        path: The file.
        urls: Where files are published.

    Returns:
        The position of the address; None if it is none of them.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    existing(path, "weights")
    names = [url.rpartition("/")[2] for url in urls]
    if path.name in names:
        return names.index(path.name)
    checksums = [_CHECKSUM.search(name) for name in names]
    # Of large files the digest takes seconds.
    digest = sha256_of(path) if any(checksums) else ""
    return next((n for n, one in enumerate(checksums) if one and digest.startswith(one[1])), None)


def torchvision_preprocessing(every: Sequence[Any], path: Path | None) -> KnownPreprocessing:
    """The preprocessing of the published weights that a file holds, or else of the newest ones.

    Args:
        every: The published weights of an architecture, the default ones first.
        path: The file; None for the published weights themselves, and for untrained ones.
    """
    found = 0 if path is None else published_at(path, [one.url for one in every])
    entry = every[found or 0]
    transforms = entry.transforms()
    return KnownPreprocessing(
        Preprocessing(
            size=transforms.resize_size[0],
            crop=transforms.crop_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
            interpolation=transforms.interpolation.value,
        ),
        f"that of torchvision's {entry}",
        found is not None,
    )


def timm_preprocessing(
    timm: ModuleType, name: str, model_name: str, path: Path | None
) -> KnownPreprocessing:
    """The preprocessing that timm publishes with a model, or that lies beside a file.

    Args:
        timm: The package.
        name: Name of the model, for errors.
        model_name: Its name in timm.
        path: A file of weights; None for the published weights themselves, and for untrained ones.

    Raises:
        ValueError: If images are not prepared here as it asks.
    """
    config = timm.get_pretrained_cfg(model_name)
    settings, source = config.to_dict() if config else {}, f"that of timm's {model_name}"
    urls = [config.url] if config and config.url else []
    certain = path is None or published_at(path, urls) is not None
    if path is not None and (beside := _timm_config(path.parent)):
        folder = plain_name(str(path.parent.resolve()))
        settings, source, certain = beside, f"of {folder}'s config.json", True
    # Some are evaluated on larger images than they were trained with.
    resolve = timm.data.resolve_data_config
    # A model without published weights has timm's defaults, for which it wants some argument.
    asked = resolve(pretrained_cfg=settings or {"tag": ""}, use_test_size=True)
    side = asked["input_size"][-1]
    if asked["input_size"][-2] != side or asked["crop_mode"] not in ("center", "squash"):
        raise ValueError(
            f"model={name!r} takes images of {asked['input_size']} with crop mode "
            f"{asked['crop_mode']!r}: build it with timm and pass it to wrap_model"
        )
    preprocessing = Preprocessing(
        size=int(side / asked["crop_pct"]),
        crop=side,
        mean=tuple(asked["mean"]),
        std=tuple(asked["std"]),
        interpolation=asked["interpolation"],
        resize="square" if asked["crop_mode"] == "squash" else "short",
    )
    return KnownPreprocessing(preprocessing, source, certain)


def segformer_preprocessing(usual: Preprocessing, path: Path | None) -> KnownPreprocessing:
    """The preprocessing of a SegFormer's file or folder, or else the usual one.

    Args:
        usual: What the published weights of this size and data were trained with.
        path: The file or folder; None for untrained weights.
    """
    if path is not None:
        folder = path if path.is_dir() else path.parent
        if found := folder_preprocessing(str(folder), True):
            return found
        if not path.exists():
            raise FileNotFoundError(f"weights={str(path)!r}: no such file")
    certain = path is None or bool(path.is_file() and _SEGFORMER_FILE.search(path.name))
    return KnownPreprocessing(usual, "that of SegFormer's authors", certain)


def header_preprocessing(path: Path) -> KnownPreprocessing | None:
    """What a `.safetensors` file says of its images; None if it says nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If what it says is not usable.
    """
    from safetensors import SafetensorError, safe_open

    existing(path, "weights")
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(HEADER)
    except (OSError, SafetensorError):  # whoever reads the weights says what is wrong
        return None
    if said is None:
        return None
    try:
        fields = json.loads(said)
        if not isinstance(fields, dict):
            raise ValueError("it is no dictionary")
        settings = make_settings(Preprocessing, fields, HEADER)
    except ValueError as error:
        raise ValueError(f"weights={str(path)!r}: {HEADER} in its header: {error}") from error
    return KnownPreprocessing(settings, f"of {path.name}'s header", True)


def write_header(preprocessing: Preprocessing) -> dict[str, str]:
    """The header of a `.safetensors` file, as `header_preprocessing` reads it."""
    return {HEADER: json.dumps(asdict(preprocessing))}


def folder_preprocessing(
    source: str, local: bool, *, crops: bool = False
) -> KnownPreprocessing | None:
    """What the image processor of a folder or hub name does; None if there is none."""
    settings = processor_settings(source, local, crops=crops)
    if settings is None:
        return None
    return KnownPreprocessing(settings, f"of {plain_name(source)}'s {_PROCESSOR}", True)


def _timm_config(folder: Path) -> dict[str, Any] | None:
    """What timm's `config.json` says of images, where one lies in a folder."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = content.get("pretrained_cfg", content) if isinstance(content, dict) else None
    return found if isinstance(found, dict) and {"mean", "input_size"} <= found.keys() else None
