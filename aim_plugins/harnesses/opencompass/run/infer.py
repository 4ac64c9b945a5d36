"""OpenCompass inference of a whole sweep: one model load, every data set, all strengths.

For each data set the inferencer runs once to state its prompts, the engine answers them under all
columns, and the inferencer runs again for each entry, which writes its standard predictions file.
"""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import ConfigDict
from opencompass.registry import TASKS
from opencompass.tasks import OpenICLInferTask
from opencompass.utils import (
    build_dataset_from_cfg,
    build_model_from_cfg,
    dataset_abbr_from_cfg,
    get_infer_output_path,
    model_abbr_from_cfg,
)

from aim_plugins.core.files import safe_name
from aim_plugins.core.identity import fingerprint
from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.config.check import type_name
from aim_plugins.harnesses.opencompass.config.entries import (
    shared_settings,
    split_entry,
    sweep_groups,
)
from aim_plugins.harnesses.opencompass.config.templates import check_fields
from aim_plugins.harnesses.opencompass.run.expected import (
    add_probabilities,
    choice_logits,
    label_keys,
)
from aim_plugins.harnesses.opencompass.run.launch import task_command
from aim_plugins.harnesses.opencompass.run.receipts import add_receipts
from aim_plugins.harnesses.opencompass.run.replay import AnswerTable
from aim_plugins.sweep.records import BatchRecords

_SMALLEST_SLICE = 16
"""Documents; a data set is not cut into smaller slices."""

_FORESEEABLE = frozenset({"GenInferencer", "PPLInferencer", "LLInferencer", "PPLOnlyInferencer"})
"""Inferencers whose prompts do not depend on the model's answers."""

_LOCAL_RETRIEVERS = frozenset({"ZeroRetriever", "FixKRetriever"})
"""Retrievers that choose the examples of a document without regard to the other documents."""


class _Work(NamedTuple):
    """What a task has to do of a data set.

    Attributes:
        cells: The cells of all entries.
        pending: Which of them are missing.
        part: Index of the task's slice of the data.
        parts: Number of slices.
        records: Where finished batches are kept.
    """

    cells: Sequence[Cell]
    pending: list[int]
    part: int
    parts: int
    records: BatchRecords


