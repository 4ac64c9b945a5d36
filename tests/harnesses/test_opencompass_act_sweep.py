"""Sweeps of a transport's strength with OpenCompass: entries, cells, tables and whole runs."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("opencompass")

from mmengine.config import Config, ConfigDict
from opencompass.datasets.custom import make_custom_dataset_config

from aim_plugins.engines.engine import Modulation
from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.config import modulations
from aim_plugins.harnesses.opencompass.config.check import check_config
from aim_plugins.harnesses.opencompass.config.entries import SweepGroup, sweep_groups
from aim_plugins.harnesses.opencompass.config.modulations import split_modulation
from aim_plugins.harnesses.opencompass.results.summarizer import SweepSummarizer
from aim_plugins.harnesses.opencompass.results.table import split_sweeps
from aim_plugins.harnesses.opencompass.run.evaluate import SweepOpenICLEvalTask
from aim_plugins.harnesses.opencompass.run.infer import SweepOpenICLInferTask
from aim_plugins.harnesses.opencompass.run.partitioner import (
    SweepEvalPartitioner,
    SweepInferPartitioner,
)
from aim_plugins.sweep.table import read_table
from aim_plugins.transport.artifact import LearnedTransport

MODEL = "aim_plugins.harnesses.opencompass.HuggingFaceAcTModel"
NOISE_MODEL = "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel"
STRENGTHS = (0.0, 0.5, 1.0)


@pytest.fixture
def transport(make_transport, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return make_transport(tmp_path / "transport", tiny_checkpoint)


def entry(transport: Path, strength: float, path: object = "org/model", **settings) -> ConfigDict:
    return ConfigDict(
        {
            "type": MODEL,
            "abbr": f"tiny-act{strength}",
            "path": str(path),
            "transport": str(transport),
            "strength": strength,
            **settings,
        }
    )


# Entries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
def test_a_transport_is_read_from_generation_kwargs_and_from_beside_them(transport, inside):
    act = dict(transport=str(transport), strength=0.5, noise_std=2.0)
    settings = dict(path="p", generation_kwargs=dict(do_sample=False, **(act if inside else {})))
    settings.update({} if inside else act)
    split = split_modulation(settings)
    print_ = LearnedTransport.load(transport).fingerprint
    assert split.modulation == Modulation(2.0, transport_strength=0.5, transport=print_)
    assert split.rest == {"path": "p", "generation_kwargs": {"do_sample": False}}
    assert split.folder == str(transport)


def test_a_transport_without_a_strength_is_applied_as_learned(transport):
    assert split_modulation(dict(transport=str(transport))).modulation.transport_strength == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(strength=0.5), r"strength=0\.5 has no transport: write transport="),
        (dict(transport="T", strength="half"), "strength='half' is malformed: 'half' is not a num"),
        (dict(transport="T", strength=None), "strength=None is not a number"),
        (dict(transport="T", strength=True), "strength=True is a bool, not a number"),
        (dict(transport="T", strength=float("nan")), "strength=nan is not finite"),
        (dict(transport="T", strength=[0.0, 0.5]), "one entry has one strength: write an entry"),
        (dict(transport="T", strength="0:1:0.5"), "strength='0:1:0.5' holds 3 strengths"),
        (dict(transport="T", strenght=0.5), "strenght=0.5 .*did you mean strength"),
        (dict(transport="T", transport_strength=0.5), "did you mean strength"),
        (dict(transprot="T"), "did you mean transport"),
        (dict(transport="T", generation_kwargs=dict(strengh=1)), "did you mean strength"),
        (dict(transport="T", generation_kwargs=dict(transport="U")), "transport=.*disagrees"),
        (dict(transport=None), "transport=None is no folder: write its path as text"),
        (dict(transport=""), "transport='' is no folder"),
        (dict(transport="T", force_transport="yes"), "force_transport='yes' is neither True nor"),
    ],
)
def test_bad_settings_are_refused_with_their_name_and_value(transport, settings, message):
    settings = {key: str(transport) if value == "T" else value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        split_modulation(settings)


def test_entries_equal_but_for_names_noise_and_strength_are_one_group(transport):
    models = [entry(transport, strength) for strength in (*STRENGTHS, -0.5)]
    models.append(entry(transport, 0.5, abbr="both", noise_std=1.0, noise_seed=3))
    (group,) = sweep_groups(models)
    assert [column.transport_strength for column in group.columns] == [0.0, 0.5, 1.0, -0.5, 0.5]
    assert [column.std for column in group.columns] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert {column.transport for column in group.columns} == {
        LearnedTransport.load(transport).fingerprint
    }


def test_another_transport_is_another_group(make_transport, tiny_checkpoint, transport, tmp_path):
    other = make_transport(tmp_path / "other", tiny_checkpoint, seed=1)
    copy = shutil.copytree(transport, tmp_path / "copy")
    models = [
        entry(folder, strength, abbr=f"{folder.name}-{strength}")
        for folder, strength in [(transport, 0.0), (transport, 1.0), (other, 1.0), (copy, 0.5)]
    ]
    first, second = sweep_groups(models)
    assert [e["abbr"] for e in first.entries] == ["transport-0.0", "transport-1.0", "copy-0.5"]
    assert [e["abbr"] for e in second.entries] == ["other-1.0"]


def test_a_strength_given_twice_is_refused_with_both_entries(transport):
    with pytest.raises(ValueError, match=r"abbr='a'.*abbr='b'.*strength=0\.5.*change its strength"):
        sweep_groups([entry(transport, 0.5, abbr="a"), entry(transport, 0.5, abbr="b")])


def test_settings_of_other_peoples_classes_are_their_own():
    kind = "opencompass.models.HuggingFaceBaseModel"
    models = [dict(type=kind, abbr=f"m{x}", path="p", strength="high", transport=x) for x in (1, 2)]
    assert len(sweep_groups(models)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(type=NOISE_MODEL), "abbr='tiny-act0.5': transport=.*write type=HuggingFaceAcTModel"),
        (dict(strength="x"), "abbr='tiny-act0.5': strength='x'"),
    ],
)
def test_a_wrong_entry_is_refused_before_a_task_starts(transport, changes, message):
    with pytest.raises(ValueError, match=message):
        check_config({"models": [ConfigDict(entry(transport, 0.5), **changes)]})


def test_a_class_for_transports_without_one_is_refused():
    with pytest.raises(ValueError, match="transport is missing, and HuggingFaceAcTModel needs one"):
        check_config({"models": [dict(type=MODEL, abbr="m", path="org/model")]})


def test_a_missing_transport_is_refused_before_a_task_starts(tmp_path):
    with pytest.raises(FileNotFoundError, match="abbr='tiny-act0.5': transport='.*no/such'") as e:
        check_config({"models": [entry(tmp_path / "no/such", 0.5)]})
    assert "\n" not in str(e.value)
    assert "aim-plugins transport fit" in str(e.value)


@pytest.mark.parametrize("name", ["transport.json", "transport.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_damaged_transport_is_refused_before_a_task_starts(transport, name, damage):
    check_config({"models": [entry(transport, 0.5)]})
    content = (transport / name).read_bytes()
    (transport / name).unlink()
    if damage == "cut short":
        (transport / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"abbr='tiny-act0.5': .*{name}") as caught:
        check_config({"models": [entry(transport, 0.5)]})
    assert "\n" not in str(caught.value)


def test_a_strength_outside_the_range_is_warned_of_once(transport, monkeypatch):
    warnings = []
    monkeypatch.setattr(modulations.get_logger(), "warning", warnings.append)
    modulations._warn_once.cache_clear()
    for _ in range(2):
        check_config({"models": [entry(transport, strength) for strength in (0.0, 1.0)]})
    assert warnings == []
    for _ in range(2):
        check_config({"models": [entry(transport, strength) for strength in (-0.5, 1.0, 1.5)]})
    (warning,) = warnings
    assert warning.startswith("strength=-0.5, 1.5 lies outside 0 to 1")


def test_a_strength_that_a_fit_transported_at_is_not_warned_of(transport, monkeypatch):
    warnings = []
    monkeypatch.setattr(modulations.get_logger(), "warning", warnings.append)
    modulations._warn_once.cache_clear()
    learned = LearnedTransport.load(transport)
    metadata = dataclasses.replace(learned.metadata, incremental=True, strength=2.0)
    LearnedTransport(learned.maps, metadata).save(transport)
    check_config({"models": [entry(transport, strength) for strength in (0.0, 2.0)]})
    assert warnings == []
    check_config({"models": [entry(transport, strength) for strength in (0.0, 2.5)]})
    assert warnings[0].startswith("strength=2.5 lies outside 0 to 2")


# Cells ------------------------------------------------------------------------------------------


def test_a_refitted_transport_makes_predictions_stale(
    make_transport, tiny_checkpoint, transport, tmp_path
):
    """Under the same path; at strength 0 nothing depends on the transport."""
    data = {"abbr": "d", "type": "x", "path": "none"}

    def cell(strength: float) -> Cell:
        return Cell(tmp_path / "out", entry(transport, strength), data)

    for strength in (0.0, 0.5):
        cell(strength).begin_prediction()
        cell(strength).prediction.write_text("{}")
        cell(strength).note_prediction()
    assert cell(0.0).has_prediction() and cell(0.5).has_prediction()
    make_transport(transport, tiny_checkpoint)  # the same maps again
    assert cell(0.5).has_prediction()
    make_transport(transport, tiny_checkpoint, seed=1)
    assert cell(0.0).has_prediction()
    assert not cell(0.5).has_prediction()


def test_predictions_at_each_strength_are_told_apart(transport, tmp_path):
    data = {"abbr": "d", "type": "x", "path": "none"}
    prints = {
        Cell(tmp_path, entry(transport, strength), data).prediction_fingerprint
        for strength in (0.0, 0.5, -0.5, 1.0)
    }
    assert len(prints) == 4


# Sweeps of a group ------------------------------------------------------------------------------


def group(*points: tuple[float, float], means: tuple[float, ...] = (0.0,)) -> SweepGroup:
    columns = [
        Modulation(std, mean if std else 0.0, 0, strength, "print")
        for std, strength in points
        for mean in (means if std else means[:1])
    ]
    entries = [ConfigDict(abbr=f"e{index}") for index in range(len(columns))]
    return SweepGroup("g", tuple(entries), tuple(columns))


def axes(found: SweepGroup) -> dict[str, tuple[str, list[float]]]:
    return {sweep.name: (sweep.swept, sweep.strengths) for sweep in split_sweeps(found)}


def test_the_axis_is_what_varies():
    assert axes(group((0, 0), (0, 0.5), (0, 1))) == {"g": ("transport_strength", [0, 0.5, 1])}
    assert axes(group((0, 0.5), (1, 0.5))) == {"g": ("std", [0, 1])}
    assert axes(group((2, 0), (2, 1))) == {"g": ("transport_strength", [0, 1])}
    assert axes(group((2, 0.5))) == {"g": ("transport_strength", [0.5])}


def test_where_both_vary_each_strength_of_the_shorter_one_has_a_curve():
    grid = [(std, strength) for std in (0, 1) for strength in (0, 0.5, 1)]
    assert axes(group(*grid)) == {
        "g-noise=0": ("transport_strength", [0, 0.5, 1]),
        "g-noise=1": ("transport_strength", [0, 0.5, 1]),
    }
    grid = [(std, strength) for std in (0, 1, 2) for strength in (0, 0.5)]
    assert axes(group(*grid)) == {
        "g-strength=0": ("std", [0, 1, 2]),
        "g-strength=0.5": ("std", [0, 1, 2]),
    }
    square = [(std, strength) for std in (0, 1) for strength in (0, 0.5)]
    assert {swept for swept, _ in axes(group(*square)).values()} == {"transport_strength"}


def test_each_noise_mean_has_a_curve_of_its_own():
    grid = [(std, strength) for std in (0, 1) for strength in (0, 1)]
    sweeps = split_sweeps(group(*grid, means=(0.0, 3.0)))
    assert [sweep.name for sweep in sweeps] == ["g-noise=0", "g-noise=1-mean=0", "g-noise=1-mean=3"]
    assert all(sweep.draws == (0, 0) for sweep in sweeps)
    assert {column.mean for column in sweeps[2].columns} == {3.0}


def test_seeds_are_draws_at_each_strength():
    columns = [Modulation(1.0, 0.0, seed, lam, "p") for lam in (0.0, 0.5) for seed in (7, 8)]
    entries = tuple(ConfigDict(abbr=f"e{index}") for index in range(4))
    (sweep,) = split_sweeps(SweepGroup("g", entries, tuple(columns)))
    assert sweep.draws == (0, 1, 0, 1)
    assert sweep.strengths == [0.0, 0.5]


# Whole runs -------------------------------------------------------------------------------------


PLACES = ("France", "Germany", "Paris", "Berlin", "Question", "Answer")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[dict]:
    """Multiple choice by perplexity, and questions by generation, six documents each."""
    folder = tmp_path_factory.mktemp("data")
    choices = {"A": "Paris", "B": "Berlin", "C": "France"}
    documents = [
        {"question": f"the capital of {place}", **choices, "answer": "ABC"[index % 3]}
        for index, place in enumerate(PLACES)
    ]
    write_lines(folder / "choice.jsonl", documents)
    documents = [
        {"question": f"{place} is", "answer": "the capital"} for index, place in enumerate(PLACES)
    ]
    write_lines(folder / "text.jsonl", documents)
    template = {letter: f"{{question}} is {{{letter}}}" for letter in choices}
    return [
        dict(
            abbr="choice",
            path=str(folder / "choice.jsonl"),
            data_type="mcq",
            infer_method="ppl",
            template=template,
        ),
        dict(abbr="text", path=str(folder / "text.jsonl"), data_type="qa", infer_method="gen"),
    ]


def write_lines(path: Path, documents: list[dict]) -> None:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def tiny(checkpoint: Path, transport: Path, strength: float, **settings) -> ConfigDict:
    return entry(
        transport,
        strength,
        path=checkpoint,
        **{
            "model_kwargs": {"torch_dtype": "torch.float32", "device_map": "cpu"},
            "max_out_len": 6,
            "batch_size": 4,
            "run_cfg": {"num_gpus": 0},
            **settings,
        },
    )


def config(folder: Path, models: list, data: list[dict]) -> Config:
    """A run's config, written and read again as OpenCompass does."""
    folder.mkdir(exist_ok=True)
    datasets = [make_custom_dataset_config(dict(dataset)) for dataset in data]
    run = {"models": models, "datasets": datasets, "work_dir": str(folder)}
    Config(run, format_python_code=False).dump(str(folder / "config.py"))
    return Config.fromfile(str(folder / "config.py"), format_python_code=False)


