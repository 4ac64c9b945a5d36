"""The transport configs and their prompt sets: readable, consistent, and what they claim to be."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest

from aim_plugins.core.strengths import parse_strengths
from aim_plugins.steering import settings
from aim_plugins.steering.commands.fit import read_sides
from aim_plugins.steering.concepts import Lexicon
from aim_plugins.transport.data.datasets import load_prompts, load_sides, read_sentences
from aim_plugins.transport.maps import METHODS

CONFIGS = Path(__file__).resolve().parents[2] / "eval_configs" / "transport"
DATA = CONFIGS / "data"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if not path.stem.startswith("make_"))
DEMOS = ["demo_sea", "demo_sentiment"]
RECIPES = ["evaluation_awareness", "refusal", "sycophancy"]
OURS = [*DEMOS, *RECIPES]
SECTIONS = {"data", "fit", "generate", "evaluate"}
TOP = {"pretrained", "modules", "method", "incremental", "pooling", "support", "positions", "dtype"}

# The modules of a block of each model, as transformers names them.
BLOCKS = {
    "gemma2_2b": "input_layernorm self_attn mlp pre_feedforward_layernorm "
    "post_attention_layernorm post_feedforward_layernorm",
    "llama3_8b": "input_layernorm self_attn mlp post_attention_layernorm",
    "gpt2": "ln_1 attn ln_2 mlp",
    "demo": "input_layernorm self_attn mlp post_attention_layernorm",
}
CHOSEN = {
    "gemma2_2b": {"post_attention_layernorm", "post_feedforward_layernorm"},
    "llama3_8b": {"input_layernorm", "post_attention_layernorm"},
    "gpt2": {"ln_1", "ln_2"},
    "demo": {"input_layernorm", "post_attention_layernorm"},
}


def read_config(name):
    config = pytest.importorskip("mmengine.config")
    read = config.Config.fromfile(str(CONFIGS / f"{name}.py"), import_custom_modules=False)
    return {key: value for key, value in read.to_dict().items() if not key.startswith("_")}


def words(sentence):
    return re.findall(r"[a-z]+", sentence.lower())


@pytest.fixture(scope="module")
def lexicon():
    return set(DATA.joinpath("sea_lexicon.txt").read_text(encoding="utf-8").split())


# Configs.


def test_the_papers_three_experiments_are_there_for_its_models_and_gpt2():
    experiments = {
        f"{model}_{experiment}"
        for model in ("gemma2_2b", "llama3_8b", "gpt2")
        for experiment in ("toxicity", "concept", "truthfulqa")
    }
    assert set(NAMES) == experiments | set(OURS)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_holds_known_settings_with_usable_values(name):
    config = read_config(name)
    own = {"incremental", "pooling", "support", "positions"} if name in OURS else set()
    calibrated = {"calibrate"} if name in OURS else set()
    assert set(config) == (TOP - own) | SECTIONS | calibrated  # demos compare methods as meant
    assert config["method"] in METHODS
    assert config.get("support", "none") in ("none", "minmax")
    counts = 9 if name in DEMOS else 5 if name in RECIPES else 11
    assert len(parse_strengths(config["generate"]["strength"])) == counts


@pytest.mark.parametrize("name", NAMES)
def test_a_config_chooses_the_norms_of_its_models_blocks(name):
    model = next((model for model in BLOCKS if name.startswith(model)), "demo")
    prefix = "transformer.h.3." if model == "gpt2" else "model.layers.3."
    chosen = {
        module
        for module in BLOCKS[model].split()
        if any(re.fullmatch(p, prefix + module) for p in read_config(name)["modules"])
    }
    assert chosen == CHOSEN[model]


@pytest.mark.parametrize("model", ["gemma2_2b", "llama3_8b", "gpt2"])
def test_configs_have_the_settings_of_the_paper(model):
    toxicity = read_config(f"{model}_toxicity")
    concept = read_config(f"{model}_concept")
    truthful = read_config(f"{model}_truthfulqa")
    for config in (toxicity, concept, truthful):
        assert (config["method"], config["pooling"], config["incremental"]) == (
            "linear",
            "mean",
            "causal",
        )
        assert list(parse_strengths(config["generate"]["strength"])) == [i / 10 for i in range(11)]
    assert (toxicity["support"], concept["support"]) == ("minmax", "none")
    assert toxicity["generate"]["max_new_tokens"] == 32
    assert toxicity["generate"]["prompts"]["n"] == 1000
    assert concept["generate"]["prompts"]["n"] == 500
    assert (toxicity["data"]["n_source"], concept["data"]["n_target"]) == (700, 700)
    assert truthful["data"]["n_folds"] == 2


@pytest.mark.parametrize("name", OURS)
def test_a_demo_finds_its_files_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(name)
    sides = load_sides(**config["data"])
    assert min(len(sides.source), len(sides.target)) >= 48
    assert len(load_prompts(config["generate"]["prompts"])) >= 16
    for path in config["evaluate"]["perplexity"]:
        assert len(read_sentences(path)) >= 40
    for task in config["evaluate"].get("tasks", ()):
        assert (Path(config["evaluate"]["include_path"]) / f"{task}.yaml").is_file()


def options_of(command):
    return {one.name for one in dataclasses.fields(settings.SECTIONS[command])}


@pytest.mark.parametrize("name", NAMES)
def test_sections_hold_options_of_the_commands(name):
    config = read_config(name)
    assert set(config["fit"]) | (TOP - {"pretrained"}) <= options_of("fit")
    assert set(config["generate"]) <= options_of("generate")
    assert set(config["evaluate"]) <= options_of("evaluate")
    assert set(config.get("calibrate", ())) <= options_of("calibrate")


@pytest.mark.parametrize("name", OURS)
def test_ours_calibrate_the_methods_that_docs_have_figures_of_against_prompts(name):
    options = {"config": CONFIGS / f"{name}.py", "output": "out"}
    found = settings.read_sections(
        settings.SECTIONS["calibrate"], options, ("generate", "evaluate", "calibrate")
    )
    found.check_files()
    assert set(found.learned_methods) == set(METHODS) - {"lineas", "ablation", "angular", "chars"}
    assert len(found.instructions) == 1 and found.shots and found.do_sample
    assert found.lower_is_better == (name in ("evaluation_awareness", "sycophancy"))


# Prompt sets.


@pytest.mark.parametrize("name", ["sea", "sentiment", *RECIPES])
def test_sides_are_pairs_of_like_length_without_repetition(name):
    sources, targets, prompts = (
        read_sentences(DATA / f"{name}_{part}.jsonl") for part in ("source", "target", "prompts")
    )
    assert len(sources) == len(targets) >= 48
    assert len(prompts) >= 16
    everything = [*sources, *targets, *prompts]
    assert len({tuple(words(sentence)) for sentence in everything}) == len(everything)
    for source, target in zip(sources, targets, strict=True):
        assert abs(len(source.split()) - len(target.split())) <= 3, source


@pytest.mark.parametrize("name", ["sea", "sentiment", *RECIPES])
def test_no_held_out_prompt_begins_a_sentence_that_is_fitted(name):
    fitted = [
        " ".join(words(sentence))
        for part in ("source", "target")
        for sentence in read_sentences(DATA / f"{name}_{part}.jsonl")
    ]
    for prompt in read_sentences(DATA / f"{name}_prompts.jsonl"):
        assert not any(sentence.startswith(" ".join(words(prompt))) for sentence in fitted), prompt


def test_the_seas_words_are_in_its_sentences_alone(lexicon):
    assert len(lexicon) >= 60
    for name in ("sea_source", "sea_prompts", "plain_text"):
        for sentence in read_sentences(DATA / f"{name}.jsonl"):
            assert not lexicon & set(words(sentence)), sentence
    shown = [bool(lexicon & set(words(s))) for s in read_sentences(DATA / "sea_target.jsonl")]
    assert sum(shown) >= 0.9 * len(shown)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_words_tell_its_answers_from_their_partners(name):
    lexicon = Lexicon.read(DATA / f"{name}_lexicon.txt")

    def shown(part):
        sentences = read_sentences(DATA / f"{name}_{part}.jsonl")
        return [lexicon.occurs_in(sentence.split("Assistant:")[-1]) for sentence in sentences]

    sides = {part: shown(part) for part in ("source", "target")}
    there, absent = ("target", "source") if name == "refusal" else ("source", "target")
    assert sum(sides[there]) >= 0.9 * len(sides[there])
    assert not any(sides[absent]) and not any(shown("prompts"))


def test_sentiment_is_told_apart_by_rules_and_little_else():
    vader = pytest.importorskip("vaderSentiment.vaderSentiment")
    analyzer = vader.SentimentIntensityAnalyzer()

    def compounds(name):
        sentences = read_sentences(DATA / f"{name}.jsonl")
        return [analyzer.polarity_scores(sentence)["compound"] for sentence in sentences]

    assert max(compounds("sentiment_source")) < 0 < min(compounds("sentiment_target"))
    for neutral in ("sea_source", "sea_target", "sentiment_prompts", "plain_text"):
        scores = compounds(neutral)
        assert abs(sum(scores) / len(scores)) < 0.1, neutral


def test_plain_passages_are_short_and_distinct():
    passages = read_sentences(DATA / "plain_text.jsonl")
    assert len(set(passages)) == len(passages) >= 40
    assert all(35 <= len(passage.split()) <= 80 for passage in passages)


@pytest.mark.parametrize("path", sorted(DATA.glob("*.jsonl")), ids=lambda path: path.stem)
def test_data_files_hold_a_text_a_line_and_nothing_else(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        assert list(json.loads(line)) == ["text"]


# TruthfulQA's tasks.


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Tasks of six questions, made by the script."""
    pytest.importorskip("lm_eval")
    spec = importlib.util.spec_from_file_location(
        "make_truthfulqa_tasks", CONFIGS / "make_truthfulqa_tasks.py"
    )
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    folder = tmp_path_factory.mktemp("truthfulqa")
    with open(folder / "TruthfulQA.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        for i in range(6):
            writer.writerow([f"Q{i}?", f"best {i}", f"best {i}; true {i}", f"no {i}; never {i}"])
    maker.write(folder / "TruthfulQA.csv", folder / "tasks", seed=0)
    return folder


@pytest.mark.parametrize("fold", [0, 1])
def test_the_tasks_ask_what_the_fold_did_not_fit(tasks, fold):
    lines = (tasks / "tasks" / f"truthfulqa_without_fold{fold}.jsonl").read_text().splitlines()
    asked = [json.loads(line) for line in lines]
    sides = load_sides("truthfulqa", tasks, fold=fold, n_folds=2, seed=0)
    assert tuple(document["question"] for document in asked) == sides.held_out
    fitted = {sentence.partition("\n")[0].removeprefix("Q: ") for sentence in sides.source}
    assert not fitted & {document["question"] for document in asked}


@pytest.mark.parametrize("seed", range(1, 5))
def test_the_seed_of_a_draw_fits_no_question_that_the_tasks_ask(tasks, seed):
    def fitted(**changes):
        data = {"name": "truthfulqa", "root": str(tasks), "fold": 0, "n_folds": 2} | changes
        given = {"source": None, "target": None, "limit": None, "seed": seed, "data": data}
        return read_sides(argparse.Namespace(**given))

    asked = (tasks / "tasks" / "truthfulqa_without_fold0.jsonl").read_text()
    everything = [set(side) for side in fitted()]
    assert not any(sentence.split("\n")[0][3:] in asked for side in everything for sentence in side)
    drawn = fitted(n_source=3, n_target=2)
    assert [len(side) for side in drawn] == [3, 2]
    assert set(drawn[0]) < everything[0] and set(drawn[1]) < everything[1]


def test_the_seed_moves_the_draw_within_a_fold(tasks):
    data = {"name": "truthfulqa", "root": str(tasks), "n_source": 3}
    given = {"source": None, "target": None, "limit": None, "data": data}
    draws = [read_sides(argparse.Namespace(**given, seed=seed))[0] for seed in range(5)]
    assert len(set(map(tuple, draws))) > 1


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("truthfulqa")])
def test_configs_name_tasks_that_are_made(tasks, name):
    config = read_config(name)
    made = {path.stem for path in (tasks / "tasks").glob("*.yaml")}
    assert set(config["evaluate"]["tasks"]) <= made
    assert all(f"without_fold{config['data']['fold']}_" in t for t in config["evaluate"]["tasks"])