@TASKS.register_module()
class SweepOpenICLInferTask(OpenICLInferTask):
    """Runs the entries of one model on its data sets, or on one slice of each.

    Args:
        cfg: The task, as `SweepInferPartitioner` makes it.
    """

    name_prefix = "SweepOpenICLInfer"
    work_dir: str

    def __init__(self, cfg: ConfigDict) -> None:
        super().__init__(cfg)
        self._base: Any = None
        (self.group,) = sweep_groups(cfg["sweep"]["models"])
        self.slice, self.slices = cfg["sweep"].get("slice", (0, 1))

    @property
    def name(self) -> str:
        """Names the task in logs; the stock name would spell out every entry and data set."""
        part = f", part {self.slice + 1} of {self.slices}" if self.slices > 1 else ""
        return f"{self.name_prefix}[{self.group.name} x{len(self.group.entries)}{part}]"

    def get_log_path(self, file_extension: str = "json") -> str:
        """Path of the task's log: that of its first entry and data set."""
        path = Path(super().get_log_path(file_extension))
        return str(path.with_stem(f"{path.stem}_{self.slice}") if self.slices > 1 else path)

    def get_output_paths(self, file_extension: str = "json") -> list[str]:
        """The files by which runners tell whether the task succeeded.

        A part of the data sets answers with its exit status alone: the last part writes the files.
        """
        folder = os.path.join(self.work_dir, self.output_subdir)
        return [
            get_infer_output_path(entry, dataset_cfg, folder, file_extension)
            for entry in self.group.entries
            for dataset_cfg in self.dataset_cfgs[0]
            if self.slices == 1
        ]

    def get_command(self, cfg_path: str, template: str) -> str:
        """The command that runs the task; a model on several GPUs is spread by `device_map`."""
        return task_command("infer", cfg_path, template)

    def run(self, cur_model: Any = None, cur_model_abbr: str | None = None) -> None:
        """Computes every cell that is missing or stale.

        Args:
            cur_model: A model that an earlier task has loaded (`--debug`).
            cur_model_abbr: The entry that model was built from.

        Raises:
            RuntimeError: If data sets failed; the others are finished first.
        """
        first = self.group.entries[0]
        loaded = cur_model is not None and cur_model_abbr == model_abbr_from_cfg(first)
        self._base = cur_model if loaded else None
        failed: list[str] = []
        cells = Cell.table(self.work_dir, self.group.entries, self.dataset_cfgs[0])
        for index, dataset_cfg in enumerate(self.dataset_cfgs[0]):
            column = [row[index] for row in cells]
            if all(cell.has_prediction() for cell in column):
                continue
            abbr, work, start = dataset_abbr_from_cfg(dataset_cfg), None, time.time()
            with self._going_on(abbr, failed):
                work = self._read(column, index)
            if work is None:
                continue
            if work.pending:
                self._load()  # without a model no data set can go on
            with self._going_on(abbr, failed):
                self._infer_dataset(work)
                done = f"{len(work.pending)} entries in {time.time() - start:.1f} s"
                self.logger.info(f"{abbr}: {done}")
        self.model, self.model_cfg = self._base, first  # for the next task of --debug
        if failed:
            raise RuntimeError(f"inference failed for {', '.join(failed)}")

    @contextmanager
    def _going_on(self, abbr: str, failed: list[str]) -> Iterator[None]:
        """Notes the failure of a data set, on which the others do not depend."""
        try:
            yield
        except Exception:
            self.logger.exception(f"{abbr} failed")
            failed.append(abbr)

    def _read(self, cells: Sequence[Cell], index: int) -> _Work | None:
        """Reads this task's part of a data set and checks its prompts; None if it has no part."""
        pending = [place for place, cell in enumerate(cells) if not cell.has_prediction()]
        part, parts, own_cfg = self._own_part(index)
        if parts == 0:
            return None
        if parts > 1:
            pending = [place for place in pending if not cells[place].has_slice(part, parts)]
        if pending:
            self.dataset_cfg = own_cfg
            self.dataset = build_dataset_from_cfg(own_cfg)
            columns = (*self.dataset.test.column_names, *self.dataset.train.column_names)
            check_fields(own_cfg, dict.fromkeys(columns))
        return _Work(cells, pending, part, parts, self._records(own_cfg))

    def _infer_dataset(self, work: _Work) -> None:
        """Computes the missing cells of the data set that was read, one for each entry."""
        cells, pending, part, parts, records = work
        if pending:
            self._begin([cells[place] for place in pending], part, parts)
            self._infer_cells(pending, records)
        if not self.dump_only_message_path:  # which asks for prompts instead of predictions
            for place, cell in enumerate(cells):
                if parts > 1:
                    if place in pending:
                        cell.note_slice(part, parts)
                    cell.merge_slices(parts)
                elif place in pending:
                    cell.note_prediction()
        records.clear()

    def _begin(self, cells: Sequence[Cell], part: int, parts: int) -> None:
        """Removes what is stale or half finished, and notes what is about to be computed."""
        # Our own models resume from records; a half replay would lose count of repeated prompts.
        resumable = not hasattr(self._base, "table")
        stale = 0
        for cell in cells:
            stale += cell.discard_prediction()
            if parts > 1:
                stale += cell.discard_slice(part, parts)
                cell.begin_slice(part, parts, resumable=resumable)
            else:
                cell.begin_prediction(resumable=resumable)
        if stale:
            self.logger.warning(
                f"{cells[0].prediction.stem}: {stale} predictions were of another model, "
                "modulation, data or prompt, or not finished: computed again"
            )

    def _records(self, dataset_cfg: ConfigDict) -> BatchRecords:
        """Where the engine keeps finished batches until the data set is finished."""
        model = fingerprint(shared_settings(split_entry(self.group.entries[0])))
        name = safe_name(dataset_abbr_from_cfg(dataset_cfg))
        return BatchRecords(Path(self.work_dir, "records", model[:12], name))

    def _load(self) -> None:
        """Loads the model for the first data set that needs it; a resumed task may have none."""
        if self._base is None:
            self._base = build_model_from_cfg(self.group.entries[0])
        if not hasattr(self._base, "table") and len(self.group.entries) > 1:
            raise TypeError(
                f"type={self.group.entries[0]['type']} answers under one strength only: use "
                "HuggingFaceNoiseModel or HuggingFaceAcTModel, or VLLMNoiseModel or VLLMAcTModel, "
                "of aim_plugins.harnesses.opencompass"
            )

    def _own_part(self, index: int) -> tuple[int, int, ConfigDict]:
        """This task's part of a data set: its index, the number of parts (0: none), its config."""
        dataset_cfg = self.dataset_cfgs[0][index]
        if self.slices == 1:
            return 0, 1, dataset_cfg
        if not self._is_divisible(dataset_cfg):
            return 0, int(index % self.slices == self.slice), dataset_cfg
        size = len(build_dataset_from_cfg(dataset_cfg).test)
        step = max(math.ceil(size / self.slices), _SMALLEST_SLICE)
        parts = math.ceil(size / step)
        if parts <= 1:
            return 0, int(index % self.slices == self.slice), dataset_cfg
        if self.slice >= parts:
            return 0, 0, dataset_cfg
        own_cfg = copy.deepcopy(dataset_cfg)
        own_cfg["abbr"] = f"{dataset_abbr_from_cfg(dataset_cfg)}_{self.slice}"
        reader = own_cfg["reader_cfg"]
        first = self.slice * step
        reader["test_range"] = f"{reader.get('test_range', '')}[{first}:{first + step}]"
        return self.slice, parts, own_cfg

    def _is_divisible(self, dataset_cfg: ConfigDict) -> bool:
        """Whether a part of a data set gets the answers that it has in the whole.

        Random retrievers count the documents before one, and samples count repeated prompts.
        """
        retriever = type_name(dataset_cfg["infer_cfg"]["retriever"]["type"])
        sampling = (self.group.entries[0].get("generation_kwargs") or {}).get("do_sample")
        return retriever in _LOCAL_RETRIEVERS and not sampling

    def _infer_cells(self, pending: Sequence[int], records: BatchRecords) -> None:
        """Runs the inferencer under the pending columns of the present data set."""
        base = self._base
        if not hasattr(base, "table"):
            self._infer_entry(base, self.group.entries[0], self.work_dir)
            return
        first = self.group.entries[pending[0]]
        table = base.table(
            [self.group.columns[place] for place in pending],
            batch_size=first.get("batch_size") or 1,
            name=dataset_abbr_from_cfg(self.dataset_cfg),
            journal=records,
        )
        inferencer = self.dataset_cfg["infer_cfg"]["inferencer"]
        kind = type_name(inferencer["type"])
        foreseeable = kind in _FORESEEABLE and not inferencer.get("multiround")
        if foreseeable:
            with table.recording(), tempfile.TemporaryDirectory() as folder:
                self._infer_entry(base.under(table, 0), first, folder)
            table.compute()
        for column, place in enumerate(pending):
            self._infer_entry(base.under(table, column), self.group.entries[place], self.work_dir)
            if foreseeable and not self.dump_only_message_path:
                add_receipts(self._prediction(place), table.given[column])
        if kind == "PPLInferencer":
            self._add_probabilities(table, pending)

    def _add_probabilities(self, table: AnswerTable, pending: Sequence[int]) -> None:
        """Adds the exact law of each choice to the predictions, where it applies."""
        columns = self.group.columns
        # Without a change of logits the law would be the answer itself.
        changed = any(one.acts_on == "logits" for column in columns for one in column.changes)
        if not changed or not all(column.has_argmax_law for column in columns):
            return
        paths = [self._prediction(place) for place in pending]
        choices = len(label_keys(json.loads(paths[0].read_bytes())))
        for index, (path, column) in enumerate(zip(paths, table.columns, strict=True)):
            logits = choice_logits(table.asked, table.rows, choices, index)
            law = None if logits is None else column.argmax_law(logits)
            if law is not None:
                add_probabilities(path, law)

    def _prediction(self, place: int) -> Path:
        """The predictions file of an entry on the present data set."""
        folder = os.path.join(self.work_dir, self.output_subdir)
        return Path(get_infer_output_path(self.group.entries[place], self.dataset_cfg, folder))

    def _infer_entry(self, model: Any, entry: ConfigDict, work_dir: str) -> None:
        """Runs OpenCompass's own inferencer for one entry."""
        self.model, self.model_cfg = model, entry
        self.max_out_len = entry.get("max_out_len")
        self.min_out_len = entry.get("min_out_len")
        self.batch_size = entry.get("batch_size") or 1  # OpenCompass's PPLInferencer has no default
        self.infer_cfg = copy.deepcopy(self.dataset_cfg["infer_cfg"])
        self.sub_cfg = {"models": [entry], "datasets": [[self.dataset_cfg]]}
        own_dir, self.work_dir = self.work_dir, work_dir
        try:
            self._inference()
        finally:
            self.work_dir = own_dir
