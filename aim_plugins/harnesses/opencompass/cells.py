"""Cells of an OpenCompass run: one model entry on one data set, finished, stale or missing.

OpenCompass takes any file under an entry's `abbr` for finished, whatever it was computed from. Here
a finished file has a note beside it (`<data set>.cell.json`), written last, with a fingerprint of
all that shaped it: a changed modulation, prompt, data file or weight file makes the cell missing
again, and so does a file that a killed process left half written. The note of a cell that was only
begun tells whether OpenCompass may resume it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from opencompass.utils import dataset_abbr_from_cfg, get_infer_output_path

from aim_plugins.core.files import CorruptRecordError, seal, unseal, write_atomic
from aim_plugins.core.identity import fingerprint
from aim_plugins.harnesses.opencompass.config.content import data_content, model_content
from aim_plugins.harnesses.opencompass.config.entries import (
    canonical,
    entry_abbr,
    split_entry,
    unlabelled,
)

_OUTSIDE_PREDICTIONS = ("run_cfg", "batch_size", "pred_postprocessor")
"""Settings of an entry that do not shape what the model answers."""


class _Entry:
    """The model entry's half of a fingerprint."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.abbr = entry_abbr(settings)

    @cached_property
    def predictions(self) -> str:
        split = split_entry(self.settings)
        settings = canonical(unlabelled(split.rest))
        for key in _OUTSIDE_PREDICTIONS:
            settings.pop(key, None)
        sampling = (settings.get("generation_kwargs") or {}).get("do_sample")
        seed = split.column.seed if sampling else None  # sampled tokens are drawn by it as well
        return fingerprint([settings, split.column.fingerprint, seed, model_content(settings)])

    @cached_property
    def results(self) -> str:
        return fingerprint(canonical(split_entry(self.settings).rest).get("pred_postprocessor"))


