"""`aim-plugins compare` on folders as sweeps write them, against differences by hand."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from aim_plugins.cli import main
from aim_plugins.comparison.settings import CompareSettings
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.documents import DocumentScores, write_scores
from aim_plugins.sweep.store import SweepStore

SIGMA = Axis("std", "σ", "noise std", "logits", low=0.0)
LAMBDA = Axis("strength", "λ", "transport strength")
NAMES = [f"{index:08x}" for index in range(90)]
COINS = np.random.default_rng(5).random((3, 4, 90))


def answers(strength: float, model: float, draw: int, task: int = 0) -> np.ndarray:
    """Right answers of a model: the same chance decides at all strengths and of all models."""
    return np.uint8(COINS[draw, task] < 0.9 - 0.1 * strength - model)


def sweep(
    folder: Path,
    *,
    model: float = 0.0,
    strengths: Sequence[float] = (0.0, 1.0, 2.0),
    draws: int = 1,
    names: Sequence[str] = NAMES,
    tasks: Sequence[str] = ("quiz", "maths"),
    axis: Axis = SIGMA,
) -> Path:
    """A finished sweep's folder."""
    SweepStore.open(folder, {"model_args": {"pretrained": f"m{model}"}}, axes=[axis]).close()
    write_scores(
        folder / "documents.jsonl",
        [
            DocumentScores(
                task, "acc", (one,), draw, names, answers(one, model, draw, place)[: len(names)]
            )
            for place, task in enumerate(tasks)
            for one in strengths
            for draw in range(draws)
        ],
    )
    return folder


def compare(*words: str | Path) -> int:
    return main(["compare", *map(str, words)])


