"""`aim-plugins sweep lm-eval --strength`: a curve over a transport, equal to single runs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file

from aim_plugins.cli import main
from aim_plugins.harnesses.lm_eval import ActHFLM
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import Transport
from tests.conftest import die_in_a_copy
from tests.harnesses.conftest import die_after_the_first

GRID, STRENGTHS = "-0.5:1:0.5", (-0.5, 0.0, 0.5, 1.0)
TASKS = "tiny_choice,tiny_generation"


@pytest.fixture(scope="module")
def transport(make_transport, tiny_checkpoint, tmp_path_factory) -> Path:
    return make_transport(tmp_path_factory.mktemp("transport"), tiny_checkpoint)


@pytest.fixture(scope="module")
def command(tiny_checkpoint, transport, tasks_folder):
    def words(output, *swept, tasks=TASKS, model_args="", folder=transport, model="act_hf"):
        return [
            *("sweep", "lm-eval", "--model", model, "--device", "cpu", "--batch-size", "4"),
            "--model-args",
            f"pretrained={tiny_checkpoint},dtype=float32,transport={folder}{model_args}",
            *("--tasks", tasks, "--include-path", str(tasks_folder)),
            *("--output", str(output), *(swept or ("--strength", GRID))),
        ]

    return words


@pytest.fixture(scope="module")
def swept(command, tmp_path_factory):
    output = tmp_path_factory.mktemp("sweep") / "run"
    assert main(command(output)) == 0
    return output


def table(output):
    with open(output / "sweep.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def values(output, metric):
    return {
        (float(row["strength"]), row["draw"]): float(row["value"])
        for row in table(output)
        if (row["task"], row["metric"]) == ("tiny_choice", metric)
    }


def contents(output):
    """Everything that must not depend on how often a run was broken."""
    files = {"sweep.csv": (output / "sweep.csv").read_bytes()}
    for path in sorted((output / "curves").iterdir()):
        files[path.name] = path.read_bytes()
    for path in sorted((output / "cells").rglob("samples_*.jsonl")):
        files[f"{path.parts[-3]}/{path.name.rsplit('_', 1)[0]}"] = path.read_bytes()
    return files


def test_a_transport_of_other_weights_is_forced_by_an_option(
    command, make_transport, tiny_checkpoint, tmp_path
):
    others = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    weights = load_file(others / "model.safetensors")
    weights = {name: tensor * 1.5 for name, tensor in weights.items()}
    save_file(weights, others / "model.safetensors", metadata={"format": "pt"})
    strange = make_transport(tmp_path / "transport", others)
    words = command(tmp_path / "run", "--strength", "0.5", folder=strange, tasks="tiny_choice")
    assert main(words) == 2
    assert main([*words, "--force-transport", "maybe"]) == 2
    assert main([*words, "--force-transport", "True"]) == 0


def test_every_cell_is_named_by_its_strength_and_equals_a_single_run(
    swept, tiny_checkpoint, transport, tasks_folder
):
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    names = {path.name for path in (swept / "cells").iterdir()}
    assert names == {f"strength={strength:g},draw=0" for strength in STRENGTHS}
    for strength in STRENGTHS:
        model = ActHFLM(
            str(tiny_checkpoint),
            transport=str(transport),
            strength=strength,
            device="cpu",
            dtype="float32",
            batch_size=4,
        )
        alone = simple_evaluate(model, tasks=TASKS.split(","), task_manager=manager)
        [path] = (swept / "cells" / f"strength={strength:g},draw=0").rglob("results_*.json")
        cell = json.loads(path.read_text())
        for task in TASKS.split(","):
            for metric, value in alone["results"][task].items():
                if isinstance(value, float):
                    assert cell["results"][task][metric] == pytest.approx(value, rel=1e-5)
        assert cell["config"]["model_args"]["strength"] == strength
        assert cell["config"]["model_args"]["transport"] == str(transport)


def test_two_transports_under_names_make_a_grid_whose_cells_are_single_runs(
    make_transport, tiny_checkpoint, transport, tasks_folder, tmp_path
):
    other = make_transport(tmp_path / "other", tiny_checkpoint, seed=1)
    given = {"transport_praise": str(transport), "transport_sea": str(other), "dtype": "float32"}
    arguments = ",".join(f"{name}={value}" for name, value in given.items())
    words = [
        *("sweep", "lm-eval", "--model", "act_hf", "--device", "cpu", "--batch-size", "4"),
        *("--model-args", f"pretrained={tiny_checkpoint},{arguments}", "--tasks", "tiny_choice"),
        *("--include-path", str(tasks_folder), "--output", str(tmp_path / "run")),
        *("--strength-praise", "-0.5,0", "--strength-sea=0:1:1"),
    ]
    assert main(words) == 0
    cells = tmp_path / "run" / "cells"
    grid = [(praise, sea) for praise in (-0.5, 0) for sea in (0, 1)]
    assert {path.name for path in cells.iterdir()} == {
        f"strength_praise={praise:g},strength_sea={sea:g},draw=0" for praise, sea in grid
    }
    [path] = (cells / "strength_praise=-0.5,strength_sea=1,draw=0").rglob("results_*.json")
    cell = json.loads(path.read_text())["results"]["tiny_choice"]
    model = ActHFLM(str(tiny_checkpoint), **given, strength_praise=-0.5, device="cpu", batch_size=4)
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    alone = simple_evaluate(model, tasks=["tiny_choice"], task_manager=manager)
    assert cell["acc_norm,none"] == alone["results"]["tiny_choice"]["acc_norm,none"]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    changes = manifest["arguments"]["changes"]
    assert changes["transport_sea"]["fingerprint"] == LearnedTransport.load(other).fingerprint


def test_the_folder_speaks_of_the_transport(swept, transport):
    assert {float(row["strength"]) for row in table(swept)} == set(STRENGTHS)
    fingerprint = LearnedTransport.load(transport).fingerprint
    manifest = json.loads((swept / "manifest.json").read_text())
    assert manifest["arguments"]["changes"]["transport"]["fingerprint"] == fingerprint
    assert manifest["arguments"]["strength"] == list(STRENGTHS)
    [picture] = (swept / "curves").glob("tiny_choice-acc.svg")
    assert Transport.axis.label in picture.read_text()
    assert "chance" in picture.read_text()
    report = (swept / "report.html").read_text()
    assert Transport.axis.label in report
    assert "noise std" not in report


def test_the_law_of_noise_is_left_out_where_the_transport_varies(swept):
    assert "acc" in {row["metric"] for row in table(swept)}
    assert "acc_expected" not in {row["metric"] for row in table(swept)}


def test_a_killed_run_ends_as_an_unbroken_one(swept, command, tmp_path, monkeypatch):
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        die_after_the_first(patch, "cells")
        die_in_a_copy(lambda: main(command(output)))
    finished = list((output / "cells").glob("*"))
    assert len(finished) == 1
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert main(command(output)) == 0
    assert contents(output) == contents(swept)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_transport_fitted_anew_under_the_same_name_is_refused(
    command, make_transport, tiny_checkpoint, tmp_path, capsys
):
    folder, output = tmp_path / "transport", tmp_path / "run"
    make_transport(folder, tiny_checkpoint)
    words = command(output, "--strength", "0.5", tasks="tiny_choice", folder=folder)
    assert main(words) == 0
    before = contents(output)
    make_transport(folder, tiny_checkpoint, seed=1)
    for missing in (False, True):
        if missing:
            shutil.rmtree(output / "cells")
        assert main(words) == 2
        assert "holds another sweep (changes:" in capsys.readouterr().err
        if not missing:
            assert contents(output) == before


def test_draws_of_a_fixed_noise_differ_at_every_strength(command, swept, tmp_path):
    output = tmp_path / "run"
    words = command(
        *(output, "--strength", "0,1", "--draws", "2"),
        tasks="tiny_choice",
        model_args=",noise_std=3",
    )
    assert main(words) == 0
    names = {path.name for path in (output / "cells").iterdir()}
    assert names == {f"strength={s},draw={d}" for s in (0, 1) for d in (0, 1)}
    texts = {path.read_bytes() for path in output.rglob("samples_tiny_choice_*")}
    assert len(texts) == 4
    [path] = (output / "cells" / "strength=1,draw=1").rglob("results_*.json")
    model_args = json.loads(path.read_text())["config"]["model_args"]
    assert (model_args["noise_std"], model_args["noise_seed"]) == (3.0, 1)


def test_the_law_of_noise_is_that_under_a_fixed_transport(command, swept, tmp_path):
    output = tmp_path / "run"
    words = command(
        *(output, "--noise-std", "0,2", "--draws", "2"),
        tasks="tiny_choice",
        model_args=",strength=1",
    )
    assert main(words) == 0
    assert {path.name for path in (output / "cells").iterdir()} == {
        f"std={std},draw={draw}" for std in (0, 2) for draw in (0, 1)
    }
    # Without noise the law is the accuracy itself, here of the transported model.
    assert values(output, "acc_expected")[0.0, ""] == values(swept, "acc")[1.0, "0"]
    assert values(output, "acc")[0.0, "0"] == values(swept, "acc")[1.0, "0"]
    assert 0 < values(output, "acc_expected")[2.0, ""] < 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"swept": ("--draws", "1")}, "none of --noise-std, --strength, "),
        ({"swept": ("--strength", "much")}, "strength='much' is malformed"),
        ({"swept": ("--strength", "-1:1")}, "strength='-1:1' is malformed"),
        ({"swept": ("--strength", "1,1")}, "holds 1 twice"),
        ({"swept": ("--noise-std", "-1")}, "is negative"),
        ({"model": "hf"}, "--model hf does not answer under many strengths"),
        ({"model_args": ",strength=1"}, "strength stands in --model_args and in --strength"),
        (
            {"swept": ("--noise-std", "1", "--noise-seed", "1"), "model_args": ",noise_seed=1"},
            "noise_seed stands in --model_args and in --noise-seed",
        ),
        (
            {"swept": ("--noise-std", "1"), "model_args": ",noise_std=1"},
            "noise_std stands in --model_args and in --noise-std",
        ),
        ({"swept": ("--strength", "1", "--draws", "2")}, "--draws 2 repeats one result"),
        ({"swept": ("--noise-std", "1"), "model_args": ",strenght=1"}, "did you mean strength=?"),
        ({"folder": "no/such/folder"}, "transport='no/such/folder' is no folder"),
        ({"folder": ""}, "transport= is missing"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_nothing_is_written(command, tmp_path, capsys, change, problem):
    options = {"swept": ("--strength", GRID), **change}
    words = command(tmp_path / "run", *options.pop("swept"), **options)
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert problem in errors
    assert errors.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run").exists()
