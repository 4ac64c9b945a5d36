"""Metrics of a steered model against values found without this package."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

from aim_plugins.core.strengths import parse_strengths
from aim_plugins.engines.loading import check_judge, load_engine
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.steering import tasks
from aim_plugins.steering.concepts import Judge, Lexicon, check_question, describe_concept
from aim_plugins.steering.perplexity import (
    generation_perplexity,
    score_documents,
    score_generations,
)
from aim_plugins.steering.repetition import distinct_share, repeated_share
from aim_plugins.steering.sentiment import Classifier, vader_compounds
from aim_plugins.steering.settings.evaluation import Decoding, EvaluationSettings
from aim_plugins.steering.study import EvaluationStudy
from aim_plugins.steering.tasks import run_sweep, task_command
from aim_plugins.steering.texts import Generation, until
from aim_plugins.sweep import estimates
from aim_plugins.sweep.table import Point, Row, write_table
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.transport.artifact import LearnedTransport

DOCUMENTS = [
    "the capital of France is Paris",
    "Question : the capital of Germany and the capital of France . Answer : Berlin and Paris",
    "Berlin is the capital",
]
STRENGTHS = (-0.5, 0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def engine(tiny):
    return load_engine(str(tiny.folder), dtype="float32", device="cpu")


def steered(folder):
    return columns_of(strength=STRENGTHS, transport=folder)


def nll_by_hand(model, context, continuation):
    """Negative log-likelihood in float64, from one plain forward pass."""
    tokens = [*context, *continuation]
    with torch.no_grad():
        law = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    places = range(len(context), len(tokens))
    return -sum(float(law[place - 1, tokens[place]]) for place in places)


# Perplexity


def test_perplexity_is_that_of_a_plain_loop_with_hooks_written_by_hand(
    tiny, tiny_transport, steered_by_hand, engine
):
    found = score_documents(
        engine, DOCUMENTS, steered(tiny_transport), batch_size=2, progress=False
    ).perplexities()
    for strength, estimate in zip(STRENGTHS, found, strict=True):
        nll, count = 0.0, 0
        with steered_by_hand(tiny_transport, strength) as model:
            for document in DOCUMENTS:
                tokens = tiny.tokenizer(document).input_ids
                nll += nll_by_hand(model, tokens[:1], tokens[1:])
                count += len(tokens) - 1
        assert estimate.value == pytest.approx(math.exp(nll / count), rel=1e-4)
        assert estimate.n == 3


def test_documents_longer_than_the_window_are_scored_once_per_token(tiny, tiny_transport):
    short = load_engine(str(tiny.folder), dtype="float32", device="cpu", max_length=5)
    column = steered(tiny_transport)[1:2]
    found = score_documents(short, DOCUMENTS[1:2], column, batch_size=8, progress=False)
    tokens = tiny.tokenizer(DOCUMENTS[1]).input_ids
    assert len(tokens) > 12
    wanted = 0.0
    for start in range(1, len(tokens), 5):
        wanted += nll_by_hand(tiny.model, tokens[start - 1 : start], tokens[start : start + 5])
    assert found.tokens == [len(tokens) - 1]
    assert found.negative_log_likelihoods[0][0] == pytest.approx(wanted, rel=1e-5)


def test_perplexity_of_texts_is_that_of_the_plain_model_given_their_prompts(tiny, engine):
    texts = [
        Generation("the capital of", 1.0, " France", tiny.tokenizer(" France is").input_ids),
        Generation("Question", 1.0, "", []),
        Generation("Berlin is", 1.0, " the", tiny.tokenizer(" the capital and Paris").input_ids),
    ]
    scores = score_generations(engine, texts, batch_size=2, progress=False)
    assert scores[1] is None
    wanted = [
        nll_by_hand(tiny.model, tiny.tokenizer(text.prompt).input_ids, text.tokens)
        for text in (texts[0], texts[2])
    ]
    assert [scores[0], scores[2]] == pytest.approx(wanted, rel=1e-5)
    estimate = generation_perplexity(texts, scores)
    count = len(texts[0].tokens) + len(texts[2].tokens)
    assert estimate is not None
    assert estimate.value == pytest.approx(math.exp(sum(wanted) / count), rel=1e-5)
    assert estimate.n == 2


def test_the_error_of_a_perplexity_is_the_spread_of_resampled_corpora():
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 60, size=400)
    nll = tokens * 3 + generator.normal(size=400) * np.sqrt(tokens) * 2
    draws = generator.integers(0, 400, size=(4000, 400))
    resampled = np.exp(nll[draws].sum(1) / tokens[draws].sum(1))
    found = estimates.perplexity(nll.tolist(), tokens.tolist())
    assert found.stderr == pytest.approx(resampled.std(), rel=0.06)


def test_the_error_of_a_mean_is_numpys():
    values = [0.2, 0.9, 0.4, 0.4]
    found = estimates.mean(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.stderr == pytest.approx(np.std(values, ddof=1) / 2)
    assert estimates.mean([0.5]).stderr is None


def test_a_perplexity_that_overflows_is_infinite():
    assert estimates.perplexity([1e6], [1]) == estimates.Estimate(math.inf, None, 1)


def test_documents_of_one_token_have_no_perplexity(engine, tiny_transport):
    with pytest.raises(ValueError, match="no document has two tokens"):
        score_documents(engine, ["a"], steered(tiny_transport), progress=False)


# Concepts


def test_a_lexicon_finds_what_a_search_word_by_word_finds():
    generator = random.Random(0)
    alphabet = ["sea", "Sea", "ships", "SHIP", "sea-bed", "overseas", "straße", "STRASSE", "old"]
    words = ["sea", "ship", "straße", "old  sea"]
    lexicon = Lexicon(words)
    found = 0
    for _ in range(300):
        text = " ".join(generator.choices(alphabet, k=3)) + generator.choice([".", "!", ""])
        tokens = [token for token in re.split(r"\W+", text.casefold()) if token]
        pairs = [" ".join(pair) for pair in itertools.pairwise(tokens)]
        expected = bool({"sea", "ship", "strasse"} & set(tokens)) or "old sea" in pairs
        assert lexicon.occurs_in(text) == expected, text
        found += expected
    assert 0 < found < 300


def test_a_lexicon_file_may_hold_comments_but_not_nothing(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# the sea\nwave\n\n  tide \n", encoding="utf-8")
    assert Lexicon.read(path).words == ["tide", "wave"]
    path.write_text("# nothing\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match="words.txt.*lexicon is empty"):
        Lexicon.read(path)
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        Lexicon.read(tmp_path / "nowhere.txt")


def test_a_long_lexicon_is_named_by_its_first_words():
    words = ["sea", "bay", "port", "ship", "crew", "gull", "kelp"]
    assert describe_concept({"lexicon": words}) == (
        "concept of 7 words: sea, bay, port, ship, crew, gull, …"
    )
    assert describe_concept({"judge": {"model": "m", "concept": "the sea"}}) == "concept: the sea"
    assert describe_concept({"lexicon": None, "judge": None}) == describe_concept({}) == ""


def test_a_judges_answer_is_the_share_of_yes_in_a_plain_forward_pass(tiny, engine):
    question = "Question : is {concept} in {text} ? Answer :"
    judge = Judge(engine, question=question, concept="Paris", answers=("Berlin", "Paris"))
    texts = ["the capital of France {concept}", "Germany"]
    found = judge.presence(texts, batch_size=3, progress=False)
    for text, share in zip(texts, found, strict=True):
        prompt = f"Question : is Paris in {text} ? Answer :"
        context = tiny.tokenizer(prompt).input_ids
        yes, no = (
            math.exp(-nll_by_hand(tiny.model, context, tiny.tokenizer(f" {word}").input_ids))
            for word in ("Berlin", "Paris")
        )
        assert share == pytest.approx(yes / (yes + no), rel=1e-4)
        assert 0.001 < share < 0.999


def test_a_judge_with_a_chat_template_is_asked_through_it(tiny, engine, monkeypatch):
    template = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}Answer"
    monkeypatch.setattr(engine.tokenizer, "chat_template", template)
    judge = Judge(engine, question="{text} ?", concept=None)
    assert judge.ask("Paris") == "<s>Paris ?</s>Answer"
    assert Judge(engine, question="{text} ?", chat=False).ask("Paris") == "Paris ?"
    found = judge.presence(["Paris"], progress=False)[0]
    context = [1, *tiny.tokenizer("Paris ?").input_ids, 2, *tiny.tokenizer("Answer").input_ids]
    yes, no = (
        -nll_by_hand(tiny.model, context, tiny.tokenizer(word).input_ids) for word in ("yes", "no")
    )
    assert found == pytest.approx(1 / (1 + math.exp(no - yes)), rel=1e-4)


@pytest.mark.parametrize(
    ("question", "concept", "message"),
    [("Is it about {concept}?", "sea", "text"), ("{concept} in {text}?", None, "--concept")],
)
def test_a_judges_question_needs_its_parts(question, concept, message):
    with pytest.raises(ValueError, match=message):
        check_question(question, concept)


# Sentiment, classifiers, repetition


def test_vader_scores_are_the_packages_own():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    texts = ["What a great, lovely day!", "I hate this awful rain.", "A table."]
    analyzer = SentimentIntensityAnalyzer()
    wanted = [analyzer.polarity_scores(text)["compound"] for text in texts]
    assert vader_compounds(texts) == wanted
    assert wanted[0] > 0.5 > -0.5 > wanted[1]


def test_a_missing_vader_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    with pytest.raises(ImportError, match=r"pip install 'aim-plugins\[transport\]'"):
        vader_compounds(["fine"])


@pytest.fixture(scope="module")
def classifier_folder(tiny, tmp_path_factory):
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
        id2label={0: "fine", 1: "odd", 2: "toxic"},
        label2id={"fine": 0, "odd": 1, "toxic": 2},
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


def test_a_classifiers_probability_is_that_of_a_plain_forward_pass(
    tiny, classifier_folder, journal
):
    from transformers import AutoModelForSequenceClassification

    classifier = Classifier(str(classifier_folder), "toxic", journal=journal)
    found = classifier.probabilities(DOCUMENTS, batch_size=2, progress=False)
    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()
    for document, value in zip(DOCUMENTS, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([tiny.tokenizer(document).input_ids])).logits[0]
        assert value == pytest.approx(float(logits.double().softmax(-1)[2]), abs=1e-5)
    assert len(journal) == 2
    journal.update({key: {"values": [0.0] * len(one["values"])} for key, one in journal.items()})
    assert classifier.probabilities(DOCUMENTS, batch_size=2, progress=False) == [0.0] * 3


def test_a_label_that_a_classifier_lacks_is_refused_with_those_it_has(classifier_folder):
    with pytest.raises(ValueError, match="label='rude'.*fine, odd, toxic"):
        Classifier(str(classifier_folder), "rude")


def test_a_language_model_is_no_classifier(tiny):
    """transformers would give it a head of random weights, and the labels LABEL_0 and LABEL_1."""
    with pytest.raises(ValueError, match="is a LlamaForCausalLM.*random weights"):
        Classifier(str(tiny.folder), "LABEL_1")


def test_weights_that_a_checkpoint_lacks_are_refused_and_named(tiny, tmp_path):
    """Configurations of the right kind, whose checkpoints hold the bare model."""
    for argument, head, load in (
        ("classifier", "LlamaForSequenceClassification", lambda p: Classifier(str(p), "LABEL_1")),
        ("pretrained", "LlamaForCausalLM", lambda p: load_engine(str(p), device="cpu")),
    ):
        folder = tmp_path / argument
        tiny.model.model.save_pretrained(folder)
        tiny.tokenizer.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {"architectures": [head], "tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"{argument}=.* lacks the weights (score|lm_head)\."):
            load(folder)


def test_a_judge_is_a_language_model_with_what_it_is_asked_for(tiny, classifier_folder, tmp_path):
    check_judge(str(tiny.folder))
    for name, chat, message in (
        (classifier_folder, None, "is a BertForSequenceClassification"),
        (tmp_path / "nowhere", None, "judge=.*nowhere.*no such folder"),
        (tmp_path, None, "judge=.*no model was found"),
        (tiny.folder, True, "judge_chat=yes.*no chat template"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            check_judge(str(name), chat=chat)


def test_repetition_is_counted_as_by_a_set_of_slices():
    generator = random.Random(0)
    for _ in range(50):
        words = generator.choices(["a", "b", "B"], k=generator.randint(0, 8))
        text = " ".join(words)
        for size in (1, 2, 3):
            windows = list(zip(*(text.lower().split()[k:] for k in range(size)), strict=False))
            if windows:
                assert distinct_share(text, size) == len(set(windows)) / len(windows)
                assert repeated_share(text, size) == 1 - len(set(windows)) / len(windows)
            else:
                assert distinct_share(text, size) is repeated_share(text, size) is None


# Options, tasks, trackers


def test_tokens_end_before_the_first_end_token():
    assert until([4, 5, 2, 7, 2], {2, 3}) == [4, 5]
    assert until([4, 5], {2}) == [4, 5]
    assert until([2], {2}) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 4.5}, "max_new_tokens=4.5: give a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"do_sample": True, "top_k": 1.5}, "top_k=1.5: give a whole number"),
        ({"seed": 0.5}, "seed=0.5: give a whole number"),
        ({"temperature": 0.5}, "do_sample"),
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p=1.5"),
        ({"do_sample": True, "top_k": -1}, "top_k=-1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_impossible_decoding_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**options)


@pytest.mark.parametrize("size", [0, 2.5, True, "8"])
def test_a_batch_is_a_whole_number(size):
    with pytest.raises(ValueError, match=f"batch_size={size!r}: give a whole number"):
        task_settings(Path(), batch_size=size)


def test_a_strength_outside_the_fitted_range_is_warned_of_once(tiny_transport, caplog):
    for strengths in ([0.0, 1.7], [0.0, 1.7], [0.0, 1.0]):
        columns_of(strength=strengths, transport=LearnedTransport.load(tiny_transport))
    (warning,) = [record.message for record in caplog.records if "1.7" in record.message]
    assert warning.startswith("strength=1.7 lies outside 0 to 1, the strengths that")


def task_settings(tmp_path, **changes):
    options = dict(
        transport=tmp_path / "a, b",
        pretrained="some/model",
        output=tmp_path,
        strength="-0.5,0,1",
        tasks=("arc_easy", "boolq"),
        limit=5,
        include_path="tasks",
    )
    return EvaluationSettings(**(options | changes))


def test_the_harness_reads_its_command_back_as_it_was_meant(tmp_path):
    """By lm-eval's own parser, and ours."""
    words = task_command(task_settings(tmp_path), (-0.5, 0.0, 1.0), tmp_path / "out")
    assert words[:5] == [sys.executable, "-m", "aim_plugins.cli", "sweep", "lm-eval"]
    from aim_plugins.harnesses.lm_eval.command import _parser

    options, rest = _parser(()).parse_known_args(words[5:])
    assert options.strength == "-0.5,0,1"
    assert options.output == tmp_path / "out"
    from aim_plugins.harnesses.lm_eval.arguments import parse_harness_arguments

    config = parse_harness_arguments(rest)
    assert config.model == "act_hf"
    assert config.model_args == {
        "pretrained": "some/model",
        "transport": str(tmp_path / "a, b"),
        "dtype": "auto",
    }
    assert (config.tasks, config.limit) == (["arc_easy", "boolq"], 5)


