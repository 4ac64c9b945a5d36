"""Questions of a task under changed models, against the harness on models steered by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aim_plugins.engines.loading import load_engine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.costs import UNCHANGED, Changed
from aim_plugins.steering.calibration.questions import TaskQuestions, budget_documents, check_room
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.task_documents import load_documents
from aim_plugins.task_questions.questions import read_questions
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import Transport

pytest.importorskip("lm_eval")


@pytest.fixture
def engine(tiny):
    return load_engine(str(tiny.folder), dtype="float32", device="cpu")


@pytest.fixture
def questions(engine, task_folder):
    documents = load_documents(["tiny_questions"], str(task_folder))["tiny_questions"]
    return read_questions(documents, engine.tokenizer, engine.max_length)


def steered(folder, strength, prefix=()):
    learned = LearnedTransport.load(folder)
    change = Transport(strength, learned.fingerprint, learned.maps, learned)
    return Changed(Column((change,)), prefix)


def by_the_harness(model, tokenizer, folder):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        HFLM(model, tokenizer=tokenizer, batch_size=3),
        tasks=["tiny_questions"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["tiny_questions"], key=lambda one: one["doc_id"])
    return tuple(bool(one["acc"]) for one in samples)


def test_hits_are_the_harness_accuracy_by_document(
    engine, tiny, task_folder, questions, tiny_transport, steered_by_hand
):
    asked = TaskQuestions(engine, questions, batch_size=3)
    strengths = (0.3, 1.0, 2.5)
    changed = [UNCHANGED, *(steered(tiny_transport, one) for one in strengths)]
    found = asked.hits(questions, changed)
    expected = [by_the_harness(tiny.model, tiny.tokenizer, task_folder)]
    for strength in strengths:
        with steered_by_hand(tiny_transport, strength) as model:
            expected.append(by_the_harness(model, tiny.tokenizer, task_folder))
    assert found == expected
    assert len(set(found)) > 1  # the strengths do tell apart


@torch.no_grad()
def test_a_prompt_stands_before_the_questions_own_tokens(
    engine, tiny, questions, tiny_transport, steered_by_hand
):
    prefix = tuple(tiny.tokenizer("Answer Paris : ").input_ids)
    [found] = TaskQuestions(engine, questions, batch_size=4).hits(
        questions, [steered(tiny_transport, 0.8, prefix)]
    )
    expected = []
    with steered_by_hand(tiny_transport, 0.8) as model:
        for question in questions:
            scores = []
            for ids, count in zip(question.ids, question.scored, strict=True):
                tokens = [*prefix, *ids]
                logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
                places = range(len(tokens) - 1 - count, len(tokens) - 1)
                scores.append(sum(float(logs[one, tokens[one + 1]]) for one in places))
            expected.append(scores.index(max(scores)) == question.right)
    assert found == tuple(expected)


def test_a_model_that_a_change_broke_answers_nothing_and_harms_no_other(
    engine, questions, tiny_transport
):
    asked = TaskQuestions(engine, questions, batch_size=4)
    [plain] = asked.hits(questions, [UNCHANGED])
    broken = steered(tiny_transport, 3e38)
    assert asked.hits(questions, [UNCHANGED, broken]) == [plain, (False,) * len(questions)]


def test_a_prompt_leaves_the_questions_the_rest_of_the_window(engine, tiny, questions):
    longest = max(len(ids) for one in questions for ids in one.ids)
    for count in range(1, 140):
        prompt = "Paris " * count
        there = len(tiny.tokenizer(prompt).input_ids) + longest
        if there - 1 <= engine.max_length:  # a choice's last token is no input
            check_room(engine, questions, ["", prompt])
            continue
        with pytest.raises(ValueError, match=rf"#\d has {there} tokens behind the prompt 'Paris"):
            check_room(engine, questions, ["", prompt])
        break
    assert count > 100


def test_the_parts_share_no_question_lose_none_and_report_on_the_odd_ones(engine, questions):
    asked = TaskQuestions(engine, questions, batch_size=4)
    assert [len(one) for one in (asked.sites, asked.strengths, asked.held_out)] == [2, 2, 4]
    assert [*asked.sites, *asked.strengths, *asked.held_out] == questions


def test_questions_are_dealt_by_the_seed(task_folder):
    orders = {
        tuple(
            one.number
            for one in budget_documents(asked_for(task_folder, "tiny_questions=0.4", seed=seed))
        )
        for seed in range(20)
    }
    assert len(orders) > 10
    assert all(sorted(one) == list(range(8)) for one in orders)


def asked_for(task_folder, budget_task, **options):
    return CalibrationSettings(
        pretrained="any", output=Path("out"), perplexity=[Path("p.txt")], prompts="p.txt",
        transports=[Path("t")], sentiment="vader", include_path=str(task_folder),
        budget_task=budget_task, **options,
    )  # fmt: skip


def test_no_question_is_taken_twice_and_no_more_than_asked_for(task_folder):
    every = budget_documents(asked_for(task_folder, "tiny_questions=0.4"))
    assert len({one.options for one in every}) == len(every) == 8
    some = budget_documents(asked_for(task_folder, "tiny_questions=0.4", budget_limit=6))
    assert len(some) == 6 and {one.number for one in some} <= set(range(8))
    assert budget_documents(asked_for(task_folder, None)) == []


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ("tiny_writing=0.3", "without choices"),
        ("tiny_nothing=0.3", "is none of the harness's"),
        ("tiny_questions=0.05", "found on 2 of 8 questions, .* take 57 or more"),
    ],
)
def test_a_task_that_cannot_spend_the_budget_is_refused(task_folder, asked, pattern):
    with pytest.raises(ValueError, match=pattern):
        budget_documents(asked_for(task_folder, asked))
