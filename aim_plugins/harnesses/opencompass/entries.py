"""The model entries of an OpenCompass config, read as the columns of sweeps.

A config names every strength as a model entry of its own, because OpenCompass files everything
under an entry's `abbr`. Entries that differ in nothing but `abbr` and noise are one sweep: they
share one load of the model.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import json
import math
import numbers
import os
import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmengine.config import ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from opencompass.utils import dataset_abbr_from_cfg, model_abbr_from_cfg

from aim_plugins.engines.engine import Modulation, modulation_columns
from aim_plugins.sweep.files import safe_name

NOISE_KEYS = ("noise_std", "noise_mean", "noise_seed")
LABEL_KEYS = ("abbr", "summarizer_abbr")
"""Settings that only name an entry."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class SweepGroup:
    """Model entries that one loaded model answers.

    Attributes:
        name: Short name for logs and files; no other group of the config has it.
        entries: The entries, in the order of the config.
        columns: The noise of each entry.
    """

    name: str
    entries: tuple[ConfigDict, ...]
    columns: tuple[Modulation, ...]


def split_noise(settings: Mapping[str, Any]) -> tuple[Modulation, dict[str, Any]]:
    """Reads the noise of a model entry.

    Args:
        settings: A model entry, or the keyword arguments of a model. `noise_std`, `noise_mean` and
            `noise_seed` stand in its `generation_kwargs` or beside them; without a `noise_std` the
            model is left as it is.

    Returns:
        The noise, and a deep copy of the settings without it.

    Raises:
        ValueError: If the two places disagree, a key that begins with `noise` is unknown, or the
            noise is not exactly one strength, one mean and one seed.
    """
    rest = {key: copy.deepcopy(value) for key, value in _items(settings)}
    given = _take_noise(rest)
    inner = rest.get("generation_kwargs")
    if inner is not None:
        if not isinstance(inner, dict):
            raise ValueError(
                f"generation_kwargs={inner!r} is no dict: write dict(noise_std=0.5, ...)"
            )
        for key, value in _take_noise(inner).items():
            if key in given and given[key] != value:
                raise ValueError(
                    f"{key}={given[key]!r} beside generation_kwargs disagrees with "
                    f"{key}={value!r} in it: give it in one place"
                )
            given[key] = value
    return _noise(given), rest


def sweep_groups(models: Sequence[Mapping[str, Any]]) -> list[SweepGroup]:
    """Sorts model entries into groups that differ in nothing but `abbr` and noise.

    An entry that takes no noise is a group of its own: two of one model may be two samples.

    Args:
        models: The `models` of a config.

    Returns:
        The groups, in the order of their first entries.

    Raises:
        ValueError: If two entries share an `abbr` (OpenCompass would take the results of one for
            those of the other) or are the same modulation of the same model.
    """
    members: dict[tuple[str, str], dict[Modulation, ConfigDict]] = {}
    abbrs: set[str] = set()
    for model in models:
        entry = model if isinstance(model, ConfigDict) else ConfigDict(model)
        abbr = entry_abbr(entry)
        if abbr in abbrs:
            raise ValueError(
                f"abbr={abbr!r} names two model entries, which would overwrite each other's "
                "results: write the strength and the seed into abbr, rounded as in "
                "abbr=f'llama-3-8b-std{round(std, 3)}'"
            )
        abbrs.add(abbr)
        noise, key = _read_entry(entry, abbr)
        group = members.setdefault((key, "" if _takes_noise(entry) else abbr), {})
        if noise in group:
            raise ValueError(
                f"the model entries abbr={entry_abbr(group[noise])!r} and abbr={abbr!r} are the "
                f"same model with the same noise (noise_std={noise.std!r}, "
                f"noise_mean={noise.mean!r}, noise_seed={noise.seed!r}): remove one, or change its "
                "noise"
            )
        group[noise] = entry
    names: list[str] = []
    for group in members.values():
        names.append(_unique(_group_name(list(group.values())), names))
    return [
        SweepGroup(name, tuple(group.values()), tuple(group))
        for name, group in zip(names, members.values(), strict=True)
    ]


