"""`aim-plugins reengineer` from its options to its files."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.modulation.masks import masked
from aim_plugins.modulation.retained import LearnedMasks
from aim_plugins.reengineering import front, study, wording
from aim_plugins.reengineering.curve import Curve, Rates, Speed, Step
from aim_plugins.reengineering.settings import TaskModuleSettings
from aim_plugins.task_questions.answers import Answers

pytest.importorskip("lm_eval")


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take longer than everything else."""
    for name in ("draw_accuracy", "draw_others"):
        monkeypatch.setattr(front, name, lambda *given: {"png": b"\x89PNG\r\n\x1a\n"})


def rows_of(folder):
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def asked_by_harness(kind: str, task_folder, **arguments) -> list[list[float]]:
    """Log-likelihoods of the choices of each document, by the harness."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    import aim_plugins.harnesses.lm_eval.register  # noqa: F401

    found = simple_evaluate(
        kind,
        model_args={key: str(value) for key, value in arguments.items()},
        tasks=["tiny_capitals"],
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    return [
        [float(one[0]) for one in sample["filtered_resps"]]
        for sample in sorted(found["samples"]["tiny_capitals"], key=lambda one: one["doc_id"])
    ]


def test_a_study_writes_a_report_masks_and_a_smaller_model(reengineer, tiny, task_folder) -> None:
    status, folder = reengineer("--also", "tiny_questions")
    assert status == 0
    names = {path.name for path in folder.iterdir()}
    assert {"results.csv", "results.json", "masks", "smaller", "curves", "report.html"} < names
    page = (folder / "report.html").read_text()
    for title in ("Accuracy", "Other tasks", "The smaller model"):
        assert f">{title}</h2>" in page
    content = json.loads((folder / "results.json").read_text())
    assert content["deviation"] < 1e-4
    smaller = AutoModelForCausalLM.from_pretrained(folder / "smaller", dtype="float32")
    chosen = next(one for one in content["steps"] if one["share"] == content["selected_share"])
    assert sum(one.numel() for one in smaller.parameters()) == chosen["parameters"]
    # Tied or not, the input embeddings are the same, and so is the tokenizer.
    assert len(AutoTokenizer.from_pretrained(folder / "smaller")) == len(tiny.tokenizer)
    learned = LearnedMasks.load(folder / "masks")
    ratios = [float(row["retained_ratio"]) for row in rows_of(folder)[1:]]
    assert list(learned.metadata.ratios) == ratios
    given = tiny.tokenizer("the capital of Paris is", return_tensors="pt")
    with torch.no_grad():
        with masked(tiny.model, learned.selected.masks):
            expected = tiny.model(**given).logits
        torch.testing.assert_close(smaller(**given).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("undrawn")
def test_the_harness_answers_alike_under_the_mask_and_by_the_smaller_model(
    reengineer, tiny, task_folder
) -> None:
    status, folder = reengineer()
    assert status == 0
    under_mask = asked_by_harness(
        "aim_hf", task_folder, pretrained=tiny.folder, mask=folder / "masks", dtype="float32"
    )
    smaller = asked_by_harness("hf", task_folder, pretrained=folder / "smaller", dtype="float32")
    for first, second in zip(under_mask, smaller, strict=True):
        assert first == pytest.approx(second, abs=1e-4)


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_study_goes_on_and_ends_as_one_in_a_run(reengineer, monkeypatch) -> None:
    whole = study.ReengineeringStudy._measure_step
    asked: list[float] = []

    def stop_at_half(self, share, kept):
        asked.append(share)
        if share == 0.5 and asked.count(0.5) == 1:
            raise KeyboardInterrupt
        return whole(self, share, kept)

    monkeypatch.setattr(study.ReengineeringStudy, "_measure_step", stop_at_half)
    status, folder = reengineer()
    assert status == 130 and not (folder / "report.html").exists()
    assert reengineer()[0] == 0
    assert asked == [1.0, 0.75, 0.5, 0.5]
    assert reengineer()[0] == 0 and len(asked) == 4
    _, other = reengineer(output="other")
    assert (other / "results.csv").read_bytes() == (folder / "results.csv").read_bytes()
    for name in ("masks/mask.safetensors", "smaller/model.safetensors"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_smaller_model_that_was_deleted_is_written_again(reengineer) -> None:
    _, folder = reengineer()
    smaller = folder / "smaller"
    before = {path.name: path.read_bytes() for path in smaller.iterdir()}
    for lost in (["tokenizer_config.json"], list(before)):
        for name in lost:
            (smaller / name).unlink()
        assert reengineer()[0] == 0
        assert {path.name: path.read_bytes() for path in smaller.iterdir()} == before


@pytest.mark.usefixtures("undrawn")
def test_shares_that_leave_as_many_channels_are_one_mask(reengineer) -> None:
    _, folder = reengineer(shares="0.75,0.749,0.5")
    rows = {row["share"]: row for row in rows_of(folder)}
    assert rows["0.749"]["retained_ratio"] == rows["0.75"]["retained_ratio"]
    learned = LearnedMasks.load(folder / "masks")
    expected = [float(rows[one]["retained_ratio"]) for one in ("0.75", "0.5")]
    assert list(learned.metadata.ratios) == expected and len(learned.points) == 2
    selected = json.loads((folder / "results.json").read_text())["selected_share"]
    assert learned.metadata.ratios[learned.metadata.selected] == float(
        rows[f"{selected:g}"]["retained_ratio"]
    )


@pytest.mark.usefixtures("undrawn")
def test_masks_of_another_model_are_refused(reengineer, tiny) -> None:
    _, folder = reengineer()
    learned = LearnedMasks.load(folder / "masks")
    learned.check_model(tiny.model)
    other = AutoModelForCausalLM.from_config(tiny.model.config)
    with pytest.raises(ValueError, match="the mask was learned on another model"):
        learned.check_model(other)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "tiny_writing"), "tiny_writing has documents without choices"),
        (("--shares", "0"), "shares=0.0: give a share above 0"),
        (("--shares", "1.5"), "shares=1.5: give a share above 0 and up to 1"),
        (("--shares", "1,0.5"), "shares=1,0.5: give different shares below 1"),
        (("--tasks", "tiny_capitals,tiny_questions"), "name one task; .*--also"),
        (("--split", "0.5,0.5"), "split=0.5,0.5: give three shares that add up to 1"),
        (("--split", "0.8,0.1,0.1"), "8 documents give parts of 6, 1, 1: each needs 2"),
        (("--also", "tiny_capitals"), "also='tiny_capitals': 'tiny_capitals' is named twice, or"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(reengineer, capsys, words, message) -> None:
    import re

    status, folder = reengineer(*words)
    assert status == 2 and not folder.exists()
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "rror" in one][-1:]
    assert re.search(message, line)


def step(share: float, hits: list[int], validation: list[int]) -> Step:
    """A model that is right where there is a 1."""
    test, chosen = (
        Answers([[-1.0, -2.0] if hit else [-2.0, -1.0] for hit in part], [0] * len(part))
        for part in (hits, validation)
    )
    return Step(share, 1, 1, share, 100, chosen, test)


def test_the_smallest_share_within_the_tolerance_on_validation_documents_is_chosen() -> None:
    whole = step(1.0, [1] * 10, [1] * 10)
    steps = [
        step(0.9, [0] * 10, [1] * 9 + [0]),
        step(0.8, [1] * 10, [1] * 8 + [0] * 2),
        step(0.7, [0] * 10, [1] * 9 + [0]),
        step(0.6, [1] * 10, [1] * 5 + [0] * 5),
    ]
    assert steps[Curve(whole, steps, 0.1).selected].share == 0.7
    strict = Curve(whole, steps, 0.05)
    assert strict.good == [] and steps[strict.selected].share == 0.9


def test_accuracy_and_loss_are_those_by_hand() -> None:
    answers = Answers([[-1.0, -3.0], [-2.0, -2.0], [-4.0, -1.0]], [0, 1, 0])
    assert answers.hits == [True, False, False]  # of equals, the first is the answer
    logits = torch.tensor([[-1.0, -3.0], [-2.0, -2.0], [-4.0, -1.0]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0]))
    assert answers.loss == pytest.approx(float(expected))
    assert answers.chance == 0.5


@pytest.mark.parametrize(
    ("heads", "left", "told"),
    [
        (3, 3, "With 1382 of 1536 neurons of each block and all 3 key-value heads kept"),
        (3, 2, "With 1382 of 1536 neurons of each block and 2 of 3 key-value heads kept"),
        (0, 0, "With 1382 of 1536 neurons of each block kept"),
    ],
)
def test_heads_are_told_as_a_count_and_none_is_called_removed_that_stays(heads, left, told) -> None:
    answers = step(1.0, [1] * 10, [1] * 10)
    whole = dataclasses.replace(answers, neurons=1536, head_groups=heads)
    smaller = dataclasses.replace(
        answers, share=0.9, neurons=1382, head_groups=left, parameters=94, removals=[answers.test]
    )
    curve = Curve(whole, [smaller], 0.1)
    settings = TaskModuleSettings(model="org/model", tasks=["arc_easy"])
    assert wording.headline(wording.Findings(settings, curve, SPEED, 0.0)).startswith(
        told + " (94.0%"
    )
    for table in (front._accuracy_table(curve), front._size_table(curve)):
        kept = dict(zip(table.columns, table.rows[1], strict=False))
        assert kept["neurons kept"] == "1382 of 1536"
        assert kept["heads kept"] == (f"{left} of {heads}" if heads else "all")


SPEED = Speed(Rates([100.0] * 2, [150.0] * 2), Rates([8.0] * 5, [7.0, 8.0, 9.0, 9.0, 9.0]))
"""Reading is faster in each round, writing is not."""


def test_the_ratio_of_speeds_is_of_each_round_and_has_its_quartiles() -> None:
    # The machine is twice as slow in the second half, and the smaller model 1.5 times as fast.
    whole = [8.0] * 4 + [4.0] * 4
    rates = Rates(whole, [1.5 * one for one in whole[:7]] + [4.0])
    expected = np.quantile([1.5] * 7 + [1.0], [0.25, 0.5, 0.75], method="weibull")
    assert rates.quartiles == pytest.approx(tuple(expected))
    assert "cannot be told apart" not in wording.show_ratio(rates)


def test_a_speed_whose_quartiles_hold_1_is_not_called_a_gain() -> None:
    settings = TaskModuleSettings(model="org/model", tasks=["arc_easy"])
    whole = step(1.0, [1] * 10, [1] * 10)
    found = wording.Findings(settings, Curve(whole, [whole], 0.1), SPEED, 0.0)
    (said, _) = wording.smaller_sentences(found)
    assert "reads 1.50 times as fast (quartiles 1.50 to 1.50) as the whole one" in said
    # Ratios 7/8, 1 and three times 9/8: quartiles at places 1.5 and 4.5.
    assert "writes 1.12 times as fast (quartiles 0.94 to 1.12; cannot be told apart)" in said


@pytest.mark.parametrize(("lost", "told"), [(5, False), (6, True)])
def test_sentences_follow_the_p_beside_them(lost: int, told: bool) -> None:
    # All unequal answers are one model's: p is 2 / 2**5 or 2 / 2**6.
    whole = step(1.0, [1] * 100, [1] * 10)
    smaller = step(0.5, [0] * lost + [1] * (100 - lost), [1] * 10)
    smaller = dataclasses.replace(smaller, removals=[smaller.test])
    settings = TaskModuleSettings(model="org/model", tasks=["arc_easy"])
    found = wording.Findings(settings, Curve(whole, [smaller], 0.1), SPEED, 0.0)
    words = "worse" if told else "cannot be told apart"
    assert f"the whole one 1.000: {words}, -{lost}.0 points [" in wording.headline(found)
    assert f"p = {2 / 2**lost:.2g}" in wording.headline(found)
    sentences = " ".join(wording.removal_sentences(found.curve))
    assert ("Less is answered than by the whole model: at 0.5 -6.0 points [" in sentences) == told


@pytest.mark.parametrize(("won", "told"), [(5, False), (6, True)])
def test_what_a_ranking_gains_over_chance_is_told_with_interval_p_and_draws(won, told) -> None:
    # Two removals lose the same documents: signs of as many equal differences, p = 2 / 2**won.
    whole = step(1.0, [1] * 10, [1] * 10)
    random = step(0.5, [0] * won + [1] * (10 - won), [1]).test
    ranked = dataclasses.replace(step(0.5, [1] * 10, [1]), removals=[random, random])
    found = ranked.above_random
    differences = torch.tensor([1.0] * won + [0.0] * (10 - won)).numpy()
    expected = stats.ttest_1samp(differences, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(expected, abs=2e-3)
    assert found.p == pytest.approx(2 / 2**won)
    (said, *_) = wording.removal_sentences(Curve(whole, [ranked], 0.1))
    points = f"removal at random (mean of 2 draws): at 0.5 +{won}0.0 points ["
    assert (points in said and said.endswith("p = 0.031.")) == told
    assert ("No share shows" in said) != told


def test_the_folder_is_named_after_model_and_task() -> None:
    settings = TaskModuleSettings(model="org/model", tasks=["arc_easy"])
    assert settings.folder.as_posix() == "runs/reengineer/model_arc_easy"
    assert settings.falling == (0.9, 0.8, 0.7, 0.6, 0.5)