def lines_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "compare.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_two_sweeps_are_held_against_each_other_at_the_strengths_of_both(tmp_path, capsys):
    plain = sweep(tmp_path / "plain")
    other = sweep(tmp_path / "other", model=0.2, strengths=(0.0, 2.0, 3.0))
    assert compare(plain, other, "--output", tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out")
    assert [(one["task"], one["first_strength"], one["second_strength"]) for one in lines] == [
        (task, at, at) for task in ("quiz", "maths") for at in ("0", "2")
    ]
    for one in lines:
        task, strength = ("quiz", "maths").index(one["task"]), float(one["first_strength"])
        first = answers(strength, 0.0, 0, task).astype(int)
        second = answers(strength, 0.2, 0, task).astype(int)
        assert float(one["difference"]) == pytest.approx((second - first).mean())
        assert float(one["second"]) == pytest.approx(second.mean())
        won, lost = int((second > first).sum()), int((second < first).sum())
        law = stats.binomtest(won, won + lost).pvalue
        assert float(one["p"]) == pytest.approx(law)
        assert law <= float(one["holm_p"]) <= 4 * law
        # The same chance decides, so all that differ go one way, and pairs are tight.
        assert float(one["paired_to_unpaired"]) < 0.8
    printed = capsys.readouterr().out
    assert f"{other} and {plain} differ clearly in 4 of 4 comparisons: acc of quiz at" in printed
    assert "is lower" in printed and "Pairs have 0." in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Comparison in pairs" in page and "model_args.pretrained" in page
    assert (tmp_path / "out" / "curves" / "acc.png").read_bytes().startswith(b"\x89PNG")


def test_two_strengths_of_one_sweep_are_compared(tmp_path, capsys):
    folder = sweep(tmp_path / "sweep", draws=3)
    assert compare(f"{folder}:0", f"{folder}:1", "-o", tmp_path / "out") == 0
    quiz, maths = lines_of(tmp_path / "out")
    means = [np.mean([answers(one, 0.0, draw) for draw in range(3)], 0) for one in (0.0, 1.0)]
    assert float(quiz["difference"]) == pytest.approx((means[1] - means[0]).mean())
    law = stats.ttest_rel(means[1], means[0]).confidence_interval(0.95)
    ends = float(quiz["difference_low"]), float(quiz["difference_high"])
    assert ends == pytest.approx((law.low, law.high))
    assert (quiz["draws"], quiz["first_strength"], quiz["second_strength"]) == ("3", "0", "1")
    assert "strength 1 against 0" in capsys.readouterr().out


def test_one_strength_is_held_against_all_others_of_its_sweep(tmp_path):
    folder = sweep(tmp_path / "sweep")
    assert compare(f"{folder}:0", folder, "-o", tmp_path / "out") == 0
    found = [(one["first_strength"], one["second_strength"]) for one in lines_of(tmp_path / "out")]
    assert found == [("0", "1"), ("0", "2")] * 2


def test_one_strength_is_held_against_every_one_of_another_sweep(tmp_path, capsys):
    plain = sweep(tmp_path / "plain", strengths=(0.0,))
    steered = sweep(tmp_path / "steered", model=0.1, strengths=(0.5, 1.0), axis=LAMBDA)
    assert compare(f"{plain}:0", steered, "-o", tmp_path / "out", "--metrics", "acc") == 0
    lines = lines_of(tmp_path / "out")
    found = [(one["first_strength"], one["second_strength"]) for one in lines]
    assert found == [("0", "0.5"), ("0", "1")] * 2


def test_what_cannot_be_told_says_how_many_documents_would_be_needed(tmp_path, capsys):
    plain, other = sweep(tmp_path / "a"), sweep(tmp_path / "b", model=0.02)
    assert compare(plain, other, "-o", tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out")
    needed = [int(one["documents_needed"]) for one in lines if one["documents_needed"]]
    assert needed and min(needed) > 90
    assert f"90 documents; about {min(needed)} would be needed" in capsys.readouterr().out


def test_tasks_of_one_sweep_alone_are_left_out_and_named(tmp_path, capsys):
    plain = sweep(tmp_path / "a")
    other = sweep(tmp_path / "b", model=0.2, tasks=("quiz", "songs"))
    assert compare(plain, other, "-o", tmp_path / "out") == 0
    assert {one["task"] for one in lines_of(tmp_path / "out")} == {"quiz"}
    assert "left out: acc of maths, acc of songs." in capsys.readouterr().out


def bad_words(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    plain = sweep(tmp_path / "plain")
    fewer = sweep(tmp_path / "fewer", names=NAMES[:60])
    edited = sweep(tmp_path / "edited", names=[*NAMES[:17], "ffffffff", *NAMES[18:]])
    songs = sweep(tmp_path / "songs", tasks=("songs",))
    steered = sweep(tmp_path / "steered", axis=LAMBDA)
    apart = sweep(tmp_path / "apart", strengths=(0.25,))
    bare = tmp_path / "bare"
    SweepStore.open(bare, {}, axes=[SIGMA]).close()
    (tmp_path / "empty").mkdir()
    words = {
        "fewer": ([plain, fewer], f"documents of quiz are not the same in {plain} and {fewer} "),
        "counts": ([plain, fewer], f"({plain} has 90 and {fewer} 60): evaluate both on the same"),
        "edited": ([plain, edited], "(1 of 90 differ, the first at place 17): evaluate both"),
        "songs": ([plain, songs], f"no task and metric in common ({plain} has acc of quiz, acc of"),
        "axes": ([plain, steered], f"{plain} varies std, and {steered} strength: name a strength"),
        "apart": ([plain, apart], f"{plain} and {apart} share no strength: name one of each"),
        "strength": ([f"{plain}:0.7", apart], "was not measured there, but at 0, 1, 2: name one"),
        "same": ([plain, plain], "are one and the same: name two strengths of it"),
        "one": ([plain], "name two, such as runs/plain and runs/steered"),
        "absent": ([plain, tmp_path / "no"], "no"),
        "empty": ([plain, tmp_path / "empty"], "holds no sweep (manifest.json is missing)"),
        "bare": ([plain, bare], "keeps no scores of single documents (documents.jsonl is missing)"),
    }
    return {name: (list(map(str, given)), text) for name, (given, text) in words.items()}


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, capsys):
    for name, (given, text) in bad_words(tmp_path).items():
        assert compare(*given, "-o", tmp_path / "out") == 2, name
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and text in line, name
    assert not (tmp_path / "out").exists()


def test_an_unknown_metric_is_refused_with_those_there_are(tmp_path, capsys):
    plain, other = sweep(tmp_path / "a"), sweep(tmp_path / "b", model=0.2)
    assert compare(plain, other, "-o", tmp_path / "out", "--metrics", "f1") == 2
    assert "metrics='f1' is not kept of both: choose among acc" in capsys.readouterr().err


def test_a_folder_may_have_a_colon_in_its_name(tmp_path):
    folder = sweep(tmp_path / "run:2")
    settings = CompareSettings(sweeps=(str(folder), f"{folder}:1"), output=tmp_path)
    assert [place.folder for place in settings.places] == [folder, folder]
    assert [place.strengths for place in settings.places] == [None, (1.0,)]
