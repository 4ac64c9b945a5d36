"""Control vectors in GGUF files, as repeng and llama.cpp write and read them.

The tensor `direction.N`, one-dimensional and float32, is added to the output of decoder block N,
counted from 0, at every token. llama.cpp's loader puts it N - 1 places behind the start of a buffer
from which block `il` takes what lies `il - 1` places behind it; it has no place for block 0 and
refuses `direction.0`, which repeng reads and writes. The scale of llama.cpp's
`--control-vector-scaled FILE:SCALE` and repeng's `coeff` are the strength here.

Source: github.com/ggml-org/llama.cpp: `common_control_vector_load_one` (common/common.cpp),
`llama_adapter_cvec::apply` (src/llama-adapter.cpp), `build_cvec` behind the last sum of each block;
github.com/vgel/repeng: `ControlVector.export_gguf` (extract.py), `ControlModule` (control.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.exchange.shifts import read_shifts

ARCHITECTURE = "controlvector"
_DIRECTION = re.compile(r"direction\.\d+")


def gguf_package() -> ModuleType:
    """The package gguf.

    Raises:
        ImportError: If it is missing, naming the extra.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError("GGUF files need gguf: pip install 'aim-plugins[gguf]'") from error
    return gguf


def read_control_vectors(path: Path, model: Any) -> dict[str, AffineMap]:
    """The maps of a file of control vectors.

    Raises:
        ImportError: If gguf is missing.
        ValueError: If the file is no GGUF file, is cut short, holds something else, or has vectors
            for blocks that the model lacks.
    """
    gguf = gguf_package()
    try:
        tensors = gguf.GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no whole GGUF file ({error}): copy it again") from error
    vectors = {}
    for tensor in tensors:
        if not _DIRECTION.fullmatch(tensor.name):
            raise ValueError(
                f"{path} holds the tensor {tensor.name!r}, where control vectors are called "
                "direction.N: it is a file of something else"
            )
        if tensor.tensor_type.name != "F32":
            raise ValueError(
                f"{path}: {tensor.name} is {tensor.tensor_type.name}, and control vectors are F32"
            )
        if tensor.data.shape[-1:] != (tensor.n_elements,):
            raise ValueError(
                f"{path}: {tensor.name} has the shape {list(tensor.data.shape)}, not one of neurons"
            )
        vectors[tensor.name] = torch.tensor(tensor.data)  # a copy, the file is mapped
    return read_shifts(vectors, model, str(path))


def write_control_vectors(path: Path, vectors: Mapping[int, Tensor], model_type: str) -> None:
    """Writes a file of control vectors.

    Args:
        path: The file.
        vectors: Float32 vectors by the number of their decoder block, from 1 on.
        model_type: What transformers calls the architecture, such as "llama".

    Raises:
        ImportError: If gguf is missing.
    """
    gguf = gguf_package()
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
    for number, vector in sorted(vectors.items()):
        writer.add_tensor(f"direction.{number}", vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
