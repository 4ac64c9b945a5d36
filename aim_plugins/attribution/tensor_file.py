"""Writing a safetensors file piece by piece, for tensors that are larger than memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aim_plugins.core.files import sync_folder, temporary_path

_TYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
"""Types by the name that the format gives them; all numbers are little-endian there."""


def write_pieces(
    path: Path,
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    pieces: Iterable[np.ndarray],
) -> str:
    """Writes a file that is whole or absent.

    Args:
        path: The file; its folder exists.
        shapes: Type ("F32" or "U8") and shape of each tensor.
        pieces: The values of all tensors one after another, in any pieces.

    Returns:
        SHA-256 of the file.

    Raises:
        OSError: If it cannot be written.
        ValueError: If there are more or fewer values than the shapes have.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    size = 0
    for name, (kind, shape) in shapes.items():
        start, size = size, size + math.prod(shape) * _TYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, size]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest, written, temporary = hashlib.sha256(), 0, temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            for content in (len(text).to_bytes(8, "little"), text):
                digest.update(content)
                file.write(content)
            for piece in pieces:
                content = np.ascontiguousarray(piece, _little_endian(piece.dtype)).tobytes()
                digest.update(content)
                file.write(content)
                written += len(content)
            if written != size:
                raise ValueError(f"{path.name}: {written} bytes of values, not {size}")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return digest.hexdigest()


def _little_endian(kind: np.dtype) -> np.dtype:
    return kind.newbyteorder("<")
