"""`aim_vllm` in lm-evaluation-harness against `aim_hf`: the same tasks, strengths and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from aim_plugins.harnesses.lm_eval.model import AimHFLM
from aim_plugins.harnesses.lm_eval.vllm import AimVLLM

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


def test_texts_are_those_of_aim_hf(models: SimpleNamespace) -> None:
    prompts = ["The capital of France is", "Once upon a time, there", "Q: 2+2?\nA:", "word " * 200]
    options = {"until": ["\n\n", "."], "max_gen_toks": 12, "do_sample": False}
    requests = instances("generate_until", [(prompt, options) for prompt in prompts])
    ours = models.vllm.table("generate_until", requests)
    assert ours == models.hf.generate(requests, True)
    assert len({text for row in ours for text in row}) > len(prompts)


def test_table_of_strengths_goes_through_the_harness(models: SimpleNamespace) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    def evaluate(lm: Any) -> dict[str, float]:
        results = lm_eval.simple_evaluate(
            lm,
            tasks=["aim_demo_capitals"],
            task_manager=TaskManager(include_path="eval_configs/lm_eval"),
            limit=6,
            bootstrap_iters=0,
        )
        metrics = results["results"]["aim_demo_capitals"]
        return {name: value for name, value in metrics.items() if "@" in name and "err" not in name}

    accuracies = evaluate(models.vllm)
    assert {name.split(",")[0] for name in accuracies} >= {"acc@0", "acc@0.5", "acc@2"}
    assert accuracies == pytest.approx(evaluate(models.hf))


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


def test_sweep_writes_its_folder_and_goes_on_from_it(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.registry import model_registry

    from aim_plugins.harnesses.lm_eval.register import register
    from aim_plugins.harnesses.lm_eval.sweep import run_sweep

    register()
    if "aim_vllm" not in model_registry:
        model_registry.register("aim_vllm", target="aim_plugins.harnesses.lm_eval.vllm:AimVLLM")
    options = ",".join(f"{name}={value}" for name, value in VLLM_ARGUMENTS.items())
    arguments = [
        *("--model", "aim_vllm", "--batch_size", "auto", "--limit", "3"),
        *("--model_args", f"pretrained={small_checkpoint},dtype=float32,{options}"),
        *("--tasks", "aim_demo_continents,aim_demo_generation"),
        *("--include_path", "eval_configs/lm_eval"),
    ]
    output = tmp_path / "sweep"
    report = run_sweep(arguments, output=output, noise_std="0,1", noise_draws=2)
    table = (output / "sweep.csv").read_text()
    assert report.exists()
    assert {line.split(",")[0] for line in table.splitlines()[1:]} == {
        "aim_demo_continents",
        "aim_demo_generation",
    }
    monkeypatch.setattr(AimVLLM, "__init__", lambda *_, **__: pytest.fail("loaded again"))
    run_sweep(arguments, output=output, noise_std="0,1", noise_draws=2)
    assert (output / "sweep.csv").read_text() == table