class _DataSet:
    """The data set's half of a fingerprint."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.abbr = dataset_abbr_from_cfg(settings)

    @cached_property
    def predictions(self) -> str:
        settings = canonical(self.settings)
        for key in ("abbr", "eval_cfg"):
            settings.pop(key, None)
        return fingerprint([settings, data_content(settings)])

    @cached_property
    def results(self) -> str:
        return fingerprint(canonical(self.settings).get("eval_cfg"))


class Cell:
    """One model entry on one data set.

    Where the cells of many entries and data sets are needed, `Cell.table` makes them without
    reading each entry and data set over and over.

    Attributes:
        prediction: Where OpenCompass writes the model's answers.
        result: Where OpenCompass writes the metrics.

    Args:
        work_dir: The run's folder, which holds `predictions` and `results`.
        model_cfg: The model entry.
        dataset_cfg: The data set, whole even where a task computes a slice of it.

    Raises:
        ValueError: If the entry is invalid; raised when a fingerprint is needed.
    """

    def __init__(
        self,
        work_dir: str | Path,
        model_cfg: Mapping[str, Any],
        dataset_cfg: Mapping[str, Any],
    ) -> None:
        self._fill(work_dir, _Entry(model_cfg), _DataSet(dataset_cfg))

    def _fill(self, work_dir: str | Path, entry: _Entry, data_set: _DataSet) -> None:
        self._entry, self._data_set = entry, data_set
        self.prediction, self.result = (
            Path(
                get_infer_output_path(
                    {"abbr": entry.abbr}, {"abbr": data_set.abbr}, os.path.join(work_dir, folder)
                )
            )
            for folder in ("predictions", "results")
        )

    @classmethod
    def table(
        cls,
        work_dir: str | Path,
        models: Sequence[Mapping[str, Any]],
        datasets: Sequence[Mapping[str, Any]],
    ) -> list[list[Cell]]:
        """Makes the cells of a run.

        Returns:
            A row for each model entry, in it a cell for each data set.
        """
        data_sets = [_DataSet(dataset) for dataset in datasets]
        rows = []
        for entry in map(_Entry, models):
            row = [cls.__new__(cls) for _ in data_sets]
            for cell, data_set in zip(row, data_sets, strict=True):
                cell._fill(work_dir, entry, data_set)
            rows.append(row)
        return rows

    @cached_property
    def prediction_fingerprint(self) -> str:
        """Identifies the model, its modulation, the data and the prompts."""
        return fingerprint([self._entry.predictions, self._data_set.predictions])

    @cached_property
    def result_fingerprint(self) -> str:
        """Identifies the predictions and how they are scored."""
        return fingerprint(
            [self.prediction_fingerprint, self._entry.results, self._data_set.results]
        )

    def has_prediction(self) -> bool:
        """Whether the answers are there, whole, and of this modulation of this model and data."""
        return _is_noted(self.prediction, self.prediction_fingerprint)

    def has_result(self) -> bool:
        """Whether the metrics are there, whole, and of these predictions and this scoring."""
        return _is_noted(self.result, self.result_fingerprint)

    def prediction_note(self) -> dict[str, Any] | None:
        """What was noted about the answers; None without a readable note.

        They may be stale, or only begun: `has_prediction` tells. Without a note they are not ours.
        """
        return _read_note(self.prediction)

    def result_note(self) -> dict[str, Any] | None:
        """What was noted about the metrics, fresh or stale; None without a readable note."""
        return _read_note(self.result)

    def begin_prediction(self, *, resumable: bool = True) -> None:
        """Notes that answers under the present fingerprint are about to be computed.

        Args:
            resumable: Whether OpenCompass may go on after the answers that an interrupted inference
                has left. Not where it starts to count from the first question it asks, as samples
                of a repeated prompt do.
        """
        self._begin(self.prediction, {"resumable": resumable})

    def note_prediction(self, **extra: Any) -> None:
        """Declares the answers finished; slices of them are no longer needed.

        Args:
            **extra: What else to note, as JSON data.

        Raises:
            FileNotFoundError: If there are no answers.
        """
        _write_note(self.prediction, self.prediction_fingerprint, extra)
        _remove_unfinished(self.prediction)  # of an inference in one part, joined from slices later
        for path in list(self._noted_slices()):
            _remove(path)

    def note_result(self, **extra: Any) -> None:
        """Declares the metrics finished.

        Args:
            **extra: What else to note, as JSON data.

        Raises:
            FileNotFoundError: If there are no metrics.
        """
        _write_note(self.result, self.result_fingerprint, extra)

    def discard_prediction(self) -> bool:
        """Removes the answers, their note and what OpenCompass would resume from.

        Of answers that were begun under the present fingerprint, only a file without its end goes.
        Slices stay, even stale ones: another process may be replacing them right now. They are
        never joined, and go when the whole is noted.

        Returns:
            Whether there were answers, or a note to remove.
        """
        return self._remove_unless_begun(self.prediction)

    def discard_result(self) -> bool:
        """Removes the metrics and their note.

        Returns:
            Whether there was either.
        """
        return _remove(self.result)

    def slice_path(self, k: int) -> Path:
        """Where OpenCompass writes the answers to slice `k` of the data set."""
        return self.prediction.with_name(f"{self.prediction.stem}_{k}{self.prediction.suffix}")

    def has_slice(self, k: int, n: int) -> bool:
        """Whether the answers to slice `k` of `n` are there, whole and fresh; also in the whole."""
        note = _read_note(self.slice_path(k)) or {}
        own = note.get("slice") == [k, n] and _is_noted(
            self.slice_path(k), self.prediction_fingerprint
        )
        # In this order: another process that merges notes the whole before it removes the slice.
        return own or self.has_prediction()

    def begin_slice(self, k: int, n: int, *, resumable: bool = True) -> None:
        """Notes that answers to slice `k` of `n` are about to be computed.

        Args:
            k: Index of the slice.
            n: Number of slices.
            resumable: As for `begin_prediction`.
        """
        self._begin(self.slice_path(k), {"slice": [k, n], "resumable": resumable})

    def note_slice(self, k: int, n: int) -> None:
        """Declares the answers to slice `k` of `n` finished.

        Raises:
            FileNotFoundError: If there are no such answers.
        """
        _write_note(self.slice_path(k), self.prediction_fingerprint, {"slice": [k, n]})

    def discard_slice(self, k: int, n: int | None = None) -> bool:
        """Removes slice `k`, its note and what OpenCompass would resume it from.

        Args:
            k: Index of the slice.
            n: Number of slices now; of a slice that was begun as one of so many, and under the
                present fingerprint, only a file without its end goes.

        Returns:
            Whether there was a slice, or a note to remove.
        """
        if n is None:
            return _remove(self.slice_path(k))
        return self._remove_unless_begun(self.slice_path(k), [k, n])

    def merge_slices(self, n: int) -> bool:
        """Joins the `n` slices into the whole once all are finished.

        Every process that finishes a slice may call it, also at the same time: each writes the same
        file, and the slices go only after the whole has its note.

        Returns:
            Whether the whole is there.
        """
        if self.has_prediction():
            for path in list(self._noted_slices()):
                _remove(path)
            return True
        try:
            if not all(self.has_slice(k, n) for k in range(n)):
                return self.has_prediction()
            parts = [json.loads(self.slice_path(k).read_bytes()) for k in range(n)]
        except FileNotFoundError:  # another process has merged and removed them in between
            return self.has_prediction()
        answers = [part[str(index)] for part in parts for index in range(len(part))]
        joined = {str(index): answer for index, answer in enumerate(answers)}
        write_atomic(self.prediction, json.dumps(joined, indent=4, ensure_ascii=True))
        self.note_prediction(slices=n)
        return True

    def _begin(self, path: Path, extra: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a size no file fits the note, so that nothing begun is taken for finished.
        note = {**extra, "fingerprint": self.prediction_fingerprint}
        write_atomic(_note_path(path), seal(note))

    def _remove_unless_begun(self, path: Path, slice_: list[int] | None = None) -> bool:
        note = _read_note(path) or {}
        begun = (
            note.get("resumable")  # which a finished one does not say
            and note.get("fingerprint") == self.prediction_fingerprint
            and note.get("slice") == slice_
        )
        return _unlink(path) if begun else _remove(path)

    def _noted_slices(self) -> Iterator[Path]:
        # Only a note tells a slice from another data set whose name ends in a number.
        pattern = re.compile(re.escape(self.prediction.stem) + r"_(\d+)\.cell\.json")
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.prediction.parent):
                match = pattern.fullmatch(name)
                if match is None:
                    continue
                path = self.slice_path(int(match[1]))
                if "slice" in (_read_note(path) or {}):
                    yield path


def _note_path(path: Path) -> Path:
    return path.with_suffix(".cell.json")


def _read_note(path: Path) -> dict[str, Any] | None:
    try:
        note = unseal(_note_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, CorruptRecordError, UnicodeDecodeError):
        return None
    return note if isinstance(note, dict) else None


def _write_note(path: Path, print_: str, extra: Mapping[str, Any]) -> None:
    note = {**extra, "fingerprint": print_, "bytes": path.stat().st_size}
    write_atomic(_note_path(path), seal(note))


def _is_noted(path: Path, print_: str) -> bool:
    note = _read_note(path)
    if note is None or note.get("fingerprint") != print_:
        return False
    try:
        # A crash of the machine can lose the end of a file that OpenCompass did not flush.
        return path.stat().st_size == note.get("bytes")
    except FileNotFoundError:
        return False


def _remove(path: Path) -> bool:
    """Removes a file with all that belongs to it; the note goes first, so no half is trusted."""
    removed = [_unlink(_note_path(path)), _unlink(path)]
    _remove_unfinished(path)
    return any(removed)


def _remove_unfinished(path: Path) -> None:
    for suffix in (".jsonl", ".json"):
        # Generation resumes from the first, other inferencers from the second.
        _unlink(path.with_name(f"tmp_{path.name}").with_suffix(suffix))


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
