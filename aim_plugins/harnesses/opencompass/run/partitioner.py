"""Cuts an OpenCompass run into tasks that load each model once for all its strengths.

OpenCompass makes a task of every model entry for inference and of every pair of entry and data set
for evaluation: 32 strengths of a model on 58 data sets are 32 loads and 1,856 processes. Here they
are one task each, or as many as there are GPUs, for what is not finished yet.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from mmengine.config import Config, ConfigDict
from opencompass.partitioners.base import BasePartitioner
from opencompass.registry import PARTITIONERS
from opencompass.utils import dataset_abbr_from_cfg

from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.config.check import (
    check_config,
    check_gpus,
    check_processes,
    runs_locally,
    visible_gpus,
)
from aim_plugins.harnesses.opencompass.config.entries import (
    SweepGroup,
    disjoint_combinations,
    sweep_groups,
)
from aim_plugins.harnesses.opencompass.results.unnoted import has_verified_result


@dataclass(frozen=True)
class _Work:
    """What is left to do of a group."""

    name: str
    entries: list[ConfigDict]
    datasets: list[ConfigDict]
    cells: int


class _SweepPartitioner(BasePartitioner):
    """One task, or several slices of one, for each model with unfinished cells."""

    runs_locally = True

    def __call__(self, cfg: ConfigDict) -> list[Config]:
        """Makes the tasks of a config.

        Args:
            cfg: The config, with `work_dir`.

        Returns:
            The tasks; nothing is written or removed.

        Raises:
            ValueError: If entries collide, or the machine lacks what an entry asks for.
            FileNotFoundError: If a model folder or a data file does not exist.
        """
        check_config(cfg, runs_here=False)
        self.runs_locally = runs_locally(cfg)
        cfg = copy.deepcopy(cfg)
        tasks = self.partition(
            **self.parse_model_dataset_args(cfg),
            work_dir=cfg["work_dir"],
            out_dir=self.out_dir,
            add_cfg=_kept(cfg, self.keep_keys),
        )
        self._check_tasks(cfg, tasks)
        self.logger.info(f"Partitioned into {len(tasks)} tasks.")
        return tasks

    def partition(
        self,
        model_dataset_combinations: Sequence[Mapping[str, Any]],
        work_dir: str,
        out_dir: str,
        add_cfg: Mapping[str, Any] | None = None,
    ) -> list[Config]:
        """Makes the tasks of combinations of entries and data sets.

        Args:
            model_dataset_combinations: Dicts of `models` and `datasets`; all of these go with all
                of those.
            work_dir: The run's folder.
            out_dir: Where OpenCompass looks for finished files; they lie in `work_dir`.
            add_cfg: What else the tasks' configs hold.

        Returns:
            The tasks. To OpenCompass each looks like one entry with its data sets; the entries are
            under `sweep`, stored once.
        """
        work = []
        for combination in disjoint_combinations(model_dataset_combinations):
            for group in sweep_groups(combination["models"]):
                work += self._unfinished(group, combination["datasets"], work_dir)
        tasks: list[Config] = []
        for item in work:
            slices = self._slices(item, len(work))
            for part in range(slices):
                where = f", part {part + 1} of {slices}" if slices > 1 else ""
                self.logger.debug(
                    f"Task {len(tasks)}: {item.name}, {len(item.entries)} entries x "
                    f"{len(item.datasets)} data sets{where}, {item.cells} cells to do"
                )
                sweep = {"models": item.entries, **self._sweep_options(part, slices)}
                task = {
                    "models": item.entries[:1],
                    "datasets": [item.datasets],
                    "work_dir": work_dir,
                    "sweep": sweep,
                    **(add_cfg or {}),
                }
                # Formatting a task of this size as beautiful Python takes minutes.
                tasks.append(Config(task, format_python_code=False))
        return tasks

    def _unfinished(
        self, group: SweepGroup, datasets: Sequence[ConfigDict], work_dir: str
    ) -> list[_Work]:
        """The entries and data sets of a group with a cell that is missing or stale, if any."""
        table = Cell.table(work_dir, group.entries, datasets)
        missing = [[not self._is_done(cell) for cell in row] for row in table]
        entries = [entry for entry, row in zip(group.entries, missing, strict=True) if any(row)]
        columns = zip(*missing, strict=True)
        kept = [dataset for dataset, column in zip(datasets, columns, strict=True) if any(column)]
        return [_Work(group.name, entries, kept, sum(map(sum, missing)))] if entries else []

    def _check_tasks(self, cfg: ConfigDict, tasks: Sequence[Config]) -> None:
        """Refuses tasks that cannot run; scoring can anywhere."""

    def _is_done(self, cell: Cell) -> bool:
        raise NotImplementedError

    def _slices(self, work: _Work, groups: int) -> int:
        return 1

    def _sweep_options(self, part: int, slices: int) -> dict[str, Any]:
        return {}


@PARTITIONERS.register_module()
class SweepInferPartitioner(_SweepPartitioner):
    """Makes one inference task for each model, or a slice of its data for each GPU.

    Args:
        out_dir: Where OpenCompass writes predictions.
        num_worker: Tasks that can run at once, shared over the models. By default as many as the
            GPUs seen here allow; tasks of a scheduler such as Slurm find GPUs elsewhere, so that
            the default is one for each model there.
        keep_keys: Keys of the config that the tasks' configs keep.

    Raises:
        ValueError: If `num_worker` is not a whole number of at least 1.
    """

    def __init__(
        self, out_dir: str, num_worker: int | None = None, keep_keys: list[str] | None = None
    ) -> None:
        super().__init__(out_dir=out_dir, keep_keys=keep_keys)
        if num_worker is not None and (not isinstance(num_worker, int) or num_worker < 1):
            raise ValueError(
                f"num_worker={num_worker!r} must be a whole number of at least 1: give the number "
                "of tasks that can run at once, or leave it out"
            )
        self.num_worker = num_worker

    def _check_tasks(self, cfg: ConfigDict, tasks: Sequence[Config]) -> None:
        # A finished run may be looked at on a machine without GPUs.
        entries = [entry for task in tasks for entry in task["models"]]
        check_processes(entries)
        check_gpus(cfg, entries)

    def _is_done(self, cell: Cell) -> bool:
        return cell.has_prediction()

    def _slices(self, work: _Work, groups: int) -> int:
        slices = max(1, math.ceil(self._workers(work.entries[0]) / groups))
        abbrs = [dataset_abbr_from_cfg(dataset) for dataset in work.datasets]
        clash = _slice_named_as_data_set(abbrs, slices)
        if slices > 1 and clash is not None:
            self.logger.warning(
                f"{work.name} runs as one task: the data set abbr={clash!r} has the name of a "
                "slice of another one; rename it so that it does not end in _ and a number"
            )
            return 1
        return slices

    def _workers(self, entry: ConfigDict) -> int:
        if self.num_worker is not None:
            return self.num_worker
        num_gpus = (entry.get("run_cfg") or {}).get("num_gpus") or 0
        if not num_gpus or not self.runs_locally:
            return 1
        return visible_gpus() // num_gpus

    def _sweep_options(self, part: int, slices: int) -> dict[str, Any]:
        return {"slice": [part, slices]}


@PARTITIONERS.register_module()
class SweepEvalPartitioner(_SweepPartitioner):
    """Makes one evaluation task for each model.

    OpenCompass partitions the evaluation before it runs the inference, so predictions may be
    missing still.

    Args:
        out_dir: Where OpenCompass writes results.
        keep_keys: Keys of the config that the tasks' configs keep.
    """

    def __init__(self, out_dir: str, keep_keys: list[str] | None = None) -> None:
        super().__init__(out_dir=out_dir, keep_keys=keep_keys)

    def _is_done(self, cell: Cell) -> bool:
        return has_verified_result(cell)


def _kept(cfg: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The values under dotted keys, nested as they were."""
    kept: dict[str, Any] = {}
    for key in keys:
        *path, last = key.split(".")
        try:
            value = reduce(lambda inner, step: inner[step], [*path, last], cfg)
        except (KeyError, TypeError):
            continue
        inner = kept
        for step in path:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return kept


def _slice_named_as_data_set(abbrs: Iterable[str], slices: int) -> str | None:
    """A data set whose file would be overwritten by a slice of another one."""
    names = set(abbrs)
    taken = (f"{name}_{part}" for name in sorted(names) for part in range(slices))
    return next((name for name in taken if name in names), None)
