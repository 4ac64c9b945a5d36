"""Claims about a sweep's folder: whole or absent, resumable, one writer at a time."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from aim_plugins.core import files
from aim_plugins.core.files import safe_name, seal, unseal
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep import store as store_module
from aim_plugins.sweep.cells import Cell
from aim_plugins.sweep.manifest import redact
from aim_plugins.sweep.store import (
    CorruptRecordWarning,
    SweepLockedError,
    SweepMismatchError,
    SweepStore,
    write_atomic,
)
from aim_plugins.sweep.table import Row

AXES = [Axis("std", "σ", "noise std", "logits", low=0.0)]
LAMBDA = [Axis("strength", "λ", "transport strength")]
ARGUMENTS = {"model": "tiny", "noise_std": [0.0, 0.5], "limit": None, "noise_seed": 0}


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "sweep"


@pytest.fixture
def store(folder):
    with SweepStore.open(folder, ARGUMENTS, versions={"torch": "2.14"}, axes=AXES) as opened:
        yield opened


def row(value=0.5, strength=0.5) -> Row:
    return Row("task", "acc", strength, 0, value, 0.1, 10)


def finish_cell(store: SweepStore, value=0.5, strength=0.5) -> None:
    with store.cell(Cell(strength, 0)) as cell:
        (cell.folder / "results.json").write_text(f"{value}")
        cell.record([row(value, strength)], seed=3, metadata={"n": 10})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a sweep except the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Files


def test_an_atomic_write_leaves_the_file_and_nothing_else(tmp_path):
    path = write_atomic(tmp_path / "file", "alt")
    write_atomic(path, "neu ✓")
    assert path.read_text(encoding="utf-8") == "neu ✓"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_former_content_and_says_so(tmp_path, monkeypatch, failing):
    path = write_atomic(tmp_path / "file", "former")
    monkeypatch.setattr(files.os, failing, no_space)
    with pytest.raises(OSError, match="finished before is kept") as error:
        write_atomic(path, "new")
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "name", ["../up", "/root", "a/b", "a\\b", ".hidden", "", "..", "x" * 300, "tâche", "a\0b"]
)
def test_any_task_name_becomes_one_harmless_path_component(name):
    safe = safe_name(name)
    assert Path(safe).name == safe
    assert safe[0] != "." and len(safe) <= 120
    assert safe.isascii() and not set(safe) & set("/\\\0:")


def test_different_task_names_keep_different_file_names():
    names = ["a/b", "a_b", "a\\b", "a b", ".a_b", "x" * 101, "x" * 102]
    assert len({safe_name(name) for name in names}) == len(names)


def test_sealed_floats_and_text_read_back_exactly():
    payload = {"x": [0.1 + 0.2, 5e-324, -0.0, math.inf], "t": "\ud800 </script> ✓", "n": None}
    assert unseal(seal(payload)) == payload
    assert math.copysign(1, unseal(seal(-0.0))) == -1
    assert math.isnan(unseal(seal([math.nan]))[0])


# Manifest


def test_a_new_folder_holds_a_manifest_of_what_was_asked(store, folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["arguments"] == ARGUMENTS
    assert manifest["versions"] == {"torch": "2.14"}
    assert not store.resumed


def test_resuming_does_not_touch_the_manifest(store, folder):
    store.close()
    before = (folder / "manifest.json").read_bytes()
    manifest = json.loads(before)
    manifest["created"] = "2001-01-01T00:00:00+00:00"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with SweepStore.open(folder, ARGUMENTS, versions={"torch": "2.14"}, axes=AXES) as again:
        assert again.resumed
        assert again.manifest["created"] == "2001-01-01T00:00:00+00:00"
    assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_tuples_and_lists_are_the_same_argument(store, folder):
    store.close()
    SweepStore.open(folder, ARGUMENTS | {"noise_std": (0.0, 0.5)}, axes=AXES).close()


def test_another_sweep_is_refused_naming_every_difference(store, folder):
    store.close()
    before = tree(folder)
    asked = {"model": "tiny", "noise_std": [0.0, 1.0], "limit": 5, "noise_seed": 0, "new": True}
    with pytest.raises(SweepMismatchError) as error:
        SweepStore.open(folder, asked, axes=AXES)
    message = str(error.value)
    assert "noise_std: [0.0, 0.5] there, [0.0, 1.0] now" in message
    assert "limit: null there, 5 now" in message
    assert "new: (absent) there, true now" in message
    assert "noise_seed" not in message
    assert tree(folder) == before


def test_a_refused_folder_is_not_left_locked(store, folder):
    store.close()
    with pytest.raises(SweepMismatchError):
        SweepStore.open(folder, {}, axes=AXES)
    SweepStore.open(folder, ARGUMENTS, axes=AXES).close()


def test_a_folder_of_other_files_is_refused_and_left_alone(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(SweepMismatchError, match="first: 'thesis.tex'"):
        SweepStore.open(folder, ARGUMENTS, axes=AXES)
    assert os.listdir(folder) == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(folder):
    folder.write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        SweepStore.open(folder, ARGUMENTS, axes=AXES)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"created": ""}'])
def test_a_damaged_manifest_is_refused(store, folder, text):
    store.close()
    (folder / "manifest.json").write_text(text)
    with pytest.raises(SweepMismatchError, match="not a sweep's manifest"):
        SweepStore.open(folder, ARGUMENTS, axes=AXES)


def test_a_manifest_of_another_format_is_refused(store, folder):
    store.close()
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(SweepMismatchError, match="format 99"):
        SweepStore.open(folder, ARGUMENTS, axes=AXES)


def test_fields_are_added_to_the_manifest_but_its_identity_stays(store, folder):
    store.update_manifest(finished=True, seeds=[0, 1])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["finished"], manifest["seeds"]) == (True, [0, 1])
    with pytest.raises(ValueError, match="arguments"):
        store.update_manifest(arguments={})
    assert store.manifest == manifest


def test_a_pinned_field_survives_resuming_and_refuses_another_value(store, folder):
    store.pin_manifest(model_fingerprint="aaa")
    store.close()
    with SweepStore.open(folder, ARGUMENTS, axes=AXES) as again:
        again.pin_manifest(model_fingerprint="aaa")
        with pytest.raises(SweepMismatchError, match='model_fingerprint: "aaa" there, "bbb" now'):
            again.pin_manifest(model_fingerprint="bbb")
        assert again.manifest["model_fingerprint"] == "aaa"


def test_resuming_with_other_versions_warns_and_is_noted(store, folder):
    store.close()
    with pytest.warns(UserWarning, match="torch 2.14 -> 2.15"):
        again = SweepStore.open(folder, ARGUMENTS, versions={"torch": "2.15"}, axes=AXES)
    with again:
        assert again.manifest["versions"] == {"torch": "2.14"}
        assert again.manifest["resumed_versions"] == {"torch": "2.15"}


SECRET = "hf_aBcDeFgH=="


@pytest.mark.parametrize(
    ("value", "redacted"),
    [
        ({"a": [{"hf_token": SECRET}, 1]}, {"a": [{"hf_token": "***"}, 1]}),
        ({"API_KEY": 17, "clientSecret": [SECRET]}, {"API_KEY": "***", "clientSecret": "***"}),
        ({"token": True, "password": None}, {"token": True, "password": None}),
        (f"token={SECRET}", "token=***"),
        (f"pretrained=a/b,Token={SECRET},dtype=float32", "pretrained=a/b,Token=***,dtype=float32"),
        (f"--model-args=token={SECRET},x=1", "--model-args=token=***,x=1"),
        ("password=two words, and=more", "password=***, and=more"),
        (f'{{"token": "{SECRET}", "x": 1}}', '{"token": "***", "x": 1}'),
        (f"{{'api-key':'{SECRET}'}}", "{'api-key':'***'}"),
        (["--hf-token", SECRET, "--tasks", "quiz"], ["--hf-token", "***", "--tasks", "quiz"]),
    ],
)
def test_secrets_are_redacted_wherever_they_stand(value, redacted):
    assert redact(value) == redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize(
    "value",
    [
        "tokenizer=gpt2,max_new_tokens=32,eos_token=</s>,add_bos_token=True,prefix_token_id=2",
        {"tokenizer": "gpt2", "think_end_token": 7, "use_auth_token": True, "n": 1.5, "m": None},
        ["--tasks", "tokens=3", "token", "a"],
        '{"eos_token": "</s>", "token": null}',
    ],
)
def test_what_determines_results_is_not_redacted(value):
    assert redact(value) == value


def test_a_token_is_neither_written_nor_compared(folder):
    def arguments(token, **changed):
        return {"model_args": {"pretrained": "gpt2", "token": token}, **changed}

    SweepStore.open(folder, arguments(SECRET), axes=AXES).close()
    assert SECRET not in (folder / "manifest.json").read_text()
    SweepStore.check(folder, arguments("hf_new"))
    SweepStore.open(folder, arguments("hf_new"), axes=AXES).close()
    for judge in (SweepStore.check, functools.partial(SweepStore.open, axes=AXES)):
        with pytest.raises(SweepMismatchError, match="limit"):
            judge(folder, arguments(SECRET, limit=3))


# Batches


def test_batches_read_back_exactly_after_reopening(store, folder):
    payload = {"scores": [[0.1 + 0.2, -1e-320], [math.inf, 1 / 3]], "text": "</s> ✓"}
    store.write_batch("abc-1", payload)
    store.close()
    with SweepStore.open(folder, ARGUMENTS, axes=AXES) as again:
        assert again.read_batch("abc-1") == payload
        assert again.read_batch("abc-2") is None


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "one digit changed":
        changed = content.replace(b"0.5", b"0.6")
        assert changed != content
        path.write_bytes(changed)
    elif how == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    elif how == "other JSON":
        path.write_text("[1, 2]")


DAMAGES = ["truncated", "emptied", "one digit changed", "not text", "other JSON"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_batch_is_named_and_computed_again(store, folder, how):
    store.write_batch("key", {"score": 0.5})
    path = folder / "records" / "batches-0.jsonl"
    damage(path, how)
    path.write_bytes(path.read_bytes() + b"\n")  # without it the line was cut off by a kill
    for reading in (store, SweepStore.join(folder)):
        with pytest.warns(CorruptRecordWarning, match=r"records/batches-0\.jsonl is damaged"):
            assert reading.read_batch("key") is None
    store.write_batch("key", {"score": 0.5})
    assert store.read_batch("key") == {"score": 0.5}


# Cells


def test_a_finished_cell_reads_back(store, folder):
    finish_cell(store)
    cell = store.read_cell(Cell(0.5, 0))
    assert cell.rows == (row(),)
    assert (cell.cell, cell.seed, cell.metadata) == (Cell(0.5, 0), 3, {"n": 10})
    assert cell.folder == folder / "cells" / "std=0.5,draw=0"
    assert (cell.folder / "results.json").read_text() == "0.5"
    assert store.read_cell(Cell(0.5, 1)) is None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_cell_leaves_nothing(store, folder, error):
    before = tree(folder)
    with pytest.raises(error), store.cell(Cell(0.5, 0)) as cell:
        (cell.folder / "results.json").write_text("half")
        cell.record([row()], seed=0)
        raise error
    assert tree(folder) == before
    assert store.read_cell(Cell(0.5, 0)) is None


def test_a_cell_without_results_is_refused(store):
    with pytest.raises(RuntimeError, match="record"), store.cell(Cell(0.5, 0)):
        pass
    assert store.read_cell(Cell(0.5, 0)) is None


def test_a_row_of_another_strength_is_refused(store):
    complaint = "strength=1.0, but the cell has 0.5"
    with pytest.raises(ValueError, match=complaint), store.cell(Cell(0.5, 0)) as cell:
        cell.record([row(strength=1.0)], seed=0)


def test_a_full_disk_loses_only_the_cell_being_written(store, folder, monkeypatch):
    finish_cell(store, strength=0.0)
    before = tree(folder)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", no_space)
        with pytest.raises(OSError) as error:
            finish_cell(store)
    assert error.value.errno == errno.ENOSPC
    assert tree(folder) == before
    finish_cell(store)
    assert store.read_cell(Cell(0.5, 0)) is not None


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_cell_is_named_computed_again_and_replaced(store, folder, how):
    finish_cell(store)
    damage(folder / "cells" / "std=0.5,draw=0" / "cell.json", how)
    with pytest.warns(CorruptRecordWarning, match=r"std=0\.5,draw=0 is damaged"):
        assert store.read_cell(Cell(0.5, 0)) is None
    finish_cell(store, value=0.75)
    assert store.read_cell(Cell(0.5, 0)).rows == (row(0.75),)


@pytest.mark.parametrize("loss", ["changed", "removed"])
def test_a_cell_whose_harness_files_were_changed_is_damaged(store, folder, loss):
    finish_cell(store)
    path = folder / "cells" / "std=0.5,draw=0" / "results.json"
    path.write_text("0.9") if loss == "changed" else path.unlink()
    with pytest.warns(CorruptRecordWarning, match="results.json"):
        assert store.read_cell(Cell(0.5, 0)) is None


def test_a_cells_files_are_hashed_once_until_they_change(store, monkeypatch):
    finish_cell(store)
    hashed = []

    def counted(path):
        hashed.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(store_module, "sha256_of", counted)
    for _ in range(3):
        assert store.read_cell(Cell(0.5, 0)) is not None
    assert hashed == ["results.json"]
    finish_cell(store, value=0.75)
    hashed.clear()
    assert store.read_cell(Cell(0.5, 0)).rows == (row(0.75),)
    (store.cell_folder(Cell(0.5, 0)) / "results.json").write_text("0.9 and more")
    with pytest.warns(CorruptRecordWarning, match=r"results\.json was changed"):
        assert store.read_cell(Cell(0.5, 0)) is None
    assert hashed == ["results.json", "results.json"]


def test_the_checksum_of_a_file_longer_than_a_piece_is_that_of_its_content(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert files.sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_cell_moved_to_another_place_is_not_believed(store, folder):
    finish_cell(store)
    (folder / "cells" / "std=0.5,draw=0").rename(folder / "cells" / "std=0.5,draw=1")
    with pytest.warns(CorruptRecordWarning, match="another cell"):
        assert store.read_cell(Cell(0.5, 1)) is None


def test_equal_strengths_share_a_cell_however_they_are_written(store):
    assert store.cell_folder(Cell(1, 0)) == store.cell_folder(Cell(1.0, 0))
    assert store.cell_folder(Cell(-0.0, 0)) == store.cell_folder(Cell(0, 0))
    assert store.cell_folder(Cell(0.1, 0)) != store.cell_folder(Cell(0.1 + 1e-16, 0))


@pytest.mark.parametrize(("strength", "draw"), [(-1.0, 0), (math.nan, 0), (0.5, -1), (0.5, "../x")])
def test_impossible_cells_are_refused(store, strength, draw):
    with pytest.raises(ValueError, match="="):
        store.cell_folder(Cell(strength, draw))


def test_cells_are_named_by_the_strength_that_varies_and_may_then_be_negative(folder):
    with SweepStore.open(folder, ARGUMENTS, axes=LAMBDA) as store:
        finish_cell(store, 0.25, strength=-0.5)
    assert [path.name for path in (folder / "cells").iterdir()] == ["strength=-0.5,draw=0"]
    assert SweepStore.join(folder).read_cell(Cell(-0.5, 0)).rows == (row(0.25, -0.5),)
    with SweepStore.open(folder, ARGUMENTS, axes=LAMBDA) as again:
        assert again.resumed
        assert again.read_cell(Cell(-0.5, 0)).cell.strength == -0.5


def test_a_folder_of_another_strength_is_refused(store, folder):
    store.close()
    with pytest.raises(SweepMismatchError, match=r'axes: \["std"\] there, \["strength"\] now'):
        SweepStore.open(folder, ARGUMENTS, axes=LAMBDA)


@pytest.mark.parametrize("name", ["", "../std", "a b", "std=1"])
def test_a_strength_is_named_by_a_word(name):
    with pytest.raises(ValueError, match="name="):
        Axis(name, "s", "strength")


def test_cells_of_a_grid_are_named_by_both_strengths(folder):
    with SweepStore.open(folder, ARGUMENTS, axes=AXES + LAMBDA) as store:
        with store.cell(Cell(0.5, 1, -2.0)) as cell:
            cell.record([Row("task", "acc", 0.5, 1, 0.25, None, 10, -2.0)], seed=3)
        assert store.read_cell(Cell(0.5, 1, -1.0)) is None
        assert store.read_cell(Cell(0.5, 1, -2.0)).rows[0].second_strength == -2.0
    assert [path.name for path in (folder / "cells").iterdir()] == ["std=0.5,strength=-2,draw=1"]


# Several processes, and their end


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


OPEN = f"""
import os, signal, sys
from aim_plugins.core import files
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.cells import Cell
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.table import Row
AXES = [Axis("std", "σ", "noise std", "logits", low=0.0)]
store = SweepStore.open(sys.argv[1], {ARGUMENTS!r}, axes=AXES)
row = Row("task", "acc", 0.5, 0, 0.5, 0.1, 10)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_two_processes_cannot_write_one_folder(folder):
    process = run_python(OPEN + "print('open', flush=True); sys.stdin.read()", str(folder))
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(SweepLockedError, match="being written by another process"):
            SweepStore.open(folder, ARGUMENTS, axes=AXES)
    finally:
        process.kill()
        process.communicate()
    SweepStore.open(folder, ARGUMENTS, axes=AXES).close()  # the killed process left no lock


