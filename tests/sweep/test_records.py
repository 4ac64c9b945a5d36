"""Claims about an engine's records: whole or absent, shared by processes, gone when cleared.

What the store shares with them (damage, kills) is tested in `test_store.py`.
"""

from __future__ import annotations

import errno
import io
import math
import multiprocessing
import os
import warnings
from pathlib import Path

import pytest

from aim_plugins.core import files
from aim_plugins.sweep.records import BatchRecords


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "not" / "made" / "yet"


def test_records_read_back_exactly_in_a_folder_made_when_needed(folder):
    payload = {"scores": [[0.1 + 0.2, -1e-320], [math.inf, 1 / 3]], "text": "</s> ✓"}
    records = BatchRecords(folder)
    assert records.read_batch("one") is None
    assert not folder.exists()
    records.write_batch("one", payload)
    assert BatchRecords(str(folder)).read_batch("one") == payload


def test_a_run_appends_to_one_file(folder):
    """Many small files are unkind to the disks that clusters share."""
    records = BatchRecords(folder)
    for index in range(50):
        records.write_batch(f"any key, {index}", {"score": index})
    assert [path.name for path in folder.iterdir()] == ["batches-0.jsonl"]
    again = BatchRecords(folder)
    assert [again.read_batch(f"any key, {index}")["score"] for index in range(50)] == [*range(50)]


def test_a_resumed_run_keeps_the_former_file_and_the_last_record_of_a_key_counts(folder):
    BatchRecords(folder).write_batch("one", {"score": 0.5})
    before = (folder / "batches-0.jsonl").read_bytes()
    resumed = BatchRecords(folder)
    resumed.write_batch("one", {"score": 0.6})
    assert resumed.read_batch("another") is None
    assert resumed.read_batch("one") == BatchRecords(folder).read_batch("one") == {"score": 0.6}
    assert (folder / "batches-0.jsonl").read_bytes() == before


def test_what_a_kill_has_cut_off_is_silently_absent(folder):
    records = BatchRecords(folder)
    for key in ("one", "two"):
        records.write_batch(key, {"key": key})
    path = folder / "batches-0.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in range(first, len(whole)):
            path.write_bytes(whole[:end])
            resumed = BatchRecords(folder)
            assert resumed.read_batch("one") == {"key": "one"}
            assert resumed.read_batch("two") is None
    resumed.write_batch("two", {"key": "again"})
    again = BatchRecords(folder)
    assert [again.read_batch(key) for key in ("one", "two")] == [{"key": "one"}, {"key": "again"}]


def test_a_full_disk_leaves_whole_records(folder, monkeypatch):
    """What was written of a line before the disk was full is taken back."""
    records = BatchRecords(folder)
    records.write_batch("one", {"score": 0.5})
    path = folder / "batches-0.jsonl"
    before = path.read_bytes()

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", lambda path, mode, **_: Full(path, mode[0]), raising=False)
        with pytest.raises(OSError, match="what was finished before is kept"):
            records.write_batch("two", {})
    assert path.read_bytes() == before
    records.write_batch("two", {"score": 0.6})
    assert BatchRecords(folder).read_batch("two") == {"score": 0.6}


def test_clearing_removes_the_folder_and_may_be_repeated(folder):
    records = BatchRecords(folder)
    records.clear()
    for key in ("one", "two.5=x"):
        records.write_batch(key, {})
    BatchRecords(folder).write_batch("three", {})
    records.clear()
    assert not folder.exists()
    assert folder.parent.exists()
    records.clear()
    assert records.read_batch("one") is None


def test_clearing_keeps_what_is_no_record(folder):
    records = BatchRecords(folder)
    records.write_batch("one", {})
    (folder / "notes.txt").write_text("mine")
    (folder / "inner").mkdir()
    records.clear()
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "notes.txt"]


def test_a_record_is_written_though_another_process_has_cleared(folder):
    records, other = BatchRecords(folder), BatchRecords(folder)
    records.write_batch("one", {"score": 0.5})
    other.clear()
    assert records.read_batch("one") is None
    records.write_batch("two", {"score": 0.6})
    assert BatchRecords(folder).read_batch("two") == {"score": 0.6}


def _write_many(folder: Path, start: int) -> None:
    warnings.simplefilter("error")
    records = BatchRecords(folder)
    for index in range(start, start + 40):
        records.write_batch(str(index), {"value": [index] * 1000})
        found = records.read_batch(str(index))
        assert found == {"value": [index] * 1000}


def test_processes_that_write_the_same_records_leave_whole_ones(folder):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(folder, s)) for s in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    names = ["batches-0.jsonl", "batches-1.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for index in range(60):
        assert BatchRecords(folder).read_batch(str(index)) == {"value": [index] * 1000}
