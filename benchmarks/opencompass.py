"""A sweep with OpenCompass in one task, against its stock tasks; and the size of a full run's plan.

    python -m benchmarks.opencompass [sweep] [plan]

Sweep: 16 strengths of the demo model on two data sets of the demo, through the stock `opencompass`
command, once with our partitioners and tasks and once with OpenCompass's own (one task for each
entry in inference, one for each entry and data set in evaluation), in CPU seconds of all processes.
Plan: a dry run of the Llama-3 configuration, 6 models x 32 strengths x 58 data sets.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mmengine.config import Config

from aim_plugins.harnesses.opencompass.run.partitioner import SweepInferPartitioner
from benchmarks._timing import write_result

CONFIGS = Path(__file__).parent.parent / "eval_configs" / "opencompass"
STRENGTHS = 16
DOCUMENTS = 20


def children_cpu_seconds() -> float:
    """CPU seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(arguments: list[str], folder: Path) -> dict[str, float]:
    """Runs `opencompass` and returns its seconds on the clock and its CPU seconds."""
    cpu, wall = children_cpu_seconds(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "opencompass.cli.main", *arguments],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": children_cpu_seconds() - cpu,
    }


def summary(work_dir: Path) -> list[str]:
    """The scores of a run, without what OpenCompass prints about prompts and modes."""
    (table,) = work_dir.glob("*/summary/summary_*.csv")
    return [line.split(",", 4)[-1] for line in table.read_text().splitlines()]


def write_config(folder: Path, *, ours: bool) -> Path:
    """The demo's base model under 16 strengths on 20 documents of each of its choice data sets."""
    demo = Config.fromfile(CONFIGS / "eval_noise_demo.py", format_python_code=False).to_dict()
    run: dict[str, Any] = {
        "models": [
            {
                **demo["base_models"][0],
                "abbr": f"noise{x / 5}",
                "generation_kwargs": {"noise_std": x / 5},
            }
            for x in range(STRENGTHS)
        ],
        "datasets": [{**data, "test_range": f"[:{DOCUMENTS}]"} for data in demo["choice_datasets"]],
        "work_dir": str(folder / "runs"),
    }
    if ours:
        run |= {name: demo[name] for name in ("infer", "eval", "summarizer")}
    folder.mkdir()
    Config(run, format_python_code=False).dump(folder / "config.py")
    return folder / "config.py"


def sweep(folder: Path) -> dict[str, Any]:
    """One task for all strengths against OpenCompass's own tasks."""
    figures = {}
    for name, ours in (("one task", True), ("stock tasks", False)):
        config = write_config(folder / name.replace(" ", "_"), ours=ours)
        figures[name] = run([str(config)], config.parent)
    tables = [summary(folder / name / "runs") for name in ("one_task", "stock_tasks")]
    if tables[0] != tables[1]:
        raise RuntimeError(f"the tables differ: {tables[0]} and {tables[1]}")
    return {
        "strengths": STRENGTHS,
        "documents": 2 * DOCUMENTS,
        **figures,
        **{
            f"stock tasks / one task, {clock}": figures["stock tasks"][clock]
            / figures["one task"][clock]
            for clock in ("cpu_seconds", "wall_seconds")
        },
    }


def plan(folder: Path) -> dict[str, Any]:
    """Seconds of a dry run of the Llama-3 configuration, and its tasks on one GPU."""
    run_folder = folder / "plan"
    run_folder.mkdir()
    config = CONFIGS / "eval_noise_llama3.py"
    figures = run([str(config), "--dry-run", "-w", str(run_folder / "runs")], run_folder)
    (dumped,) = run_folder.glob("runs/*/configs/*.py")
    cfg = Config.fromfile(dumped, format_python_code=False)
    cfg.infer.runner.debug = True  # as a dry run has it, which needs no GPU
    tasks = SweepInferPartitioner(str(run_folder / "predictions"), num_worker=1)(cfg)
    sizes = []
    for task in tasks:
        task.dump(run_folder / "task.py")
        sizes.append((run_folder / "task.py").stat().st_size)
    return {
        "cells": len(cfg.models) * len(cfg.datasets),
        "tasks": len(tasks),
        "largest task file, bytes": max(sizes),
        **{f"dry run, {name}": value for name, value in figures.items()},
    }


def main(parts: list[str]) -> None:
    """Runs the named parts, all by default."""
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in {"sweep": sweep, "plan": plan}.items():
            if parts and name not in parts:
                continue
            result = measure(Path(folder))
            for label, value in result.items():
                if not isinstance(value, dict):
                    print(f"{name}: {label} = {value:.4g}")
            print(f"written: {write_result(f'opencompass_{name}', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