def infer_tasks(run: Config) -> list[Config]:
    return SweepInferPartitioner(f"{run.work_dir}/predictions/", num_worker=1)(run)


def run_all(run: Config) -> None:
    for task in infer_tasks(run):
        SweepOpenICLInferTask(task).run()
    for task in SweepEvalPartitioner(f"{run.work_dir}/results/")(run):
        SweepOpenICLEvalTask(task).run()


def read(run: Config, kind: str, abbr: str, dataset: str) -> dict:
    return json.loads(Path(run.work_dir, kind, abbr, f"{dataset}.json").read_text())


def choices_of(predictions: dict) -> list[float]:
    return [
        answer[f"label: {letter}"]["PPL"] for answer in predictions.values() for letter in "ABC"
    ]


def test_a_group_of_strengths_equals_runs_of_single_strengths(
    tmp_path, tiny_checkpoint, transport, data
):
    models = [tiny(tiny_checkpoint, transport, strength) for strength in STRENGTHS]
    plain = tiny(tiny_checkpoint, transport, 0.0, type=NOISE_MODEL, abbr="plain")
    del plain["transport"], plain["strength"]
    together = config(tmp_path / "together", [*models, plain], data)
    assert len(infer_tasks(together)) == 2
    run_all(together)
    for model in models[1:]:
        alone = config(tmp_path / model["abbr"], [model], data)
        run_all(alone)
        for kind, dataset in (("predictions", "text"), ("results", "choice"), ("results", "text")):
            ours, theirs = (read(run, kind, model["abbr"], dataset) for run in (together, alone))
            assert ours == theirs
        ours, theirs = (
            choices_of(read(run, "predictions", model["abbr"], "choice"))
            for run in (together, alone)
        )
        assert ours == pytest.approx(theirs, rel=1e-5)
    for dataset in ("choice", "text"):
        zero, unmodulated = (
            read(together, "predictions", abbr, dataset) for abbr in ("tiny-act0.0", "plain")
        )
        if dataset == "text":
            assert zero == unmodulated
        else:
            assert choices_of(zero) == choices_of(unmodulated)
    texts = {
        tuple(
            answer["prediction"] for answer in read(together, "predictions", abbr, "text").values()
        )
        for abbr in ("tiny-act0.0", "tiny-act0.5", "tiny-act1.0")
    }
    assert len(texts) == 3
    assert infer_tasks(together) == []


