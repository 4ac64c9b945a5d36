"""Accuracy under noise on real data: a logistic regression on scikit-learn's digits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.metrics import precision_score, recall_score

from aim_plugins.modulation.noise import prefix_keys, standard_normal
from vision_bench.classification.curve import AccuracyCurve, ExactLaw, accuracy_curve, exact_law
from vision_bench.classification.sampled_runs import SampledRun, sample_run

STDS = [0.0, 1.0, 2.0, 4.0, 8.0, 20.0]


def test_zero_noise_is_the_clean_accuracy(digits):
    logits, labels = digits
    curve = accuracy_curve(logits, labels, STDS, draws=2)
    clean = float((logits.argmax(1) == labels).double().mean())
    assert clean > 0.9
    assert float(curve.expected[0]) == pytest.approx(clean, abs=1e-15)
    assert curve.sampled[0].tolist() == pytest.approx([clean, clean], abs=1e-15)
    assert float(curve.law.noise_std[0]) == 0


def test_sampled_accuracy_scatters_around_the_exact_one_as_predicted(digits):
    draws = 40
    curve = accuracy_curve(*digits, STDS[1:], draws=draws, seed=7)
    z = (curve.sampled - curve.expected[:, None]) / curve.law.noise_std[:, None]
    # Strengths share their noise, so only the draws within a strength are independent.
    assert (z.mean(1).abs() < 4 / math.sqrt(draws)).all()
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], draws)
    assert ((z.square().sum(1) > low) & (z.square().sum(1) < high)).all()


def test_exact_accuracy_agrees_with_another_generator(digits):
    logits, labels = (part.numpy() for part in digits)
    generator = np.random.default_rng(0)
    curve = accuracy_curve(*digits, [3.0], draws=0)
    accuracies = [
        ((logits + 3 * generator.standard_normal(logits.shape)).argmax(1) == labels).mean()
        for _ in range(200)
    ]
    error = float(curve.law.noise_std) / math.sqrt(200)
    assert np.mean(accuracies) == pytest.approx(float(curve.expected), abs=4 * error)


def test_accuracy_falls_towards_chance(digits):
    curve = accuracy_curve(*digits, [*STDS, 1e7], draws=1)
    assert (curve.expected.diff() < 0).all()
    assert float(curve.expected[-1]) == pytest.approx(0.1, abs=1e-4)


def test_standard_errors_over_documents_are_those_of_scipy(digits):
    logits, labels = digits
    curve = accuracy_curve(logits, labels, [0.0], draws=1)
    correct = (logits.argmax(1) == labels).double().numpy()
    assert float(curve.sampled_stderr) == pytest.approx(stats.sem(correct), rel=1e-12)
    assert float(curve.law.stderr) == pytest.approx(stats.sem(correct), rel=1e-12)


def test_documents_keep_their_noise_when_others_follow(digits):
    logits, labels = digits
    correct = torch.stack(
        [accuracy_curve(logits[:n], labels[:n], 5.0).sampled[0, 0] * n for n in range(1, 61)]
    )
    # One more document is one more answer, and changes none of the others.
    assert {round(step) for step in correct.diff().tolist()} == {0, 1}


def test_draws_are_seeds(digits):
    many = accuracy_curve(*digits, [2.0, 6.0], draws=3, seed=10)
    for draw in range(3):
        single = accuracy_curve(*digits, [2.0, 6.0], draws=1, seed=10 + draw)
        assert torch.equal(single.sampled[:, 0], many.sampled[:, draw])
    assert len(set(many.sampled[1].tolist())) > 1


def test_a_strength_does_not_depend_on_the_others(digits):
    curve = accuracy_curve(*digits, "0:6:1.5", draws=2)
    assert curve.stds == (0.0, 1.5, 3.0, 4.5, 6.0)
    single = accuracy_curve(*digits, 3, draws=2)
    assert torch.equal(single.sampled[0], curve.sampled[2])
    assert torch.equal(single.expected[0], curve.expected[2])


def test_chunks_of_documents_agree(digits, monkeypatch):
    curve = accuracy_curve(*digits, [2.0], draws=2)
    monkeypatch.setattr("vision_bench.classification.sampled_runs._NOISE_ELEMENTS", 70)
    assert torch.equal(accuracy_curve(*digits, [2.0], draws=2).sampled, curve.sampled)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_receive_noise_in_single_precision(digits, dtype):
    logits, labels = digits
    logits = logits.to(dtype)
    half, single = (
        accuracy_curve(clean, labels, [1e-3, 4.0], draws=2) for clean in (logits, logits.float())
    )
    assert torch.equal(half.sampled, single.sampled)


def test_rows_name_every_draw_and_the_exact_law(digits):
    curve = accuracy_curve(*digits, [0.0, 2.0], draws=2)
    rows = curve.rows("digits")
    assert {r.metric for r in rows} == {"acc", "acc_expected", "acc_top5", "entropy", "ece"}
    assert [(r.metric, r.strength, r.draw) for r in rows if r.metric.startswith("acc")][:6] == [
        ("acc", 0.0, 0),
        ("acc", 0.0, 1),
        ("acc", 2.0, 0),
        ("acc", 2.0, 1),
        ("acc_expected", 0.0, None),
        ("acc_expected", 2.0, None),
    ]
    assert rows[3].value == float(curve.sampled[1, 1])
    assert {(r.task, r.n) for r in rows} == {("digits", len(digits[1]))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": -1}, "draws=-1 is negative"),
        ({"stds": [0.5, -1.0]}, "stds"),
        ({"stds": [1.0, 1.0]}, "twice"),
        ({"logits": torch.zeros(0, 3), "labels": torch.zeros(0).long()}, "no document"),
        ({"labels": torch.tensor([0, 3])}, r"labels\[1\]=3"),
        ({"labels": torch.tensor([0, 3]), "targets": {0: 1}}, r"labels\[1\]=3"),
        ({"labels": torch.tensor([0])}, "one per row"),
        ({"top_k": 0}, "top_k=0 is below 1"),
    ],
)
def test_unusable_arguments_are_refused(change: dict, message: str):
    arguments = {
        "logits": torch.zeros(2, 3),
        "labels": torch.tensor([0, 1]),
        "stds": [1.0],
        "draws": 1,
    } | change
    with pytest.raises(ValueError, match=message):
        accuracy_curve(**arguments)


def test_one_document_has_no_standard_error():
    curve = accuracy_curve(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), [1.0])
    assert math.isnan(float(curve.law.stderr))


TARGETS = {3: +1, 7: -1}


def level_by_level(
    logits, labels, stds, *, seed: int, targets: dict[int, int] | None
) -> list[dict]:
    """The same run in NumPy: all documents at once, a strength at a time."""
    documents = torch.arange(len(labels))
    keys = prefix_keys(documents[:, None])[:, 0]
    z = standard_normal(keys, logits.shape[1], seed=seed).numpy()
    levels = []
    for std in stds:
        shift = std * z
        if targets is not None:
            signs = np.array([targets.get(k, 0) for k in range(logits.shape[1])])
            shift = signs * np.abs(shift)
        noisy = logits.numpy() + shift
        order = np.argsort(-noisy, axis=1, kind="stable")
        probabilities = special.softmax(noisy.astype(np.float64), 1)
        confidence, right = probabilities.max(1), order[:, 0] == labels.numpy()
        entropy = stats.entropy(probabilities, axis=1)
        place = np.ceil(confidence * 15).astype(int)
        levels.append(
            {
                "acc": right.mean(),
                "acc_top5": (order[:, :5] == labels.numpy()[:, None]).any(1).mean(),
                "entropy": entropy.mean(),
                "entropy_stderr": stats.sem(entropy),
                "ece": sum(abs((right - confidence)[place == m].sum()) for m in range(1, 16))
                / len(right),
                "recall": recall_score(labels, order[:, 0], average=None),
                "precision": precision_score(labels, order[:, 0], average=None),
            }
        )
    return levels


@pytest.mark.parametrize("targets", [None, TARGETS], ids=["utility", "focus"])
def test_a_sweep_equals_a_loop_over_levels_with_the_same_noise(digits, targets, monkeypatch):
    monkeypatch.setattr("vision_bench.classification.sampled_runs._NOISE_ELEMENTS", 2000)
    curve = accuracy_curve(*digits, STDS, draws=2, seed=4, targets=targets)
    names = dict(enumerate("abcdefghij"))
    values = {(r.metric, r.strength, r.draw): r for r in curve.rows("digits")}
    classes = {(r.task, r.metric, r.strength, r.draw): r for r in curve.class_rows("d", names)}
    for draw in range(2):
        expected = level_by_level(*digits, STDS, seed=4 + draw, targets=targets)
        for std, level in zip(STDS, expected, strict=True):
            for metric in ("acc", "acc_top5"):
                assert values[metric, std, draw].value == pytest.approx(level[metric], abs=1e-12)
            entropy = values["entropy", std, draw]
            assert entropy.value == pytest.approx(level["entropy"], abs=1e-6)
            assert entropy.stderr == pytest.approx(level["entropy_stderr"], rel=1e-4)
            assert values["ece", std, draw].value == pytest.approx(level["ece"], abs=1e-6)
            for metric in ("recall", "precision"):
                found = [classes[f"d.{name}", metric, std, draw] for name in names.values()]
                assert [row.value for row in found] == pytest.approx(level[metric], abs=1e-12)


@pytest.mark.parametrize("sign", [+1, -1])
def test_focus_moves_the_recall_of_its_class_as_the_law_says(digits, sign: int):
    draws = 30
    curve = accuracy_curve(*digits, [0.0, 2.0, 6.0], draws=draws, targets={3: sign})
    rows = curve.class_rows("digits", {3: "three"})
    law = [r.value for r in rows if r.metric == "recall_expected"]
    assert sign * (law[1] - law[0]) > 0 and sign * (law[2] - law[1]) > 0
    sampled = [r.value for r in rows if r.metric == "recall" and r.strength == 6.0]
    # Documents draw independently: at most the error of coins.
    error = math.sqrt(max(law[2] * (1 - law[2]), 1e-3) / rows[0].n / draws)
    assert np.mean(sampled) == pytest.approx(law[2], abs=4 * error)
    assert rows[0].n == int((digits[1] == 3).sum())


@pytest.mark.parametrize("top_k", [1, 2, 9])
def test_top_k_agrees_with_torch(digits, top_k: int):
    logits, labels = digits
    run = sample_run(logits, labels, [0.0], top_k=top_k)
    best = logits.topk(top_k, dim=1).indices
    assert int(run.in_top_k) == int((best == labels[:, None]).any(1).sum())


def test_equal_logits_rank_by_index_as_in_argmax():
    logits, labels = torch.tensor([[1.0, 1.0, 1.0, 0.0]] * 4), torch.arange(4)
    hits = [int(sample_run(logits, labels, [0.0], top_k=k).in_top_k) for k in (1, 2, 3, 4)]
    assert hits == [1, 2, 3, 4]
    assert sample_run(logits, labels, [0.0]).correct.tolist() == [[1, 0, 0, 0]]


def test_few_classes_have_no_top_5(digits):
    logits, labels = digits
    few = labels < 5
    rows = accuracy_curve(logits[few, :5], labels[few], [1.0]).rows("few")
    assert {r.metric for r in rows} == {"acc", "acc_expected", "entropy", "ece"}


def test_classes_make_up_the_whole(digits):
    curve = accuracy_curve(*digits, STDS, draws=1)
    rows = curve.class_rows("digits", dict(enumerate("abcdefghij")))
    for level, std in enumerate(STDS):
        for metric, whole in (("recall", curve.sampled[level, 0]), ("recall_expected", None)):
            part = [r for r in rows if r.metric == metric and r.strength == std]
            mean = sum(r.value * r.n for r in part) / sum(r.n for r in part)
            expected = curve.expected[level] if whole is None else whole
            assert mean == pytest.approx(float(expected), abs=1e-12)


def test_a_class_that_is_no_answer_has_no_precision_and_the_others_count_their_answers():
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
    curve = accuracy_curve(logits, torch.tensor([0, 1, 2, 2]), [0.0])
    rows = {
        (r.task, r.metric): (r.value, r.n)
        for r in curve.class_rows("d", {0: "a", 1: "b", 2: "c"})
        if r.draw is not None
    }
    assert rows == {
        ("d.a", "recall"): (1.0, 1),
        ("d.a", "precision"): (0.5, 2),
        ("d.b", "recall"): (0.0, 1),
        ("d.c", "recall"): (1.0, 2),
        ("d.c", "precision"): (1.0, 2),
    }


def test_a_class_without_documents_has_no_rows(digits):
    logits, labels = digits
    kept = labels != 4
    curve = accuracy_curve(logits[kept], labels[kept], [1.0])
    assert {r.task for r in curve.class_rows("d", {4: "four", 5: "five"})} == {"d.five"}


def test_what_is_kept_of_a_run_reads_back_exactly(digits):
    run = sample_run(*digits, STDS, seed=3)
    law = exact_law(*digits, STDS)
    again = AccuracyCurve(
        tuple(STDS),
        ExactLaw.from_json(json.loads(json.dumps(law.to_json()))),
        (SampledRun.from_json(json.loads(json.dumps(run.to_json()))),),
    )
    assert again.rows("d") == AccuracyCurve(tuple(STDS), law, (run,)).rows("d")


def test_progress_reaches_every_document_once(digits, monkeypatch):
    monkeypatch.setattr("vision_bench.classification.sampled_runs._NOISE_ELEMENTS", 2000)
    for measure in (sample_run, exact_law):
        steps: list[int] = []
        measure(*digits, [1.0], advance=steps.append)
        assert sum(steps) == len(digits[1]) and len(steps) > 1


@pytest.mark.parametrize("target", [10, -1])
def test_a_target_beyond_the_classes_is_refused(digits, target: int):
    with pytest.raises(ValueError, match=f"class {target}, outside"):
        accuracy_curve(*digits, [1.0], targets={target: 1})
