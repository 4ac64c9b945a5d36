"""`aim-plugins coverage` from its options to its files."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aim_plugins.task_coverage import front
from aim_plugins.task_coverage.kept import KeptNeurons
from aim_plugins.task_coverage.subject import Subject

pytest.importorskip("lm_eval")

BRIEF = ("--criteria", "KMNC,NBC,TKNC,NLC,IDC", "--kmnc-buckets", 10, "--baselines", 2)
TASKS = ("--tasks", "tiny_capitals,tiny_writing", "--adds-to", "tiny_capitals")


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take longer than everything else."""
    for name in ("comparison", "breakdown", "combinations", "growing", "draw_order"):
        monkeypatch.setattr(front, name, _without_pictures(getattr(front, name)))


def _without_pictures(function):
    from aim_plugins.sweep.page import Section

    if function.__name__ == "draw_order":
        return lambda *given, **named: {"png": b"\x89PNG\r\n\x1a\n"}
    return lambda *given, **named: (Section("x"), {})


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def neurons_of(tiny, text: str) -> np.ndarray:
    """Of the default modules, by hooks written by hand."""
    found: list[torch.Tensor] = []
    names = [
        f"model.layers.{layer}.{part}"
        for layer in range(3)
        for part in ("self_attn.o_proj", "mlp.down_proj")
    ]
    handles = [
        tiny.model.get_submodule(name).register_forward_hook(
            lambda *given: found.append(given[-1][0].double().mean(0))
        )
        for name in names
    ]
    with torch.no_grad():
        tiny.model(**tiny.tokenizer(text, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    return torch.cat(found).numpy()


def test_a_study_writes_all_of_its_files(coverage, shift_transport) -> None:
    status, folder = coverage(*TASKS, *BRIEF, "--directions", shift_transport, "--end2end")
    assert status == 0
    names = {path.name for path in folder.iterdir()}
    assert {"coverage.json", "tasks.csv", "directions.csv", "priority.csv", "uncovered.csv"} < names
    assert {"report.html", "curves", "profile", "reference", "neurons.f32"} < names
    page = (folder / "report.html").read_text()
    for title in ("Coverage", "By task", "By layer", "Along directions", "Added to tiny_capitals"):
        assert f">{title}</h2>" in page
    content = json.loads((folder / "coverage.json").read_text())
    assert content["tasks"] == {"tiny_capitals": 8, "tiny_writing": 8}
    assert [one["label"] for one in content["directions"]["results"]] == ["KMNC", "NBC", "TKNC"]
    assert not list(folder.glob("noise-*"))


@pytest.mark.usefixtures("undrawn")
def test_values_are_those_of_plain_loops(coverage, tiny, task_folder) -> None:
    from aim_plugins.task_documents import load_documents

    status, folder = coverage(*TASKS, *BRIEF, "--batch-size", 3)
    assert status == 0
    loaded = load_documents(["tiny_capitals", "tiny_writing"], str(task_folder))
    neurons = {
        task: np.stack([neurons_of(tiny, one.text) for one in documents])
        for task, documents in loaded.items()
    }
    low, high = neurons["tiny_capitals"].min(0), neurons["tiny_capitals"].max(0)

    def buckets(rows):
        inside = (rows >= low - 1e-6) & (rows <= high + 1e-6)
        places = np.clip(((rows - low) / (high - low) * 10).astype(int), 0, 9)
        return {
            (neuron, places[row, neuron]) for row, neuron in zip(*inside.nonzero(), strict=True)
        }

    found = {
        (row["task"], row["criterion"]): float(row["value"])
        for row in rows_of(folder / "tasks.csv")
        if row["scope"] == "all"
    }
    for task, rows in neurons.items():
        assert found[task, "KMNC"] == pytest.approx(len(buckets(rows)) / 2880, abs=3 / 2880)
        beyond = (rows < low - 1e-6).any(0).sum() + (rows > high + 1e-6).any(0).sum()
        assert found[task, "NBC"] == pytest.approx(beyond / 576, abs=3 / 576)
    pooled = next(row for row in rows_of(folder / "coverage.csv") if row["criterion"] == "KMNC")
    union = buckets(np.concatenate(list(neurons.values())))
    assert float(pooled["value"]) == pytest.approx(len(union) / 2880, abs=3 / 2880)
    covered, left = buckets(neurons["tiny_capitals"]), list(range(8))
    for row in rows_of(folder / "priority.csv"):
        assert row["task"] == "tiny_writing"
        new = {one: len(buckets(neurons["tiny_writing"][[one]]) - covered) for one in left}
        number = int(row["document"])
        assert int(row["adds"]) == pytest.approx(new[number], abs=2)
        assert new[number] >= max(new.values()) - 2
        covered |= buckets(neurons["tiny_writing"][[number]])
        left.remove(number)
    assert left == []


@pytest.mark.usefixtures("undrawn")
def test_results_do_not_depend_on_the_batch_size(coverage) -> None:
    found = []
    for size in (1, 5):
        status, folder = coverage(*TASKS, *BRIEF, "--batch-size", size, output=f"out{size}")
        assert status == 0
        shape = (16, 288)
        order = np.memmap(folder / "neurons.f32", dtype="<f4", mode="r", shape=shape)
        found.append((np.array(order), json.loads((folder / "coverage.json").read_text())))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for one, other in zip(*(x[1]["neurons"]["results"] for x in found), strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-2)


@pytest.mark.usefixtures("undrawn")
def test_profiles_of_tasks_hold_their_documents(coverage) -> None:
    status, folder = coverage("--tasks", "tiny_capitals,tiny_questions", *BRIEF)
    assert status == 0
    profiles = folder / "profile" / "neurons"
    held = {
        path.name: json.loads((path / "profile.json").read_text()) for path in profiles.iterdir()
    }
    assert {name: one["scopes"]["all"] for name, one in held.items()} == {
        "all": 16,
        "tiny_capitals": 8,
        "tiny_questions": 8,
    }
    assert set(held["all"]["scopes"]) == {"all"} | {
        f"class {name}" for name in ("Paris", "Berlin", "France", "Germany")
    }
    reached = [load_file(profiles / name / "profile.safetensors")["0.0.reached"] for name in held]
    by_name = dict(zip(held, reached, strict=True))
    union = by_name["tiny_capitals"] | by_name["tiny_questions"]
    assert torch.equal(by_name["all"], union)


@pytest.mark.usefixtures("undrawn")
def test_a_killed_study_goes_on_without_a_second_pass(coverage, monkeypatch) -> None:
    whole, folder = coverage(*TASKS, *BRIEF, output="whole")
    assert whole == 0
    measure = KeptNeurons.batches
    calls = iter(range(1000))

    def killed(*given, **named):
        if next(calls) == 9:
            raise KeyboardInterrupt
        return measure(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(KeptNeurons, "batches", killed)
        assert coverage(*TASKS, *BRIEF)[0] == 130
    read = []
    passes = Subject.read
    monkeypatch.setattr(
        Subject,
        "read",
        lambda self, tokens, *more: (read.append(len(tokens)), passes(self, tokens, *more))[1],
    )
    status, again = coverage(*TASKS, *BRIEF)
    assert status == 0 and 16 * len(read) == sum(read) <= 32  # of the random texts alone
    for name in ("coverage.json", "priority.csv", "tasks.csv"):
        assert (again / name).read_text() == (folder / name).read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_reference_serves_another_run(coverage, capsys, shift_transport) -> None:
    along = ("--directions", shift_transport)
    _, first = coverage("--tasks", "tiny_questions", *BRIEF, *along, output="first")
    given = ("--tasks", "tiny_writing", *BRIEF, *along)
    status, second = coverage(*given, "--reference", first / "reference", output="second")
    _, third = coverage(*given, "--reference-tasks", "tiny_questions", output="third")
    assert status == 0
    values = [json.loads((one / "coverage.json").read_text()) for one in (second, third)]
    for view in ("neurons", "directions"):
        one, other = ([x["value"] for x in content[view]["results"]] for content in values)
        assert one == pytest.approx(other, abs=1e-3)
    refused = (
        (("--criteria", "LSC"), "it lacks what LSC needs"),
        (("--modules", ".*down_proj"), "measure with the same modules"),
        (("--criteria", "KMNC", "--classes", "one"), "was learned with 'answer'"),
        (("--criteria", "IDC", "--top-m-neurons", "3"), "was learned with 6"),
    )
    for words, message in refused:
        status, folder = coverage(
            *("--tasks", "tiny_writing", "--reference", first / "reference", *words),
            output="refused",
        )
        assert status == 2 and message in capsys.readouterr().err
        shutil.rmtree(folder, ignore_errors=True)


REFUSED = [
    (("--tasks", "a,a"), "tasks='a,a' names a task twice"),
    (("--tasks", "a", "--limit", "1.5"), "limit=1.5: give a whole number of documents"),
    (("--tasks", "a", "--attr", "lc"), "attr='lc' is for classifiers"),
    (("--tasks", "a,b", "--adds-to", "c"), "adds_to='c' is none of the tasks"),
    (("--tasks", "a", "--adds-to", "a"), "adds_to='a' is the only task"),
    (("--tasks", "a", "--prioritize-by", "KMNC"), "prioritize_by='KMNC' orders nothing"),
    (
        ("--tasks", "a,b", "--adds-to", "a", "--prioritize-by", "KMNC", "--criteria", "NC"),
        "prioritize_by='KMNC' is not measured",
    ),
    (
        ("--tasks", "a,b", "--adds-to", "a", "--criteria", "NLC"),
        "adds_to='a': NLC counts no units",
    ),
    (("--tasks", "a", "--compat", "neural-coverage"), "compat='neural-coverage' is about"),
    (("--tasks", "a", "--modules", "("), "modules='(' is no regular expression"),
    (("--tasks", "a", "--directions", "nowhere"), "directions='nowhere'"),
    (
        ("--tasks", "a", "--reference", ".", "--reference-tasks", "b"),
        "reference='.' stands in the place of",
    ),
    (("--criteria", "KMNC"), "tasks is missing: add --tasks"),
]


def test_bad_input_is_refused_before_torch_is_imported(tmp_path) -> None:
    code = (
        "import json, sys\nfrom aim_plugins import cli\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    status = cli.main(['coverage', '--model', 'm', '--output', 'out', *words])\n"
        "    print(status, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([words for words, _ in REFUSED])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines() == ["2 False"] * len(REFUSED)
    for (_, message), said in zip(REFUSED, done.stderr.splitlines(), strict=True):
        assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_transports_of_other_models_and_folders_of_other_studies_are_refused(
    coverage, capsys
) -> None:
    status, folder = coverage("--tasks", "tiny_writing", *BRIEF)
    assert status == 0
    assert coverage("--tasks", "tiny_capitals", *BRIEF)[0] == 2
    assert "tasks" in capsys.readouterr().err
    status, other = coverage("--tasks", "tiny_writing", "--directions", folder, output="other")
    assert status == 2 and not other.exists()
    assert "transport=" in capsys.readouterr().err


def test_criteria_beyond_memory_are_refused_before_a_folder_is_made(
    coverage, capsys, monkeypatch
) -> None:
    from aim_plugins.coverage import moments

    monkeypatch.setattr(moments, "MEMORY_LIMIT", 2**16)
    status, folder = coverage("--tasks", "tiny_capitals", "--criteria", "NLC")
    assert status == 2 and not folder.exists()
    # Six layers of 48 neurons, for all documents and each of four answers.
    assert "NLC of 6 layers with 48 neurons needs" in capsys.readouterr().err


@pytest.mark.model
def test_the_demo_model_is_measured(demo_model, tmp_path, monkeypatch) -> None:
    from pathlib import Path

    from aim_plugins import cli

    root = Path(__file__).resolve().parents[2]
    words = ["--model", str(demo_model), "--include-path", str(root / "eval_configs/lm_eval")]
    words += ["--tasks", "aim_demo_capitals,aim_demo_generation", "--limit", "4", "--device", "cpu"]
    words += ["--adds-to", "aim_demo_capitals", "--baselines", "1", "--criteria", "NC,KMNC,IDC"]
    assert cli.main(["coverage", *words, "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "coverage.json").read_text())
    values = {one["label"]: one for one in content["neurons"]["results"]}
    assert len(values["KMNC"]["by_layer"]) == 60
    assert values["KMNC"]["total"] == 60 * 576 * 100
    assert content["additions"]["useful"] == 4
