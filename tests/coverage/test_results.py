"""Results: spreads against scipy, sentences against the numbers, and their tables."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from scipy import stats

from aim_plugins.coverage.results import (
    NOISE,
    TRAINING,
    Result,
    Spread,
    collect,
    format_csv,
    readings,
    to_json,
)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_a_spread_is_students_prediction_interval(count: int) -> None:
    values = np.random.default_rng(count).normal(300, 2, count)
    spread = Spread.of(values.tolist())
    scale = values.std(ddof=1) * math.sqrt(1 + 1 / count)
    expected = stats.t.interval(0.95, count - 1, values.mean(), scale)
    assert (spread.low, spread.high) == pytest.approx(expected, rel=5e-3)
    assert spread.mean == pytest.approx(values.mean())


def test_a_spread_ends_at_what_a_suite_can_have() -> None:
    spread = Spread.of([0.0, 0.1, 0.9], most=1.0)
    assert (spread.low, spread.high) == (0.0, 1.0)


def test_one_more_suite_lies_in_the_spread_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.4, 0.05, (4000, 6))
    held = [Spread.of(row[:5].tolist()).holds(float(row[5])) for row in draws]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_a_single_suite_has_a_mean_alone() -> None:
    spread = Spread.of([0.3])
    assert spread.mean == 0.3
    assert math.isnan(spread.low)
    assert not spread.holds(0.3)


def _result(label: str, value: float, **fields) -> Result:
    plain = dict(unit="share", ceiling=1.0, total=10, summary="", source="")
    plain |= dict(random={}, by_layer={}, by_class={})
    return Result(label, value, **(plain | fields))


def _spread(low: float, high: float) -> Spread:
    return Spread((low + high) / 2, low, high, 5)


def test_noise_that_scores_as_high_is_named() -> None:
    results = [
        _result("NC", 0.8, random={NOISE: _spread(0.7, 0.85)}),
        _result("KMNC", 0.8, random={NOISE: _spread(0.85, 0.95)}),
        _result("IDC", 0.8, random={NOISE: _spread(0.1, 0.2)}),
    ]
    (sentence,) = readings(results)
    assert sentence.startswith(
        "NC, KMNC: images of uniform noise score higher than this suite or cannot be told from it"
    )


def test_training_suites_tell_three_cases_apart() -> None:
    results = [
        _result("NC", 0.5, random={TRAINING: _spread(0.4, 0.6)}),
        _result("KMNC", 0.3, random={TRAINING: _spread(0.4, 0.6)}),
        _result("IDC", 0.7, random={TRAINING: _spread(0.4, 0.6)}),
    ]
    alike, less, more = readings(results)
    assert alike == "NC: the suite cannot be told from random training inputs of its size."
    assert less == "KMNC: the suite covers less than random training inputs of its size."
    assert more == "IDC: the suite covers more than random training inputs of its size."


def test_a_count_of_nearly_every_input_is_named() -> None:
    results = [
        _result("TKNP", 996.0, unit="count", ceiling=1000.0),
        _result("LSC", 178.0, unit="count", ceiling=1000.0),
        _result("KMNC", 1.0, unit="share"),
    ]
    (sentence,) = readings(results)
    assert sentence.startswith("TKNP: nearly every input counts as new")


def test_a_single_random_suite_claims_nothing() -> None:
    assert readings([_result("NC", 0.8, random={NOISE: Spread.of([0.9])})]) == []


def test_results_are_those_of_the_profile(world) -> None:
    profile = world.profile(world.suite, classes={1: "b"})
    random = {TRAINING: [{label: 0.25 for label in profile.criteria}] * 2, NOISE: []}
    found = {one.label: one for one in collect(profile, random, {"IDC": 0.875})}
    assert found.keys() == profile.criteria.keys()
    assert found["IDC"].training == 0.875
    assert found["IDC"].total == 8
    assert found["IDC"].ceiling == 1.0
    assert found["KMNC"].total == 14_000
    assert found["TKNP"].unit == "count"
    assert found["TKNP"].ceiling == 90.0
    assert found["NLC"].unit == ""
    assert list(found["NC"].random) == [TRAINING]
    assert found["NC"].by_class == {"b": profile.scopes["class b"]["NC"].value}
    assert list(found["NC"].by_layer) == ["conv", "fc", "out"]


def test_tables_hold_every_number_and_no_nan(world) -> None:
    profile = world.profile(world.suite, classes={1: "b"})
    results = collect(profile, {NOISE: [{label: 0.5 for label in profile.criteria}]}, {})
    rows = list(csv.DictReader(format_csv(results).splitlines()))
    by_scope = {(row["criterion"], row["scope"]): row["value"] for row in rows}
    for one in results:
        assert float(by_scope[one.label, "all"]) == one.value
        assert float(by_scope[one.label, "random noise"]) == 0.5
        if one.label != "NLC":
            assert float(by_scope[one.label, "class b"]) == one.by_class["b"]
    content = json.loads(json.dumps(to_json(results), allow_nan=False))
    assert content[0]["random"]["noise"]["low"] is None
    assert next(one for one in content if one["label"] == "NLC")["ceiling"] is None
