"""Claims about what documents score, and about strengths that are held against each other."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from scipy import stats

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.contrasts import against_reference, describe_contrasts
from aim_plugins.sweep.documents import (
    DOCUMENTS,
    DocumentScores,
    explained,
    read_scores,
    score_tables,
    sharpen,
    write_scores,
)
from aim_plugins.sweep.front import Front, publish
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.paired import documents_needed, holm
from aim_plugins.sweep.table import Row, pool_draws, read_table

SIGMA = Axis("std", "σ", "noise std", "logits", low=0.0)
ALPHA = Axis("ablated_share", "α", "ablated share", low=0.0, high=1.0, shared_draws=True)
NAMES = [f"doc{index}" for index in range(80)]
STRENGTHS = (0.0, 1.0, 4.0)


def drawn(task: str = "quiz", draws: int = 3, seed: int = 0) -> list[DocumentScores]:
    """Answers that noise makes wrong; all strengths scale the same noise."""
    rng = np.random.default_rng(seed)
    easy, noise = rng.normal(1, 1, len(NAMES)), rng.normal(size=(draws, len(NAMES)))
    return [
        DocumentScores(task, "acc", (std,), draw, NAMES, np.uint8(easy + std * noise[draw] > 0))
        for std in STRENGTHS
        for draw in range(draws)
    ]


def rows_of(scores: list[DocumentScores]) -> list[Row]:
    return [
        Row(
            *(one.task, one.metric, one.strengths[0], one.draw, float(one.scores.mean())),
            float(one.scores.std(ddof=1) / math.sqrt(len(one.scores))),
            len(one.scores),
        )
        for one in scores
    ]


def test_scores_read_back_exactly(tmp_path):
    graded = np.random.default_rng(0).normal(size=80)
    scores = [*drawn(), DocumentScores("texts", "length", (0.5, -1.0), 2, NAMES[::-1], graded)]
    found = read_scores(write_scores(tmp_path / "d.jsonl", scores))
    assert [vars(one) | {"scores": one.scores.tolist()} for one in found] == [
        vars(one) | {"scores": one.scores.tolist()} for one in scores
    ]


def test_a_damaged_line_is_refused_with_its_number(tmp_path):
    path = write_scores(tmp_path / "d.jsonl", drawn())
    path.write_text(path.read_text().replace('"scores": "', '"scores": "1', 1))
    with pytest.raises(ValueError, match=r"line 2 holds no scores of documents \(81 scores of 80"):
        read_scores(path)


def test_only_means_of_their_documents_are_explained():
    scores, rows = drawn(draws=1), rows_of(drawn(draws=1))
    rows[1] = Row("quiz", "acc", 1.0, 0, rows[1].value + 0.01, 0.05, 80)
    assert [one.strengths for one in explained(scores, rows)] == [(0.0,), (4.0,)]
    others = [*scores[:2], DocumentScores("quiz", "acc", (4.0,), 0, NAMES[1:], scores[2].scores)]
    assert len(explained(others, rows_of(scores))) == 2


def test_the_error_of_a_mean_over_draws_is_that_of_the_documents_means():
    scores = drawn()
    points = sharpen(pool_draws(rows_of(scores)), score_tables(scores), shared_draws=False)
    for point in points:
        own = np.mean([one.scores for one in scores if one.strengths == point.strengths], axis=0)
        assert point.value == pytest.approx(own.mean())
        assert point.stderr == pytest.approx(own.std(ddof=1) / math.sqrt(80))


def test_shared_draws_widen_the_interval_of_a_mean():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(80, 1)) + rng.normal(0, 3, (1, 4)) + rng.normal(size=(80, 4))
    scores = [DocumentScores("t", "length", (0.5,), d, NAMES, values[:, d]) for d in range(4)]
    points = pool_draws(rows_of(scores))
    tables = score_tables(scores)
    (nested,), (crossed,) = (sharpen(points, tables, shared_draws=one) for one in (False, True))
    assert nested.freedom is None and crossed.freedom < 4
    ends = [point_intervals([one])[0] for one in (nested, crossed)]
    # All that matters are four draws: Student's interval of four means.
    law = stats.t.interval(0.95, 3, values.mean(), stats.sem(values.mean(0)))
    assert ends[1] == pytest.approx(law, rel=0.15)
    assert ends[0][1] - ends[0][0] < 0.2 * (ends[1][1] - ends[1][0])


def sweep_of(draws: int = 3) -> list[DocumentScores]:
    return [*drawn("one", draws), *drawn("other", draws, seed=7)]


def test_every_strength_is_held_against_the_one_that_changes_nothing():
    found = against_reference(score_tables(sweep_of()), [SIGMA])
    assert [(one.task, one.strengths, one.reference) for one in found] == [
        (task, (std,), (0.0,)) for task in ("one", "other") for std in (1.0, 4.0)
    ]
    scores = {(one.task, one.strengths, one.draw): one.scores.astype(float) for one in sweep_of()}
    for one in found:
        pairs = np.mean(
            [scores[one.task, one.strengths, d] - scores[one.task, (0.0,), d] for d in range(3)], 0
        )
        assert one.difference.value == pytest.approx(pairs.mean())
        assert one.needed == documents_needed(pairs.tolist())
        errors = [
            np.mean([scores[one.task, at, d] for d in range(3)], 0).std(ddof=1)
            for at in (one.strengths, (0.0,))
        ]
        assert one.tightness == pytest.approx(pairs.std(ddof=1) / math.hypot(*errors))
    assert [one.holm_p for one in found] == holm([one.difference.p for one in found])


@pytest.mark.parametrize(
    ("axis", "strengths", "reference"),
    [
        (Axis("strength", "λ", "transport strength"), (-1.0, 0.0, 1.0), 0.0),
        (Axis("retained_ratio", "r", "ratio", low=0.0, high=1.0, neutral=1.0), (0.5, 1.0), 1.0),
        (Axis("temperature", "τ", "temperature", low=0.01), (0.5, 1.0), 0.5),
    ],
)
def test_the_reference_is_the_plain_model_or_the_first_strength(axis, strengths, reference):
    values = np.arange(4.0)
    tables = score_tables(
        [DocumentScores("t", "m", (one,), 0, NAMES[:4], values * one) for one in strengths]
    )
    assert {one.reference for one in against_reference(tables, [axis])} == {(reference,)}


def test_a_sweep_shows_its_differences_in_table_terminal_and_page(tmp_path, capsys):
    scores = sweep_of()
    rows = rows_of(scores)
    report = publish(tmp_path, Front(rows, [SIGMA], documents=scores), {"arguments": {}})
    found = against_reference(score_tables(scores), [SIGMA])
    with open(tmp_path / "sweep.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[0]["difference"] == lines[0]["holm_p"] == ""  # the reference itself
    for one in found:
        own = [
            line
            for line in lines
            if line["task"] == one.task and float(line["strength"]) == one.strengths[0]
        ]
        assert len(own) == 3  # draws
        for line in own:
            assert float(line["difference"]) == one.difference.value
            assert float(line["difference_low"]) == one.difference.low
            assert float(line["p"]) == one.difference.p and float(line["holm_p"]) == one.holm_p
    assert read_table(tmp_path / "sweep.csv") == rows
    assert len(read_scores(tmp_path / DOCUMENTS)) == len(scores)
    sentence = describe_contrasts(found)
    assert sentence in capsys.readouterr().out and sentence in report.read_text()
    assert 'id="differences"' in report.read_text()


def test_the_sentence_names_what_is_clear_and_what_would_be_needed():
    found = against_reference(score_tables(sweep_of()), [SIGMA])
    (small,) = [one for one in found if one.task == "one" and one.strengths == (1.0,)]
    assert not small.is_clear
    assert describe_contrasts(found).startswith(
        "acc of one differs clearly from that at strength 0 at 4, not at 1 (80 documents; at 1 "
        f"about {small.needed} would be needed). acc of other "
    )


def test_differences_of_shared_draws_need_other_draws_and_not_documents():
    found = against_reference(score_tables(drawn()), [ALPHA])
    assert [one.needed for one in found] == [None, None]
    assert found[0].reference == (0.0,)