def test_the_exact_law_is_left_out_where_the_strength_varies(
    tmp_path, tiny_checkpoint, transport, data
):
    """At one strength of the transport it stands beside the noise, else nowhere."""
    law = config(
        tmp_path / "law",
        [
            tiny(tiny_checkpoint, transport, 0.5, abbr=f"noise{std}", noise_std=std)
            for std in (0.0, 2.0)
        ],
        data[:1],
    )
    run_all(law)
    models = [tiny(tiny_checkpoint, transport, strength, noise_std=2.0) for strength in STRENGTHS]
    varied = config(tmp_path / "varied", models, data[:1])
    run_all(varied)
    same = read(law, "predictions", "noise2.0", "choice")["0"]["label: A"]
    assert same["PPL"] == pytest.approx(
        read(varied, "predictions", "tiny-act0.5", "choice")["0"]["label: A"]["PPL"], rel=1e-5
    )
    assert "probability" in same
    for model in models:
        for answer in read(varied, "predictions", model["abbr"], "choice").values():
            assert "probability" not in answer["label: A"]


def test_a_run_goes_on_where_a_refit_made_it_stale(
    tmp_path, make_transport, tiny_checkpoint, transport, data
):
    models = [tiny(tiny_checkpoint, transport, strength) for strength in (0.0, 0.5)]
    run = config(tmp_path / "run", models, data[:1])
    run_all(run)
    before = {
        abbr: read(run, "predictions", abbr, "choice") for abbr in ("tiny-act0.0", "tiny-act0.5")
    }
    make_transport(transport, tiny_checkpoint, seed=1)
    (task,) = infer_tasks(run)
    assert [model["abbr"] for model in task["sweep"]["models"]] == ["tiny-act0.5"]
    run_all(run)
    assert read(run, "predictions", "tiny-act0.0", "choice") == before["tiny-act0.0"]
    assert read(run, "predictions", "tiny-act0.5", "choice") != before["tiny-act0.5"]


