"""How long networks take for a batch, in three runtimes, measured in turn."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vision_bench.reengineering.onnx_file import RUNNERS, to_onnx

BATCHES = (1, 16)
EAGER = "PyTorch"
RUNTIMES = (EAGER, *RUNNERS)

_SHORTEST = 0.02
"""Seconds for which a network runs in a round: a single short batch drowns in interruptions."""


@dataclass(frozen=True)
class Latency:
    """How long networks take for a batch in one runtime.

    Attributes:
        runtime: One of `RUNTIMES`.
        batch: Images in a batch.
        threads: CPU threads that it uses.
        seconds: For each network, the median time of a batch.
        speed_up: For each, how many times faster it is than the first: the median over the rounds,
            in each of which all were measured.
        spread: Of each speed-up, the quartiles over the rounds.
    """

    runtime: str
    batch: int
    threads: int
    seconds: Mapping[str, float]
    speed_up: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]


def measure_latency(
    modules: Mapping[str, nn.Module],
    image_shape: Sequence[int],
    *,
    batches: Sequence[int] = BATCHES,
    runtimes: Sequence[str] = RUNTIMES,
    rounds: int = 15,
    threads: int = 1,
    files: Mapping[str, bytes] | None = None,
) -> list[Latency]:
    """Measures networks in turn, so that what else the machine does slows all of them alike.

    Args:
        modules: Networks by name, in eval mode, on the CPU; the first is what the others are
            compared with.
        image_shape: Channels, height and width of their images.
        batches: Numbers of images in a batch.
        runtimes: Some of `RUNTIMES`.
        rounds: How many times each is measured, for a fiftieth of a second at least.
        threads: CPU threads, the same in every runtime.
        files: ONNX files of some of the networks; those of the others are written.

    Returns:
        A result for each runtime and batch.

    Raises:
        ImportError: If a runtime is not installed.
        ValueError: If rounds are below 2, a runtime is unknown, or a network cannot be written as
            ONNX.
    """
    if rounds < 2:
        raise ValueError(f"rounds={rounds} leaves no spread: give 2 or more")
    if unknown := [name for name in runtimes if name not in RUNTIMES]:
        raise ValueError(f"runtimes={unknown[0]!r} is none of {', '.join(map(repr, RUNTIMES))}")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(max(batches), *image_shape, generator=generator)
    written = dict(files or {})
    if any(name != EAGER for name in runtimes):
        for name in modules.keys() - written.keys():
            written[name] = to_onnx(modules[name], images, {})
    found = []
    for runtime in runtimes:
        runners = {
            name: _eager(module) if runtime == EAGER else RUNNERS[runtime](written[name], threads)
            for name, module in modules.items()
        }
        with _threads(threads):
            for batch in batches:
                times = _times(runners, images[:batch].numpy(), rounds)
                found.append(_latency(runtime, batch, threads, times))
    return found


def _times(
    runners: Mapping[str, Callable[[np.ndarray], object]], images: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """Seconds of a batch in each round, for each network."""
    fastest = min(_seconds(run, images, 1) for run in runners.values())
    # As many for each, as the first ones of a row are slower.
    count = max(1, round(_SHORTEST / fastest))
    times: dict[str, list[float]] = {name: [] for name in runners}
    for place in range(rounds):
        # Backwards every other time, so that none always follows the same one.
        for name in list(runners)[:: -1 if place % 2 else 1]:
            times[name].append(_seconds(runners[name], images, count))
    return times


def _seconds(run: Callable[[np.ndarray], object], images: np.ndarray, count: int) -> float:
    run(images)  # What ran before has left the caches full of its own.
    start = time.perf_counter()
    for _ in range(count):
        run(images)
    return (time.perf_counter() - start) / count


def _latency(runtime: str, batch: int, threads: int, times: Mapping[str, list[float]]) -> Latency:
    first = next(iter(times.values()))
    ratios = {
        name: [whole / own for whole, own in zip(first, every, strict=True)]
        for name, every in times.items()
    }
    quartiles = {name: statistics.quantiles(every, n=4) for name, every in ratios.items()}
    return Latency(
        runtime,
        batch,
        threads,
        {name: statistics.median(every) for name, every in times.items()},
        {name: statistics.median(every) for name, every in ratios.items()},
        {name: (every[0], every[2]) for name, every in quartiles.items()},
    )


def _eager(module: nn.Module) -> Callable[[np.ndarray], Tensor]:
    def run(images: np.ndarray) -> Tensor:
        with torch.inference_mode():
            return module(torch.from_numpy(images))

    return run


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
