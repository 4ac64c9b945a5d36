"""Claims about an engine's records: whole or absent, shared by processes, gone when cleared.

What the store shares with them (damage, kills, full disks) is tested in `test_store.py`.
"""

from __future__ import annotations

import math
import multiprocessing
import warnings
from pathlib import Path

import pytest

from aim_plugins.sweep import records as records_module
from aim_plugins.sweep.records import BatchRecords, CorruptRecordWarning


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


def test_a_damaged_record_is_named_and_written_again(folder):
    records = BatchRecords(folder)
    records.write_batch("one", {"score": 0.5})
    path = folder / "one.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.warns(CorruptRecordWarning, match=r"one\.json is damaged"):
        assert records.read_batch("one") is None
    records.write_batch("one", {"score": 0.5})
    assert records.read_batch("one") == {"score": 0.5}


@pytest.mark.parametrize("key", ["", "../x", ".x", "a/b", "a\\b", "x" * 151, "a\n"])
def test_keys_that_are_no_file_names_are_refused(folder, key):
    with pytest.raises(ValueError, match="no safe file name"):
        BatchRecords(folder).write_batch(key, {})
    with pytest.raises(ValueError, match="no safe file name"):
        BatchRecords(folder).read_batch(key)


def test_clearing_removes_the_folder_and_may_be_repeated(folder):
    records = BatchRecords(folder)
    records.clear()
    for key in ("one", "two.5=x"):
        records.write_batch(key, {})
    (folder / ".one.json.0123abcd.tmp").write_text("of a killed write")
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


def test_a_record_is_written_though_another_process_clears_in_between(folder, monkeypatch):
    write, calls = records_module.write_atomic, []

    def cleared_first(path, data):
        if not calls:
            calls.append(path)
            folder.rmdir()
        return write(path, data)

    monkeypatch.setattr(records_module, "write_atomic", cleared_first)
    BatchRecords(folder).write_batch("one", {"score": 0.5})
    assert calls
    assert BatchRecords(folder).read_batch("one") == {"score": 0.5}


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
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{i}.json" for i in range(60))
    for index in range(60):
        assert BatchRecords(folder).read_batch(str(index)) == {"value": [index] * 1000}
