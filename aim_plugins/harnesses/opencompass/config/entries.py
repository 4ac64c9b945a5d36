"""The model entries of an OpenCompass config, read as the columns of sweeps.

A config names every strength as a model entry of its own, because OpenCompass files everything
under an entry's `abbr`. Entries that differ in nothing but `abbr` and their modulation are one
sweep: they share one load of the model, and one transport or whatever else was learned on it.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import math
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmengine.config import ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from opencompass.utils import dataset_abbr_from_cfg, model_abbr_from_cfg

from aim_plugins.core.files import safe_name
from aim_plugins.harnesses.opencompass.config.modulations import (
    SplitSettings,
    describe,
    items,
    split_modulation,
)
from aim_plugins.modulation.columns import Column

LABEL_KEYS = ("abbr", "summarizer_abbr")
"""Settings that only name an entry."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class SweepGroup:
    """Model entries that one loaded model answers.

    Attributes:
        name: Short name for logs and files; no other group of the config has it.
        entries: The entries, in the order of the config.
        columns: The modulation of each entry.
    """

    name: str
    entries: tuple[ConfigDict, ...]
    columns: tuple[Column, ...]


def split_entry(entry: Mapping[str, Any]) -> SplitSettings:
    """Reads the modulation of a model entry, as `split_modulation` does, by the entry's class.

    Other people's classes may mean something else by our arguments: where these are no modulation,
    they are the class's own.
    """
    try:
        return split_modulation(entry, getattr(_target_of(entry), "required", ()))
    except (ValueError, FileNotFoundError):
        if "type" not in dict(items(entry)) or answers_columns(entry):
            raise
        return SplitSettings(Column(), {}, copy.deepcopy(dict(items(entry))))


def shared_settings(split: SplitSettings) -> str:
    """What all entries of a sweep have in common, as JSON: the load, and what was learned on it."""
    learned = [
        [one.name, one.fingerprint, one.force] for one in split.column.changes if one.fingerprint
    ]
    return json.dumps([canonical(unlabelled(split.rest)), learned], sort_keys=True)


def sweep_groups(models: Sequence[Mapping[str, Any]]) -> list[SweepGroup]:
    """Sorts model entries into groups that differ in nothing but `abbr` and their modulation.

    Entries with different transports are different groups, and an entry that takes no modulation is
    one of its own: two of one model may be two samples.

    Args:
        models: The `models` of a config.

    Returns:
        The groups, in the order of their first entries.

    Raises:
        ValueError: If two entries share an `abbr` (OpenCompass would take the results of one for
            those of the other), are the same modulation of the same model, or are invalid.
        FileNotFoundError: If an entry names files that are not there.
    """
    members: dict[tuple[str, str], dict[Column, ConfigDict]] = {}
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
        try:
            split = split_entry(entry)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"model entry abbr={abbr!r}: {error}") from error
        column, alone = split.column, not (split.given or answers_columns(entry))
        group = members.setdefault((shared_settings(split), abbr if alone else ""), {})
        if column in group:
            raise ValueError(
                f"the model entries abbr={entry_abbr(group[column])!r} and abbr={abbr!r} are the "
                f"same model with the same {describe(column)}: remove one, or change its strength"
            )
        group[column] = entry
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
    return hasattr(_target_of(entry), "table")


def entry_abbr(entry: Mapping[str, Any]) -> str:
    """The name under which OpenCompass files the results of a model entry.

    Raises:
        ValueError: If `abbr` is not text.
    """
    settings = dict(items(entry))
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
            for key, item in items(value)
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


def unlabelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an entry without its names and without an empty `generation_kwargs`."""
    kept = {key: value for key, value in items(settings) if key not in LABEL_KEYS}
    if not kept.get("generation_kwargs", True):
        # Taking the modulation out leaves an empty dict where a plain entry may have none.
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


def _target_of(entry: Mapping[str, Any]) -> Any:
    kind = dict(items(entry)).get("type", "")
    return _target(kind if isinstance(kind, str) else _plain_object(kind))


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