def test_the_summary_has_the_strength_of_the_transport_as_its_axis(
    tmp_path, tiny_checkpoint, transport, data
):
    models = [tiny(tiny_checkpoint, transport, strength) for strength in STRENGTHS]
    run = config(tmp_path / "run", models, data)
    run_all(run)
    SweepSummarizer(run).summarize(time_str="now")
    folder = Path(run.work_dir, "summary", "sweep", "tiny")
    rows = read_table(folder / "sweep.csv")
    accuracy = {row.strength: row.value for row in rows if row.task == "choice"}
    assert accuracy == {
        strength: pytest.approx(
            read(run, "results", f"tiny-act{strength}", "choice")["accuracy"] / 100
        )
        for strength in STRENGTHS
    }
    with open(folder / "strengths.csv", newline="") as file:
        assert [line["strength"] for line in csv.DictReader(file)] == ["0", "0.5", "1"]
    arguments = json.loads((folder / "manifest.json").read_text())["arguments"]
    assert arguments["strength"] == [0.0, 0.5, 1.0]
    assert arguments["noise_std"] == [0.0]
    assert arguments["transport"] == str(transport)
    assert arguments["transport_fingerprint"] == LearnedTransport.load(transport).fingerprint
    assert "transport" not in arguments["model_args"]
    report = (folder / "report.html").read_text()
    assert "transport strength λ" in report
    assert "noise std" not in report


