"""Importance is the mean square of a loss's derivative by a factor on a channel."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.reengineering.groups import find_removable
from aim_plugins.reengineering.importance import keep_most_important, taylor_importance
from aim_plugins.task_questions.questions import Question, score_choices
from tests.reengineering.conftest import make_model

QUESTIONS = [
    Question("a", ((1, 5, 9, 7), (1, 5, 9, 8), (1, 5, 9, 3, 4)), (1, 1, 2), 2),
    Question("b", ((6, 2, 11), (6, 2, 12, 13, 14)), (1, 3), 0),
    Question("c", ((30, 31, 32, 33, 34, 35), (30, 31, 32, 33, 34, 36)), (1, 1), 1),
]


def losses(model) -> torch.Tensor:
    """Cross-entropies, each from a pass of its own."""
    found = []
    for question in QUESTIONS:
        totals = []
        for ids, count in zip(question.ids, question.scored, strict=True):
            with torch.no_grad():
                logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            totals.append(sum(logs[place - 1, ids[place]] for place in range(-count, 0)))
        found.append(-torch.stack(totals).log_softmax(0)[question.right])
    return torch.stack(found)


@pytest.mark.parametrize(("kind", "part", "channel"), [
    ("llama", "neurons", 3), ("llama", "heads", 1), ("gpt2", "neurons", 100), ("qwen3", "heads", 2),
])  # fmt: skip
def test_importance_is_that_of_finite_differences(kind, part, channel) -> None:
    model = make_model(kind).double()
    group = getattr(find_removable(model), part)[1]
    (ends,) = group.inputs
    own = [place for place, one in enumerate(ends.channels) if one == channel]
    layer, step = model.get_submodule(ends.layer), 1e-2  # norms work in float32

    def scaled(factor: float) -> torch.Tensor:
        def act(_, given):
            inputs = given[0].clone()
            inputs[..., own] *= factor
            return (inputs,)

        handle = layer.register_forward_pre_hook(act)
        found = losses(model)
        handle.remove()
        return found

    slopes = (scaled(1 + step) - scaled(1 - step)) / (2 * step)
    importance = taylor_importance(model, find_removable(model).groups, QUESTIONS, batch_size=2)
    assert float(importance[group.name][channel]) == pytest.approx(
        float(slopes.square().mean()), rel=1e-2
    )


def test_batches_change_neither_importance_nor_scores_nor_the_model() -> None:
    model = make_model("llama")
    before = {name: one.clone() for name, one in model.state_dict().items()}
    groups = find_removable(model).groups
    one, all_at_once = (taylor_importance(model, groups, QUESTIONS, size) for size in (1, 3))
    for name, values in one.items():
        torch.testing.assert_close(values, all_at_once[name], rtol=1e-3, atol=1e-7)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(one.requires_grad for one in model.parameters())
    for first, second in zip(
        score_choices(model, QUESTIONS, 1), score_choices(model, QUESTIONS, 3), strict=True
    ):
        assert first == pytest.approx(second, abs=1e-4)


def test_the_most_important_of_each_group_are_kept_and_the_first_of_equals() -> None:
    importance = {"a": torch.tensor([0.1, 0.5, 0.3]), "b": torch.zeros(3)}
    kept = keep_most_important(importance, {"a": 2, "b": 1})
    assert kept["a"].tolist() == [False, True, True]
    assert kept["b"].tolist() == [True, False, False]
