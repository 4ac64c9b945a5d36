"""What follows from answers: the size of an edit, differences, and sentences about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from aim_plugins.attribution.evaluation import MeanOfExamples, TopEffects
from aim_plugins.heads.pictures import short_names
from aim_plugins.heads.prediction import Prediction
from aim_plugins.heads.settings import TaskAttributionSettings
from aim_plugins.heads.trials import (
    Alone,
    EditPath,
    Outcome,
    mean_change,
    outputs_of,
)
from aim_plugins.heads.wording import Findings, component_sentences
from aim_plugins.modulation.components import Components, Site
from aim_plugins.sweep.paired import mean_interval
from aim_plugins.task_questions.answers import Answers


def answers(*margins: float) -> Answers:
    """To questions of two choices, the first of them right."""
    return Answers([[float(one), 0.0] for one in margins], [0] * len(margins))


def test_outputs_are_those_by_hand_where_questions_have_several_lengths() -> None:
    given = Answers([[-1.0, -4.0], [-3.0, -2.0, -2.5]], [0, 2])
    assert outputs_of(given, "choice_margin") == [3.0, -0.5]
    assert outputs_of(given, "log_likelihood") == [-1.0, -2.5]


@pytest.mark.parametrize(("direction", "size"), [("lower", 3), ("raise", 1)])
def test_the_size_is_chosen_that_moves_the_mean_furthest_in_the_direction(direction, size) -> None:
    steps = [answers(4, 2), answers(1, 2), answers(1, 1), answers(1, 1)]
    path = EditPath("choice_margin", direction, answers(2, 3), (1, 2, 3, 4), steps)
    assert path.size == size


def test_what_an_edit_does_to_references_counts_against_it() -> None:
    steps = [answers(0, 1), answers(-3, 0)]
    alone = EditPath("choice_margin", "lower", answers(2, 3), (1, 2), steps)
    references = [answers(5, 5), answers(5, 4), answers(9, 9)]
    spared = EditPath("choice_margin", "lower", answers(2, 3), (1, 2), steps, references)
    assert alone.moved == [2, 4] and alone.size == 2
    assert spared.moved == [1.5, 0] and spared.size == 1
    assert [one.value for one in spared.reference_changes] == [-0.5, 4]
    assert spared.reference_changes[0].low == pytest.approx(-0.5 - 12.706 * 0.5, abs=1e-3)


def test_a_mean_has_students_interval() -> None:
    values = [0.5, 1.5, -0.25, 2.0, 1.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=2e-3)


@pytest.mark.parametrize("count", [5, 6])
def test_p_counts_the_signs_that_differ_as_much(count: int) -> None:
    # Of differences with one sign only the given signs and their opposites are as far from zero.
    found = mean_change([1.0 + one for one in range(count)], [0.0] * count)
    assert found.p == pytest.approx(2 / 2**count)
    assert found.value == pytest.approx(np.mean([1.0 + one for one in range(count)]))


def test_an_edit_is_held_against_the_mean_of_those_at_random() -> None:
    own = Outcome(
        "choice_margin",
        whole=answers(3, 3, 3),
        edited=answers(-1, 0.5, -2),
        random=[answers(3, 2, 1), answers(1, 2, 3)],
    )
    assert own.random_outputs == [2, 2, 2] and own.random_accuracy.value == 1
    assert own.beyond_random.value == pytest.approx(-17 / 6)
    assert own.output_change.value == pytest.approx(-23 / 6)
    assert own.accuracy_change.value == pytest.approx(-2 / 3)


def test_the_accuracy_of_edits_at_random_has_an_interval_over_documents() -> None:
    drawn = [answers(1, 1, -1, 1), answers(1, -1, -1, 1)]
    found = Outcome("choice_margin", answers(1, 1, 1, 1), answers(1, 1, 1, 1), drawn)
    assert found.random_accuracy.value == 5 / 8
    assert 0 < found.random_accuracy.low < 5 / 8 < found.random_accuracy.high < 1
    # One draw's is a share of documents, with Wilson's interval.
    one = Outcome("choice_margin", answers(1, 1, 1, 1), answers(1, 1, 1, 1), drawn[:1])
    interval = stats.binomtest(3, 4).proportion_ci(method="wilson")
    expected = (interval.low, interval.high)
    assert (one.random_accuracy.low, one.random_accuracy.high) == pytest.approx(expected)


def findings_of(heads: int) -> Findings:
    """Heads without each of which all six held-out documents lose a nat."""
    whole, less = answers(*range(2, 8)), answers(*range(1, 7))
    mean = MeanOfExamples.of([1.0, 2.0])
    return Findings(
        settings=TaskAttributionSettings(model="any", tasks=("capitals",)),
        components=Components((Site("attn", "attn", heads),)),
        weights=torch.ones(6, heads),
        documents=[],
        prediction=Prediction({}, [], [], 0.1, [], TopEffects(mean, mean, mean, 0.5), 1),
        path=EditPath("choice_margin", "lower", whole, (1,), [less]),
        ranking=range(heads),
        outcomes={"capitals": Outcome("choice_margin", whole, less, [whole])},
        alone=[Alone(number, less) for number in range(heads)],
    )


def test_leaders_are_called_only_where_p_holds_for_all_that_were_tried() -> None:
    # Six equal signs have p = 2 / 2**6 = 0.031: enough for one head, not for each of eight.
    one, accuracy = component_sentences(findings_of(1))
    assert "p = 0.031 corrected for 1 head:" in one and one.endswith("held-out documents show it.")
    # All six stay right: accuracy shows nothing where margins do, and that is said.
    assert "tell heads apart by 6 documents: it shows none of the 1" in accuracy
    for one in component_sentences(findings_of(8)):
        assert "p = 0.25 corrected for 8 heads" in one and one.endswith(
            "not shown by held-out ones."
        )


def test_layers_are_called_by_their_numbers_only_where_these_tell_them_apart() -> None:
    def named(*names: str) -> list[str]:
        return short_names(Components(tuple(Site(one, one, 2) for one in names)))

    assert named("model.layers.0.mlp", "model.layers.10.mlp") == ["0", "10"]
    assert named("h.0.attn.c_attn", "h.0.mlp.c_fc") == ["h.0.attn.c_attn", "h.0.mlp.c_fc"]
