"""`aim_vllm` and `act_vllm` in lm-evaluation-harness: the answers of `aim_hf` and `act_hf`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file

from aim_plugins.harnesses.lm_eval import ActHFLM
from aim_plugins.harnesses.lm_eval.huggingface import AimHFLM
from aim_plugins.harnesses.lm_eval.vllm import ActVLLM, AimVLLM, _Backend
from aim_plugins.transport.artifact import LearnedTransport

ARGUMENTS: dict[str, Any] = {
    "noise_std": "0,0.5,2",
    "noise_mean": 0.25,
    "noise_seed": 5,
    "noise_draws": 2,
    "dtype": "float32",
    "max_length": 127,
}
VLLM_ARGUMENTS: dict[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
    "max_num_seqs": 64,
}


@pytest.fixture(scope="module")
def models(demo_model: Path) -> Iterator[SimpleNamespace]:
    """Both backends of the demo model, each loaded once for all strengths."""
    ours = AimVLLM(str(demo_model), **ARGUMENTS, **VLLM_ARGUMENTS)
    theirs = AimHFLM(str(demo_model), device="cpu", batch_size=4, **ARGUMENTS)
    yield SimpleNamespace(vllm=ours, hf=theirs)
    ours.model.llm_engine.engine_core.shutdown()


def instances(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=0, metadata=("task", n, 1))
        for n, given in enumerate(arguments)
    ]


def test_log_likelihoods_are_those_of_aim_hf(models: SimpleNamespace) -> None:
    contexts = ["The capital of France is", "Water boils at", "", "word " * 200]
    choices = [" Paris", " a hundred degrees Celsius", " blue, which nobody expected"]
    requests = instances("loglikelihood", [(c, choice) for c in contexts for choice in choices])
    ours, theirs = models.vllm.table("loglikelihood", requests), models.hf.score(requests, True)
    for row, wanted in zip(ours, theirs, strict=True):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=1e-3)
        assert row.is_greedy == wanted.is_greedy
        assert row.context_key == wanted.context_key


def test_log_likelihoods_of_whole_texts_are_those_of_aim_hf(models: SimpleNamespace) -> None:
    texts = ["The sun rises in the east.", "One and two and three and four. " * 25]
    requests = instances("loglikelihood_rolling", [(text,) for text in texts])
    for row, wanted in zip(
        models.vllm.table("loglikelihood_rolling", requests),
        models.hf.score_rolling(requests, True),
        strict=True,
    ):
        # Windows of 127 tokens: some hundred terms in a sum.
        assert row == pytest.approx(wanted, abs=1e-3)


def test_a_transport_of_another_model_is_refused_before_vllm_starts(
    small_checkpoint: Path, small_transport: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In vLLM's worker the error would end the engine, and hide behind its own."""
    shutil.copytree(small_checkpoint, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    moved = {name: 1.1 * tensor for name, tensor in weights.items()}
    save_file(moved, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("vllm.LLM.__init__", None)
    with pytest.raises(ValueError, match=r"learned on another model .*force_transport=True"):
        ActVLLM(str(tmp_path / "other"), transport=str(small_transport))


@pytest.mark.parametrize("decoding", [{}, {"do_sample": True, "temperature": 0.7}], ids=str)
def test_texts_are_those_of_aim_hf(models: SimpleNamespace, decoding: dict) -> None:
    prompts = ["The capital of France is", "Once upon a time, there", "Q: 2+2?\nA:", "word " * 200]
    options = {"until": ["\n\n", "."], "max_gen_toks": 12, "do_sample": False} | decoding
    requests = instances("generate_until", [(prompt, options) for prompt in prompts])
    ours = models.vllm.table("generate_until", requests)
    assert ours == models.hf.generate(requests, True)
    assert len({text for row in ours for text in row}) > len(prompts)


def test_stop_strings_apply_after_the_reasoning_only(
    models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are those of stock vLLM, whose own method runs on the same engine, and of aim_hf."""
    for lm in (models.vllm, models.hf):
        monkeypatch.setattr(lm, "think_end_token", " of")
    prompts = ["Once upon a time, there", "Water boils at"]
    options = {"until": ["town", "heat"], "max_gen_toks": 24, "do_sample": False}
    requests = instances("generate_until", [(prompt, options) for prompt in prompts])
    stock = _Backend.generate_until(models.vllm, requests, disable_tqdm=True)
    ours = models.vllm.table("generate_until", requests)
    assert [row[0] for row in ours] == stock
    assert ours == models.hf.generate(requests, True)
    assert stock[0] == "a bustling city. The "
    monkeypatch.setattr(models.hf, "think_end_token", None)
    assert models.hf.generate(requests, True)[0][0] == " was a small "


@pytest.mark.parametrize("until", ["", [""]], ids=repr)
def test_an_empty_stop_string_ends_a_text_after_one_token(
    models: SimpleNamespace, until: Any
) -> None:
    options = {"until": until, "max_gen_toks": 12, "do_sample": False}
    requests = instances("generate_until", [("The capital of France is", options)])
    assert models.vllm.table("generate_until", requests) == models.hf.generate(requests, True)


def evaluate(lm: Any, task: str, limit: int) -> dict[str, Any]:
    """The harness's results of a demo task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path="eval_configs/lm_eval")
    return lm_eval.simple_evaluate(
        lm, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0
    )


def test_table_of_strengths_goes_through_the_harness(models: SimpleNamespace) -> None:
    def accuracies(lm: Any) -> dict[str, float]:
        metrics = evaluate(lm, "aim_demo_capitals", 6)["results"]["aim_demo_capitals"]
        return {name: value for name, value in metrics.items() if "@" in name and "err" not in name}

    given = accuracies(models.vllm)
    assert {name.split(",")[0] for name in given} >= {"acc@0", "acc@0.5", "acc@2"}
    assert given == pytest.approx(accuracies(models.hf))


def test_model_says_which_arguments_it_does_not_take(demo_model: Path) -> None:
    with pytest.raises(ValueError, match="data_parallel_size=2"):
        AimVLLM(str(demo_model), data_parallel_size=2)
    with pytest.raises(ValueError, match="max_length=8 and max_model_len=9"):
        AimVLLM(str(demo_model), max_length=8, max_model_len=9)
    with pytest.raises(ValueError, match="noise_std=-1.0 is negative"):
        AimVLLM(str(demo_model), noise_std=-1.0)


def test_strength_of_the_noise_is_no_option_of_a_request(models: SimpleNamespace) -> None:
    request = instances("generate_until", [("a", {"until": [], "noise_std": 1.0})])
    with pytest.raises(ValueError, match="give it in --model_args"):
        models.vllm.generate(request)


def test_answer_of_several_columns_has_to_be_asked_for_as_a_table(models: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError, match="6 columns at once"):
        models.vllm.loglikelihood([])


Words = Callable[..., list[str]]


@pytest.fixture()
def words(small_checkpoint: Path) -> Words:
    """Arguments of the harness for the small model."""

    def build(model: str, tasks: str, **arguments: Any) -> list[str]:
        given = {"pretrained": small_checkpoint, "dtype": "float32", **VLLM_ARGUMENTS, **arguments}
        return [
            *("--model", model, "--batch_size", "auto", "--limit", "3"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in given.items())),
            *("--tasks", tasks, "--include_path", "eval_configs/lm_eval"),
        ]

    return build


def test_sweep_writes_its_folder_and_goes_on_from_it(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aim_plugins.harnesses.lm_eval.study import run_sweep

    arguments = words("aim_vllm", "aim_demo_continents,aim_demo_generation")
    output = tmp_path / "sweep"
    report = run_sweep(arguments, output=output, modulation={"noise_std": "0,1", "noise_draws": 2})
    table = (output / "sweep.csv").read_text()
    assert report.exists()
    assert {line.split(",")[0] for line in table.splitlines()[1:]} == {
        "aim_demo_continents",
        "aim_demo_generation",
    }
    monkeypatch.setattr(AimVLLM, "__init__", lambda *_, **__: pytest.fail("loaded again"))
    run_sweep(arguments, output=output, modulation={"noise_std": "0,1", "noise_draws": 2})
    assert (output / "sweep.csv").read_text() == table


# Transports -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transported(small_checkpoint: Path, small_transport: Path) -> Iterator[SimpleNamespace]:
    """Both backends of the small model with one transport, each loaded once for all strengths."""
    arguments: dict[str, Any] = {
        "transport": str(small_transport),
        "strength": "-0.5,0,0.5,1",
        "dtype": "float32",
        "max_length": 127,
    }
    ours = ActVLLM(str(small_checkpoint), **arguments, **VLLM_ARGUMENTS)
    theirs = ActHFLM(str(small_checkpoint), device="cpu", batch_size=4, **arguments)
    yield SimpleNamespace(vllm=ours, hf=theirs)
    ours.model.llm_engine.engine_core.shutdown()


def test_transported_log_likelihoods_are_those_of_act_hf(transported: SimpleNamespace) -> None:
    contexts = ["The capital of France is", "Germany", "", "the capital " * 80]
    requests = instances("loglikelihood", [(c, end) for c in contexts for end in (" Paris", " of")])
    ours = transported.vllm.table("loglikelihood", requests)
    theirs = transported.hf.score(requests, True)
    for row, wanted in zip(ours, theirs, strict=True):
        assert row.log_likelihoods == pytest.approx(wanted.log_likelihoods, abs=1e-3)
        assert row.is_greedy == wanted.is_greedy
        assert max(row.log_likelihoods) - min(row.log_likelihoods) > 0.05


def test_transported_texts_are_those_of_act_hf(transported: SimpleNamespace) -> None:
    prompts = ["The capital of France is", "Germany", "the capital " * 80]
    options = {"until": ["."], "max_gen_toks": 12, "do_sample": False}
    requests = instances("generate_until", [(prompt, options) for prompt in prompts])
    ours = transported.vllm.table("generate_until", requests)
    assert ours == transported.hf.generate(requests, True)
    assert len(set(ours[0])) == 4


def test_record_of_a_transported_model_names_its_transport(
    transported: SimpleNamespace, small_transport: Path
) -> None:
    info = transported.vllm.get_model_info()
    assert info["modulation"]["changes"]["transport"]["fingerprint"] == (
        LearnedTransport.load(small_transport).fingerprint
    )
    assert transported.vllm.columns == transported.hf.columns


def test_strength_is_no_option_of_a_request(transported: SimpleNamespace) -> None:
    request = instances("generate_until", [("a", {"until": [], "strength": 1.0})])
    with pytest.raises(ValueError, match="strength is an argument of the model"):
        transported.vllm.generate(request)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"transport": None}, "transport= is missing: .*transport=DIR"),
        ({"transport": "no/such/folder"}, "transport='no/such/folder' is no folder"),
        ({"strength": "much"}, "strength='much' is malformed"),
        ({"strength": [0.5, 0.5]}, "holds 0.5 twice"),
        ({"noise_std": [0, -1]}, "noise_std=-1 is negative"),
    ],
    ids=str,
)
def test_bad_arguments_of_act_vllm_are_named_before_the_model_is_loaded(
    small_transport: Path, tmp_path: Path, arguments: dict, problem: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=problem):
        ActVLLM(str(tmp_path / "no model"), **{"transport": str(small_transport)} | arguments)


