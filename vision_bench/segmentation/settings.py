"""Settings of the segmentation commands, as their configs hold them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from vision_bench.config_file import read_required, require, require_count
from vision_bench.data.segmentation import check_name
from vision_bench.data.segmentation_layouts import (
    ade20k_classes,
    cityscapes_classes,
    read_class_list,
)
from vision_bench.perturbators import MultiClassPerturbator, Perturbator, SingleClassPerturbator
from vision_bench.segmentation.perturbation_config import perturbators_from_config

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class SegmentSettings:
    """What a config of `vision-bench segment` may hold; only three settings have no default.

    Attributes:
        dataset: "ade20k", "cityscapes" or "folder".
        model: Name of a segmentation model, as in `vision_bench.models.load`.
        PERTURBATION: AIM's block, as in `vision_bench.segmentation.perturbation_config`.
        data_root: Folder of the data set; `infer` reads only names of classes from it.
        split: "val" or "train"; for "folder" the name of a folder, or None.
        resize: "square512", "short512", "original", or None for the data set's default.
        limit: Number of images, taken evenly over the data set; None takes all.
        on_error: "skip" leaves unusable images out and counts them, "raise" stops at the first.
        weights: File of the model's weights, "hub", or None where the model's name is its folder.
        device: Where to compute; None takes a GPU where there is one.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        cache_dtype: Type of cached logits: "float16", "bfloat16" or "float32".
        logits_cache: Folder of cached logits.
        output: Folder of results.
        draws: Sampled runs per strength.
        seed: Draw d has the seed `seed` + d.
        exact: Whether to compute the exact law as well.
        exact_pixels: Sampled pixels of an image for laws that need an integral; None takes all.
        report_classes: Names or indices of classes with curves of their own; by default the
            targets. The table of classes holds all in any case.
        overlays: Images shown in the report.
        overlay_width: Their width in pixels at most.
    """

    dataset: str
    model: str
    PERTURBATION: Mapping[str, Any]
    data_root: str = "data"
    split: str | None = None
    resize: str | None = None
    limit: int | None = None
    on_error: str = "skip"
    weights: str | None = None
    device: str | None = None
    batch_size: int = 4
    workers: int = 0
    cache_dtype: str = "float16"
    logits_cache: str = "runs/logits"
    output: str = "runs/segment"
    draws: int = 1
    seed: int = 0
    exact: bool = True
    exact_pixels: int | None = 4096
    report_classes: Sequence[str | int] = field(default_factory=tuple)
    overlays: int = 6
    overlay_width: int = 384

    def __post_init__(self) -> None:
        for name in ("dataset", "model", "data_root", "logits_cache", "output", "on_error"):
            require(name, getattr(self, name), str, "a text")
        for name in ("split", "resize", "weights", "device"):
            require(name, getattr(self, name), (str, type(None)), "a text or None")
        for name, lowest in (("batch_size", 1), ("workers", 0), ("draws", 0), ("overlays", 0)):
            require_count(name, getattr(self, name), lowest)
        require_count("overlay_width", self.overlay_width, 32)
        require("seed", self.seed, int, "an integer")
        for name in ("limit", "exact_pixels"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 1)
        if self.on_error not in ("skip", "raise"):
            raise ValueError(f"on_error={self.on_error!r} is neither 'skip' nor 'raise'")
        require("exact", self.exact, bool, "True or False")
        require("report_classes", self.report_classes, (list, tuple), "a list of names or indices")
        if not self.draws and not self.exact:
            raise ValueError("draws=0 with exact=False leaves nothing to compute: give draws=1")
        if self.cache_dtype not in _DTYPES:
            raise ValueError(
                f"cache_dtype={self.cache_dtype!r} is none of {', '.join(_DTYPES)}: give one"
            )
        object.__setattr__(self, "dataset", check_name(self.dataset, argument="dataset"))
        self.perturbators()

    @property
    def dtype(self) -> torch.dtype:
        """Type of cached logits."""
        return _DTYPES[self.cache_dtype]

    def perturbators(self, classes: int | None = None) -> list[Perturbator]:
        """The levels of the PERTURBATION block, by rising std.

        Args:
            classes: Number of classes, to refuse targets beyond them.

        Raises:
            ValueError: If the block is not usable.
        """
        return perturbators_from_config(self.PERTURBATION, seed=self.seed, classes=classes)

    def class_names(self) -> tuple[str, ...]:
        """Names of the data set's classes, without reading the data.

        Raises:
            FileNotFoundError: If the list of a folder's classes is missing.
        """
        if self.dataset == "folder":
            return read_class_list(Path(self.data_root))
        if self.dataset == "cityscapes":
            return cityscapes_classes()
        return ade20k_classes(Path(self.data_root))


def read_settings(
    path: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None
) -> SegmentSettings:
    """Reads the config of a segmentation command.

    Args:
        path: The config file.
        overrides: Words such as "limit=100".
        output: Replaces the config's folder of results.

    Returns:
        The settings, checked as far as they can be without model and data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a setting is missing, unknown or not usable.
    """
    known = [entry.name for entry in fields(SegmentSettings)]
    values = read_required(
        path, overrides, known=known, required=("dataset", "model", "PERTURBATION"), output=output
    )
    return SegmentSettings(**values)


def chosen_classes(
    chosen: Sequence[str | int], names: Sequence[str], perturbator: Perturbator
) -> dict[int, str]:
    """The classes that get curves of their own.

    Args:
        chosen: Names or indices; none means the perturbator's targets.
        names: Names of all classes.
        perturbator: Its targets come first.

    Returns:
        Names by index. Of classes that share a name, each has its index behind it.

    Raises:
        ValueError: If one is no class.
    """
    indices = targets_of(perturbator)
    for entry in chosen:
        index = _class_index(entry, names)
        if index not in indices:
            indices.append(index)
    return {
        index: names[index] if names.count(names[index]) == 1 else f"{names[index]} {index}"
        for index in indices
    }


def targets_of(perturbator: Perturbator) -> list[int]:
    """Target classes of a focus; none of a utility modulation."""
    if isinstance(perturbator, SingleClassPerturbator):
        return [perturbator.target]
    return list(perturbator.targets) if isinstance(perturbator, MultiClassPerturbator) else []


def _class_index(entry: str | int, names: Sequence[str]) -> int:
    if isinstance(entry, bool) or not isinstance(entry, str | int):
        raise ValueError(f"report_classes holds {entry!r}: give a class's name or index")
    if isinstance(entry, int):
        if not 0 <= entry < len(names):
            raise ValueError(
                f"report_classes holds {entry}, outside the {len(names)} classes "
                f"[0, {len(names)}): count from 0, after label reduction"
            )
        return entry
    if entry not in names:
        nearest = difflib.get_close_matches(entry, names, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(map(repr, nearest))}" if nearest else ": give an index"
        raise ValueError(f"report_classes holds {entry!r}, which is no class{hint}")
    return list(names).index(entry)