def test_the_harness_loads_the_tasks_with_its_own_prompt_and_metric(tasks, monkeypatch):
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tasks / "cache"))
    manager = TaskManager(include_path=str(tasks / "tasks"), include_defaults=False)
    names = [f"truthfulqa_without_fold1_{metric}" for metric in ("mc1", "mc2")]
    loaded = manager.load(names)["tasks"]
    for name, choices in zip(names, (3, 4), strict=True):
        task = loaded[name]
        document = next(iter(task.validation_docs()))
        number = document["question"].strip("Q?")
        assert task.doc_to_text(document).endswith(f"Q: Q{number}?\nA:")
        assert len(task.doc_to_choice(document)) == choices
        assert task.doc_to_choice(document)[0] == f"best {number}."
        assert task.doc_to_target(document) == 0


# Conditions.


def test_the_recipe_of_a_condition_has_partners_and_prompts_of_its_own_to_try_it_on():
    source, target, prompts = (
        list(read_sentences(DATA / f"cooking_{name}.jsonl"))
        for name in ("source", "target", "prompts")
    )
    assert len(source) == len(target) == len(prompts) == 48
    assert len({*source, *target, *prompts}) == 3 * 48
    shared = [len(set(words(a)) & set(words(b))) for a, b in zip(source, target, strict=True)]
    assert min(shared) >= 1 and sum(shared) / len(shared) > 3  # of like form
    read = read_config("conditions/cooking")
    condition = settings.read_sections(
        settings.ConditionSettings,
        {"config": str(CONFIGS / "conditions" / "cooking.py"), "output": "out"},
        ["condition"],
    )
    assert read["data"]["name"] == "files" and read_sides(condition) == (source, target)
    assert condition.paired
