"""Logits and labels of a data set, cached in one file.

Noise on logits never changes the forward pass: one pass over the data serves every strength.
`vision_bench.logits.cache` makes it, or any other program: the result is a file with two arrays,
`logits` [documents, classes] and `labels` [documents], as `numpy.savez` or `safetensors` writes
them.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.core.files import existing, sha256_of

_ARRAYS = ("logits", "labels")
_READ = (*_ARRAYS, "indices")

# A damaged archive, a pickled array, and a lone .npy array under the wrong suffix.
_NPZ_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class CachedLogits:
    """A classifier's outputs on a labelled data set.

    Attributes:
        logits: One row per document, in the type they were stored in; −inf marks an impossible
            class.
        labels: Class index of each document.
        sha256: Checksum of the file, which identifies the data in results.
        path: The file, where `vision_bench.logits.cache` made it.
        unreadable: By image name, why an image of the data set is not among the documents.
        indices: Index of each document in its data set, which identifies it in keyed noise; None
            where the file holds no array `indices`.
    """

    logits: Float[Tensor, "documents classes"]
    labels: Int[Tensor, " documents"]
    sha256: str
    path: Path | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    indices: Int[Tensor, " documents"] | None = None


def load_logits(path: str | Path) -> CachedLogits:
    """Reads cached logits and checks that they make sense.

    Args:
        path: A `.npz` or `.safetensors` file with the arrays `logits` and `labels`. Nothing in it
            is unpickled.

    Returns:
        The logits and labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind or damaged, an array is missing or has the wrong
            shape or type, a logit is NaN or +inf, or a label is no class.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    path = existing(path, suffixes=readers)
    arrays = readers[path.suffix](path)
    logits, labels = arrays["logits"], arrays["labels"]
    _check_shapes(path, logits, labels)
    _check_values(path, logits, labels)
    indices = arrays.get("indices")
    if indices is not None:
        indices = _usable_indices(path, indices, len(labels))
    return CachedLogits(logits, labels.long(), sha256=sha256_of(path), indices=indices)


def _read_npz(path: Path) -> Mapping[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            arrays = {name: torch.from_numpy(file[name]) for name in _READ if name in names}
    except _NPZ_ERRORS as error:
        raise ValueError(
            f"{path} is no .npz file of plain number arrays ({error}): write it with "
            "numpy.savez(path, logits=..., labels=...)"
        ) from error
    _require_arrays(path, names)
    return arrays


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file ({error}): write it with "
            "safetensors.torch.save_file({'logits': ..., 'labels': ...}, path)"
        ) from error
    _require_arrays(path, arrays)
    return arrays


def _require_arrays(path: Path, names: Collection[str]) -> None:
    for name in _ARRAYS:
        if name not in names:
            raise ValueError(
                f"{path} holds no array {name!r} but {sorted(names)}: "
                "store logits [documents, classes] and labels [documents]"
            )


def _check_shapes(path: Path, logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or logits.shape[0] == 0 or logits.shape[1] < 2:
        raise ValueError(
            f"{path}: logits have shape {tuple(logits.shape)}, not [documents, classes] "
            "with at least one document and two classes"
        )
    if not logits.is_floating_point():
        raise ValueError(f"{path}: logits are {logits.dtype}: store floating-point numbers")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"{path}: labels have shape {tuple(labels.shape)}, not one for each of the "
            f"{len(logits)} rows of logits"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{path}: labels are {labels.dtype}: store integer class indices")


def _usable_indices(path: Path, indices: Tensor, documents: int) -> Int[Tensor, " documents"]:
    whole = not (indices.is_floating_point() or indices.is_complex())
    if indices.dtype == torch.bool or not whole or indices.shape != (documents,):
        raise ValueError(
            f"{path}: indices are {indices.dtype} {list(indices.shape)}: store one integer for "
            f"each of the {documents} documents, or none at all"
        )
    return indices.long()


def _check_values(path: Path, logits: Tensor, labels: Tensor) -> None:
    best = logits.amax(1)
    # NaN and +inf carry over to the maximum, and −inf is the maximum of an impossible row.
    if not (finite := best.isfinite()).all():
        row = int((~finite).nonzero()[0])
        raise ValueError(
            f"{path}: logits of document {row} are not usable (the largest is {float(best[row])}); "
            f"{int((~finite).sum())} documents have NaN, +inf or only -inf"
        )
    classes = logits.shape[1]
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"{path}: the label of document {row} is {int(labels[row])}, outside [0, {classes}): "
            "drop documents whose label is to be ignored"
        )