def test_maps_that_workers_cannot_read_are_refused(small_transport: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"transport.save\(DIR\)"):
        ActVLLM(str(tmp_path / "no model"), transport=LearnedTransport.load(small_transport))


def test_a_strength_without_a_transport_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="strength=0.5 has no transport"):
        AimVLLM(str(tmp_path / "no model"), strength=0.5)


def log_likelihoods(samples: list[dict[str, Any]], label: str = "") -> list[float]:
    """Every response in the harness's samples, of one strength where its label is given."""
    kept = [sample for sample in samples if sample["filter"].endswith(label)]
    kept.sort(key=lambda sample: sample["doc_id"])
    return [float(response[0]) for sample in kept for [response] in sample["resps"]]


def samples_in(folder: Path) -> list[dict[str, Any]]:
    [path] = folder.rglob("samples_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sweep_and_stock_command_give_the_responses_of_act_hf(
    transported: SimpleNamespace, words: Words, small_transport: Path, tmp_path: Path
) -> None:
    from aim_plugins.cli import main

    task = "aim_demo_continents"
    samples = evaluate(transported.hf, task, 3)["samples"][task]
    expected = {label: log_likelihoods(samples, f"@{label}") for label in ("-0.5", "0.5", "1")}
    assert abs(expected["0.5"][0] - expected["1"][0]) > 0.01
    given = {"transport": small_transport, "max_length": 127}

    sweep = tmp_path / "sweep"
    arguments = [*words("act_vllm", task, **given), "--strength", "0.5,1"]
    assert main(["sweep", "lm-eval", *arguments, "--output", str(sweep)]) == 0
    for label in ("0.5", "1"):
        cell = samples_in(sweep / "cells" / f"strength={label},draw=0")
        assert log_likelihoods(cell) == pytest.approx(expected[label], abs=1e-3)

    folder = tmp_path / "stock"
    arguments = words("act_vllm", task, strength=-0.5, **given)
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", *arguments),
            *("--output_path", str(folder), "--log_samples"),
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert log_likelihoods(samples_in(folder)) == pytest.approx(expected["-0.5"], abs=1e-3)
