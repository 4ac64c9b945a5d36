"""Sweeps of a transport's strength with OpenCompass: entries, cells, tables and whole runs."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("opencompass")

from mmengine.config import ConfigDict
from transformers import AutoTokenizer

from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.config.check import check_config
from aim_plugins.harnesses.opencompass.config.entries import SweepGroup, sweep_groups
from aim_plugins.harnesses.opencompass.config.modulations import split_modulation
from aim_plugins.harnesses.opencompass.results.summarizer import SweepSummarizer
from aim_plugins.harnesses.opencompass.results.table import split_sweeps
from aim_plugins.harnesses.opencompass.run.partitioner import (
    SweepInferPartitioner,
)
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.sweep.table import read_table
from aim_plugins.transport import change
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import Transport

MODEL = "aim_plugins.harnesses.opencompass.HuggingFaceAcTModel"
NOISE_MODEL = "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel"
STRENGTHS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def transport(make_transport, tiny_checkpoint: Path, tmp_path_factory) -> Path:
    return make_transport(tmp_path_factory.mktemp("act") / "transport", tiny_checkpoint)


@pytest.fixture
def own_transport(transport: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(transport, tmp_path / "own"))


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
    learned = LearnedTransport.load(transport)
    steering = Transport(0.5, learned.fingerprint, learned.maps)
    assert split.column == Column((GaussianNoise(2.0), steering))
    assert split.rest == {"path": "p", "generation_kwargs": {"do_sample": False}}
    assert split.given == act


def test_a_transport_without_a_strength_is_applied_as_learned(transport):
    assert split_modulation(dict(transport=str(transport))).column.strength_of(Transport) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(strength=0.5), r"strength=0\.5 has no transport: name the folder"),
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
        (dict(transport=None), "transport= is missing: name the folder"),
        (dict(transport=""), "transport= is missing: name the folder"),
        (dict(transport="T", force_transport="yes"), "force_transport='yes' is neither True nor"),
    ],
)
def test_bad_settings_are_refused_with_their_name_and_value(transport, settings, message):
    settings = {key: str(transport) if value == "T" else value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        split_modulation(settings)


def test_transports_under_names_are_axes_of_one_group(transport):
    places = [(0.0, 0.0), (0.5, 0.0), (0.0, 1.0), (0.5, 1.0)]
    models = [
        ConfigDict(
            type=MODEL,
            abbr=f"praise{praise}-sea{sea}",
            path="org/model",
            transport_praise=str(transport),
            strength_praise=praise,
            generation_kwargs=dict(transport_sea=str(transport), strength_sea=sea),
        )
        for praise, sea in places
    ]
    (group,) = sweep_groups(models)
    (sweep,) = split_sweeps(group)
    assert [axis.name for axis in sweep.axes] == ["strength_praise", "strength_sea"]
    assert [sweep.strengths(column) for column in sweep.columns] == places


def test_entries_equal_but_for_names_noise_and_strength_are_one_group(transport):
    models = [entry(transport, strength) for strength in (*STRENGTHS, -0.5)]
    models.append(entry(transport, 0.5, abbr="both", noise_std=1.0, noise_seed=3))
    (group,) = sweep_groups(models)
    strengths = [column.strength_of(Transport) for column in group.columns]
    assert strengths == [0.0, 0.5, 1.0, -0.5, 0.5]
    stds = [column.strength_of(GaussianNoise) for column in group.columns]
    assert stds == [0.0, 0.0, 0.0, 0.0, 1.0]
    (print_,) = {column.changes[-1].fingerprint for column in group.columns}
    assert print_ == LearnedTransport.load(transport).fingerprint


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
        (dict(type=NOISE_MODEL, strength=[0, 1]), "abbr='tiny-act0.5': strength=.*2 strengths"),
        (dict(strength="x"), "abbr='tiny-act0.5': strength='x'"),
    ],
)
def test_a_wrong_entry_is_refused_before_a_task_starts(transport, changes, message):
    with pytest.raises(ValueError, match=message):
        check_config({"models": [ConfigDict(entry(transport, 0.5), **changes)]})


def test_a_class_for_transports_without_one_is_refused():
    with pytest.raises(ValueError, match="abbr='m': transport= is missing: name the folder"):
        check_config({"models": [dict(type=MODEL, abbr="m", path="org/model")]})


def test_a_missing_transport_is_refused_before_a_task_starts(tmp_path):
    with pytest.raises(FileNotFoundError, match="abbr='tiny-act0.5': transport='.*no/such'") as e:
        check_config({"models": [entry(tmp_path / "no/such", 0.5)]})
    assert "\n" not in str(e.value)
    assert "aim-plugins transport fit" in str(e.value)


@pytest.mark.parametrize("name", ["transport.json", "transport.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_damaged_transport_is_refused_before_a_task_starts(own_transport, name, damage):
    check_config({"models": [entry(own_transport, 0.5)]})
    content = (own_transport / name).read_bytes()
    (own_transport / name).unlink()
    if damage == "cut short":
        (own_transport / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"abbr='tiny-act0.5': .*{name}") as caught:
        check_config({"models": [entry(own_transport, 0.5)]})
    assert "\n" not in str(caught.value)


def test_a_strength_outside_the_range_is_warned_of_once(transport, monkeypatch):
    warnings = []
    monkeypatch.setattr(change.logger, "warning", warnings.append)
    change.warn_once.cache_clear()
    for _ in range(2):
        check_config({"models": [entry(transport, strength) for strength in (0.0, 1.0)]})
    assert warnings == []
    for _ in range(2):
        check_config({"models": [entry(transport, strength) for strength in (-0.5, 1.0, 1.5)]})
    below, above = warnings
    assert below.startswith("strength=-0.5 lies outside 0 to 1")
    assert above.startswith("strength=1.5 lies outside 0 to 1")


def test_a_strength_that_a_fit_transported_at_is_not_warned_of(own_transport, monkeypatch):
    warnings = []
    monkeypatch.setattr(change.logger, "warning", warnings.append)
    change.warn_once.cache_clear()
    learned = LearnedTransport.load(own_transport)
    metadata = dataclasses.replace(learned.metadata, incremental="source", strength=2.0)
    LearnedTransport(learned.maps, metadata).save(own_transport)
    check_config({"models": [entry(own_transport, strength) for strength in (0.0, 2.0)]})
    assert warnings == []
    check_config({"models": [entry(own_transport, strength) for strength in (0.0, 2.5)]})
    assert warnings[0].startswith("strength=2.5 lies outside 0 to 2")


# Cells ------------------------------------------------------------------------------------------


def test_a_refitted_transport_makes_predictions_stale(
    make_transport, tiny_checkpoint, own_transport, tmp_path
):
    """Under the same path; at strength 0 nothing depends on the transport."""
    data = {"abbr": "d", "type": "x", "path": "none"}

    def cell(strength: float) -> Cell:
        return Cell(tmp_path / "out", entry(own_transport, strength), data)

    for strength in (0.0, 0.5):
        cell(strength).begin_prediction()
        cell(strength).prediction.write_text("{}")
        cell(strength).note_prediction()
    assert cell(0.0).has_prediction() and cell(0.5).has_prediction()
    make_transport(own_transport, tiny_checkpoint)  # the same maps again
    assert cell(0.5).has_prediction()
    make_transport(own_transport, tiny_checkpoint, seed=1)
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


def steering(strength: float) -> Transport:
    return Transport(strength, "print", ActivationMaps({}))


def group(*points: tuple[float, float], means: tuple[float, ...] = (0.0,)) -> SweepGroup:
    columns = [
        Column(
            (
                GaussianNoise(float(std), mean),
                Transport(float(strength), "print", ActivationMaps({})),
            )
        )
        for std, strength in points
        for mean in (means if std else means[:1])
    ]
    entries = [ConfigDict(abbr=f"e{index}") for index in range(len(columns))]
    return SweepGroup("g", tuple(entries), tuple(columns))


def places(found: SweepGroup) -> dict[str, tuple[list[str], list[tuple[float, ...]]]]:
    """The axes of each sweep of a group, and where its columns lie."""
    return {
        sweep.name: ([axis.name for axis in sweep.axes], list(map(sweep.strengths, sweep.columns)))
        for sweep in split_sweeps(found)
    }


def test_the_axis_is_what_varies():
    curve = group((0, 0), (0, 0.5), (0, 1))
    assert places(curve) == {"g": (["strength"], [(0,), (0.5,), (1,)])}
    assert places(group((0, 0.5), (1, 0.5))) == {"g": (["std"], [(0,), (1,)])}
    assert places(group((2, 0), (2, 1))) == {"g": (["strength"], [(0,), (1,)])}
    assert places(group((2, 0.5))) == {"g": (["strength"], [(0.5,)])}


@pytest.mark.parametrize("stds", [(0, 1), (0, 1, 2)])
def test_where_both_vary_they_are_the_axes_of_one_sweep(stds):
    grid = [(std, strength) for std in stds for strength in (0, 0.5)]
    assert places(group(*grid)) == {"g": (["std", "strength"], grid)}


def test_each_noise_mean_has_a_sweep_of_its_own():
    grid = [(std, strength) for std in (0, 1) for strength in (0, 1)]
    sweeps = split_sweeps(group(*grid, means=(0.0, 3.0)))
    assert [sweep.name for sweep in sweeps] == ["g-mean=0", "g-mean=3"]
    for sweep, mean in zip(sweeps, (0.0, 3.0), strict=True):
        assert list(map(sweep.strengths, sweep.columns)) == grid  # without noise in both
        assert sweep.draws == (0, 0, 0, 0)
        assert {c.changes[0].mean for c in sweep.columns if c.changes[0].std} == {mean}


def test_each_condition_has_a_sweep_of_its_own(
    transport, make_condition, tiny_checkpoint, tmp_path
):
    for name in ("one", "other"):
        make_condition(tmp_path / name, tiny_checkpoint, [[3, 4], [5, 6]])
    models = [
        entry(
            transport, strength, abbr=f"{strength}-{text}", condition=str(tmp_path / "one") + text
        )
        for strength in (0.0, 1.0)
        for text in ("", ">0.5")
    ]
    (group,) = sweep_groups(models)
    sweeps = split_sweeps(group)
    assert [sweep.abbrs for sweep in sweeps] == [
        ("0.0-", "0.0->0.5", "1.0-"),
        ("0.0-", "0.0->0.5", "1.0->0.5"),
    ]
    assert len({sweep.name for sweep in sweeps}) == 2
    assert not any("/" in sweep.name for sweep in sweeps)


def test_seeds_are_draws_at_each_strength():
    columns = [
        Column((GaussianNoise(1.0, 0.0, seed), steering(lam)), seed)
        for lam in (0.0, 0.5)
        for seed in (7, 8)
    ]
    entries = tuple(ConfigDict(abbr=f"e{index}") for index in range(4))
    (sweep,) = split_sweeps(SweepGroup("g", entries, tuple(columns)))
    assert sweep.draws == (0, 1, 0, 1)
    assert {sweep.strengths(column) for column in columns} == {(0.0,), (0.5,)}


# Whole runs -------------------------------------------------------------------------------------


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


def choices_of(predictions: dict) -> list[float]:
    return [
        answer[f"label: {letter}"]["PPL"] for answer in predictions.values() for letter in "ABC"
    ]


@pytest.fixture(scope="module")
def together(run_opencompass, tiny_checkpoint, transport, tmp_path_factory):
    """A run of three strengths, and of the plain model beside them."""
    models = [tiny(tiny_checkpoint, transport, strength) for strength in STRENGTHS]
    plain = tiny(tiny_checkpoint, transport, 0.0, type=NOISE_MODEL, abbr="plain")
    del plain["transport"], plain["strength"]
    return run_opencompass(tmp_path_factory.mktemp("together") / "run", [*models, plain])


def test_a_group_of_strengths_equals_runs_of_single_strengths(
    tmp_path, tiny_checkpoint, transport, together, run_opencompass, read_answers
):
    assert together.tasks == [["tiny-act0.0", "tiny-act0.5", "tiny-act1.0"], ["plain"]]
    for strength in STRENGTHS[1:]:
        abbr = f"tiny-act{strength}"
        alone = run_opencompass(tmp_path / abbr, [tiny(tiny_checkpoint, transport, strength)])
        for kind, dataset in (("predictions", "text"), ("results", "choice"), ("results", "text")):
            ours, theirs = (read_answers(run, kind, abbr, dataset) for run in (together, alone))
            assert ours == theirs
        ours, theirs = (
            choices_of(read_answers(run, "predictions", abbr, "choice"))
            for run in (together, alone)
        )
        assert ours == pytest.approx(theirs, rel=1e-5)
    for dataset in ("choice", "text"):
        zero, unmodulated = (
            read_answers(together, "predictions", abbr, dataset)
            for abbr in ("tiny-act0.0", "plain")
        )
        if dataset == "text":
            assert zero == unmodulated
        else:
            assert choices_of(zero) == choices_of(unmodulated)
    texts = {
        tuple(
            answer["prediction"]
            for answer in read_answers(together, "predictions", abbr, "text").values()
        )
        for abbr in ("tiny-act0.0", "tiny-act0.5", "tiny-act1.0")
    }
    assert len(texts) == 3
    partitioner = SweepInferPartitioner(f"{together.work_dir}/predictions/", num_worker=1)
    assert partitioner(together) == []


def test_a_run_goes_on_where_a_refit_made_it_stale(
    tmp_path, make_transport, tiny_checkpoint, own_transport, run_opencompass, read_answers
):
    def run() -> tuple[list, dict]:
        models = [tiny(tiny_checkpoint, own_transport, strength) for strength in (0.0, 0.5)]
        run = run_opencompass(tmp_path / "run", models, ["choice"])
        abbrs = [model["abbr"] for model in models]
        return run.tasks, {abbr: read_answers(run, "predictions", abbr, "choice") for abbr in abbrs}

    _, before = run()
    make_transport(own_transport, tiny_checkpoint, seed=1)
    tasks, after = run()
    assert tasks == [["tiny-act0.5"]]
    assert after["tiny-act0.0"] == before["tiny-act0.0"]
    assert after["tiny-act0.5"] != before["tiny-act0.5"]


def test_the_summary_has_the_strength_of_the_transport_as_its_axis(
    transport, together, read_answers
):
    SweepSummarizer(together).summarize(time_str="now")
    folder = Path(together.work_dir, "summary", "sweep", "tiny")
    rows = read_table(folder / "sweep.csv")
    accuracy = {row.strength: row.value for row in rows if row.task == "choice"}
    assert accuracy == {
        strength: pytest.approx(
            read_answers(together, "results", f"tiny-act{strength}", "choice")["accuracy"] / 100
        )
        for strength in STRENGTHS
    }
    with open(folder / "strengths.csv", newline="") as file:
        assert [line["strength"] for line in csv.DictReader(file)] == ["0", "0.5", "1"]
    arguments = json.loads((folder / "manifest.json").read_text())["arguments"]
    assert arguments["strength"] == [0.0, 0.5, 1.0]
    assert "noise_std" not in arguments
    assert arguments["transport"] == str(transport)
    print_ = LearnedTransport.load(transport).fingerprint
    assert arguments["changes"] == {"transport": {"fingerprint": print_}}
    assert "transport" not in arguments["model_args"]
    report = (folder / "report.html").read_text()
    assert "transport strength λ" in report
    assert "noise std" not in report


def test_there_is_no_law_where_no_logits_change(together, read_answers):
    """It would be the answer itself."""
    for answer in read_answers(together, "predictions", "tiny-act0.5", "choice").values():
        assert "probability" not in answer["label: A"]


def test_a_condition_lets_a_transport_act_on_the_documents_that_meet_it(
    tmp_path, tiny_checkpoint, transport, make_condition, run_opencompass, read_answers
):
    """With the predictions of runs without a condition as the oracle."""

    def sea(strength: float, **given) -> ConfigDict:
        model = tiny(tiny_checkpoint, transport, strength, batch_size=1, **given)
        model["transport_sea"], model["strength_sea"] = model.pop("transport"), strength
        del model["strength"]
        return model

    first = run_opencompass(tmp_path / "first", [sea(0.0), sea(1.0)], ["text"])
    plain, everywhere = (
        read_answers(first, "predictions", abbr, "text") for abbr in ("tiny-act0.0", "tiny-act1.0")
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    prompts = [tokenizer(plain[str(i)]["origin_prompt"])["input_ids"] for i in range(len(plain))]
    folder = tmp_path / "condition"
    held = make_condition(folder, tiny_checkpoint, prompts)
    asked = [sea(strength, condition_sea=str(folder)) for strength in (0.0, 1.0)]
    run = run_opencompass(tmp_path / "run", asked, ["text"])
    found = read_answers(run, "predictions", "tiny-act1.0", "text")
    for index, here in enumerate(held):
        wanted = (everywhere if here else plain)[str(index)]["prediction"]
        assert found[str(index)]["prediction"] == wanted
        [receipt] = found[str(index)]["receipts"]
        assert receipt["changes"][0]["held"] is here
    assert {True, False} == set(held) and plain["0"] != everywhere["0"]
