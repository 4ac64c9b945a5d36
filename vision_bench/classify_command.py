"""The classification commands of `vision-bench`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds `classify` and `classify-logits` to the subparsers of `vision-bench`."""
    classify = commands.add_parser(
        "classify-logits",
        help="accuracy against noise strength, from cached logits",
        description="Accuracy of a classifier at many strengths of logit noise: exact, and sampled "
        "with noise that all strengths share. FILE is a .npz or .safetensors file with the arrays "
        "logits [documents, classes] and labels [documents].",
    )
    classify.add_argument("file", type=Path, metavar="FILE")
    classify.add_argument(
        "--noise-std",
        required=True,
        metavar="GRID",
        help='strengths in logit units: "0:20:0.2" (20 included), "0,0.5,1" or a number',
    )
    classify.add_argument("--draws", type=int, default=1, help="draws per strength; default 1")
    classify.add_argument(
        "--seed", type=int, default=0, help="draw d has the seed SEED + d; default 0"
    )
    classify.add_argument("--task", help="name in table and pictures; default: the file's name")
    classify.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for results"
    )
    classify.set_defaults(run=classify_logits)


def classify_logits(options: argparse.Namespace) -> int:
    """Writes `sweep.csv` and the pictures of an accuracy curve, and prints its table.

    Returns:
        The exit status 0.

    Raises:
        ValueError: If an option or the file is not usable, or the folder holds another sweep.
    """
    from aim_plugins.modulation.noise import NOISE_VERSION
    from aim_plugins.sweep.plots import plot_curves
    from aim_plugins.sweep.store import SweepStore
    from aim_plugins.sweep.strengths import parse_strengths
    from aim_plugins.sweep.table import format_points, pool_draws, write_table
    from vision_bench.classification import accuracy_curve
    from vision_bench.logits import load_logits

    # Everything is checked before the first file is written.
    stds = parse_strengths(options.noise_std, name="--noise-std")
    if options.draws < 1:
        raise ValueError(f"--draws={options.draws} is below 1: give the sampled runs per strength")
    task = options.task or options.file.stem
    cached = load_logits(options.file)
    arguments = {
        "command": "classify-logits",
        "task": task,
        "file_sha256": cached.sha256,
        "noise_std": stds,
        "draws": options.draws,
        "seed": options.seed,
        "noise_version": NOISE_VERSION,
    }
    with SweepStore.open(options.output, arguments, versions=_versions()) as store:
        curve = accuracy_curve(
            cached.logits, cached.labels, stds, draws=options.draws, seed=options.seed
        )
        rows = curve.rows(task)
        write_table(store.folder / "sweep.csv", rows)
        chance = 1 / cached.logits.shape[1]
        pictures = plot_curves(
            pool_draws(rows), store.folder / "curves", chance={(task, "acc"): chance}
        )
        store.update_manifest(documents=curve.n, classes=cached.logits.shape[1])
    print(format_points(pool_draws(rows)))
    for path in (store.folder / "sweep.csv", *pictures):
        print(path)
    return 0


def _versions() -> dict[str, str]:
    import torch

    from aim_plugins import __version__

    return {"aim-plugins": __version__, "torch": torch.__version__}
