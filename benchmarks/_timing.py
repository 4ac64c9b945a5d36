"""Paired timing, for the benchmarks beside it: contestants take turns, and medians are compared."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of all threads of this process, which other processes disturb little."""
    start = time.process_time()
    work()
    return time.process_time() - start


def wall_seconds(work: Callable[[], Any]) -> float:
    """Seconds on the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired_times(
    contestants: dict[str, Callable[[], Any]],
    *,
    rounds: int,
    clock: Callable[[Callable[[], Any]], float] = cpu_seconds,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Times of each contestant; they run in turn, so that a busy machine slows all alike."""
    if warm_up:
        for work in contestants.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            times[name].append(clock(work))
    return times


def paired_medians(contestants: dict[str, Callable[[], Any]], **options: Any) -> dict[str, float]:
    """Median time of each contestant, from `paired_times`."""
    times = paired_times(contestants, **options)
    return {name: statistics.median(values) for name, values in times.items()}


def environment() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Writes benchmarks/results/NAME.json."""
    return write_json(RESULTS / f"{name}.json", result)


def write_parts(
    name: str, measures: Mapping[str, Callable[[], dict[str, Any]]], parts: Sequence[str]
) -> None:
    """Measures the named parts of a benchmark, all by default; prints and writes each."""
    for part, measure in measures.items():
        if parts and part not in parts:
            continue
        result = measure()
        for label, value in result.items():
            if isinstance(value, float):
                print(f"{part}: {label} = {value:.3g}")
        print(f"written: {write_result(f'{name}_{part}', result)}", flush=True)


def write_json(path: Path, result: dict[str, Any]) -> Path:
    """Writes a result and what it depends on to a file of any name."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({**result, "environment": environment()}, indent=2) + "\n")
    return path
