"""Documents are what the harness asks, with the right answer behind it."""

from __future__ import annotations

import functools
import types

import pytest

from aim_plugins.task_coverage.settings import TaskCoverageSettings
from aim_plugins.task_coverage.suite import Suite, load_suite
from aim_plugins.task_documents import Document, answer_names, load_documents

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def loaded(task_folder):
    names = ["tiny_capitals", "tiny_questions", "tiny_writing"]
    return load_documents(names, str(task_folder))


def test_a_choice_is_its_question_and_the_right_choice(loaded) -> None:
    first, second = loaded["tiny_capitals"][:2]
    assert first.text == "the capital of Paris is Paris"
    assert second.text == "the capital of BerlinBerlin is Berlin"
    assert (second.answer, second.place, second.name) == (" Berlin", 1, "tiny_capitals#1")


def test_a_text_to_write_is_its_prompt_and_the_target(loaded) -> None:
    first = loaded["tiny_writing"][0]
    assert (first.text, first.place, first.choices) == ("Write Paris : Paris .", 0, ())


def test_texts_are_what_the_harness_sends_to_a_model(loaded, task_folder) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    task = manager.load(["tiny_questions"])["tasks"]["tiny_questions"]
    task.build_all_requests(limit=8)
    asked = {one.args for one in task.instances}
    for document in loaded["tiny_questions"]:
        assert (document.context, document.answer) in asked


@pytest.mark.parametrize(("limit", "count"), [(3.0, 3), (0.5, 4), (0.01, 1), (99.0, 8), (None, 8)])
def test_a_limit_counts_documents_or_is_a_share_of_them(task_folder, limit, count) -> None:
    found = load_documents(["tiny_capitals"], str(task_folder), limit)
    assert len(found["tiny_capitals"]) == count


def test_answers_are_named_by_choices_that_all_documents_share(loaded) -> None:
    shared = loaded["tiny_capitals"]
    assert answer_names(shared) == ["Paris", "Berlin", "France", "Germany"]
    other = Document("a", 0, "x", " y", 0, ("y", "z"))
    assert answer_names([*shared, other]) == [f"answer {one}" for one in (1, 2, 3, 4)]
    assert answer_names(loaded["tiny_writing"]) == ["answer 1"]


def _task(kind: str, **values):
    """A stand-in for one of the harness's, with the answers given."""
    config = types.SimpleNamespace(target_delimiter=" ", doc_to_image=None, doc_to_audio=None)
    return types.SimpleNamespace(
        OUTPUT_TYPE=kind,
        config=config,
        eval_docs=[{}],
        doc_to_prefix=lambda row: "",
        fewshot_context=lambda row, count, gen_prefix: values.get("context", "Q"),
        doc_to_text=lambda row: values.get("text", "Q"),
        doc_to_choice=lambda row: values.get("choices"),
        doc_to_target=lambda row: values["target"],
    )


@pytest.mark.parametrize(
    ("task", "text", "place"),
    [
        (_task("multiple_choice", choices=["a", "b"], target="b"), "Q b", 1),
        (_task("multiple_choice", choices=["a", "b"], target=[1, 0]), "Q b", 1),
        (_task("multiple_choice", choices=["a", "b"], target=-100), "Q", 0),
        (
            _task("multiple_choice", choices=["X", "Y"], context=["X", "Y"], text=1, target="end"),
            "Y end",
            1,
        ),
        (_task("generate_until", target=["one", "uno"]), "Q one", 0),
        (_task("generate_until", target=""), "Q", 0),
        (_task("loglikelihood_rolling", target="a page"), "a page", 0),
    ],
)
def test_every_kind_of_task_gives_a_text(task, text, place) -> None:
    from aim_plugins.task_documents import _documents

    (document,) = _documents("made-up", task, None)
    assert (document.text, document.place) == (text, place)


def test_tasks_that_are_not_there_or_empty_are_refused(task_folder, monkeypatch) -> None:
    import lm_eval.tasks

    from aim_plugins.task_documents import _documents

    # Looking through the harness's own thousands takes ten seconds.
    manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda include_path, **_: manager(include_path=include_path)
    )
    with pytest.raises(ValueError, match="nowhere is none of the harness's: .*--include-path"):
        load_documents(["nowhere"], str(task_folder))
    with pytest.raises(ValueError, match="made-up#0 has no text"):
        _documents("made-up", _task("generate_until", context=" ", target=""), None)


def test_reference_documents_of_a_measured_task_stand_in_a_suite_once(loaded) -> None:
    capitals, writing = loaded["tiny_capitals"], loaded["tiny_writing"]
    suite = Suite({"a": capitals, "b": writing}, {"a": capitals})
    assert len(suite.documents) == 16
    assert suite.reference_positions == suite.tasks["a"]
    assert suite.classes.tolist() == [0, 1, 2, 3, 0, 1, 2, 3] + 8 * [0]
    assert suite.reported_classes() == dict(enumerate(["Paris", "Berlin", "France", "Germany"]))
    other = Suite({"b": writing}, {"a": capitals}, "one")
    assert other.positions == list(range(8, 16)) and other.reference_positions == list(range(8))
    assert set(other.classes.tolist()) == {0} and other.reported_classes() == {}


def test_surprise_between_classes_is_refused_where_the_reference_has_one(task_folder) -> None:
    given = {"model": "m", "tasks": ["tiny_writing"], "include_path": str(task_folder)}
    with pytest.raises(ValueError, match="DSC compares classes, and .* tiny_writing are of one"):
        load_suite(TaskCoverageSettings(**given))
    load_suite(TaskCoverageSettings(**given, criteria=["KMNC"]))
