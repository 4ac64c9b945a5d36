"""Questions are read, split and scored as the harness does."""

from __future__ import annotations

import pytest
import torch

from aim_plugins.task_documents import Document, load_documents
from aim_plugins.task_questions.questions import (
    Question,
    QuestionBatch,
    check_choices,
    read_questions,
    score_choices,
)
from aim_plugins.task_questions.split import split_documents

pytest.importorskip("lm_eval")


def test_choices_are_scored_as_by_the_harness(tiny, task_folder) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(tiny.model, tokenizer=tiny.tokenizer, batch_size=3)
    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    found = simple_evaluate(
        model, tasks=["tiny_capitals"], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    documents = load_documents(["tiny_capitals"], str(task_folder))["tiny_capitals"]
    questions = read_questions(documents, tiny.tokenizer, 128)
    scores = score_choices(tiny.model, questions, 3)
    samples = {one["doc_id"]: one for one in found["samples"]["tiny_capitals"]}
    for place, row in enumerate(scores):
        theirs = [float(one[0]) for one in samples[place]["filtered_resps"]]
        assert row == pytest.approx(theirs, abs=1e-4)


def test_only_positions_that_are_scored_pass_the_head(tiny, task_folder) -> None:
    documents = load_documents(["tiny_questions"], str(task_folder))["tiny_questions"]
    questions = read_questions(documents, tiny.tokenizer, 128)
    batch = QuestionBatch.of(questions, tiny.model.device)
    seen = []
    hook = tiny.model.lm_head.register_forward_hook(lambda *given: seen.append(given[2].shape[1]))
    try:
        with torch.no_grad():
            scores = batch.log_likelihoods(tiny.model)
            whole = tiny.model(batch.inputs).logits.log_softmax(-1)
    finally:
        hook.remove()
    assert seen[0] == len(set(batch.positions.tolist())) < seen[1] == batch.inputs.shape[1]
    for question, row in enumerate(scores):
        for choice, score in enumerate(row.tolist()):
            place = question * 4 + choice  # of four choices each
            own = (batch.choices == place).nonzero()[:, 0].tolist()
            expected = sum(
                float(whole[batch.rows[one], batch.positions[one], batch.tokens[one]])
                for one in own
            )
            assert score == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_a_choice_that_begins_another_shares_its_row(tiny) -> None:
    choices = (" Paris", " Paris is", " Paris is Berlin", " the")
    question = Question(
        "made-up",
        tuple(tuple(tiny.tokenizer(f"the capital{one}")["input_ids"]) for one in choices),
        tuple(len(tiny.tokenizer(one)["input_ids"]) for one in choices),
        0,
    )
    batch = QuestionBatch.of([question], tiny.model.device)
    assert len(batch.inputs) == 1
    alone = [
        float(QuestionBatch.of([one], tiny.model.device).log_likelihoods(tiny.model)[0, 0])
        for one in (
            Question("alone", (ids,), (count,), 0)
            for ids, count in zip(question.ids, question.scored, strict=True)
        )
    ]
    assert batch.log_likelihoods(tiny.model)[0].tolist() == pytest.approx(alone, abs=1e-4)


def document(number: int, *options: tuple[str, str], answer: str = " x") -> Document:
    return Document("made-up", number, "Q", answer, 0, ("x", "y"), options)


def test_spaces_behind_a_text_belong_to_the_choice(tiny) -> None:
    pairs = [("the capital ", "Paris"), ("the capital ", "Berlin")]
    (question,) = read_questions([document(0, *pairs)], tiny.tokenizer, 128)
    whole = tiny.tokenizer("the capital Paris")["input_ids"]
    before = tiny.tokenizer("the capital")["input_ids"]
    assert list(question.ids[0]) == whole
    assert question.scored[0] == len(whole) - len(before)


def test_an_empty_text_begins_with_the_first_token_of_texts(tiny) -> None:
    (question,) = read_questions([document(0, ("", "Paris"), ("", "the"))], tiny.tokenizer, 128)
    assert question.ids[0][0] == tiny.tokenizer.bos_token_id
    assert question.scored[0] == len(question.ids[0]) - 1


def test_a_choice_longer_than_the_longest_input_is_refused(tiny) -> None:
    pairs = [("the capital", " of Paris is Paris"), ("the capital", " Paris")]
    (whole,) = read_questions([document(0, *pairs)], tiny.tokenizer, 128)
    longest = max(whole.scored)
    (cut,) = read_questions([document(0, *pairs)], tiny.tokenizer, longest)
    # The text's last token predicts the choice's first one.
    assert len(cut.ids[0]) == longest + 1 and len(whole.ids[0]) > longest + 1
    message = f"max_length={longest - 1}: a choice of made-up#0 has {longest} tokens"
    with pytest.raises(ValueError, match=message):
        read_questions([document(0, *pairs)], tiny.tokenizer, longest - 1)


def test_tasks_without_choices_or_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="t has documents without choices.*multiple_choice"):
        check_choices("t", [Document("t", 0, "Write", " it")])
    secret = document(0, ("Q", " x"), ("Q", " y"), answer="")
    with pytest.raises(ValueError, match="nobody knows the right answer of made-up#0"):
        check_choices("t", [secret])


def test_parts_are_disjoint_and_whole_and_drawn_by_the_seed() -> None:
    documents = [document(one, (f"Q{one}", " x"), (f"Q{one}", " y")) for one in range(50)]
    first, again, other = (split_documents(documents, (0.4, 0.2, 0.4), seed) for seed in (0, 0, 1))
    assert first == again != other
    parts = [first.learning, first.validation, first.test]
    assert [len(part) for part in parts] == [20, 10, 20]
    assert sorted(place for part in parts for place in part) == list(range(50))


def test_documents_that_ask_the_same_stand_in_one_part() -> None:
    documents = [
        document(one, *((f"Q{one % 10}", choice) for choice in ((" x", " y")[:: (-1) ** one])))
        for one in range(30)
    ]
    split = split_documents(documents, (0.4, 0.2, 0.4), 0)
    kinds = [{one % 10 for one in part} for part in (split.learning, split.validation, split.test)]
    assert sum(map(len, kinds)) == 10 and [len(one) for one in kinds] == [4, 2, 4]
    with pytest.raises(ValueError, match="split: 4 documents give parts of 2, 0, 2"):
        split_documents(documents[:4], (0.4, 0.2, 0.4), 0)
