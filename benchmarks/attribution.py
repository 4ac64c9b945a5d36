"""Component attribution: passes for a correlation, masks in a batch, one solve, and memory.

    python -m benchmarks.attribution [--only passes batches solve memory] [--examples 64]

A residual CNN of 288 filters on Fashion-MNIST. How many passes over all examples gradients and
ridge regression take to predict fresh ablations with a correlation of .80 and .85, against the
paper's plain regression; a pass with gradients counts as what it costs. Masks in a second as rows
of a batch, against a copy of the model with zeroed weights for each, as the authors' code does.
Ridge regression of all examples by one factorisation, against scikit-learn's Ridge and Lasso one by
one. Memory and disk that a dataset of many masks takes while it is built. One thread everywhere.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aim_plugins.attribution.baselines import gradient_times_parameter, leave_one_out
from aim_plugins.attribution.dataset import ComponentDataset, build
from aim_plugins.attribution.evaluation import (
    MeanOfExamples,
    correlations,
    fresh_masks,
    outputs_under,
)
from aim_plugins.attribution.fit import fit_attributions
from aim_plugins.attribution.outputs import margin
from aim_plugins.attribution.plan import DatasetPlan
from aim_plugins.attribution.subject import Subject
from aim_plugins.modulation.components import Components, Site
from benchmarks._residual_cnn import Margins, accuracy, trained_network
from benchmarks._timing import RESULTS, paired_medians, paired_times, write_result

ALPHA = 0.1
TARGETS = (0.80, 0.85)
PLAIN = (350, 450, 550, 700, 850, 1000, 1400, 2000)
"""Masks of plain regressions, which need more masks than components."""
BUDGETS = (30, 50, 70, 100, 150, 200, 300, 450)
"""Passes that gradients and masks together may take."""
GRADIENT_SHARE = 0.7
"""Share of those that goes into gradients."""
BATCHES = ((1, 128), (8, 64), (64, 16))
"""Numbers of examples, and of masks that they are run under."""


class Recorded(Subject):
    """A subject that remembers what it was asked, so that larger datasets cost the difference."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.model, subject.components, subject.examples)
        self._subject = subject
        self._outputs: dict[bytes, Tensor] = {}
        self._gradients: dict[bytes, tuple[Tensor, Tensor]] = {}

    def outputs(self, factors: Tensor) -> Tensor:
        keys = [row.numpy().tobytes() for row in factors]
        if new := [place for place, key in enumerate(keys) if key not in self._outputs]:
            found = self._subject.outputs(factors[new])
            self._outputs |= {keys[place]: row for place, row in zip(new, found, strict=True)}
        return torch.stack([self._outputs[key] for key in keys])

    def gradients(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        key = factors.numpy().tobytes()
        if key not in self._gradients:
            self._gradients[key] = self._subject.gradients(factors)
        return self._gradients[key]

    def paired_outputs(self, factors: Tensor, owners: Tensor, places: Tensor) -> Tensor:
        return self._subject.paired_outputs(factors, owners, places)


def gradient_cost(subject: Subject, rounds: int = 5) -> float:
    """What a pass with gradients costs, in forward passes."""
    one = torch.ones(len(subject.components))
    masks = one.repeat(2, 1)
    masks[:, 0] = 0
    times = paired_times(
        {
            "gradients": lambda: subject.gradients(one),
            "outputs": lambda: subject.outputs(masks),
        },
        rounds=rounds,
    )
    ratios = [2 * own / other for own, other in zip(*times.values(), strict=True)]
    return statistics.median(ratios)


def passes(model: nn.Module, examples: int) -> dict[str, Any]:
    """Correlation against passes, by plain regression and with gradients."""
    subject = Margins(model, examples)
    cost = gradient_cost(subject)
    recorded = Recorded(subject)
    fresh = fresh_masks(len(subject.components), ALPHA, 100, seed=0)
    truth = outputs_under(subject, fresh)

    def correlation(weights: Tensor) -> tuple[float, float, float]:
        found = MeanOfExamples.of(correlations(weights, fresh, truth).tolist())
        return found.value, found.low, found.high

    def fitted(masks: int, gradient_passes: int, **given: Any) -> tuple[float, float, float]:
        plan = DatasetPlan.of(
            recorded, output="margin", masks=masks, gradient_passes=gradient_passes, alpha=ALPHA
        )
        with tempfile.TemporaryDirectory() as folder:
            build(plan, recorded, folder)
            return correlation(fit_attributions(ComponentDataset.load(folder), **given).weights)

    ours = []
    for budget in BUDGETS:
        gradients = round(GRADIENT_SHARE * budget / cost)
        masks = round(budget - gradients * cost)
        ours.append((masks + gradients * cost, *fitted(masks, gradients)))
        print("gradients and ridge", gradients, masks, ours[-1], file=sys.stderr, flush=True)
    plain, ridge = [], []
    for masks in PLAIN:
        plain.append((masks, *fitted(masks, 0, prior=None, penalty=0)))
        ridge.append((masks, *fitted(masks, 0, prior=None)))
        print("plain, ridge", plain[-1], ridge[-1], file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        "examples": examples,
        "components": len(subject.components),
        "alpha": ALPHA,
        "gradient_pass_in_forward_passes": cost,
        "gradients_and_ridge": ours,
        "plain_regression": plain,
        "ridge_alone": ridge,
        "leave_one_out": [len(subject.components) + 1, *correlation(leave_one_out(subject))],
        "gradient_times_parameter": [cost, *correlation(gradient_times_parameter(subject))],
        "columns": ["passes", "correlation", "low", "high"],
    }
    for target in TARGETS:
        own, other, alone = (passes_for(one, target) for one in (ours, plain, ridge))
        result[f"passes_for_{target:g}"] = {
            "gradients_and_ridge": own,
            "plain_regression": other,
            "ridge_alone": alone,
            "fewer": other / own if own and other else None,
        }
    return result


def passes_for(curve: Sequence[tuple[float, ...]], target: float) -> float | None:
    """Passes at which a curve reaches a correlation, between points by the logarithm of passes."""
    for (before, low, *_), (behind, high, *_) in zip(curve, curve[1:], strict=False):
        if low < target <= high:
            share = (target - low) / (high - low)
            return math.exp(math.log(before) + share * math.log(behind / before))
    return curve[0][0] if curve[0][1] >= target else None


def batches(model: nn.Module, examples: int, masks: int, rounds: int) -> dict[str, Any]:
    """Masks in a CPU second: as rows of a batch, multiplied one by one, and by zeroed copies."""
    subject = Margins(model, examples)
    ablated = fresh_masks(len(subject.components), ALPHA, masks, seed=1)
    factors = torch.from_numpy(~ablated).float()
    deviation = (subject.outputs(factors) - zeroed(subject, ablated)).abs().max()
    times = paired_times(
        {
            "rows_of_a_batch": lambda: subject.outputs(factors),
            "multiplied_one_by_one": lambda: [subject.outputs(one[None]) for one in factors],
            "zeroed_copies_one_by_one": lambda: zeroed(subject, ablated),
        },
        rounds=rounds,
    )
    rates = {name: masks / statistics.median(own) for name, own in times.items()}
    batch = rates["rows_of_a_batch"]
    return {
        "examples": examples,
        "masks_per_second": rates,
        "times_as_many_as_multiplied": batch / rates["multiplied_one_by_one"],
        "times_as_many_as_zeroed_copies": batch / rates["zeroed_copies_one_by_one"],
        "largest_difference": float(deviation),
    }


@torch.no_grad()
def zeroed(subject: Margins, ablated: np.ndarray) -> Tensor:
    """Outputs of a copy of the model for each mask, with the weights of ablated filters zeroed."""
    found = []
    for row in ablated:
        model = copy.deepcopy(subject.model)
        components = subject.components
        for start, site in zip(components.starts, components.sites, strict=False):
            own = torch.from_numpy(row[start : start + site.count])
            model.get_submodule(site.layer).weight[own] = 0
        found.append(margin(model(subject.images), subject.labels))
    return torch.stack(found)


def made_up(masks: int, components: int, examples: int) -> ComponentDataset:
    """Masks, and noisy outputs of a linear model in which few components matter much."""
    rng = np.random.default_rng(0)
    subject = Lines(components, examples)
    plan = DatasetPlan.of(subject, output="margin", masks=masks, alpha=ALPHA)
    ablated = rng.random((masks, components)) < ALPHA
    truth = rng.normal(size=(examples, components)) * rng.exponential(0.3, size=components) ** 2
    outputs = (~ablated) @ truth.T + rng.normal(size=(masks, examples))
    packed = np.packbits(ablated, axis=1, bitorder="little")
    return ComponentDataset(plan, packed, outputs.astype(np.float32))


class Lines(Subject):
    """Outputs that are sums of factors."""

    def __init__(self, components: int, examples: int) -> None:
        site = Site("layer", "layer", components)
        super().__init__(nn.Linear(1, 1).eval(), Components((site,)), examples)
        self._weights = torch.ones(components, examples) / components

    def outputs(self, factors: Tensor) -> Tensor:
        return factors @ self._weights

    def gradients(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def paired_outputs(self, factors: Tensor, owners: Tensor, places: Tensor) -> Tensor:
        raise NotImplementedError


def solve(masks: int, components: int, examples: int, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of regressions of all examples."""
    from sklearn.linear_model import Lasso, Ridge

    dataset = made_up(masks, components, examples)
    kept = np.asfortranarray(~dataset.ablated(0, masks), dtype=float)
    outputs = dataset.outputs(0, masks).astype(float)
    weights: dict[str, np.ndarray] = {}

    def ours(name: str, penalty: float | None) -> None:
        fitted = fit_attributions(dataset, prior=None, penalty=penalty)
        weights[name] = fitted.weights.numpy()

    def theirs(name: str, model: Any) -> None:
        columns = outputs.T
        weights[name] = np.stack([model.fit(kept, one).coef_.copy() for one in columns])

    work = {
        "one_cholesky": lambda: ours("one_cholesky", 10.0),
        "one_eigendecomposition_and_gcv": lambda: ours("gcv", None),
        "ridge_one_by_one": lambda: theirs("ridge", Ridge(alpha=10.0)),
        "lasso_one_by_one": lambda: theirs("lasso", Lasso(alpha=3e-3)),
    }
    seconds = paired_medians(work, rounds=rounds)
    own = seconds["one_cholesky"]
    return {
        "masks": masks,
        "components": components,
        "examples": examples,
        "seconds": seconds,
        "times_as_fast_as_ridge": seconds["ridge_one_by_one"] / own,
        "times_as_fast_as_lasso": seconds["lasso_one_by_one"] / own,
        "largest_difference_from_ridge": float(
            np.abs(weights["one_cholesky"] - weights["ridge"]).max()
        ),
    }


def private_memory() -> int:
    """Bytes of memory that belong to this process alone; pages of mapped files do not."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(one.split()[1]) * 1024 for one in lines if one.startswith("RssAnon"))


def building(masks: int, components: int, examples: int) -> None:
    """Builds and reads a dataset in this process, and prints what it takes."""
    torch.set_num_threads(1)
    subject = Lines(components, examples)
    plan = DatasetPlan.of(subject, output="margin", masks=masks, alpha=ALPHA)
    start, most, done = private_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], private_memory() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        build(plan, subject, folder)
        seconds, ablated = time.process_time() - began, 0
        dataset = ComponentDataset.load(folder)
        for first in range(0, masks, 64):
            ablated += int(dataset.ablated(first, first + 64).sum())
        size = Path(folder, "component_dataset.safetensors").stat().st_size
    done.set()
    watcher.join()
    found = {
        "masks": masks,
        "build_cpu_seconds": seconds,
        "private_memory_bytes": most[0],
        "file_bytes": size,
        "share_ablated": ablated / masks / components,
    }
    print(json.dumps(found))


def memory(counts: Sequence[int], components: int, examples: int) -> dict[str, Any]:
    """What datasets of some masks take, each built by a process of its own."""
    built = []
    for masks in counts:
        code = "import sys; from benchmarks.attribution import building; building("
        code += "*map(int, sys.argv[1:]))"
        given = list(map(str, (masks, components, examples)))
        done = subprocess.run(
            [sys.executable, "-c", code, *given], check=True, capture_output=True, text=True
        )
        built.append(json.loads(done.stdout))
        print("memory", built[-1], file=sys.stderr, flush=True)
    full = 100_000
    return {
        "components": components,
        "examples": examples,
        "built": built,
        "formula": "file = masks * (ceil(components / 8) + 4 * examples) bytes; while it is built, "
        "a block of 64 masks is in memory",
        "file_bytes_of_100000_masks": full * (-(-components // 8) + 4 * examples),
        "bytes_of_100000_masks_packed": full * -(-components // 8),
        "bytes_of_100000_masks_as_bytes": full * components,
    }


PARTS = ("passes", "batches", "solve", "memory")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--masks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = RESULTS / "attribution.json"
    # Parts that are not measured now stay.
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if {"passes", "batches"} & set(options.only):
        model = trained_network()
        result["accuracy"] = accuracy(model)
        if "passes" in options.only:
            result["passes"] = passes(model, options.examples)
        if "batches" in options.only:
            result["batches"] = [batches(model, *one, options.rounds) for one in BATCHES]
            print("batches", result["batches"], file=sys.stderr, flush=True)
    if "solve" in options.only:
        result["solve"] = solve(2000, 288, 128, options.rounds)
        print("solve", result["solve"], file=sys.stderr, flush=True)
    if "memory" in options.only:
        result["memory"] = memory(options.masks, 82_944, 50)
    print(write_result("attribution", result))


if __name__ == "__main__":
    main()
