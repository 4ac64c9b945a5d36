"""A network as an ONNX file, which other runtimes run without PyTorch and without our code."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_bench.reengineering.channels import require

OPSET = 18
"""Version of ONNX's operators: the oldest that PyTorch's exporter writes by itself."""

TOLERANCE = 1e-4
"""How far the outputs of other runtimes may be off, as a share of the largest."""

INPUT, OUTPUT = "images", "logits"

Runner = Callable[[Float[np.ndarray, "batch channels height width"]], Float[np.ndarray, "batch k"]]


def require_runtimes() -> None:
    """Refuses to begin what could not be written or run in the end.

    Raises:
        ImportError: If a library of the extra "reengineer" is missing.
    """
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        if importlib.util.find_spec(name) is None:
            require(name)


def to_onnx(module: nn.Module, example: Tensor, properties: Mapping[str, str]) -> bytes:
    """Writes a network down as ONNX, for batches of any size.

    Args:
        module: The network, in eval mode, on the CPU.
        example: Images [batch, channels, height, width]; all but the batch stays as it is here.
        properties: What the file says of itself besides, such as the names of the classes.

    Returns:
        The content of the file; the input is called "images", the output "logits".

    Raises:
        ImportError: If onnx or onnxscript is not installed.
        ValueError: If PyTorch cannot write this network down.
    """
    onnx = require("onnx")
    require("onnxscript")
    # Two of them, since a batch of one would be taken for a dimension that is always one.
    two = example[:1].expand(2, *example.shape[1:]).contiguous()
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (two,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: batch},),
            )
    except Exception as error:  # the exporter raises many kinds
        raise ValueError(
            f"PyTorch cannot write {type(module).__name__} down as ONNX "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): leave the "
            "ONNX file out"
        ) from error
    assert program is not None
    written = program.model_proto
    onnx.helper.set_model_props(written, dict(properties))
    return bytes(written.SerializeToString())


def check_onnx(content: bytes, module: nn.Module, example: Tensor) -> dict[str, float]:
    """Runs an ONNX file in both runtimes, on one image and on all.

    Args:
        content: The content of the file.
        module: The network that it was written of.
        example: Images [batch, channels, height, width].

    Returns:
        For each runtime, how far its outputs are off at most, as a share of the largest.

    Raises:
        ValueError: If they are off by more than `TOLERANCE`.
    """
    off: dict[str, float] = {}
    for name, make in RUNNERS.items():
        run = make(content, 1)
        for images in (example[:1], example):
            with torch.no_grad():
                wanted = module(images).numpy()
            scale = max(float(np.abs(wanted).max()), 1e-12)
            difference = float(np.abs(run(images.numpy()) - wanted).max()) / scale
            off[name] = max(off.get(name, 0.0), difference)
        if not off[name] <= TOLERANCE:
            raise ValueError(
                f"{name} answers otherwise than PyTorch, by {off[name]:.2g} of the largest output: "
                "leave the ONNX file out"
            )
    return off


def onnxruntime_runner(content: bytes, threads: int) -> Runner:
    """Runs an ONNX file in ONNX Runtime, on the CPU.

    Raises:
        ImportError: If onnxruntime is not installed.
    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def openvino_runner(content: bytes, threads: int) -> Runner:
    """Runs an ONNX file in OpenVINO, on the CPU and in float32.

    Raises:
        ImportError: If openvino is not installed.
    """
    core = _openvino_core()
    # Some CPUs would compute in bfloat16 otherwise.
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", settings)
    return lambda images: compiled(images)[0]


@functools.cache
def _openvino_core() -> Any:
    """The only one of this process, which it keeps to its end.

    Each sets a stack for signal handlers and, when it is dropped, the one before; of several that
    are not dropped in reverse order the last stack set is gone, and the next signal ends Python.
    """
    return require("openvino").Core()


RUNNERS: dict[str, Callable[[bytes, int], Runner]] = {
    "ONNX Runtime": onnxruntime_runner,
    "OpenVINO": openvino_runner,
}
"""What makes a runner of an ONNX file that uses so many threads."""


@contextlib.contextmanager
def _quiet() -> Any:
    """Keeps the exporter's account of its progress to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
