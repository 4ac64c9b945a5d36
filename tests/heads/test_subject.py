"""Questions as what heads are attributed: ablation is zeroed weights, rows do not meet."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch

from aim_plugins.heads.settings import QuestionOutput
from aim_plugins.heads.subject import QuestionSubject, by_length
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.task_documents import Document, load_documents
from aim_plugins.task_questions.questions import read_questions, score_choices

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def questions(tiny, task_folder):
    documents = load_documents(["tiny_capitals"], str(task_folder))["tiny_capitals"]
    return read_questions(documents, tiny.tokenizer, 128)


def subject_of(model, questions, output: str = "choice_margin", batch_size: int = 8):
    components = find_components(model, "attention_heads")
    return QuestionSubject(model, components, questions, output, batch_size)


def without_heads(model, ablated: torch.Tensor):
    """A copy whose output projections have zeros for some heads [layers, heads]."""
    other = copy.deepcopy(model)
    for layer, row in zip(other.model.layers, ablated, strict=True):
        weight = layer.self_attn.o_proj.weight
        weight.data[:, row.repeat_interleave(weight.shape[1] // len(row))] = 0
    return other


def margins(scores, questions):
    return [
        row[one.right] - max(row[: one.right] + row[one.right + 1 :])
        for row, one in zip(scores, questions, strict=True)
    ]


def test_the_outputs_under_masks_are_those_of_models_with_zeroed_weights(tiny, questions) -> None:
    torch.manual_seed(0)
    ablated = torch.rand(3, 3, 4) < 0.4
    subject = subject_of(tiny.model, questions)
    found = subject.outputs(1 - ablated.flatten(1).float())
    for row, mask in zip(found, ablated, strict=True):
        scores = score_choices(without_heads(tiny.model, mask), questions, 3)
        assert row.tolist() == pytest.approx(margins(scores, questions), abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_outputs_do_not_depend_on_the_batch(tiny, questions, batch_size) -> None:
    factors = (torch.rand(4, 12, generator=torch.Generator().manual_seed(1)) > 0.3).float()
    expected = subject_of(tiny.model, questions).outputs(factors)
    found = subject_of(tiny.model, questions, batch_size=batch_size).outputs(factors)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_log_likelihood_is_that_of_the_right_choice(tiny, questions) -> None:
    found = subject_of(tiny.model, questions, "log_likelihood").whole()
    scores = score_choices(tiny.model, questions, 3)
    expected = [row[one.right] for row, one in zip(scores, questions, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def documents():
    """Documents whose right choices have one token, several, or more than that."""
    texts = (" Berlin", " Paris and Berlin", " the answer to no question")
    choices = (*texts, " is")
    context = "the capital of Germany is"
    return [
        Document(
            "made-up",
            place,
            "",
            texts[place],
            place,
            choices,
            tuple((context * (1 + place % 2), choice) for choice in choices),
        )
        for place in range(3)
    ]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_mean_token_margins_are_those_of_the_right_choices_texts(
    tiny, documents, token_margin, batch_size
) -> None:
    questions = read_questions(documents, tiny.tokenizer, 128)
    counts = [one.scored[one.right] for one in questions]
    assert counts[0] == 1 and len(set(counts)) == 3
    torch.manual_seed(0)
    ablated = torch.rand(3, 3, 4) < 0.4
    ablated[0] = False
    ablated[1] = torch.arange(12).view(3, 4) == 5  # one head alone
    subject = subject_of(tiny.model, questions, "mean_token_margin", batch_size)
    found = subject.outputs(1 - ablated.flatten(1).float())
    for row, mask in zip(found, ablated, strict=True):
        model = without_heads(tiny.model, mask)
        expected = [
            token_margin(model, tiny.tokenizer, *one.options[one.place]) for one in documents
        ]
        assert row.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_model_that_returns_nan_is_refused(tiny, questions) -> None:
    model = copy.deepcopy(tiny.model)
    model.lm_head.weight.data[7] = float("nan")
    for output in get_args(QuestionOutput):
        with pytest.raises(ValueError, match="model: it returns NaN: try --dtype float32"):
            subject_of(model, questions, output).whole()


@pytest.mark.parametrize("output", get_args(QuestionOutput))
def test_gradients_are_finite_differences(tiny, questions, output) -> None:
    model = copy.deepcopy(tiny.model).double()
    subject = subject_of(model, questions[:3], output)
    point = torch.full((12,), 0.7, dtype=torch.float64)
    _, gradients = subject.gradients(point)
    for component in (0, 5, 11):
        step = torch.zeros(12, dtype=torch.float64)
        step[component] = 1e-3
        high, low = subject.outputs(torch.stack([point + step, point - step])).double()
        difference = ((high - low) / 2e-3).tolist()
        assert gradients[:, component].tolist() == pytest.approx(difference, abs=5e-3)


def test_questions_of_like_length_stand_together(questions) -> None:
    lengths = [max(map(len, one.ids)) for one in by_length(questions)]
    assert lengths == sorted(lengths) and len(set(lengths)) > 1