def test_one_process_cannot_open_a_folder_twice(store, folder):
    with pytest.raises(SweepLockedError):
        SweepStore.open(folder, ARGUMENTS, axes=AXES)


KILLED_IN = {
    "a batch, half written": """
store.write_batch("one", {"score": 0.5})
path = store.folder / "records" / "batches-0.jsonl"
with open(path, "ab") as file:
    file.write(path.read_bytes().replace(b"one", b"two")[:90])
die()
""",
    "a cell, by the harness": """
store.write_batch("one", {"score": 0.5})
with store.cell(Cell(0.5, 0)) as cell:
    (cell.folder / "results.json").write_text("half")
    die()
""",
    "a cell, before its rename": """
store.write_batch("one", {"score": 0.5})
with store.cell(Cell(0.5, 0)) as cell:
    (cell.folder / "results.json").write_text("0.5")
    cell.record([row], seed=3, metadata={"n": 10})
    real = os.replace
    os.replace = lambda a, b: die() if "cells" in str(b) else real(a, b)
""",
    "the manifest": """
store.write_batch("one", {"score": 0.5})
files.os.replace = lambda *_: die()
store.update_manifest(finished=True)
""",
}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
@pytest.mark.parametrize("moment", KILLED_IN)
def test_a_killed_sweep_resumes_to_the_files_of_an_unbroken_one(folder, tmp_path, moment):
    process = run_python(OPEN + KILLED_IN[moment], str(folder))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with SweepStore.open(folder, ARGUMENTS, axes=AXES) as resumed:
            assert resumed.resumed
            assert resumed.read_batch("one") == {"score": 0.5}
            assert resumed.read_batch("two") is None
            assert resumed.read_cell(Cell(0.5, 0)) is None
            finish_cell(resumed)
    with SweepStore.open(tmp_path / "unbroken", ARGUMENTS, axes=AXES) as unbroken:
        unbroken.write_batch("one", {"score": 0.5})
        finish_cell(unbroken)

    killed, whole = tree(folder), tree(tmp_path / "unbroken")
    manifests = [json.loads(files.pop("manifest.json")) for files in (killed, whole)]
    records = [files.pop("records/batches-0.jsonl") for files in (killed, whole)]
    assert records[0].startswith(records[1])
    assert killed == whole
    for manifest in manifests:
        del manifest["created"]
    assert manifests[0] == manifests[1]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_kill_before_the_first_manifest_leaves_a_usable_folder(folder):
    code = (
        "import os, signal, sys\n"
        "from aim_plugins.core import files\n"
        "from aim_plugins.sweep.store import SweepStore\n"
        "files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "SweepStore.open(sys.argv[1], {}, axes=())\n"
    )
    process = run_python(code, str(folder))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(folder) != []
    with SweepStore.open(folder, ARGUMENTS, axes=AXES) as store:
        assert not store.resumed
    assert sorted(tree(folder)) == ["manifest.json"]


def test_the_sweep_package_needs_no_torch():
    code = (
        "import sys, aim_plugins.sweep, aim_plugins.sweep.store, aim_plugins.sweep.plots\n"
        "import aim_plugins.sweep.report\n"
        "print('torch' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output == "False\n"


def test_checking_a_folder_agrees_with_opening_it_and_writes_nothing(tmp_path, store, folder):
    SweepStore.check(tmp_path / "new", ARGUMENTS)
    assert not (tmp_path / "new").exists()
    before = tree(folder)
    SweepStore.check(folder, ARGUMENTS)
    with pytest.raises(SweepMismatchError, match="noise_seed: 0 there, 1 now"):
        SweepStore.check(folder, ARGUMENTS | {"noise_seed": 1})
    assert tree(folder) == before


def test_a_further_process_shares_the_batches_without_taking_the_lock(store, folder):
    store.write_batch("rank0", {"score": 0.5})
    with SweepStore.join(folder) as joined:
        assert joined.read_batch("rank0") == {"score": 0.5}
        joined.write_batch("rank1", {"score": 0.25})
    assert store.read_batch("rank1") == {"score": 0.25}
    with pytest.raises(SweepLockedError):
        SweepStore.open(folder, ARGUMENTS, axes=AXES)
