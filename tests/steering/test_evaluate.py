"""`aim-plugins transport evaluate` from its options to its report."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys

import pytest
import torch

from aim_plugins.steering import scores, study
from aim_plugins.steering.texts import read_generations
from aim_plugins.sweep import front, trackers
from aim_plugins.sweep.documents import read_scores
from aim_plugins.sweep.table import read_table

PLAIN = ["the capital of France is Paris", "Berlin is the capital of Germany . Answer : Paris"]
PROMPTS = ["the capital of", "Question : is", "Berlin and", "Answer"]


@pytest.fixture
def files(tmp_path):
    for name, texts in (("plain", PLAIN), ("prompts", PROMPTS)):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "words.txt").write_text("paris\na\nis\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def evaluate(run_command, tiny, tiny_transport, files, monkeypatch):
    def run(*words, output="out", transport=tiny_transport, drawn=False):
        with monkeypatch.context() as patch:
            if not drawn:  # pictures take longer than everything else
                patch.setattr(front, "_draw", lambda *given: None)
            status = run_command(
                *("evaluate", transport, "--pretrained", tiny.folder, "-o", files / output),
                *("--device", "cpu", "--max-new-tokens", 6, *words),
            )
        path = files / output / "sweep.csv"
        rows = read_table(path) if path.exists() else []
        return status, {(row.task, row.metric, row.strength): row for row in rows}

    return run


def measured(files, *more):
    return (
        *("--perplexity", files / "plain.jsonl", "--prompts", files / "prompts.jsonl"),
        *("--lexicon", files / "words.txt", "--sentiment", "vader", "--strength=-0.5,0,1", *more),
    )


def brief(files):
    return "--prompts", files / "prompts.jsonl", "--strength", "0,1", "--batch-size", "2"


def test_the_table_holds_what_plain_loops_find(
    evaluate, files, tiny, tiny_transport, steered_by_hand
):
    status, rows = evaluate(*measured(files), drawn=True)
    assert status == 0
    for strength in (-0.5, 0.0, 1.0):
        nll, count, texts = 0.0, 0, []
        with steered_by_hand(tiny_transport, strength) as model, torch.no_grad():
            for document in PLAIN:
                tokens = torch.tensor([tiny.tokenizer(document).input_ids])
                loss = model(tokens, labels=tokens).loss  # transformers' own mean over tokens
                nll += float(loss) * (tokens.shape[1] - 1)
                count += tokens.shape[1] - 1
            for prompt in PROMPTS:
                tokens = tiny.tokenizer(prompt, return_tensors="pt")
                output = model.generate(**tokens, max_new_tokens=6, do_sample=False)
                new = output[0, tokens.input_ids.shape[1] :].tolist()
                texts.append(tiny.tokenizer.decode(new, skip_special_tokens=True))
        row = rows["plain", "perplexity", strength]
        assert row.value == pytest.approx(math.exp(nll / count), rel=1e-4)
        assert row.n == 2
        hits = [bool({"paris", "a", "is"} & set(re.findall(r"\w+", t.lower()))) for t in texts]
        found = rows["prompts", "concept_presence", strength]
        assert (found.value, found.n) == (sum(hits) / 4, 4)
        (kept,) = [
            one.scores
            for one in read_scores(files / "out" / "documents.jsonl")
            if (one.metric, one.strengths) == ("concept_presence", (strength,))
        ]
        assert kept.tolist() == hits
        assert rows["prompts", "sentiment", strength].n == 4
        assert rows["prompts", "text_perplexity", strength].value > 1
    page = (files / "out" / "report.html").read_text(encoding="utf-8")
    head = page[page.index("<h1>") : page.index("</header>")]
    assert "plain, prompts; concept of 3 words: a, is, paris" in head


def test_a_finished_evaluation_is_not_computed_again(evaluate, files, monkeypatch):
    status, rows = evaluate(*brief(files))
    (files / "out" / "report.html").unlink()
    monkeypatch.setattr(study, "load_engine", None)  # a call would fail
    assert evaluate(*brief(files), drawn=True) == (status, rows)
    page = (files / "out" / "report.html").read_text(encoding="utf-8")
    assert "transport strength λ" in page
    assert "the capital of" in page
    assert {path.suffix for path in (files / "out" / "curves").iterdir()} == {".png", ".svg"}


def test_added_strengths_are_measured_beside_those_that_are_there(evaluate, files, monkeypatch):
    words = measured(files)[:-1]
    written = []
    plain = study.generate_texts

    def note(engine, prompts, columns, *more, **options):
        written.append([column.settings["strength"] for column in columns])
        return plain(engine, prompts, columns, *more, **options)

    monkeypatch.setattr(study, "generate_texts", note)
    _, first = evaluate(*words, "--strength", "0,1")
    _, added = evaluate(*words, "--strength=-0.5,0,1")
    assert written == [[0.0, 1.0], [-0.5]]
    assert {key: row for key, row in added.items() if key[2] != -0.5} == first
    _, whole = evaluate(*words, "--strength=-0.5,0,1", output="whole")
    assert list(added) == list(whole)
    for key, row in whole.items():
        assert added[key].value == pytest.approx(row.value, rel=1e-5), key
    monkeypatch.setattr(study, "load_engine", None)  # a call would fail
    assert evaluate(*words, "--strength=1") == (0, added)


def test_ctrl_c_keeps_the_finished_batches(evaluate, files, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scores, "score_generations", interrupt)
        assert evaluate(*brief(files))[0] == 130
    (records,) = (files / "out" / "records").iterdir()
    finished = records.read_text().splitlines()
    assert finished
    status, rows = evaluate(*brief(files))
    assert status == 0
    # What was finished is read again: computing it would write it.
    paths = (files / "out" / "records").iterdir()
    lines = [line for path in paths for line in path.read_text().splitlines()]
    keys = [json.loads(line)["payload"]["key"] for line in lines]
    assert set(finished) <= set(lines) and len(keys) == len(set(keys))
    assert rows == evaluate(*brief(files), output="unbroken")[1]


def test_a_strength_that_was_never_measured_is_not_asked_for_again(evaluate, files, monkeypatch):
    """What was measured stays, tasks included; what was interrupted is measured if asked again."""
    scored, tasked = [], []
    plain = study.score_documents

    def note(engine, documents, columns, **options):
        scored.append([column.settings["strength"] for column in columns])
        if len(scored) == 2:
            raise KeyboardInterrupt
        return plain(engine, documents, columns, **options)

    monkeypatch.setattr(study, "score_documents", note)
    monkeypatch.setattr(study, "run_tasks", lambda s, strengths, f: tasked.append(strengths) or [])
    words = ("--perplexity", files / "plain.jsonl", "--tasks", "quiz")
    assert evaluate(*words, "--strength", "0.5")[0] == 0
    assert evaluate(*words, "--strength", "0:1:0.25")[0] == 130
    status, rows = evaluate(*words, "--strength", "0,1")
    assert status == 0
    assert scored == [[0.5], [0.0, 0.25, 0.75, 1.0], [0.0, 1.0]]
    assert {strength for _, _, strength in rows} == {0.0, 0.5, 1.0}
    assert tasked == [(0.5,), (0.0, 1.0)]


def test_texts_that_generate_wrote_give_the_same_table(evaluate, files, run_command, tiny, request):
    transport = request.getfixturevalue("tiny_transport")
    common = ("--pretrained", tiny.folder, "--device", "cpu", "--max-new-tokens", 6)
    words = ("--prompts", files / "prompts.jsonl", "--strength", "0,1")
    assert run_command("generate", transport, *common, *words, "-o", files / "texts") == 0
    lexicon = ("--lexicon", files / "words.txt")
    _, anew = evaluate(*words, *lexicon)
    folder = files / "texts"
    for output, path in (("folder", folder), ("file", folder / "generations.jsonl")):
        status, read = evaluate("--generations", path, *lexicon, output=output)
        assert status == 0
        assert [(m, s) for _, m, s in read] == [(m, s) for _, m, s in anew]
        assert {task for task, _, _ in read} == {"generations"}
        for wanted, found in zip(anew.values(), read.values(), strict=True):
            assert found.value == pytest.approx(wanted.value, rel=1e-6)


def test_only_like_evaluations_are_compared(
    evaluate, files, run_command, tiny, tiny_transport, other_transport, capsys
):
    """Prompts of the same file name, and texts written anew or by an earlier command."""
    (files / "b").mkdir()
    (files / "b" / "prompts.jsonl").write_text('{"text": "Paris"}\n', encoding="utf-8")
    lexicon = ("--lexicon", files / "words.txt", "--strength", "0,1")
    words = ("--prompts", files / "prompts.jsonl", *lexicon)
    common = ("--pretrained", tiny.folder, "--device", "cpu", "--max-new-tokens", 6)
    run_command("generate", other_transport, *common, *words[:2], *lexicon[2:], "-o", files / "g")
    written = ("--generations", files / "g" / "generations.jsonl", *lexicon)
    for output, transport, asked in (
        ("one", tiny_transport, words),
        ("like", other_transport, words),
        ("written", other_transport, written),
        ("prompts", other_transport, ("--prompts", files / "b" / "prompts.jsonl", *lexicon)),
        ("longer", other_transport, (*words, "--max-new-tokens", 7)),
    ):
        assert evaluate(*asked, output=output, transport=transport)[0] == 0

    def compare(output):
        return run_command("compare", files / "one", files / output, "-o", files / "compared")

    assert compare("like") == 0
    for output, message in (
        ("prompts", "another prompts"),
        ("longer", "another decoding.max_new_tokens, 6 and 7"),
    ):
        assert compare(output) == 2
        assert message in capsys.readouterr().err
    manifests = [
        json.loads((files / name / "manifest.json").read_text()) for name in ("one", "written")
    ]
    assert manifests[0]["texts"] == manifests[1]["texts"]


def test_texts_under_several_noises_are_refused(
    evaluate, files, run_command, tiny, tiny_transport, capsys
):
    """A point of the curve would be the mean of all."""
    words = ("--pretrained", tiny.folder, "--prompts", files / "prompts.jsonl", "--strength", "1")
    words += ("--device", "cpu", "--max-new-tokens", 3)
    for output, noise in (("mixed", "0,3"), ("noisy", "3")):
        options = ("--noise-std", noise, "-o", files / output)
        assert run_command("generate", tiny_transport, *words, *options) == 0
    assert evaluate("--generations", files / "mixed" / "generations.jsonl") == (2, {})
    assert "noise_std=0, 3, which one curve would mix" in capsys.readouterr().err
    status, rows = evaluate("--generations", files / "noisy" / "generations.jsonl")
    assert (status, rows["generations", "length_in_tokens", 1.0].n) == (0, len(PROMPTS))


def test_texts_of_another_transport_are_refused(
    evaluate, files, run_command, tiny, other_transport, capsys
):
    words = ("--pretrained", tiny.folder, "--prompts", files / "prompts.jsonl", "--strength", "0")
    run_command("generate", other_transport, *words, "--device", "cpu", "-o", files / "texts")
    path = files / "texts" / "generations.jsonl"
    assert evaluate("--generations", path) == (2, {})
    assert "under another transport" in capsys.readouterr().err
    assert len(read_generations(path)) == 4


def test_a_judge_and_a_classifier_score_the_texts(evaluate, files, tiny):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=400,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
    )
    BertForSequenceClassification(config).save_pretrained(files / "classifier")
    tiny.tokenizer.save_pretrained(files / "classifier")
    status, rows = evaluate(
        *("--prompts", files / "prompts.jsonl", "--strength", "0,1", "--concept", "Paris"),
        *("--judge", tiny.folder, "--judge-answers", "Paris,Berlin"),
        *("--classifier", files / "classifier", "--label", "toxic"),
    )
    assert status == 0
    for metric in ("judged_presence", "toxic_probability"):
        assert all(0 < rows["prompts", metric, strength].value < 1 for strength in (0, 1))
    lines = (files / "out" / "cells" / "strength=1,draw=0" / "texts.jsonl").read_text().splitlines()
    scores = [json.loads(line)["scores"]["judged_presence"] for line in lines]
    row = rows["prompts", "judged_presence", 1]
    assert row.value == pytest.approx(sum(scores) / 4)
    spread = math.sqrt(sum((score - row.value) ** 2 for score in scores) / 3)
    assert row.stderr == pytest.approx(spread / 2)


def test_a_harnesss_table_joins_our_own(evaluate, files, monkeypatch, capfd):
    """The subprocess is another program here, which writes the table where it is told to."""
    table = "task,metric,strength,draw,value,stderr,n\nquiz,acc,0.0,0,0.25,0.1,8\n"
    script = files / "harness.py"
    script.write_text(
        "import pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])\n"
        "folder.mkdir(parents=True)\n"
        f"(folder / 'sweep.csv').write_text({table!r})\n"
    )
    from aim_plugins.steering import tasks

    plain = tasks.task_command
    monkeypatch.setattr(
        tasks, "task_command", lambda *a: [sys.executable, str(script), *plain(*a)[3:]]
    )
    words = ("--tasks", "quiz", "--perplexity", files / "plain.jsonl", "--strength", "0")
    status, rows = evaluate(*words)
    assert status == 0
    assert rows["quiz", "acc", 0.0].value == 0.25
    assert ("plain", "perplexity", 0.0) in rows


def test_an_unfitted_strength_is_allowed_and_warned_of(evaluate, files, caplog):
    status, rows = evaluate("--perplexity", files / "plain.jsonl", "--strength", "0,1.25")
    assert status == 0
    assert ("plain", "perplexity", 1.25) in rows
    assert "strength=1.25 lies outside 0 to 1," in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no metric is asked for"),
        (["--lexicon", "words.txt"], "lexicon measures texts"),
        (["--prompts", "empty.jsonl"], "holds no sentence"),
        (["--prompts", "prompts.jsonl", "--generations", "x.jsonl"], "both given"),
        (["--prompts", "prompts.jsonl", "--classifier", "c"], "label is missing"),
        (["--prompts", "prompts.jsonl", "--judge", "m"], "--concept"),
        (["--prompts", "prompts.jsonl", "--judge", "m", "--judge-answers", "a"], "judge_answers"),
        (["--generations", "nowhere.jsonl"], "nowhere.jsonl' holds no texts: give the folder"),
        (["--perplexity", "nowhere.jsonl"], "no such file"),
        (["--perplexity", "plain.jsonl", "--strength", "0,0"], "holds 0 twice"),
        (["--perplexity", "plain.jsonl", "--dtype", "float33"], "dtype='float33'"),
        (["--perplexity", "plain.jsonl", "--max-length", "900"], "max_length=900"),
        (["--perplexity", "plain.jsonl", "--batch-size", "0"], "batch_size=0"),
    ],
)
def test_bad_input_is_refused_in_a_line(evaluate, files, capsys, words, message):
    (files / "empty.jsonl").write_text("", encoding="utf-8")
    words = [files / word if str(word).endswith((".txt", ".jsonl")) else word for word in words]
    assert evaluate(*words)[0] == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "/nowhere", "--concept", "sea"], "judge='/nowhere': no such folder"),
        (["--classifier", "/nowhere", "--label", "toxic"], "classifier='/nowhere': no such folder"),
        (["--classifier", "MODEL", "--label", "LABEL_1"], "is a LlamaForCausalLM"),
        (["--classifier", "CLASSIFIER", "--label", "rude"], "label='rude' is none of"),
    ],
)
def test_models_that_cannot_score_are_refused_before_a_text_is_written(
    evaluate, files, tiny, monkeypatch, capsys, words, message
):
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (files / "classifier").mkdir()
    (files / "classifier" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(study, "load_engine", None)  # a call would fail
    folders = {"MODEL": tiny.folder, "CLASSIFIER": files / "classifier"}
    words = [folders.get(word, word) for word in words]
    assert evaluate("--prompts", files / "prompts.jsonl", *words) == (2, {})
    assert message in capsys.readouterr().err
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("names", "tasks", "message"),
    [
        (["a/plain.jsonl", "b/plain.jsonl"], (), r"a/plain.jsonl' and .*b/plain.jsonl' .*rename"),
        (["a/plain.jsonl", "a/plain.txt"], (), "curve 'plain': rename"),
        (["a/plain.jsonl", "a/plain.jsonl"], (), "curve 'plain': rename"),
        (["a/quiz.jsonl"], ("--tasks", "arc_easy,quiz"), "quiz.jsonl' and the task 'quiz'"),
    ],
)
def test_files_that_would_share_a_curve_are_refused(evaluate, files, capsys, names, tasks, message):
    """The table would hold the one, under the name of both."""
    for index, name in enumerate(names):
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).write_text(PLAIN[index], encoding="utf-8")
    words = ("--perplexity", *(files / name for name in names), *tasks)
    assert evaluate(*words) == (2, {})
    assert re.search(message, capsys.readouterr().err)


def test_a_folder_of_another_run_is_refused(evaluate, files, other_transport, capsys):
    words = ("--perplexity", files / "plain.jsonl", "--strength", "0")
    _, rows = evaluate(*words)
    assert evaluate(*words, transport=other_transport) == (2, rows)
    assert "holds another sweep" in capsys.readouterr().err
    (files / "notes").mkdir()
    (files / "notes" / "mine.txt").write_text("keep")
    assert evaluate(*words, output="notes")[0] == 2
    assert "holds files but no sweep" in capsys.readouterr().err


def test_a_missing_tracker_is_told_before_anything_is_computed(evaluate, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ("--perplexity", files / "plain.jsonl", "--wandb", "steering")
    assert evaluate(*words) == (1, {})
    assert not (files / "out").exists()


def test_curves_are_logged_where_asked(evaluate, files, monkeypatch):
    logged = {}
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setattr(
        trackers, "_log_to_tensorboard", lambda points, folder: logged.update({folder: points})
    )
    words = ("--perplexity", files / "plain.jsonl", "--strength", "0,1")
    assert evaluate(*words, "--tensorboard", files / "board")[0] == 0
    assert [point.strength for point in logged[files / "board" / "out"]] == [0.0, 1.0]


@pytest.mark.model
def test_sentiment_words_in_the_demo_models_texts_are_what_vader_counts(
    run_command, demo_model, tmp_path
):
    """With a map that adds the difference of two sentences, one layer deep, on the real model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    from aim_plugins.modulation.activations import ActivationMaps, AffineMap
    from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    model = AutoModelForCausalLM.from_pretrained(demo_model, dtype="float32").eval()
    site = "model.layers.12.post_attention_layernorm"
    means = []
    with (
        model.get_submodule(site).register_forward_hook(
            lambda module, inputs, output: means.append(output[0].mean(0))
        ),
        torch.no_grad(),
    ):
        for text in ("I hate this awful, terrible day", "I love this great, wonderful day"):
            model(**tokenizer(text, return_tensors="pt"))
    shift = 4 * (means[1] - means[0])
    maps = ActivationMaps({site: AffineMap.everywhere(torch.ones_like(shift), shift)})
    metadata = TransportMetadata.describe(model, tokenizer, method="mean", sites=[site])
    folder = LearnedTransport(maps, metadata).save(tmp_path / "transport")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Today I feel\nThe film was\n", encoding="utf-8")
    status = run_command(
        *("evaluate", folder, "--pretrained", demo_model, "-o", tmp_path / "out"),
        *("--prompts", prompts, "--sentiment", "vader", "--strength", "0,1"),
        *("--max-new-tokens", 8, "--dtype", "float32", "--device", "cpu"),
    )
    assert status == 0
    rows = {(r.metric, r.strength): r for r in read_table(tmp_path / "out" / "sweep.csv")}
    analyzer = SentimentIntensityAnalyzer()
    for strength, prompt in itertools.product((0.0, 1.0), [["Today I feel", "The film was"]]):
        texts = []
        handle = model.get_submodule(site).register_forward_hook(
            lambda module, inputs, output, strength=strength: output + strength * shift
        )
        for one in prompt:
            tokens = tokenizer(one, return_tensors="pt")
            new = model.generate(**tokens, max_new_tokens=8, do_sample=False)[0]
            texts.append(tokenizer.decode(new[tokens.input_ids.shape[1] :], True))
        handle.remove()
        wanted = [analyzer.polarity_scores(text)["compound"] for text in texts]
        assert rows["sentiment", strength].value == pytest.approx(sum(wanted) / 2)
        assert rows["positive_share", strength].value == sum(value > 0.05 for value in wanted) / 2