def combinations(cfg: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Which model entries of a config go with which data sets; all with all unless it says so."""
    yield from disjoint_combinations(
        cfg.get("model_dataset_combinations")
        or [{"models": cfg["models"], "datasets": cfg["datasets"]}]
    )


def disjoint_combinations(given: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Combines each entry once, with all its data sets, and entries of the same data sets together.

    OpenCompass may make a combination of every entry, and a config may name a pair twice.

    Args:
        given: Dicts of `models` and `datasets`; all of these go with all of those.
    """
    models: dict[str, Any] = {}
    datasets: dict[str, Any] = {}
    wanted: dict[str, set[str]] = {}
    for combination in given:
        own = {dataset_abbr_from_cfg(dataset): dataset for dataset in combination["datasets"]}
        datasets = own | datasets
        for model in combination["models"]:
            abbr = entry_abbr(model)
            models.setdefault(abbr, model)
            wanted.setdefault(abbr, set()).update(own)
    merged: dict[frozenset[str], list[Any]] = {}
    for abbr, names in wanted.items():
        merged.setdefault(frozenset(names), []).append(models[abbr])
    return [
        {
            "models": members,
            "datasets": [dataset for name, dataset in datasets.items() if name in names],
        }
        for names, members in merged.items()
    ]


def answers_columns(entry: Mapping[str, Any]) -> bool:
    """Whether the class of an entry answers under many modulations from one load, as ours do."""
    kind = dict(_items(entry)).get("type", "")
    text = kind if isinstance(kind, str) else _plain_object(kind)
    return hasattr(_target(text), "table")


def entry_abbr(entry: Mapping[str, Any]) -> str:
    """The name under which OpenCompass files the results of a model entry.

    Raises:
        ValueError: If `abbr` is not text.
    """
    settings = dict(_items(entry))
    if "abbr" not in settings and isinstance(settings.get("path"), str):
        # OpenCompass makes a name of the type and the path, once the type has been dumped as text.
        kind = settings.get("type", "")
        settings["type"] = kind if isinstance(kind, str) else _plain_object(kind)
        return model_abbr_from_cfg(settings)
    abbr = settings.get("abbr")
    if not isinstance(abbr, str) or not abbr:
        raise ValueError(f"abbr={abbr!r} of a model entry is not a name: write text")
    return abbr


def canonical(value: Any) -> Any:
    """Turns a config into plain JSON data that survives OpenCompass's dumping and reloading.

    A class, a lazily imported object and the dotted text that OpenCompass dumps them as become the
    same text.

    Args:
        value: A part of a config.
    """
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else f"({key!r})": canonical(_plain_type(key, item))
            for key, item in _items(value)
        }
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((canonical(item) for item in value), key=json.dumps)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else repr(float(value))
    return _plain_object(value)


def _items(settings: Mapping[str, Any]) -> ItemsView[str, Any]:
    # mmengine imports a lazy object as soon as it is read in any other way.
    return dict.items(settings) if isinstance(settings, dict) else settings.items()


def _take_noise(settings: dict[str, Any]) -> dict[str, Any]:
    keys = [key for key in settings if isinstance(key, str) and key.startswith("noise")]
    for key in keys:
        if key not in NOISE_KEYS:
            near = difflib.get_close_matches(key, NOISE_KEYS, n=1, cutoff=0.0)
            raise ValueError(
                f"{key}={settings[key]!r} is unknown; did you mean {near[0]}? A model entry takes "
                f"{', '.join(NOISE_KEYS)}; strengths and draws (seeds) are entries of their own"
            )
    return {key: settings.pop(key) for key in keys}


def _noise(given: Mapping[str, Any]) -> Modulation:
    std, mean, seed = (given.get(key, 0) for key in NOISE_KEYS)
    if not isinstance(mean, numbers.Real) or isinstance(mean, bool):
        raise ValueError(f"noise_mean={mean!r} is not a number: give one such as 0.0")
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise ValueError(f"noise_seed={seed!r} is not a whole number: give one such as 0")
    columns = modulation_columns(std, float(mean), int(seed))
    if len(columns) != 1:
        raise ValueError(
            f"noise_std={std!r} holds {len(columns)} strengths, and one entry has one strength: "
            "write an entry for each, as in [dict(..., noise_std=std) for std in (0.0, 0.5)]"
        )
    return columns[0]


def _read_entry(entry: ConfigDict, abbr: str) -> tuple[Modulation, str]:
    try:
        noise, rest = split_noise(entry)
    except ValueError as error:
        raise ValueError(f"model entry abbr={abbr!r}: {error}") from error
    return noise, json.dumps(canonical(unlabelled(rest)), sort_keys=True)


def _takes_noise(entry: Mapping[str, Any]) -> bool:
    settings = dict(_items(entry))
    inner = settings.get("generation_kwargs") or {}
    return any(key in settings or key in inner for key in NOISE_KEYS) or answers_columns(entry)


def unlabelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an entry without its names and without an empty `generation_kwargs`."""
    kept = {key: value for key, value in _items(settings) if key not in LABEL_KEYS}
    if not kept.get("generation_kwargs", True):
        # Taking the noise out leaves an empty dict where an unmodulated entry may have none.
        del kept["generation_kwargs"]
    return kept


def _group_name(entries: Sequence[ConfigDict]) -> str:
    abbrs = [entry_abbr(entry) for entry in entries]
    name = abbrs[0]
    if len(abbrs) > 1:
        # Without the cut, 0.1 and 0.2 would leave their common "0." on the name.
        prefix = os.path.commonprefix(abbrs)
        cut = max(prefix.rfind(separator) for separator in "-_=/ ")
        name = prefix[: max(cut, 0)].rstrip("-_=/ ")
    return safe_name(name or os.path.basename(str(entries[0].get("path", "")).rstrip("/\\")))


def _unique(name: str, taken: Sequence[str]) -> str:
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}-{count}"
    return unique


def _plain_type(key: object, value: Any) -> Any:
    if key != "type":
        return value
    text = value if isinstance(value, str) else _plain_object(value)
    target = _target(text)
    # A class or function may be imported from several places; the defining one counts.
    return _plain_object(target) if inspect.isclass(target) or inspect.isroutine(target) else text


def _plain_object(value: Any) -> str:
    if isinstance(value, LazyObject | LazyAttr):
        return f"{value.module}.{value}"
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


@cache
def _target(text: str) -> Any:
    """What a dotted text names, or None: registries of short names differ between processes."""
    if not _DOTTED.fullmatch(text):
        return None
    module, _, name = text.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception:  # whatever importing raises, OpenCompass reports it when it builds the type
        return None
