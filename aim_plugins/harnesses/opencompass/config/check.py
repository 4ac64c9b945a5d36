"""What OpenCompass does not check in a configuration before it starts the tasks.

It finds most mistakes inside a task, whose log nobody sees.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from mmengine.device import is_npu_available
from opencompass.utils import dataset_abbr_from_cfg, get_logger

from aim_plugins.harnesses.opencompass.config.content import data_places
from aim_plugins.harnesses.opencompass.config.entries import (
    answers_columns,
    canonical,
    entry_abbr,
    sweep_groups,
)
from aim_plugins.harnesses.opencompass.config.templates import check_custom_fields

_MODEL_FOLDERS = ("path", "tokenizer_path", "peft_path")
_CUSTOM_DATASETS = {"CustomDataset", "CircularCustomDataset", "CodeCustomDataset"}


def check_config(cfg: Mapping[str, Any], *, runs_here: bool = True) -> None:
    """Refuses a configuration whose tasks would fail or overwrite each other.

    Args:
        cfg: The configuration, as OpenCompass hands it to a partitioner.
        runs_here: Whether the tasks run on this machine, and not by a scheduler that the command
            line names or not at all.

    Raises:
        ValueError: If an entry's modulation is invalid, two entries share an abbr or a strength,
            two data sets share an abbr, a model is asked for several answers, or needs more GPUs
            than the tasks will see, or a prompt template has a field that its data lack.
        FileNotFoundError: If a local model folder, a file that a modulation names, or the file of a
            custom data set does not exist.
    """
    models = cfg.get("models") or []
    sweep_groups(models)
    for model in models:
        _check_model_folders(model)
        _check_answers(model)
    _check_dataset_abbrs(cfg)
    check_data_files(cfg)
    if runs_here:
        check_gpus(cfg, models)


def check_gpus(cfg: Mapping[str, Any], models: Iterable[Mapping[str, Any]]) -> None:
    """Refuses entries that need more GPUs than the tasks will see, if they run on this machine.

    Args:
        cfg: The configuration.
        models: The entries that are left to run.

    Raises:
        ValueError: If there are too few; a dry run, which needs none, is only warned.
    """
    message = next(_missing_gpus(models), None) if runs_locally(cfg) else None
    if message is None:
        return
    # OpenCompass shows partitioners only that it debugs in a dry run.
    if ((cfg.get("infer") or {}).get("runner") or {}).get("debug"):
        get_logger().warning(message)
    else:
        raise ValueError(message)


def check_processes(models: Iterable[Mapping[str, Any]]) -> None:
    """Refuses entries that ask for several processes, which a sweep's inference does not start.

    Raises:
        ValueError: With what to write instead.
    """
    for model in models:
        number = (model.get("run_cfg") or {}).get("num_procs") or 1
        if number > 1:
            raise ValueError(
                f"models: {entry_abbr(model)} has run_cfg=dict(num_procs={number}), and a sweep's "
                "tasks are one process each: write num_procs=1; for several GPUs set num_gpus and "
                "model_kwargs=dict(device_map='auto'), or leave num_gpus=1 and the data is split "
                "over the GPUs"
            )


def check_data_files(cfg: Mapping[str, Any]) -> None:
    """Refuses a custom data set whose file does not exist or does not fit its prompt template.

    Raises:
        FileNotFoundError: With the places that were looked at.
        ValueError: With the field that the data lack.
    """
    for data_set in _data_sets(cfg):
        # An entry without a type is a custom data set that OpenCompass has not filled in yet.
        if "type" in data_set and type_name(data_set["type"]) not in _CUSTOM_DATASETS:
            continue
        path = data_set.get("path")
        if not isinstance(path, str) or os.environ.get("DATASET_SOURCE") in ("ModelScope", "HF"):
            continue
        places = [place / (data_set.get("file_name") or "") for place in data_places(path)]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            tried = ", ".join(map(str, dict.fromkeys(places)))
            raise FileNotFoundError(
                f"datasets: {data_set.get('abbr', 'a custom data set')} has path={path!r}, and "
                f"there is no such file (looked at {tried}): mend the path, or start from the "
                "folder it is relative to"
            )
        check_custom_fields(data_set, found)


def type_name(kind: Any) -> str:
    """The bare name of a class that a configuration holds as itself or as dotted text."""
    return str(getattr(kind, "__name__", None) or kind).rpartition(".")[2]


def runs_locally(cfg: Mapping[str, Any]) -> bool:
    """Whether the inference tasks are started on this machine."""
    runner = (cfg.get("infer") or {}).get("runner") or {}
    return type_name(runner.get("type", "LocalRunner")) == "LocalRunner"


def visible_gpus() -> int:
    """How many GPUs OpenCompass's LocalRunner hands out."""
    chosen = os.environ.get(_visibility())
    if chosen is not None:
        return len(re.findall(r"(?<!-)\d+", chosen))
    import torch

    return getattr(torch, "npu" if is_npu_available() else "cuda").device_count()


