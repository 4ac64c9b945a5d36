"""Claims about the tidy table and the pooling of draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from aim_plugins.sweep.printed import format_points
from aim_plugins.sweep.table import Point, Row, is_expected, metric_family, pool_draws, read_table
from aim_plugins.sweep.table import write_table as write


def row(draw=0, value=0.5, stderr: float | None = 0.1, *, strength=1.0, metric="acc", n=100):
    return Row("task", metric, strength, draw, value, stderr, n)


def test_columns_are_those_of_the_format(tmp_path):
    path = write(tmp_path / "sweep.csv", [row(value=0.25)])
    assert path.read_text() == (
        "task,metric,strength,draw,value,stderr,n\ntask,acc,1.0,0,0.25,0.1,100\n"
    )


def test_rows_read_back_exactly(tmp_path):
    rows = [
        row(value=0.1 + 0.2, stderr=1 / 3),
        row(draw=None, metric="acc_expected,none", stderr=None),
        Row('odd, "name"\nof a task', "bits", 1e-300, 7, math.inf, 5e-324, 0),
    ]
    assert read_table(write(tmp_path / "sweep.csv", rows)) == rows


def test_an_unknown_error_and_a_nan_error_stay_apart(tmp_path):
    read = read_table(write(tmp_path / "t.csv", [row(stderr=None), row(1, stderr=math.nan)]))
    assert read[0].stderr is None
    assert math.isnan(read[1].stderr)


def test_a_foreign_table_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="'a,b', not 'task,metric"):
        read_table(path)


def test_a_truncated_line_is_refused_with_its_number(tmp_path):
    path = write(tmp_path / "t.csv", [row(), row(1)])
    path.write_text(path.read_text()[:-8])
    with pytest.raises(ValueError, match="line 3"):
        read_table(path)


@pytest.mark.parametrize(
    "values", [{"strength": float("nan")}, {"stderr": -0.1}, {"stderr": "N/A"}, {"value": None}]
)
def test_impossible_rows_are_refused(values):
    with pytest.raises(ValueError, match="="):
        row(**values)


def test_pooling_averages_draws_and_keeps_strengths_in_order():
    rows = [row(strength=2.0), row(0, 0.25), row(1, 0.5), row(2, 0.75), row(strength=0.0)]
    points = pool_draws(rows)
    assert [(p.strength, p.value, p.draws) for p in points] == [
        (0.0, 0.5, 1),
        (1.0, 0.5, 3),
        (2.0, 0.5, 1),
    ]


def test_equal_draws_pool_to_their_very_value():
    # Three times 0.1 sums to 0.30000000000000004.
    (point,) = pool_draws([row(draw, 0.1, 0.7) for draw in range(3)])
    assert (point.value, point.stderr) == (0.1, 0.7)


def test_unknown_errors_are_left_out():
    (mixed,) = pool_draws([row(0, stderr=None), row(1, stderr=math.nan), row(2, stderr=0.25)])
    (unknown,) = pool_draws([row(0, stderr=None), row(1, stderr=math.nan)])
    assert mixed.stderr == 0.25
    assert unknown.stderr is None


@pytest.mark.parametrize("metric", ["acc_expected", "acc_expected,none"])
def test_an_exact_law_has_no_draws(metric):
    assert is_expected(metric)
    (point,) = pool_draws([row(None, metric=metric)])
    assert point.draws == 0


def test_the_exact_law_shares_the_family_of_what_it_predicts():
    assert metric_family("acc_expected,none") == metric_family("acc,none") == "acc,none"
    assert metric_family("acc_norm") != metric_family("acc")


def test_a_draw_given_twice_is_refused():
    with pytest.raises(ValueError, match="draw=0 of task/acc at strength 1.0 occurs twice"):
        pool_draws([row(), row()])


def test_infinite_values_pool_to_no_number_without_failing():
    (point,) = pool_draws([row(0, math.inf), row(1, -math.inf)])
    assert math.isnan(point.value)


def test_the_pooled_error_covers_the_true_one_when_draws_share_documents():
    """Simulates the nested design: documents differ in difficulty, draws flip single answers."""
    generator = np.random.default_rng(0)
    documents, draws, repetitions = 60, 4, 2000
    means, pooled = [], []
    for _ in range(repetitions):
        difficulty = generator.beta(0.6, 0.6, documents)
        correct = generator.random((draws, documents)) < difficulty
        rows = [
            row(draw, answers.mean(), answers.std(ddof=1) / math.sqrt(documents), n=documents)
            for draw, answers in enumerate(correct)
        ]
        (point,) = pool_draws(rows)
        means.append(point.value)
        pooled.append(point.stderr)
    true_error = np.std(means, ddof=1)
    naive = np.mean(pooled) / math.sqrt(draws)
    # 2000 repetitions know the true error to 1.6 %; taking draws as independent documents is wrong.
    assert np.mean(pooled) > true_error > 1.3 * naive


def curve(metric, values, errors, counts):
    return [
        Point("prompts", metric, strength, value, error, n, 1)
        for strength, (value, error, n) in enumerate(zip(values, errors, counts, strict=True))
    ]


def test_a_printed_share_of_none_has_wilsons_interval_instead_of_no_error():
    printed = format_points(curve("presence", (0.0, 0.75), (0.0, 0.25), (4, 4))).splitlines()
    law = [binomtest(hits, 4).proportion_ci(0.95, method="wilson") for hits in (0, 3)]
    assert printed[0] == "prompts (n=4), ± standard error or [95 % interval]"
    assert printed[2].endswith(f"0.0000 [{law[0].low:.2f}, {law[0].high:.2f}]")
    assert printed[3].endswith(f"0.7500 [{law[1].low:.2f}, {law[1].high:.2f}]")


def test_other_printed_values_keep_their_standard_errors():
    shares = curve("presence", (0.25, 0.75), (0.25, 0.25), (4, 4))
    means = curve("sentiment", (0.0, 0.3), (0.0, 0.1), (4, 4))
    printed = format_points(shares + means)
    assert "[" not in printed
    assert "0.2500 ± 0.2500     0.0000 ± 0.0000" in printed


def test_each_printed_metric_has_its_own_count_where_they_differ():
    some = curve("presence", (0.2, 0.3), (0.1, 0.1), (4, 4))
    some += curve("repeated_3grams", (0.2, 0.3), (0.1, 0.1), (4, 2))
    printed = format_points(some).splitlines()
    assert printed[0] == "prompts (n=2 to 4)"
    assert printed[2].split("  ")[-1].strip() == "2 to 4"
    assert printed[2].split() == ["n", "4", "2", "to", "4"]
    assert "n " not in format_points(some[:2]).splitlines()[2]


def test_printed_columns_line_up_whatever_their_numbers():
    some = curve("perplexity", (20.0, 521.4753), (1.0, 102.913), (9, 9))
    heading, *lines = format_points(some).splitlines()[1:]
    assert {len(line) for line in lines} == {len(heading)}
