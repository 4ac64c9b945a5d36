"""Receipts in the harnesses: they stand in samples and predictions, and rows without are refused.

Each test `test_caught_…` stands in the table of `docs/receipts.md` by its name.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from aim_plugins.cli import main
from aim_plugins.core.errors import ReceiptError
from aim_plugins.engines.answers import Answer
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.harnesses.lm_eval import AimHFLM
from aim_plugins.harnesses.lm_eval.receipts import carrying, receipt_of
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.receipts import Changed, Receipt

CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def build(checkpoint, **arguments):
    return AimHFLM(str(checkpoint), dtype="float32", device="cpu", batch_size=4, **arguments)


def evaluate(model, tasks_folder, *tasks, **options):
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    options = {"bootstrap_iters": 10, "verbosity": "ERROR", "limit": 4, **options}
    return simple_evaluate(model, tasks=list(tasks), task_manager=manager, **options)


@pytest.fixture(scope="module")
def transport(tiny_checkpoint, make_transport, tmp_path_factory):
    return make_transport(tmp_path_factory.mktemp("transport"), tiny_checkpoint)


def test_samples_hold_the_receipt_of_every_answer(tiny_checkpoint, tasks_folder, transport):
    model = build(tiny_checkpoint, noise_std=0.5, transport=str(transport), strength=0.7)
    tasks = ("tiny_choice", "tiny_generation", "tiny_perplexity")
    found = evaluate(model, tasks_folder, *tasks)
    (column,) = model.columns
    for samples in found["samples"].values():
        for sample in samples:
            assert [len(one) for one in sample["receipts"]] == [len(one) for one in sample["resps"]]
            for receipt in (one for answers in sample["receipts"] for one in answers):
                assert receipt["modulation"] == column.fingerprint
                noise, moved = receipt["changes"]
                assert (noise["kind"], noise["strength"], noise["sites"]) == ("noise", 0.5, 1)
                assert (moved["kind"], moved["strength"], moved["sites"]) == ("transport", 0.7, 3)
                assert 0 < noise["tokens"] <= moved["tokens"]
    json.dumps(found["samples"]["tiny_perplexity"][0]["receipts"])


def test_files_of_a_sweep_hold_the_receipts_of_each_strength(
    tiny_checkpoint, tasks_folder, tmp_path
):
    command = [
        *("sweep", "lm-eval", "--model", "aim_hf", "--device", "cpu", "--batch-size", "8"),
        *("--model-args", f"pretrained={tiny_checkpoint},dtype=float32", "--limit", "3"),
        *("--tasks", "tiny_choice,tiny_generation", "--include-path", str(tasks_folder)),
        *("--output", str(tmp_path / "run"), "--noise-std", "0,0.5"),
    ]
    assert main(command) == 0
    for strength in ("0", "0.5"):
        files = list((tmp_path / "run" / "cells" / f"std={strength},draw=0").rglob("samples_*"))
        assert len(files) == 2
        for sample in (json.loads(line) for one in files for line in one.read_text().splitlines()):
            for [receipt] in sample["receipts"]:
                asked = [one["strength"] for one in receipt["changes"]]
                assert asked == ([] if strength == "0" else [0.5])


def test_merged_columns_keep_their_receipts(tiny_checkpoint, tasks_folder):
    found = evaluate(build(tiny_checkpoint, noise_std=[0, 2]), tasks_folder, "tiny_generation")
    for sample in found["samples"]["tiny_generation"]:
        [[receipt]] = sample["receipts"]
        assert len(receipt["changes"]) == int(sample["filter"].endswith("@2"))


def test_answers_that_carry_a_receipt_are_those_of_the_harness_also_between_processes():
    receipt = Receipt("ab", (Changed("noise", 0.5, 1, 8),))
    for answer in ("text", (-1.5, True), -3.25, 0):
        carried = pickle.loads(pickle.dumps(carrying(answer, receipt)))
        assert carried == answer and receipt_of(carried) == receipt
        assert json.dumps(carried) == json.dumps(answer)


def test_the_receipt_of_parts_adds_their_tokens():
    parts = [Receipt("ab", (Changed("noise", 0.5, 1, tokens),)) for tokens in (3, 4)]
    assert Receipt.together(parts) == Receipt("ab", (Changed("noise", 0.5, 1, 7),))


# Faults -------------------------------------------------------------------------------------------


def forgetting(monkeypatch, method, strip):
    """Lets the engine answer as it does, and something of the receipts be lost on the way."""
    own = getattr(HuggingFaceEngine, method)
    monkeypatch.setattr(HuggingFaceEngine, method, lambda *a, **o: strip(own(*a, **o)))


def test_caught_engine_without_receipts(tiny_checkpoint, tasks_folder, monkeypatch):
    forgetting(monkeypatch, "generate", lambda table: [list(map(Answer, row)) for row in table])
    model = build(tiny_checkpoint, noise_std=0.5)
    with pytest.raises(ReceiptError, match="came without a receipt.*that of noise 0.5"):
        evaluate(model, tasks_folder, "tiny_generation")


def test_caught_answers_of_another_column(tiny_checkpoint, tasks_folder, monkeypatch):
    forgetting(monkeypatch, "generate", lambda table: [row[::-1] for row in table])
    model = build(tiny_checkpoint, noise_std=[0.5, 2])
    with pytest.raises(ReceiptError, match="asked for noise 0.5, and the receipt is of noise 2"):
        evaluate(model, tasks_folder, "tiny_generation")


def test_caught_answers_of_the_plain_model(tiny_checkpoint, tasks_folder, monkeypatch):
    own = HuggingFaceEngine.generate

    def plainly(engine, prompts, columns, **options):
        return own(engine, prompts, columns_of(noise_std=[0] * len(columns)), **options)

    monkeypatch.setattr(HuggingFaceEngine, "generate", plainly)
    model = build(tiny_checkpoint, noise_std=0.5)
    with pytest.raises(ReceiptError, match="asked for noise 0.5, and the receipt is of nothing"):
        evaluate(model, tasks_folder, "tiny_generation")


def test_caught_answer_from_a_cache_without_receipts(tiny_checkpoint, tasks_folder, monkeypatch):
    own = AimHFLM.loglikelihood

    def cached(model, requests, **options):
        return [tuple(one) for one in own(model, requests, **options)]

    monkeypatch.setattr(AimHFLM, "loglikelihood", cached)
    model = build(tiny_checkpoint, noise_std=0.5)
    with pytest.raises(ReceiptError, match="document 0 of tiny_choice: .* without a receipt"):
        evaluate(model, tasks_folder, "tiny_choice")


def test_a_cached_answer_keeps_its_receipt(tiny_checkpoint, tasks_folder, tmp_path):
    options = {"use_cache": str(tmp_path / "cache")}
    found = [
        evaluate(build(tiny_checkpoint, noise_std=0.5), tasks_folder, "tiny_choice", **options)
        for _ in range(2)
    ]
    first, second = (
        [sample["receipts"] for sample in one["samples"]["tiny_choice"]] for one in found
    )
    assert first == second


def test_caught_chat_path_past_the_engine(tiny_checkpoint, tasks_folder, monkeypatch):
    """A chat template whose texts are decoded by the model itself."""

    def past(model, batch):
        tokens, mask = model.tok_batch_encode([context for context, *_ in batch])
        found = model.model.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=3)
        return [[model.tok_decode(one)] for one in found[:, tokens.shape[1] :].tolist()]

    model = build(tiny_checkpoint, noise_std=0.5)
    model.tokenizer.chat_template = CHAT
    chat = {"apply_chat_template": True, "limit": 2}
    (sample, _) = evaluate(model, tasks_folder, "tiny_generation", **chat)["samples"][
        "tiny_generation"
    ]
    assert sample["receipts"][0][0]["changes"][0]["strength"] == 0.5
    monkeypatch.setattr(AimHFLM, "_generate_batch", past)
    with pytest.raises(ReceiptError, match="document 0 of tiny_generation: .*without a receipt"):
        evaluate(model, tasks_folder, "tiny_generation", **chat)


def test_caught_record_of_a_run_without_receipts(tiny_checkpoint, tasks_folder, journal):
    model = build(tiny_checkpoint, noise_std=0.5)
    model.engine.journal = journal
    evaluate(model, tasks_folder, "tiny_generation")
    for record in journal.values():
        record["receipts"] = [[None for _ in row] for row in record["receipts"]]
    with pytest.raises(ReceiptError, match="came without a receipt"):
        evaluate(model, tasks_folder, "tiny_generation")


# OpenCompass --------------------------------------------------------------------------------------


def entries(checkpoint, *stds):
    kind = "aim_plugins.harnesses.opencompass.HuggingFaceNoiseModel"
    return [
        {
            **{"type": kind, "abbr": f"noise-{std}", "path": str(checkpoint), "max_seq_len": 64},
            **{"max_out_len": 4, "batch_size": 3, "run_cfg": {"num_gpus": 0}},
            "generation_kwargs": {"noise_std": std},
        }
        for std in stds
    ]


def test_predictions_hold_the_receipts_of_their_answers(
    tiny_checkpoint, run_opencompass, read_answers, tmp_path
):
    run = run_opencompass(tmp_path / "run", entries(tiny_checkpoint, 0, 0.5))
    for std in (0, 0.5):
        for dataset, answers in (("choice", 3), ("text", 1)):
            predictions = read_answers(run, "predictions", f"noise-{std}", dataset)
            assert len(predictions) == 6
            for document in predictions.values():
                assert len(document["receipts"]) == answers
                for receipt in document["receipts"]:
                    asked = [one["strength"] for one in receipt["changes"]]
                    assert asked == ([] if std == 0 else [0.5])
    assert run_opencompass(tmp_path / "run", entries(tiny_checkpoint, 0, 0.5)).tasks == []
    file = Path(run.work_dir, "predictions", "noise-0.5", "text.json")
    predictions = json.loads(file.read_text())
    del predictions["0"]["receipts"]
    file.write_text(json.dumps(predictions))
    again = run_opencompass(tmp_path / "run", entries(tiny_checkpoint, 0, 0.5))
    assert len(again.tasks) == 1
    assert "receipts" in read_answers(again, "predictions", "noise-0.5", "text")["0"]


@pytest.mark.parametrize("dataset", ["choice", "text"])
def test_caught_prediction_without_a_receipt(
    tiny_checkpoint, run_opencompass, tmp_path, monkeypatch, dataset, caplog
):
    forgetting(monkeypatch, "generate", lambda table: [list(map(Answer, row)) for row in table])

    def stripped(rows):
        return [type(row)(*row.to_json()[:-1], [None] * len(row.receipts)) for row in rows]

    forgetting(monkeypatch, "score", stripped)
    with pytest.raises(RuntimeError, match=f"inference failed for {dataset}"):
        run_opencompass(tmp_path / "run", entries(tiny_checkpoint, 0.5), [dataset])
    assert not list(tmp_path.rglob(f"results/*/{dataset}.json"))


def test_caught_predictions_of_another_run_taken_over(tmp_path):
    from aim_plugins.harnesses.opencompass.run.receipts import add_receipts

    file = tmp_path / "text.json"
    file.write_text(json.dumps({"0": {"prediction": "a"}, "1": {"prediction": "b"}}))
    with pytest.raises(ReceiptError, match="1 answers with a receipt for 2 documents: others came"):
        add_receipts(file, [Receipt("ab")])
