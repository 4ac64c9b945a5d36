"""Conditions as they are learned: the direction, the threshold, and what is held out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score

from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.conditions import Condition, ConditionText
from aim_plugins.transport.change import read_condition
from aim_plugins.transport.conditions.artifact import ConditionMetadata, LearnedCondition
from aim_plugins.transport.conditions.fit import (
    best_parting,
    condition_direction,
    deal,
    fit_condition,
    told,
)
from aim_plugins.transport.conditions.picture import draw_similarities
from tests.engines.test_transport_columns import random_maps


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sides(n=24, m=24, neurons=8, apart=2.0, seed=0):
    """States of two sides that lie apart along the first neuron."""
    source, target = draw(n, neurons, seed=seed), draw(m, neurons, seed=seed + 1)
    return source.float(), (target + apart * torch.eye(neurons, dtype=torch.float64)[0]).float()


def fit(states, **options):
    """Learns from states of prompts that are all different, partners at the same places."""
    texts = (
        [f"{side} {at}" for at in range(len(own))] for side, own in enumerate([*states.values()][0])
    )
    return fit_condition(states, deal(*texts, paired=True), **options)


def test_the_direction_is_the_first_component_of_pairs_centred_by_themselves():
    """Of 12 pairs in a random Llama of three layers, `read_representations` of
    IBM/activation-steering at 52be602 (`pca_pairwise`, "all" tokens) found the same directions
    behind the first two, to 1e-7 and with the same signs."""
    source, target = (one.double() for one in sides())
    middle = (source + target) / 2
    rows = torch.cat([source - middle, target - middle]).numpy()
    wanted = PCA(n_components=1).fit(rows).components_[0]
    found = condition_direction(source, target, paired=True).double().numpy()
    assert abs(found @ wanted) == pytest.approx(1, abs=1e-6)
    assert float((target - source).mean(0) @ torch.tensor(found)) > 0


def test_without_partners_each_prompt_is_paired_with_each_of_the_other_side():
    source, target = sides(n=9, m=13)
    every = torch.stack([b - a for a, b in itertools.product(source.double(), target.double())])
    values, vectors = np.linalg.eigh((every.T @ every).numpy())
    found = condition_direction(source, target, paired=False).double().numpy()
    assert abs(found @ vectors[:, values.argmax()]) == pytest.approx(1, abs=1e-6)
    assert float(every.mean(0) @ torch.tensor(found)) > 0


def test_a_sign_of_the_direction_means_nothing():
    states = draw(5, 8).float()
    one, other = (Condition("a", sign * torch.ones(8), 0.0) for sign in (1, -1))
    assert one.similarity(states).tolist() == other.similarity(states).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all_there_are(seed):
    similar = draw(30, seed=seed).numpy().round(1)  # some are equal
    wanted = (draw(30, seed=seed + 9).numpy() + similar * (-1) ** seed) > 0
    found = best_parting(similar, wanted)
    values = np.unique(similar)
    tried = [
        f1_score(wanted, (similar > threshold) == above)
        for threshold in (values[1:] + values[:-1]) / 2
        for above in (True, False)
    ]
    own = f1_score(wanted, (similar > found.threshold) == found.above)
    assert own == pytest.approx(max(tried)) == pytest.approx(found.f1)
    assert found.threshold not in values


def test_of_thresholds_that_part_alike_the_one_in_the_widest_gap_is_taken():
    similar = np.array([0.1, 0.2, 0.3, 0.6, 0.65])
    wanted = np.array([True, False, False, True, True])
    found = best_parting(similar, wanted)
    assert (found.threshold, found.above) == (pytest.approx(0.45), True)
    assert found.gap == pytest.approx(0.3 / similar.std())
    assert best_parting(np.full(4, 0.5), np.array([True, False, True, False])) is None


def test_what_is_held_out_decides_nothing():
    source, target = sides(apart=6.0)
    fitted = fit({"a": (source, target)})
    held = list(range(3, 24, 4))
    other_source, other_target = source.clone(), target.clone()
    other_source[held], other_target[held] = target[held], source[held]
    swapped = fit({"a": (other_source, other_target)})
    assert swapped.condition == fitted.condition and swapped.chosen == fitted.chosen
    one, other = fitted.held_out, swapped.held_out
    assert other.true_positive_rate == one.false_positive_rate != one.true_positive_rate
    assert other.false_positive_rate == one.true_positive_rate


def test_the_site_that_tells_the_sides_apart_is_chosen():
    states = {"noise": sides(apart=0.0), "signal": sides(apart=6.0), "less": sides(apart=1.0)}
    fitted = fit(states, summary="last")
    assert (fitted.condition.site, fitted.condition.summary) == ("signal", "last")
    for site, own in states.items():
        assert [len(one) for one in fitted.similarities[site]] == [len(side) for side in own]
    assert draw_similarities(fitted)["png"].startswith(b"\x89PNG")


def test_sides_of_one_state_are_refused():
    with pytest.raises(ValueError, match="no site tells the prompts of source and target"):
        fit({"a": (torch.ones(8, 4), torch.ones(8, 4))})


def test_prompts_are_dealt_in_turn():
    turn = ["direction", "direction", "choice", "held out"]
    for paired in (True, False):
        own, others = deal("abcdefghi", "ABCDEFGHI", paired=paired)
        assert own.tolist() == others.tolist() == [*turn, *turn, "direction"]
    own, others = deal("abcdefgh", "ABCDEFGHI", paired=False)
    assert (own.tolist(), others.tolist()) == ([*turn, *turn], [*turn, *turn, "direction"])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_out_stands_in_no_other_part(paired, seed):
    rng = np.random.default_rng(seed)
    source, target = ([f"{side}{at}" for at in rng.integers(0, 60, 60)] for side in "st")
    parts = deal(source, target, paired=paired)
    for side, own in zip((source, target), parts, strict=True):
        known = {text for text, part in zip(side, own, strict=True) if part != "held out"}
        held = {text for text, part in zip(side, own, strict=True) if part == "held out"}
        assert held and not known & held
    if paired:
        assert parts[0].tolist() == parts[1].tolist()


@pytest.mark.parametrize(
    ("source", "target", "paired", "problem"),
    [
        ("abcdefg", "ABCDEFGH", False, "source has 7 prompts that .* give 8 or more"),
        ("abcdefgabc", "ABCDEFGHIJ", False, "source has 7 prompts that .* give 8 or more"),
        ("aaaaaaaaa", "ABCDEFGHI", True, "source has 1 prompts that"),
        ("abcdefgh", "ABCDEFGHI", True, "paired: source has 8 prompts and target 9"),
        ("abcdefghi", "ABCDEFGHc", False, "1 prompts stand in source and target, such as 'c'"),
    ],
)
def test_prompts_that_leave_nothing_to_hold_out_are_refused(source, target, paired, problem):
    with pytest.raises(ValueError, match=problem):
        deal(source, target, paired=paired)


def test_rates_and_f1_have_wilsons_intervals():
    held = np.array([True] * 9 + [False] + [True] * 2 + [False] * 8)
    found = told(held, np.arange(20) < 10)

    def wilson(k, n, z=1.959964):
        share = k / n
        middle = share + z * z / 2 / n
        half = z * math.sqrt(share * (1 - share) / n + (z / n) ** 2 / 4)
        return [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]

    for one, (k, n) in ((found.true_positive_rate, (9, 10)), (found.false_positive_rate, (2, 10))):
        assert [one.low, one.high] == pytest.approx(wilson(k, n))
    assert found.f1.value == pytest.approx(f1_score(np.arange(20) < 10, held))
    assert [found.f1.low, found.f1.high] == pytest.approx(
        [2 * share / (1 + share) for share in wilson(9, 12)]
    )


def test_an_interval_of_f1_holds_what_it_says_nearly_as_often_as_it_says():
    """Prompts drawn anew 4000 times, with the rates of a condition known."""
    rng, n, truth = np.random.default_rng(0), 25, (0.85, 0.2)
    wanted = np.arange(2 * n) < n
    exact = 2 * truth[0] / (1 + truth[0] + truth[1])
    found = [told(rng.random(2 * n) < np.where(wanted, *truth), wanted).f1 for _ in range(4000)]
    covered = np.mean([one.low <= exact <= one.high for one in found])
    assert 0.93 < covered < 0.99


def test_a_condition_is_read_by_the_argument_that_names_it(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    learned = Condition("model.layers.1", draw(32).float(), 0.25)
    metadata = ConditionMetadata.of_model(tiny_llama, method="pca", sites=["model.layers.1"])
    LearnedCondition(learned, metadata).save(tmp_path / "c")
    assert read_condition("~/c>0.25") == learned
    (tmp_path / "c" / "condition.safetensors").unlink()
    for folder, problem in (("none", "is no folder"), ("c", "has no file 'condition.safetensors'")):
        with pytest.raises(ValueError, match=f"^condition_sea='{tmp_path / folder}' {problem}"):
            read_condition(f"not ~/{folder}", "condition_sea")


def test_no_condition_is_none(tiny_llama):
    maps = random_maps(tiny_llama)
    (column,) = columns_of(transport=maps, strength=0.5, condition=None)
    assert not column.conditions and column == columns_of(transport=maps, strength=0.5)[0]


def test_a_condition_reads_back_as_it_was_learned_and_as_it_is_asked_for(tiny_llama, tmp_path):
    learned = Condition("model.layers.1", draw(32).float(), 0.25, above=False, summary="last")
    metadata = ConditionMetadata.of_model(
        tiny_llama, method="pca_pairwise", sites=["model.layers.1"], threshold=0.25, above=False,
        summary="last", held_out={"f1": 0.5},
    )  # fmt: skip
    folder = LearnedCondition(learned, metadata).save(tmp_path / "condition")
    assert LearnedCondition.load(folder).condition == learned
    for text, above, threshold in (
        (f"{folder}", False, 0.25),
        (f"not {folder}", True, 0.25),
        (f"{folder}>0.5", True, 0.5),
        (f"not {folder}<0.5", True, 0.5),
    ):
        found = read_condition(text)
        assert (found.above, found.threshold, found.summary) == (above, threshold, "last")
        assert str(found.asked) == text == str(ConditionText.read(text))
        found.metadata.check_model(tiny_llama)
