"""`aim-plugins transport fit`: learns a transport from two files of sentences.

aim-plugins transport fit --pretrained M --source a.jsonl --target b.jsonl \\
    --modules '.*layernorm' --method linear --incremental causal -o DIR
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from aim_plugins.engines.loading import load_engine
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.settings.conditions import ConditionSettings
from aim_plugins.steering.settings.transports import FitSettings
from aim_plugins.transport.data.datasets import load_sides, read_sentences
from aim_plugins.transport.data.text_files import choose
from aim_plugins.transport.fit import fit_transport
from aim_plugins.transport.learning import FittedSite, fit_report
from aim_plugins.transport.plan import plan_fit

SideSettings = FitSettings | CalibrationSettings | ConditionSettings
"""Settings of commands that learn from two sides."""

_SPLIT_BY_SEED = {"truthfulqa"}
"""Data sets whose `seed` also decides which part is held out for the evaluation."""


def fit(settings: FitSettings, command: Sequence[str]) -> None:
    """Learns a transport.

    Raises:
        ValueError: If a file or the model is not usable, or the output folder is not empty.
        FileNotFoundError: If a file is missing.
    """
    source, target = read_sides(settings)
    names = ("method", "pooling", "support", "positions", "incremental", "strength")
    how: dict[str, Any] = {
        name: getattr(settings, name) for name in (*names, "batch_size", "max_length")
    }
    how["options"] = settings.method_options
    plan_fit(source, target, **how)  # before a large model is loaded
    engine = load_engine(settings.pretrained, **settings.loading)
    sites: list[FittedSite] = []
    started = time.perf_counter()
    transport = fit_transport(
        engine.model,
        engine.tokenizer,
        source,
        target,
        modules=settings.modules,
        seed=seed_of(settings),
        on_site=sites.append,
        **how,
    )
    seconds = time.perf_counter() - started
    transport.save(settings.output)
    print(fit_report(transport.metadata, sites, seconds, settings.output))


def read_sides(settings: SideSettings) -> tuple[list[str], list[str]]:
    """The sentences of both sides, from files or as a config says.

    Raises:
        ValueError: If a file is malformed.
        FileNotFoundError: If a file is missing.
    """
    if settings.source is not None and settings.target is not None:
        sides = read_sentences(settings.source), read_sentences(settings.target)
    else:
        sides = _configured_sides(settings)
    if settings.limit is None:
        return sides
    source, target = (
        choose(one, min(settings.limit, len(one)), seed_of(settings), name)
        for one, name in zip(sides, ("source", "target"), strict=True)
    )
    return list(source), list(target)


def _configured_sides(settings: SideSettings) -> tuple[list[str], list[str]]:
    """The sentences that a config's section `data` describes, drawn with --seed if it is given."""
    data = dict(settings.data)
    for name in ("name", "root"):
        if name not in data:
            raise ValueError(f"the config's section 'data' has no {name!r}: add it")
    if settings.seed is None or data["name"] not in _SPLIT_BY_SEED:
        loaded = load_sides(**data if settings.seed is None else data | {"seed": settings.seed})
        return list(loaded.source), list(loaded.target)
    # Tasks ask the questions that the data's own seed holds out: another draw must not move them.
    counts = data.pop("n_source", None), data.pop("n_target", None)
    loaded = load_sides(**data)
    places = f"{data['root']}: source", f"{data['root']}: target"
    source, target = (
        choose(side, count, settings.seed, place)
        for side, count, place in zip((loaded.source, loaded.target), counts, places, strict=True)
    )
    return list(source), list(target)


def seed_of(settings: SideSettings) -> int:
    """The seed of whatever was drawn."""
    if settings.seed is not None:
        return settings.seed
    return int(settings.data.get("seed", 0)) if settings.source is None else 0
