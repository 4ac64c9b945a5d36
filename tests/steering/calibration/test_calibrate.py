"""`aim-plugins transport calibrate` from its options to its report."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import statistics
import types

import pytest
import torch

from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.steering.calibration import front, reporting, study
from aim_plugins.steering.calibration.costs import UNCHANGED
from aim_plugins.steering.calibration.prompting import prompt_rivals
from aim_plugins.sweep.store import SweepStore
from aim_plugins.transport.artifact import LearnedTransport
from tests.conftest import CHOICE, die_in_a_copy

WORDS = ["the", "capital", "of", "France", "is", "Paris", "and", "Germany", "Berlin", "Answer"]
SIZES = {"source": (8, 6), "target": (8, 6), "plain": (12, 9), "prompts": (8, 3)}


@pytest.fixture
def files(tmp_path):
    draw = random.Random(0)
    for name, (count, length) in SIZES.items():
        lines = dict.fromkeys(" ".join(draw.choices(WORDS, k=length)) for _ in range(count))
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    (tmp_path / "words.txt").write_text("paris\na\nis\n")
    return tmp_path


@pytest.fixture
def calibrate(run_command, tiny, files, monkeypatch):
    def run(*words, output="out", drawn=False):
        with monkeypatch.context() as patch:
            if not drawn:  # pictures take longer than everything else
                nothing = {"png": b"", "svg": b""}
                patch.setattr(front, "draw_equal", lambda found: nothing)
                patch.setattr(front, "draw_curves", lambda found: nothing)
                patch.setattr(front, "publish_page", write_files)
            status = run_command(
                *("calibrate", "--pretrained", tiny.folder, "-o", files / output),
                *("--perplexity", files / "plain.txt", "--prompts", files / "prompts.txt"),
                *("--device", "cpu", "--max-new-tokens", 3, "--curve", "0.5", *words),
            )
        path = files / output / "calibration.json"
        return status, json.loads(path.read_text()) if path.exists() else None

    return run


def write_files(folder, page, manifest, *, files, **rest):
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder / "report.html"


def learned(files, *more):
    return (
        *("--source", files / "source.txt", "--target", files / "target.txt"),
        *("--modules", ".*input_layernorm", "--methods", "mean,caa"),
        *("--lexicon", files / "words.txt", *more),
    )


def test_a_calibration_reports_every_line_on_what_nothing_was_chosen_on(calibrate, files, capsys):
    words = learned(files, "--layers", r"model\.layers\.\d", "--instructions", "Answer Paris")
    status, found = calibrate(*words, "--shots", 2, drawn=True)
    assert status == 0
    kinds = [(one["name"], one["kind"]) for one in found["entries"]]
    assert kinds[:3] == [
        ("plain model", "plain"),
        ("instruction", "prompt"),
        ("2 examples", "prompt"),
    ]
    assert {name for name, kind in kinds if kind == "method"} == {"mean", "caa"}
    assert kinds[-1][1] == "both"
    assert set(found["promises"]) == {"mean", "caa"}
    assert set(found["promises"]["mean"]) == {
        *("all", "early", "middle", "late"),
        *(f"model.layers.{layer}" for layer in range(3)),
    }
    plain, *others = found["entries"]
    assert plain["point"]["divergence"]["value"] == 0
    for one in others:
        assert len(one["point"]["effects"]) == len(plain["point"]["effects"])
        assert one["point"]["divergence"]["n"] == plain["point"]["divergence"]["n"]
    for name in ("equal", "curves"):
        for kind in ("png", "svg"):
            assert (files / "out" / "curves" / f"{name}.{kind}").stat().st_size
    report = (files / "out" / "report.html").read_text()
    assert "At a budget of KL 0.1" in report and "calibrate" in report
    with open(files / "out" / "calibration.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    curve = [row for row in rows if row["name"] == "mean"]
    assert [row["calibrated"] for row in curve] == ["False", "True"]
    assert "cannot be told apart" in capsys.readouterr().out


def test_methods_spend_the_budget_on_the_half_that_strengths_were_found_on(
    tiny, files, calibrate, monkeypatch
):
    """Of both halves together, as far as these agree, by the plain definition."""
    seen = {}
    real = reporting.Reporting.calibrated

    def watched(self, chosen, kind="method", reference=UNCHANGED, rival=None):
        found = real(self, chosen, kind, reference, rival)
        seen.setdefault(kind, (self, chosen, found, reference))
        return found

    monkeypatch.setattr(reporting.Reporting, "calibrated", watched)
    status, _ = calibrate(*learned(files, "--instructions", "Answer", "--budget-kl", 0.05))
    assert status == 0
    assert set(seen) == {"method", "both"}
    for own, chosen, entries, reference in seen.values():
        for one, entry in zip(chosen, entries, strict=True):
            changed = one.candidate.at(entry.point.strength, reference.prefix)
            [costs] = own.measures.costs(own.material.texts.calibration, [changed], reference)
            assert costs.divergence.value == pytest.approx(0.05, rel=0.021)


def test_the_halves_of_texts_and_prompts_share_nothing(files, calibrate, monkeypatch):
    asked = {"calibration": set(), "held out": set()}
    real = study.CalibrationStudy.measure

    def watched(self, store):
        real(self, store)
        texts = self.material.texts
        assert not set(texts.calibration) & set(texts.held_out)
        asked["calibration"] |= set(self.prompts.calibration)
        asked["held out"] |= set(self.prompts.held_out)

    monkeypatch.setattr(study.CalibrationStudy, "measure", watched)
    monkeypatch.setattr(
        study,
        "encode_texts",
        lambda engine, texts: [tuple(engine.tokenizer(text).input_ids) for text in texts],
    )
    status, _ = calibrate(*learned(files))
    assert status == 0
    assert asked["calibration"] and not asked["calibration"] & asked["held out"]


def test_a_budget_of_perplexity_is_spent_as_a_ratio(files, calibrate, capsys):
    status, found = calibrate(*learned(files, "--budget-perplexity", 1.05))
    assert status == 0
    assert found["budget"] == "1.05 times the perplexity"


@pytest.fixture(scope="module")
def easy_task(tiny, tmp_path_factory):
    """A task of 40 questions whose right answers are those of the tiny model itself."""
    from aim_plugins.task_documents import Document
    from aim_plugins.task_questions.questions import read_questions, score_choices

    folder, draw, rows = tmp_path_factory.mktemp("easy"), random.Random(1), []
    while len(rows) < 40:
        text = " ".join(draw.choices(WORDS, k=7))
        choices = draw.sample(["Paris", "Berlin", "France", "Germany"], 4)
        options = tuple((text, f" {one}") for one in choices)
        asked = Document("easy", 0, text, "x", 0, tuple(choices), options)
        scores = score_choices(tiny.model, read_questions([asked], tiny.tokenizer, 128), 1)[0]
        rows.append({"text": text, "choices": choices, "answer": scores.index(max(scores))})
    (folder / "easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = CHOICE.format(name="easy", file=folder / "easy.jsonl", text="{{text}}")
    (folder / "easy.yaml").write_text(content)
    return folder


def test_a_budget_of_accuracy_is_spent_on_one_third_of_the_questions(
    files, calibrate, easy_task, monkeypatch, capsys
):
    pytest.importorskip("lm_eval")
    seen = {}
    real = reporting.Reporting.calibrated

    def watched(self, chosen, kind="method", reference=UNCHANGED, rival=None):
        found = real(self, chosen, kind, reference, rival)
        questions = self.material.questions
        for one, entry in zip(chosen, found, strict=True):
            changed = [reference, one.candidate.at(entry.point.strength, reference.prefix)]
            known, there = map(sum, questions.hits(questions.strengths, changed))
            assert entry.spent == pytest.approx((known - there) / 13)
            seen[entry.name] = known - there
        return found

    monkeypatch.setattr(reporting.Reporting, "calibrated", watched)
    words = ("--budget-task", "easy=0.15", "--include-path", easy_task, "--shots", 0)
    status, found = calibrate(*learned(files, *words, "--instructions", "Answer"), drawn=True)
    assert status == 0 and found["budget"] == "15 points of easy"
    assert len(seen) == 3
    assert max(seen.values()) <= 1  # (13 + 1) 0.15 - 1 = 1.1
    assert all(one["reached"] for one in found["entries"])
    plain, rival, *steered = found["entries"]
    assert plain["point"]["hits"] == "1" * 14
    assert rival["kind"] == "prompt" and len(rival["point"]["hits"]) == 14
    with open(files / "out" / "calibration.csv", newline="") as file:
        rows = {(row["name"], row["calibrated"]): row for row in csv.DictReader(file)}
    for one in steered:
        row = rows[one["name"], "True"]
        assert float(row["lost"]) == one["point"]["hits"].count("0") / 14
        assert float(row["lost_low"]) < float(row["lost"]) < float(row["lost_high"])
    said = capsys.readouterr().out
    assert "points [" in said and "on 14 held-out questions of easy" in said


def test_a_transport_that_breaks_at_every_strength_stands_at_0(
    files, calibrate, easy_task, tiny_transport, capsys
):
    known, draw = LearnedTransport.load(tiny_transport), torch.Generator().manual_seed(0)
    far = {
        site: AffineMap.everywhere(torch.ones(48), 1e12 * torch.randn(48, generator=draw))
        for site in known.maps.maps
    }
    broken = LearnedTransport(ActivationMaps(far), known.metadata).save(files / "broken")
    words = ("--budget-task", "easy=0.15", "--include-path", easy_task, "--shots", 0)
    words += ("--transports", broken, "--lexicon", files / "words.txt")
    status, found = calibrate(*words)
    assert status == 0
    plain, line = found["entries"]
    assert (line["point"]["strength"], line["spent"], line["reached"]) == (0.0, 0.0, False)
    assert line["point"]["hits"] == plain["point"]["hits"] == "1" * 14
    assert line["point"]["effects"] == plain["point"]["effects"]


def test_a_prompt_that_leaves_questions_no_room_is_refused_before_anything_is_measured(
    files, calibrate, easy_task, monkeypatch, capsys
):
    monkeypatch.setattr(study.CalibrationStudy, "measure", None)
    words = ("--budget-task", "easy=0.15", "--include-path", easy_task, "--shots", 0)
    status, _ = calibrate(*learned(files, *words, "--instructions", "Paris " * 117))
    assert status == 2
    assert re.search(
        r"error: easy#\d+ has \d+ tokens behind the prompt 'Paris .*, or fewer shots",
        capsys.readouterr().err,
    )


def test_a_budget_that_is_not_reached_is_marked(files, calibrate, capsys):
    status, found = calibrate(*learned(files, "--largest", "0.001"))
    assert status == 0
    methods = [one for one in found["entries"] if one["kind"] == "method"]
    assert not any(one["reached"] for one in methods)
    assert all(one["point"]["strength"] == 0.001 for one in methods)


def test_given_transports_stand_in_the_table_under_their_names(
    files, calibrate, other_transport, tiny_transport
):
    words = ("--transports", tiny_transport, other_transport, "--lexicon", files / "words.txt")
    status, found = calibrate(*words, "--shots", 0)
    assert status == 0
    names = [one["name"] for one in found["entries"] if one["kind"] == "method"]
    assert names == [tiny_transport.name, other_transport.name]
    assert found["promises"] == {}


def test_a_given_transport_with_the_name_of_a_method_is_refused(
    files, calibrate, other_transport, capsys
):
    copied = files / "renamed" / "mean"
    copied.parent.mkdir()
    shutil.copytree(other_transport, copied)
    assert calibrate(*learned(files), "--transports", copied)[0] == 2
    assert "repeat a name, which the table needs: rename a folder" in capsys.readouterr().err


def test_effects_are_means_over_the_texts_of_a_prompt(files, calibrate, monkeypatch):
    written = []
    real = study.Measures.effects

    def watched(self, prompts, columns, prefix="", *, samples=None):
        found = real(self, prompts, columns, prefix, samples=samples)
        written.append((prompts, columns, samples or 3, found))
        return found

    monkeypatch.setattr(study.Measures, "effects", watched)
    words = ("--do-sample", "--samples", 3, "--shots", 0)
    status, found = calibrate(*learned(files, *words))
    assert status == 0
    assert {samples for _, _, samples, _ in written} == {1, 3}
    for prompts, columns, samples, effects in written:
        assert len(effects) == len(columns)
        for values in effects:
            assert len(values) == len(prompts)
            assert all(round(samples * one, 6) in range(samples + 1) for one in values)
    plain = next(one for one in found["entries"] if one["kind"] == "plain")
    assert statistics.fmean(plain["point"]["effects"]) >= 0


@pytest.mark.parametrize(("budget", "batches"), [("text", 25), ("task", 12)])
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(
    files, calibrate, monkeypatch, budget, batches, easy_task
):
    words = learned(files, "--layers", r"model\.layers\.\d", "--instructions", "Answer Paris")
    if budget == "task":
        words = learned(files, "--methods", "mean", "--shots", 0)
        words += ("--budget-task", "easy=0.15", "--include-path", easy_task)
    assert calibrate(*words, output="whole")[0] == 0
    calls = {"count": 0}
    real = SweepStore.write_batch

    def die():
        def dying(self, key, payload):
            real(self, key, payload)
            calls["count"] += 1
            if calls["count"] == batches:
                os.kill(os.getpid(), signal.SIGKILL)

        SweepStore.write_batch = dying
        calibrate(*words, output="killed")

    die_in_a_copy(die)
    assert not (files / "killed" / "calibration.json").exists()
    assert any((files / "killed" / "records").iterdir())
    status, found = calibrate(*words, output="killed")
    assert status == 0
    whole = json.loads((files / "whole" / "calibration.json").read_text())
    for one in (*whole["entries"], *found["entries"]):
        one["transport"] = ""
    assert found == whole


def test_methods_that_join_sites_run_at_all_of_them_without_a_screen(calibrate, files):
    words = learned(files, "--layers", r"model\.layers\.\d", "--shots", 0, "--steps", 2)
    status, found = calibrate(*words, "--methods", "lineas,ablation,angular")
    assert status == 0
    assert found["promises"] == {}
    lines = {one["name"]: one["sites"] for one in found["entries"] if one["kind"] == "method"}
    assert lines == {"lineas": "all", "ablation": "layers", "angular": "all"}
    folders = {one.name for one in (files / "out" / "transports").iterdir()}
    assert folders == {"lineas-all", "ablation-layers", "angular-all"}
    known = json.loads((files / "out" / "transports" / "lineas-all" / "transport.json").read_text())
    assert known["options"]["steps"] == 2


def test_the_screen_looks_at_maps_with_the_methods_own_options(calibrate, files):
    """One cluster a side is mean transport."""
    words = learned(files, "--shots", 0, "--kept", 0, "--clusters", 1)
    status, found = calibrate(*words, "--methods", "mean,chars")
    assert status == 0
    assert found["promises"]["chars"] == pytest.approx(found["promises"]["mean"], rel=1e-3)
    _, others = calibrate(*words, "--methods", "mean,chars", "--clusters", 2, output="two")
    assert others["promises"]["chars"] != pytest.approx(found["promises"]["mean"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("--lexicon W --methods mean --steps 5", "steps is of method=lineas alone"),
        ("--budget-kl 0.1 --budget-perplexity 1.2 --lexicon W", "are given together"),
        ("--budget-task easy --lexicon W", "the accuracy that it may lose"),
        ("--budget-task easy=1.5 --lexicon W", "the accuracy that it may lose"),
        ("--budget-limit 5 --lexicon W", "budget_limit=5 .* --budget-task TASK=DROP, or leave"),
        ("--budget-task easy=0.1 --include-path /no/where --lexicon W", "include_path"),
        ("", "one measure of the effect is needed"),
        ("--lexicon W --sentiment vader", r"is needed \(lexicon, sentiment\)"),
        ("--lexicon W --samples 2", "add --do-sample"),
        ("--classifier M", "label is missing"),
        ("--judge M --concept c --judge-answers yes", "give two words"),
        ("--lexicon W --methods lineer", "did you mean 'linear'"),
        ("--lexicon W --budget-perplexity 0.9", "a ratio above 1"),
        ("--lexicon W --modules .*nowhere", "matches none of the"),
    ],
)
def test_what_is_not_usable_is_refused_in_one_line(calibrate, files, capsys, words, pattern):
    words = [files / "words.txt" if one == "W" else one for one in words.split()]
    sides = ("--source", files / "source.txt", "--target", files / "target.txt")
    modules = () if "--modules" in words else ("--modules", ".*input_layernorm")
    status, _ = calibrate(*sides, *modules, *words)
    assert status == 2
    [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert re.search(pattern, line), line


def test_nothing_to_calibrate_is_refused(calibrate, files, capsys):
    status, _ = calibrate("--lexicon", files / "words.txt")
    assert status == 2
    assert "there is nothing to calibrate" in capsys.readouterr().err


def test_instructions_are_given_plainly_and_in_the_models_own_format(tiny):
    class Chatty:
        chat_template = "there"
        bos_token, bos_token_id = "<s>", 1

        def __call__(self, text):
            return types.SimpleNamespace(input_ids=[1])

        def apply_chat_template(self, turns, tokenize, add_generation_prompt):
            assert not tokenize and add_generation_prompt
            return f"<s><user>{turns[0]['content']}<model>"

    found = prompt_rivals(Chatty(), ["Be kind.", "Be wise."], ["one", "two"])
    assert [one.name for one in found] == [
        *("instruction 1", "instruction 1 in chat", "instruction 2", "instruction 2 in chat"),
        "2 examples",
    ]
    assert [one.prefix for one in found[:2]] == ["Be kind.\n\n", "<user>Be kind.<model>"]
    assert found[-1].prefix == "one\ntwo\n"
    assert [one.name for one in prompt_rivals(tiny.tokenizer, ["Be kind."], [])] == ["instruction"]
