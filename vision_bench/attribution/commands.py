"""The attribution commands of `vision-bench`."""

from __future__ import annotations

from collections.abc import Sequence

from vision_bench.attribution.settings import (
    AttributionSettings,
    BuildSettings,
    ImportSettings,
    InitSettings,
    MergeSettings,
)
from vision_bench.commands import run_study


def init(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute init`; returns 0."""
    run_study(
        InitSettings,
        "attribute init",
        "Writes a config for a classifier and a data set, once both are loaded and the components "
        "found, with as many masks as fit the minutes asked for.",
        "vision_bench.attribution.init:InitStage",
        arguments,
        config=False,
    )
    return 0


def build(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute build`; returns 0."""
    run_study(
        BuildSettings,
        "attribute build",
        "Measures a classifier's outputs while random components are ablated: all of it, or one "
        "shard of it on each of many machines. A killed run goes on when it is started again.",
        "vision_bench.attribution.stages:BuildStage",
        arguments,
    )
    return 0


def merge(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute merge`; returns 0."""
    run_study(
        MergeSettings,
        "attribute merge",
        "Puts shards together that `attribute build` wrote into several folders: the same file as "
        "of one run. Nothing is fitted before all are there.",
        "vision_bench.attribution.stages:MergeStage",
        arguments,
        config=False,
    )
    return 0


def take(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute import`; returns 0."""
    run_study(
        ImportSettings,
        "attribute import",
        "Takes attributions that others published, in the layout of COAR's authors, in the place "
        "of `attribute build` and `attribute fit`: their units are undone, and nothing in the file "
        "is run. `attribute evaluate` tells whether they are of this model.",
        "vision_bench.attribution.stages:ImportStage",
        arguments,
    )
    return 0


def fit(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute fit`; returns 0."""
    run_study(
        AttributionSettings,
        "attribute fit",
        "Fits what each component adds to each image's output to what `attribute build` measured. "
        "It needs neither the model nor the images.",
        "vision_bench.attribution.stages:FitStage",
        arguments,
    )
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute evaluate`; returns 0."""
    run_study(
        AttributionSettings,
        "attribute evaluate",
        "Measures how well attributions predict what fresh ablations do, beside four other "
        "methods, and draws what images and classes rest on. A killed run goes on when it is "
        "started again.",
        "vision_bench.attribution.study:EvaluationStudy",
        arguments,
    )
    return 0


def run(arguments: Sequence[str]) -> int:
    """Runs `vision-bench attribute run`; returns 0."""
    run_study(
        AttributionSettings,
        "attribute run",
        "Attributes a classifier's outputs to its components: builds the component dataset, fits "
        "attributions to it, and evaluates them. A killed run goes on when it is started again.",
        "vision_bench.attribution.study:WholeStudy",
        arguments,
    )
    return 0
