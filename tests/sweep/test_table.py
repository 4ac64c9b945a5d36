"""Claims about the tidy table and the pooling of draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from aim_plugins.sweep.estimates import mean_of_draws
from aim_plugins.sweep.intervals import point_intervals
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


@pytest.mark.parametrize("draws", [2, 3, 5, 10])
@pytest.mark.parametrize("shape", [0.1, 1.0, 20.0], ids=["noise barely", "partly", "wholly"])
def test_pooled_intervals_cover_the_mean_of_all_documents_when_draws_share_them(draws, shape):
    """Simulates the nested design: documents differ in difficulty, draws flip single answers.

    1500 repetitions know a coverage of 95 % to 0.6 %. An upper bound of the error would cover
    nearly always where noise matters, and taking draws for documents would cover too seldom.
    """
    generator = np.random.default_rng(0)
    documents, repetitions = 60, 1500
    difficulty = generator.beta(shape, shape, (repetitions, 1, documents))
    correct = generator.random((repetitions, draws, documents)) < difficulty
    values = correct.mean(2)
    errors = correct.std(2, ddof=1) / math.sqrt(documents)
    found = [
        pool_draws([row(d, v, e, n=documents) for d, (v, e) in enumerate(zip(*one, strict=True))])
        for one in zip(values.tolist(), errors.tolist(), strict=True)
    ]
    ends = np.array([point_intervals(points)[0] for points in found])
    covered = ((ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5)).mean()
    assert 0.935 < covered < 0.996
    # The error of the mean over draws of each document, which the rows do not hold.
    exact = correct.mean(1).std(1, ddof=1) / math.sqrt(documents)
    pooled = np.array([points[0].stderr for points in found])
    assert pooled.mean() > 0.98 * exact.mean()
    # Where the documents are at hand, theirs is the error.
    held = 0
    for answers in correct.astype(float):
        found = mean_of_draws(answers.T)
        point = Point("task", "acc", 1.0, found.value, found.stderr, documents, draws)
        low, high = point_intervals([point])[0]
        held += low <= 0.5 <= high
    assert 0.93 < held / repetitions < 0.97


def test_a_mean_over_draws_does_not_depend_on_their_order():
    counts = [(1.0, 0.0, 1), (0.5, 0.05, 100), (0.25, 0.04, 80)]
    rows = [
        Row("cats", "precision", 1.0, draw, value, error, n)
        for draw, (value, error, n) in enumerate(counts)
    ]
    points = [pool_draws(order)[0] for order in itertools.permutations(rows)]
    assert {point.n for point in points} == {1}
    assert len({interval for point in points for interval in point_intervals([point])}) == 1


def test_without_noise_more_draws_sharpen_nothing():
    (point,) = pool_draws([row(draw, 0.5, 0.0, n=40) for draw in range(9)])
    assert point.stderr == 0.0
    (point,) = pool_draws([row(draw, 0.5, 0.05, n=40) for draw in range(9)])
    assert point.stderr == 0.05


def test_draws_that_are_all_wrong_have_an_interval_all_the_same():
    (point,) = pool_draws([row(draw, 0.0, 0.0, n=40) for draw in range(3)])
    graded = Point(point.task, point.metric, 3.0, 0.4, 0.03, 40, 3)
    law = binomtest(0, 40).proportion_ci(0.95, method="wilson")
    assert point_intervals([point, graded])[0] == pytest.approx((law.low, law.high), abs=1e-6)


def curve(metric, values, errors, counts):
    return [
        Point("prompts", metric, strength, value, error, n, 1)
        for strength, (value, error, n) in enumerate(zip(values, errors, counts, strict=True))
    ]


def test_printed_values_have_the_intervals_of_the_pictures():
    shares = curve("presence", (0.0, 0.75), (0.0, 0.25), (4, 4))
    means = curve("sentiment", (0.0, 0.3), (0.0, 0.1), (4, 4))
    printed = format_points(shares + means).splitlines()
    law = [binomtest(hits, 4).proportion_ci(0.95, method="wilson") for hits in (0, 3)]
    assert printed[0] == "prompts (n=4), [95 % interval]"
    for line, share, mean, wilson, other in zip(
        printed[2:], shares, means, law, point_intervals(means), strict=True
    ):
        assert f"{share.value:.3f} [{wilson.low:.3f}, {wilson.high:.3f}]" in line
        assert line.endswith(f"{mean.value:.3f} [{other[0]:.3f}, {other[1]:.3f}]")
    assert "±" not in "".join(printed)


def test_printed_values_without_errors_stand_alone():
    printed = format_points(curve("ece", (0.25, 0.5), (None, None), (4, 4))).splitlines()
    assert printed[0] == "prompts (n=4)"
    assert printed[2].split() == ["0", "0.250"]


def test_printed_draws_are_counted():
    points = pool_draws([row(draw, 0.5 + draw / 10) for draw in range(3)])
    assert format_points(points).startswith(f"{points[0].task} (n={points[0].n}, 3 draws), [95 %")


def test_each_printed_metric_has_its_own_count_where_they_differ():
    some = curve("presence", (0.2, 0.3), (0.1, 0.1), (4, 4))
    some += curve("repeated_3grams", (0.2, 0.3), (0.1, 0.1), (4, 2))
    printed = format_points(some).splitlines()
    assert printed[0] == "prompts (n=2 to 4), [95 % interval]"
    assert printed[2].split("  ")[-1].strip() == "2 to 4"
    assert printed[2].split() == ["n", "4", "2", "to", "4"]
    assert "n " not in format_points(some[:2]).splitlines()[2]


def test_printed_columns_line_up_whatever_their_numbers():
    some = curve("perplexity", (20.0, 521.4753), (1.0, 102.913), (9, 9))
    heading, *lines = format_points(some).splitlines()[1:]
    assert {len(line) for line in lines} == {len(heading)}