@pytest.mark.slow
def test_the_stock_command_runs_a_sweep_of_strengths(tmp_path, tiny_checkpoint, transport, data):
    (tmp_path / "run.py").write_text(
        f"""
from mmengine.config import read_base
from aim_plugins.harnesses.opencompass import HuggingFaceAcTModel
with read_base():
    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer
models = [
    dict(
        type=HuggingFaceAcTModel,
        abbr=f"tiny-act{{x / 10}}",
        path={str(tiny_checkpoint)!r},
        model_kwargs=dict(torch_dtype="torch.float32", device_map="cpu"),
        transport="transport",
        strength=x / 10,
        max_out_len=4,
        batch_size=4,
        run_cfg=dict(num_gpus=0),
    )
    for x in range(0, 11, 5)
]
datasets = {data!r}
work_dir = "out"
"""
    )
    finished = subprocess.run(
        [sys.executable, "-m", "opencompass.cli.main", "run.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    (folder,) = (tmp_path / "out").glob("*/summary/sweep/tiny")
    rows = read_table(folder / "sweep.csv")
    assert {(row.task, row.strength) for row in rows} == {
        (task, strength) for task in ("choice", "text") for strength in STRENGTHS
    }
    assert (folder / "report.html").exists()
    assert "transport strength λ" in (folder / "report.html").read_text()
