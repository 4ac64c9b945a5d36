"""The questions, from a command line to a folder of results, through an interruption."""

from __future__ import annotations

import csv
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from aim_plugins.sweep.store import SweepStore
from vision_bench.attacks import ATTACKS as KNOWN
from vision_bench.cli import main
from vision_bench.coverage.questions import attacked as attacking
from vision_bench.coverage.questions.overhead_answer import Cost, middle, ratio
from vision_bench.coverage.questions.sensitivity_answer import CLEAN, Run, changes_of
from vision_bench.coverage.questions.settings import (
    ATTACKS,
    CorrelationSettings,
    DiversitySettings,
    OverheadSettings,
    QuestionSettings,
    SensitivitySettings,
)

CRITERIA = "NC,KMNC,TKNP,LSC,IDC"
ATTACK = ("--cw-steps", "3", "--steps", "2", "--eps", "0.1", "--alpha", "0.05")
WORDS = {
    "diversity": ("--num-samples", "30", "--pixel-share", "0.1"),
    "sensitivity": ("--sizes", "20,40", "--shares", "0.05,0.2", *ATTACK),
    "correlation": ("--sizes", "10,30", "--mixtures", "0,0.5,1", "--attacks", "pgd", *ATTACK),
    "overhead": ("--num-samples", "20", "--criteria", "NC,IDC"),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    path = tmp_path_factory.mktemp("questions") / "config.py"
    settings = {"dataset": "digits", "model": "resnet20", "weights": str(weights)}
    settings |= {"limit": 90, "train_limit": 60, "runs": 2, "criteria": CRITERIA.split(",")}
    settings |= {"preprocessing": "published", "batch_size": 16, "device": "cpu"}
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return path


def run(question: str, config: Path, output: Path, *words: str) -> int:
    asked = [str(config), *WORDS[question], *words, "--output", str(output)]
    return main(["coverage", question, *asked])


@pytest.fixture(scope="module")
def folders(config: Path) -> dict[str, Path]:
    """The results of each question."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {question: config.parent / question for question in WORDS}
    for question, folder in found.items():
        # A reference that is given is as good as one that is learned.
        given = ("--reference", str(found["diversity"] / "reference"))
        assert run(question, config, folder, *(given if question == "correlation" else ())) == 0
    torch.set_num_threads(threads)
    return found


def content(folder: Path) -> dict:
    return json.loads((folder / f"{folder.name}.json").read_text())


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / f"{folder.name}.csv", newline="") as table:
        return list(csv.DictReader(table))


@pytest.mark.parametrize("question", WORDS)
def test_a_question_leaves_tables_pictures_and_a_report(folders, question):
    folder = folders[question]
    assert {path.suffix for path in (folder / "curves").iterdir()} == {".png", ".svg"}
    assert "<h1" in (folder / "report.html").read_text()
    assert json.loads((folder / "manifest.json").read_text())["model"] == "resnet20"
    assert content(folder)["data"]
    assert lines(folder)


def test_every_kind_of_image_is_added_to_the_same_suite(folders):
    found = content(folders["diversity"])
    assert set(found["runs"]) == {"important pixels", "random pixels", "real images"}
    for runs in found["runs"].values():
        assert [one["inputs"] for one in runs] == [30, 30]
        for one in runs:
            # These count what is reached, which more inputs do not undo.
            for label in ("NC", "KMNC", "TKNP", "IDC"):
                assert one["coverage"][label] >= found["before"]["coverage"][label]
    # No run is like the other.
    first, second = found["runs"]["random pixels"]
    assert first["coverage"] != second["coverage"]


def test_changes_are_those_of_the_suites(folders):
    found = content(folders["sensitivity"])
    suites = [one["coverage"] for one in found["suites"] if one["size"] == 40]
    for line in lines(folders["sensitivity"]):
        if line["size"] != "40":
            continue
        key, label = f"{line['replaced_by']},{line['share']}", line["criterion"]
        change = sum(one[key][label] - one[""][label] for one in suites) / len(suites)
        assert float(line["change"]) == pytest.approx(change, abs=1e-12)
        beyond = sum(one[key][label] - one[f"{CLEAN},{line['share']}"][label] for one in suites)
        assert float(line["beyond_clean"]) == pytest.approx(beyond / len(suites), abs=1e-12)


def test_only_inputs_that_are_replaced_are_attacked(folders):
    found = content(folders["sensitivity"])
    assert {name: tried for name, (_, tried) in found["attacked"].items()} == {
        "fgsm": 8, "pgd": 8, "cw": 8
    }  # fmt: skip


def test_suites_are_distinct_and_their_mistakes_counted(folders):
    found = content(folders["correlation"])
    cells = [(one["size"], one["mixture"]) for one in found["suites"]]
    # All thirty attacked images make one suite of thirty.
    assert cells.count((30, 1.0)) == 1
    assert cells.count((30, 0.5)) == cells.count((10, 1.0)) == 2
    for one in found["suites"]:
        assert 0 <= one["mistakes"] <= one["size"]
        assert 0 <= one["impartiality"] <= 1


def test_a_correlation_is_that_of_the_suites(folders):
    from scipy.stats import pearsonr

    found = content(folders["correlation"])
    kmnc = [one["coverage"]["KMNC"] for one in found["suites"]]
    mistakes = [one["mistakes"] for one in found["suites"]]
    held = found["correlations"]["KMNC"]["mistakes found"]["all suites"]
    assert held["value"] == pytest.approx(pearsonr(kmnc, mistakes).statistic)


def test_each_criterion_is_timed_alone_and_with_all_others(folders):
    found = content(folders["overhead"])
    names = {"the model alone", "all in one pass", "NC", "IDC"}
    assert [set(one) for one in found["run"]] == [names, names]
    (build,) = found["build"]
    assert build["NC"] == {"cpu": 0.0, "wall": 0.0}
    assert build["IDC"]["cpu"] > 0


def test_times_are_compared_turn_by_turn():
    assert vars(ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0])) == {"value": 2.0, "low": 1.0, "high": 3.0}
    assert middle([Cost(3, 1).cpu, 1.0, 2.0]).value == 2.0


def test_an_interrupted_run_goes_on_to_the_same_results(folders, config, tmp_path, monkeypatch):
    question = "sensitivity"
    write, attack = SweepStore.write_batch, attacking.Attacker._attack
    written, attacks = [], []

    def note(self, key, payload):
        write(self, key, payload)
        written.append(key)
        if len(written) == 5:
            raise KeyboardInterrupt

    def count(self, one, positions):
        attacks.append(one)
        return attack(self, one, positions)

    monkeypatch.setattr(SweepStore, "write_batch", note)
    monkeypatch.setattr(attacking.Attacker, "_attack", count)
    output = tmp_path / question
    torch.set_num_threads(1)
    assert run(question, config, output) == 130
    assert not (output / "report.html").exists()
    assert run(question, config, output) == 0
    assert content(output) == content(folders[question])
    assert (output / f"{question}.csv").read_text() == (
        folders[question] / f"{question}.csv"
    ).read_text()
    # What was attacked before is not attacked again.
    assert len(attacks) == 3


def test_attacked_images_that_are_damaged_are_attacked_again(folders, config, monkeypatch):
    folder = folders["correlation"]
    before = content(folder)
    path = min((folder / "attacked").iterdir())
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert run("correlation", config, folder) == 0
    assert content(folder) == before
    assert path.read_bytes() != bytes(damaged)


def test_a_folder_of_another_question_is_refused(folders, config, capsys):
    assert run("correlation", config, folders["sensitivity"]) == 2
    assert "sensitivity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("question", "words", "error"),
    [
        ("diversity", ("--num-samples", "50"), "the data set has 90; give 1 to 45"),
        ("sensitivity", ("--sizes", "500"), "sizes=500: the suite has 90 images"),
        ("correlation", ("--sizes", "500"), "sizes=500: the suite has 90 images"),
        ("sensitivity", ("--attacks", "fgms"), "fgsm"),
        ("sensitivity", ("--criteria", "IDC", "--layer-index", "99"), "layer_index=99: the model"),
        ("sensitivity", ("--sizes", "40,20"), "sizes='40,20': give rising numbers"),
        ("sensitivity", ("--sizes", "4"), "shares=0.05 of sizes=4 replaces no input"),
        ("correlation", ("--mixtures", "0,1.5"), "a share from 0 to 1"),
        ("correlation", ("--attacks", "pgd,cw"), "give one"),
        ("overhead", ("--runs", "1"), "runs=1: give at least 2"),
    ],
)
def test_what_does_not_go_is_refused_in_a_line_and_leaves_no_folder(
    config, tmp_path, capsys, question, words, error
):
    assert run(question, config, tmp_path / "out", *words) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert error in told
    assert not (tmp_path / "out").exists()


def test_settings_know_every_attack():
    assert set(ATTACKS) == set(KNOWN)
    made = SensitivitySettings(dataset="digits", model="m")
    assert {name: made.attack(name).name for name in ATTACKS} == {name: name for name in ATTACKS}


@pytest.mark.parametrize(
    "kind", [DiversitySettings, SensitivitySettings, CorrelationSettings, OverheadSettings]
)
def test_every_setting_has_its_help(kind: type[QuestionSettings], capsys):
    with pytest.raises(SystemExit):
        main(["coverage", kind.QUESTION, "--help"])
    told, names = capsys.readouterr().out, [one.name for one in fields(kind)]
    assert all(f"--{name.replace('_', '-')}" in told for name in names)


def test_ncov_is_taken_within_a_size():
    settings = SensitivitySettings(
        dataset="digits", model="m", sizes=(10, 100), shares=(0.1,), attacks=("pgd",)
    )

    def suite(size: int, run: int, clean: float, attacked: float) -> Run:
        values = {"": 1.0, f"{CLEAN},0.1": 1 + clean, "pgd,0.1": 1 + attacked}
        return Run(size, run, {key: {"NC": value} for key, value in values.items()})

    runs = [suite(10, 0, 0, 2), suite(10, 1, 1, 4), suite(100, 0, -10, 10), suite(100, 1, 0, 30)]
    found = {(x.size, x.what): x for x in changes_of(runs, settings)}
    assert found[10, "pgd"].normalised.value == pytest.approx((2 / 4 + 4 / 4) / 2)
    assert found[100, "pgd"].normalised.value == pytest.approx((10 / 40 + 30 / 40) / 2)
    assert found[100, CLEAN].normalised.value == pytest.approx((-10 / 40) / 2)
    assert found[100, "pgd"].beyond.value == pytest.approx((20 + 30) / 2)
