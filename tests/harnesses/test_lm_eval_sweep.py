"""`aim-plugins sweep lm-eval`: equal to single runs, and unbreakable."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from aim_plugins.cli import main
from aim_plugins.harnesses.lm_eval import AimHFLM
from aim_plugins.modulation.noise import standard_normal
from aim_plugins.sweep.documents import read_scores
from aim_plugins.sweep.table import COLUMNS, DIFFERENCE_COLUMNS
from tests.conftest import die_in_a_copy
from tests.harnesses.conftest import die_after_the_first

STDS, DRAWS, SEED = (0.0, 1.0, 2.5), 2, 7
PLACES = ("Paris", "Berlin", "France", "Germany")
TASKS = "tiny_choice,tiny_generation,tiny_perplexity"


def arguments(checkpoint, tasks_folder, output, *more, tasks=TASKS):
    return [
        *("sweep", "lm-eval", "--model", "aim_hf", "--device", "cpu", "--batch-size", "4"),
        *("--model-args", f"pretrained={checkpoint},dtype=float32"),
        *("--tasks", tasks, "--include-path", str(tasks_folder)),
        *("--noise-std", ",".join(map(str, STDS)), "--draws", str(DRAWS)),
        *("--noise-seed", str(SEED), "--output", str(output), *more),
    ]


@pytest.fixture(scope="module")
def swept(tiny_checkpoint, tasks_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("sweep") / "run"
    assert main(arguments(tiny_checkpoint, tasks_folder, output)) == 0
    return output


def table(output):
    with open(output / "sweep.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def values(output, task, metric):
    return {
        (float(row["strength"]), row["draw"]): float(row["value"])
        for row in table(output)
        if (row["task"], row["metric"]) == (task, metric)
    }


def test_every_cell_equals_a_single_run(swept, tiny_checkpoint, tasks_folder):
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    for std in STDS:
        for draw in range(DRAWS):
            model = AimHFLM(
                str(tiny_checkpoint),
                noise_std=std,
                noise_seed=SEED + draw,
                device="cpu",
                dtype="float32",
                batch_size=4,
            )
            alone = simple_evaluate(model, tasks=TASKS.split(","), task_manager=manager)
            [path] = (swept / "cells").glob(f"std={std:g},draw={draw}/**/results_*.json")
            cell = json.loads(path.read_text())
            for task in TASKS.split(","):
                for metric, value in alone["results"][task].items():
                    if isinstance(value, float):
                        assert cell["results"][task][metric] == pytest.approx(value, rel=1e-5)
            assert cell["config"]["model_args"]["noise_std"] == std
            assert cell["config"]["model_args"]["noise_seed"] == SEED + draw


def test_the_folder_holds_all_that_was_promised(swept):
    for strength in ("0", "1", "2.5"):
        for draw in range(DRAWS):
            cell = swept / "cells" / f"std={strength},draw={draw}"
            assert len(list(cell.rglob("samples_*.jsonl"))) == 3
            assert len(list(cell.rglob("results_*.json"))) == 1
    assert {row["task"] for row in table(swept)} == set(TASKS.split(","))
    assert list(table(swept)[0]) == [*COLUMNS, *DIFFERENCE_COLUMNS]
    assert {row["n"] for row in table(swept)} == {"14"}
    pictures = {path.suffix for path in (swept / "curves").iterdir()}
    assert pictures == {".png", ".svg"}
    assert "<html" in (swept / "report.html").read_text()
    manifest = json.loads((swept / "manifest.json").read_text())
    assert manifest["arguments"]["noise_std"] == list(STDS)
    assert len(manifest["model_fingerprint"]) == 64


def test_what_every_document_scores_is_that_of_the_harness_samples(swept):
    kept = {
        (one.task, one.metric, one.strengths[0], one.draw): one
        for one in read_scores(swept / "documents.jsonl")
    }
    # Perplexities are no means of their documents' scores.
    assert {(task, metric) for task, metric, *_ in kept} == {
        ("tiny_choice", "acc"),
        ("tiny_choice", "acc_norm"),
        ("tiny_generation", "exact_match"),
    }
    for (task, metric, std, draw), one in kept.items():
        [path] = (swept / "cells" / f"std={std:g},draw={draw}").rglob(f"samples_{task}_*")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        assert [sample[metric] for sample in samples] == one.scores.tolist()
        assert [sample["doc_hash"][:8] for sample in samples] == list(one.documents)


def test_two_strengths_of_a_sweep_are_compared(swept, tmp_path, capsys):
    assert main(["compare", f"{swept}:0", f"{swept}:2.5", "--output", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "compare.csv", newline="") as lines:
        found = {(row["task"], row["metric"]): row for row in csv.DictReader(lines)}
    for (task, metric), row in found.items():
        measured = values(swept, task, metric)
        means = [sum(measured[std, str(d)] for d in range(DRAWS)) / DRAWS for std in (0.0, 2.5)]
        assert float(row["difference"]) == pytest.approx(means[1] - means[0])
        (own, *_) = [
            one
            for one in table(swept)
            if (one["task"], one["metric"], one["strength"]) == (task, metric, "2.5")
        ]
        assert own["difference"] == row["difference"]
        assert float(own["p"]) == pytest.approx(float(row["p"]))


def test_samples_hold_each_strengths_own_texts(swept):
    texts = {}
    for strength in ("0", "2.5"):
        [path] = (swept / "cells" / f"std={strength},draw=0").rglob("samples_tiny_generation*")
        texts[strength] = [json.loads(line)["resps"] for line in path.read_text().splitlines()]
    assert texts["0"] != texts["2.5"]


def test_expected_accuracy_is_the_limit_of_many_draws(tiny_checkpoint, tasks_folder, swept):
    model = AimHFLM(str(tiny_checkpoint), device="cpu", dtype="float32", batch_size=4)
    tokens = torch.tensor([model.tok_encode(f" {place}")[-1] for place in PLACES])
    expected = values(swept, "tiny_choice", "acc_expected")
    assert expected[0.0, ""] == values(swept, "tiny_choice", "acc")[0.0, "0"]
    for std in (1.0, 2.5):
        hits = []
        for index, line in enumerate((tasks_folder / "documents.jsonl").read_text().splitlines()):
            document = json.loads(line)
            prompt = model.tok_encode(f"Question : {document['question']} Answer :")
            with torch.no_grad():
                logits = model.model(torch.tensor([prompt])).logits[0, -1, tokens]
            keys = torch.arange(4000) * 1000 + index
            noise = standard_normal(keys, 4, seed=99)
            hits.append(((logits + std * noise).argmax(1) == document["label"]).float().mean())
        # Fourteen documents of 4000 draws each: a standard error of at most 0.0022.
        assert expected[std, ""] == pytest.approx(float(torch.stack(hits).mean()), abs=0.01)


def test_expected_accuracy_is_left_out_where_choices_have_several_tokens(
    tiny_checkpoint, tasks_folder, tmp_path
):
    task = (tasks_folder / "tiny_choice.yaml").read_text()
    changed = task.replace("tiny_choice", "tiny_phrases").replace(
        '"{{choices}}"', "['the capital', 'Paris is', 'Berlin .', 'Answer is']"
    )
    (tmp_path / "tiny_phrases.yaml").write_text(changed)
    output = tmp_path / "run"
    assert main(arguments(tiny_checkpoint, tmp_path, output, tasks="tiny_phrases")) == 0
    assert {row["metric"] for row in table(output)} == {"acc", "acc_norm"}


def contents(output):
    """Everything that must not depend on how often a run was broken: tables, samples, pictures."""
    files = {"sweep.csv": (output / "sweep.csv").read_bytes()}
    for path in sorted((output / "curves").iterdir()):
        files[path.name] = path.read_bytes()
    for path in sorted((output / "cells").rglob("samples_*.jsonl")):
        task = path.name.rsplit("_", 1)[0]
        files[f"{path.parts[-3]}/{task}"] = path.read_bytes()
    for path in sorted((output / "cells").rglob("results_*.json")):
        files[f"{path.parts[-3]}/results"] = json.loads(path.read_text())["results"]
    return files


@pytest.mark.parametrize(("kind", "cells"), [("records", 0), ("cells", 1)])
def test_a_killed_run_ends_as_an_unbroken_one(
    swept, tiny_checkpoint, tasks_folder, tmp_path, monkeypatch, kind, cells
):
    command = arguments(tiny_checkpoint, tasks_folder, tmp_path / "run")
    with monkeypatch.context() as patch:
        die_after_the_first(patch, kind)
        die_in_a_copy(lambda: main(command))
    finished = list((tmp_path / "run" / "cells").glob("*"))
    assert len(finished) == cells
    assert list((tmp_path / "run" / "records").glob("*"))
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert main(command) == 0
    assert contents(tmp_path / "run") == contents(swept)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_ctrl_c_says_that_work_is_kept(swept, tiny_checkpoint, tasks_folder, tmp_path):
    command = arguments(tiny_checkpoint, tasks_folder, tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "aim_plugins.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "records").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip().endswith("is kept; the same command goes on from there")
    assert main(command) == 0
    assert contents(tmp_path / "run") == contents(swept)


def test_a_finished_sweep_needs_no_model(swept, tiny_checkpoint, tasks_folder, tmp_path):
    checkpoint = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, checkpoint)
    command = arguments(checkpoint, tasks_folder, tmp_path / "run", tasks="tiny_choice")
    assert main(command) == 0
    before = contents(tmp_path / "run")
    shutil.rmtree(checkpoint)
    assert main(command) == 0
    assert contents(tmp_path / "run") == before


def test_a_corrupt_cell_is_computed_again_with_a_warning(
    swept, tiny_checkpoint, tasks_folder, tmp_path
):
    output = tmp_path / "run"
    shutil.copytree(swept, output)
    (output / "cells" / "std=1,draw=1" / "cell.json").write_text('{"half')
    with pytest.warns(UserWarning, match="std=1,draw=1 is damaged"):
        assert main(arguments(tiny_checkpoint, tasks_folder, output)) == 0
    assert contents(output) == contents(swept)


def test_a_full_disk_is_named_and_nothing_is_lost(
    swept, tiny_checkpoint, tasks_folder, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "run"
    command = arguments(tiny_checkpoint, tasks_folder, output)
    replace, calls = os.replace, []

    def full(source, target, **options):
        calls.append(target)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main(command) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert main(command) == 0
    assert contents(output) == contents(swept)


def test_another_sweeps_folder_is_refused(swept, tiny_checkpoint, tasks_folder, capsys):
    before = contents(swept)
    command = arguments(tiny_checkpoint, tasks_folder, swept, "--limit", "3")
    assert main(command) == 2
    assert "holds another sweep (limit:" in capsys.readouterr().err
    assert contents(swept) == before


def test_an_edited_task_is_noticed_on_resume(tiny_checkpoint, tasks_folder, tmp_path, capsys):
    tasks, output = tmp_path / "tasks", tmp_path / "run"
    shutil.copytree(tasks_folder, tasks)
    command = arguments(tiny_checkpoint, tasks, output, tasks="tiny_choice")
    assert main(command) == 0
    assert main(command) == 0
    task = tasks / "tiny_choice.yaml"
    task.write_text(task.read_text().replace("Question :", "Please :"))
    before = contents(output)
    for missing in (False, True):
        if missing:
            shutil.rmtree(output / "cells" / "std=1,draw=0")
        else:
            assert contents(output) == before
        assert main(command) == 2
        assert "task_fingerprints" in capsys.readouterr().err


def test_an_empty_choice_is_refused_before_anything_is_written(
    tiny_checkpoint, tasks_folder, tmp_path, capsys
):
    documents = (tasks_folder / "documents.jsonl").read_text().splitlines()
    documents[3] = documents[3].replace('"Berlin"', '""')
    (tmp_path / "documents.jsonl").write_text("\n".join(documents))
    task = (tasks_folder / "tiny_choice.yaml").read_text().replace("tiny_choice", "tiny_empty")
    task = task.replace(str(tasks_folder), str(tmp_path)) + "target_delimiter: ''\n"
    (tmp_path / "tiny_empty.yaml").write_text(task)
    command = arguments(tiny_checkpoint, tmp_path, tmp_path / "run", tasks="tiny_empty")
    assert main(command) == 2
    assert "document 3 of task 'tiny_empty' has an empty continuation" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_sampled_texts_survive_a_kill(tiny_checkpoint, tasks_folder, tmp_path):
    def command(name):
        return arguments(
            *(tiny_checkpoint, tasks_folder, tmp_path / name),
            *("--gen-kwargs", "do_sample=True,temperature=0.9"),
            tasks="tiny_generation",
        )

    assert main(command("whole")) == 0
    assert main(command("broken")) == 0
    (records,) = (tmp_path / "broken" / "records").iterdir()
    records.write_text("".join(records.read_text().splitlines(keepends=True)[1:]))
    shutil.rmtree(tmp_path / "broken" / "cells")
    assert main(command("broken")) == 0
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"--noise-std": "-1"}, "noise_std"),
        ({"--noise-std": "nan"}, "noise_std"),
        ({"--noise-std": "inf"}, "noise_std"),
        ({"--noise-std": ""}, "noise_std"),
        ({"--noise-std": "1,1"}, "twice"),
        ({"--noise-std": "0:3"}, "noise_std"),
        ({"--draws": "0"}, "noise_draws=0"),
        ({"--tasks": "no_such_task"}, "Tasks not found: no_such_task"),
        ({"--model": "dummy"}, "--model dummy does not answer under many strengths"),
        ({"--model": "no_such_model"}, "no_such_model"),
        ({"--model-args": "pretrained=x,noise_std=1"}, "noise_std stands in --model_args and"),
        ({"--use-cache": "x"}, "--use_cache cannot be used in a sweep"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    tiny_checkpoint, tasks_folder, tmp_path, capsys, change, problem
):
    command = arguments(tiny_checkpoint, tasks_folder, tmp_path / "run")
    for option, value in change.items():
        if option in command:
            place = command.index(option)
            command[place : place + 2] = [f"{option}={value}"]
        else:
            command += [option, value]
    assert main(command) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_folder_without_weights_is_named(tiny_checkpoint, tasks_folder, tmp_path, capsys):
    checkpoint = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, checkpoint, ignore=shutil.ignore_patterns("*.safetensors"))
    assert main(arguments(checkpoint, tasks_folder, tmp_path / "run")) == 1
    assert str(checkpoint) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nan_logits_stop_the_sweep_by_name(tiny_checkpoint, tasks_folder, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    checkpoint = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    for task in ("tiny_choice", "tiny_generation"):
        output = tmp_path / task
        assert main(arguments(checkpoint, tasks_folder, output, tasks=task)) == 2
        assert "NaN" in capsys.readouterr().err
        assert not list(output.glob("cells/*"))


def test_a_replaced_model_is_noticed_on_resume(tiny_checkpoint, tasks_folder, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    checkpoint, output = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_checkpoint, checkpoint)
    command = arguments(checkpoint, tasks_folder, output, tasks="tiny_choice")
    assert main(command) == 0
    shutil.rmtree(output / "cells" / "std=1,draw=0")
    weights = load_file(checkpoint / "model.safetensors")
    save_file(
        {name: tensor * 1.01 for name, tensor in weights.items()},
        checkpoint / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert main(command) == 2
    assert "model_fingerprint" in capsys.readouterr().err


def test_two_processes_write_the_folder_of_one(swept, tiny_checkpoint, tasks_folder, tmp_path):
    output: Path = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [
            *launch,
            *("--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no"),
            *("-m", "aim_plugins.cli", *arguments(tiny_checkpoint, tasks_folder, output)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in zip(table(swept), table(output), strict=True):
        assert float(two["value"]) == pytest.approx(float(one["value"]), rel=1e-4)
        assert {k: v for k, v in one.items() if k not in ("value", "stderr")} == {
            k: v for k, v in two.items() if k not in ("value", "stderr")
        }


def test_groups_of_tasks_have_their_own_rows(tiny_checkpoint, tasks_folder, tmp_path):
    shutil.copytree(tasks_folder, tmp_path / "tasks")
    twin = (tasks_folder / "tiny_choice.yaml").read_text().replace("tiny_choice", "tiny_twin")
    (tmp_path / "tasks" / "tiny_twin.yaml").write_text(twin)
    (tmp_path / "tasks" / "group.yaml").write_text(
        "group: tiny_group\ntask: [tiny_choice, tiny_twin]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    output = tmp_path / "run"
    command = arguments(tiny_checkpoint, tmp_path / "tasks", output, tasks="tiny_group")
    assert main(command) == 0
    assert {row["task"] for row in table(output)} == {"tiny_choice", "tiny_twin", "tiny_group"}
    assert values(output, "tiny_group", "acc") == values(output, "tiny_choice", "acc")
    assert {row["n"] for row in table(output) if row["task"] == "tiny_group"} == {"28"}


def test_arguments_may_come_from_lm_evals_own_configuration_file(
    swept, tiny_checkpoint, tasks_folder, tmp_path
):
    (tmp_path / "config.yaml").write_text(
        f"model: aim_hf\nmodel_args: {{pretrained: {tiny_checkpoint}, dtype: float32}}\n"
        f"tasks: [tiny_choice]\ninclude_path: {tasks_folder}\nbatch_size: 4\ndevice: cpu\n"
    )
    output = tmp_path / "run"
    command = ["sweep", "lm-eval", "--config", str(tmp_path / "config.yaml")]
    command += ["--log-samples", "--noise-std", "1", "--output", str(output)]
    assert main([*command, "--noise-seed", str(SEED)]) == 0
    [ours] = values(output, "tiny_choice", "acc").values()
    assert ours == values(swept, "tiny_choice", "acc")[1.0, "0"]
