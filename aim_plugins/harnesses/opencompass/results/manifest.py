"""The manifest of an OpenCompass sweep: what was asked for and computed with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opencompass.utils import dataset_abbr_from_cfg

from aim_plugins.core.identity import fingerprint
from aim_plugins.harnesses.opencompass.command import COMMAND_VARIABLE
from aim_plugins.harnesses.opencompass.config.entries import canonical, split_entry, unlabelled
from aim_plugins.harnesses.opencompass.results.table import Sweep
from aim_plugins.modulation.arguments import describe_columns
from aim_plugins.modulation.changes import DRAWS, SEED
from aim_plugins.sweep.manifest import new_manifest, redact

_PACKAGES = ("aim-plugins", "opencompass", "transformers", "torch")


def sweep_manifest(
    sweep: Sweep,
    entry: Mapping[str, Any],
    datasets: Sequence[Mapping[str, Any]],
    former: Path,
) -> dict[str, Any]:
    """Describes a sweep in the form of the sweep with lm-eval.

    Args:
        sweep: The sweep.
        entry: Its first model entry.
        datasets: The data sets that the config combines with its entries.
        former: The manifest of an earlier run; where it is of the same sweep, its date is kept.
    """
    manifest = new_manifest(
        redact(_arguments(sweep, entry, datasets)),
        {name: version(name) for name in _PACKAGES},
        sweep.axes,
    )
    known = _read_json(former)
    if known.get("arguments") == manifest["arguments"]:
        manifest["created"] = known["created"]
    manifest["command"] = redact(_command() or known.get("command", []))
    manifest["model"] = sweep.name
    manifest["task_fingerprints"] = {
        dataset_abbr_from_cfg(dataset): fingerprint(canonical(dataset)) for dataset in datasets
    }
    return manifest


def _arguments(
    sweep: Sweep, entry: Mapping[str, Any], datasets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    split = split_entry(entry)
    settings = canonical(unlabelled(split.rest))
    seeds = list(dict.fromkeys(column.seed for column in sweep.columns))
    if seeds == list(range(seeds[0], seeds[0] + 1 + max(sweep.draws))):
        seeds = seeds[:1]  # as lm-eval's sweep counts draws
    return {
        "harness": "opencompass",
        "model": settings.pop("type"),
        "model_args": settings,
        "tasks": [dataset_abbr_from_cfg(dataset) for dataset in datasets],
        **split.given,
        **describe_columns(sorted(sweep.columns, key=sweep.strengths)),
        **sweep.fixed,
        SEED: seeds[0] if len(seeds) == 1 else seeds,
        DRAWS: 1 + max(sweep.draws),
    }


def _command() -> list[str]:
    """The words that repeat the run; none where OpenCompass was asked for a part of it."""
    if COMMAND_VARIABLE in os.environ:
        return json.loads(os.environ[COMMAND_VARIABLE])
    program, *words = sys.argv
    parts = {"-m", "--mode", "-r", "--reuse"}
    if Path(program).name != "opencompass" or parts & set(words):
        return []
    return ["opencompass", *words]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