def _visibility() -> str:
    """The environment variable that hides GPUs, or the NPUs that stand in their place."""
    return "ASCEND_RT_VISIBLE_DEVICES" if is_npu_available() else "CUDA_VISIBLE_DEVICES"


def _data_sets(cfg: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The data sets of a config, those of its combinations too."""
    combined = [pair["datasets"] for pair in cfg.get("model_dataset_combinations") or []]
    return chain(cfg.get("datasets") or [], *combined)


def _check_dataset_abbrs(cfg: Mapping[str, Any]) -> None:
    known: dict[str, Mapping[str, Any]] = {}
    for data_set in _data_sets(cfg):
        # A custom data set may have no abbr until OpenCompass fills it in.
        if "abbr" not in data_set and not {"type", "path"} <= set(data_set):
            continue
        abbr = dataset_abbr_from_cfg(data_set)
        first = known.setdefault(abbr, data_set)
        if first is not data_set and canonical(first) != canonical(data_set):
            raise ValueError(
                f"abbr={abbr!r} names two different data sets, which would overwrite each other's "
                "results: give each an abbr of its own"
            )


def _check_answers(model: Mapping[str, Any]) -> None:
    number = (model.get("generation_kwargs") or {}).get("num_return_sequences") or 1
    if number > 1 and answers_columns(model):
        raise ValueError(
            f"models: {entry_abbr(model)} has generation_kwargs=dict(num_return_sequences="
            f"{number}), and a column of a sweep is one answer: give each seed an entry, or set n "
            "in the data set"
        )


def _check_model_folders(model: Mapping[str, Any]) -> None:
    for option in _MODEL_FOLDERS:
        path = model.get(option)
        if not isinstance(path, str) or os.path.isdir(path) or not _names_a_folder(path):
            continue
        mend = "mend the path, or start from the folder it is relative to"
        whole = os.path.expanduser(path)
        if os.path.isfile(path):
            mend = f"it is a file, so write its folder {os.path.dirname(path)!r}"
        elif whole != path and os.path.isdir(whole):
            mend = f"OpenCompass does not expand '~', so write {whole!r}"
        raise FileNotFoundError(
            f"models: {model.get('abbr', 'an entry')} has {option}={path!r}, which is no folder: "
            f"{mend}"
        )


def _names_a_folder(path: str) -> bool:
    """Tells a local folder from a name on a model hub ("organisation/model")."""
    if os.path.isabs(path) or path.startswith((".", "~")):
        return True
    return os.path.exists(path.partition("/")[0])


def _missing_gpus(models: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    wanted = [(model, (model.get("run_cfg") or {}).get("num_gpus") or 0) for model in models]
    if not any(number for _, number in wanted):
        return
    visible = visible_gpus()
    for model, number in wanted:
        if number > visible:
            yield (
                f"models: {model.get('abbr', 'an entry')} has run_cfg=dict(num_gpus={number}), and "
                f"{visible} GPUs are visible: write run_cfg=dict(num_gpus={visible})"
                + (" to run on the CPU" if not visible else "")
                + f", or make more visible with {_visibility()}"
            )