def test_a_tasks_table_is_read_and_its_failure_told(tmp_path):
    table = "task,metric,strength,draw,value,stderr,n\nquiz,acc,0.5,0,0.25,0.1,8\n"
    write = f"open({str(tmp_path / 'sweep.csv')!r}, 'w').write({table!r})"
    (row,) = run_sweep([sys.executable, "-c", write], tmp_path)
    assert (row.task, row.metric, row.strength, row.value, row.n) == ("quiz", "acc", 0.5, 0.25, 8)
    with pytest.raises(ValueError, match="status 3"):
        run_sweep([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_sweep([sys.executable, "-c", "raise SystemExit(130)"], tmp_path)


def test_tasks_are_asked_at_strengths_that_no_finished_sweep_has(tmp_path, monkeypatch):
    asked = []

    def sweep(words, folder):
        (spec,) = [word for word in words if word.startswith("--strength=")]
        asked.append(parse_strengths(spec.partition("=")[2], low=-math.inf))
        assert str(folder) in words
        rows = [Row("quiz", "acc", one, None, one / 2, None, 8) for one in asked[-1]]
        folder.mkdir(parents=True)
        write_table(folder / "sweep.csv", rows)
        return rows

    monkeypatch.setattr(tasks, "run_sweep", sweep)
    for strengths in ((0.0, 1.0), (0.0, 1.0), (-0.5, 0.0, 0.5, 1.0)):
        rows = tasks.run_tasks(task_settings(tmp_path), strengths, tmp_path / "lm_eval")
        assert [(row.strength, row.value) for row in rows] == [(s, s / 2) for s in strengths]
    assert [list(one) for one in asked] == [[0.0, 1.0], [-0.5, 0.5]]


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_tracker_names_its_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        Trackers(**{name: "x"})


def test_wandb_gets_a_step_for_each_strength(monkeypatch):
    steps: list[dict[str, float]] = []
    started = {}

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            started["closed"] = True

        def define_metric(self, name, **options):
            started[name] = options

        def log(self, values):
            steps.append(values)

    fake = types.ModuleType("wandb")
    fake.__spec__ = ModuleSpec("wandb", None)
    fake.init = lambda **options: started.update(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    points = [Point("quiz", "acc", s, s / 2, None, 4, 1) for s in (0.0, 0.5)]
    points += [Point("text", "perplexity", 0.5, 9.0, None, 4, 1)]
    Trackers(wandb="steering").log(points, run_name="sea")
    assert steps == [
        {"strength": 0.0, "quiz/acc": 0.0},
        {"strength": 0.5, "quiz/acc": 0.25, "text/perplexity": 9.0},
    ]
    assert (started["project"], started["name"], started["closed"]) == ("steering", "sea", True)


def test_settings_are_json(tmp_path, tiny_transport):
    path = tmp_path / "plain.jsonl"
    path.write_text('{"text": "one two"}\n', encoding="utf-8")
    settings = task_settings(tmp_path, perplexity=(path,), transport=tiny_transport)
    found = EvaluationStudy(settings).arguments
    assert json.loads(json.dumps(found))["tasks"]["names"] == ["arc_easy", "boolq"]
