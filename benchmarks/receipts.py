"""What receipts cost: answers with them against the same answers without any watching.

    python -m benchmarks.receipts [scoring] [decoding]
    .venv-vllm/bin/python -m benchmarks.receipts [vllm] [served]

- scoring: 8 sentences in one batch at 2 strengths of a transport of 60 norms, and at 8 σ.
- decoding: 4 prompts × 4 strengths × 24 tokens in one batch, of the same two.
- vllm: 64 rows × 24 tokens, compiled; and rows that ask for nothing, with watching and without.
- served: 256 requests of a server's engine, 64 at a time and 8 tokens each, in the CPU seconds of
  its processes.

SmolLM2-135M in float32, random maps; CPU seconds, medians of paired runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.demo_model import demo_model_folder
from aim_plugins.engines import answers, context_scores, decoding_rows, generation, huggingface
from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.modulation.settlement import Settlement
from aim_plugins.modulation.witness import Witness
from benchmarks._timing import paired_medians, write_result

TEXTS = [
    f"Report {number}: the boats left the harbour of town {number} with the morning tide, and "
    "by noon the market had sold all that they had brought the evening before."
    for number in range(8)
]


class _Trusting(Settlement):
    """Takes every word for it."""

    def rows(self, rows: Any, token_ids: Any, **_: Any) -> list[Any]:
        rows = list(rows) * len(token_ids) if len(rows) == 1 else rows
        return [dict.fromkeys(changes, 1) for changes in rows]

    def weights(self, changes: Any, **_: Any) -> dict[Any, int]:
        return dict.fromkeys(changes, 1)


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Nothing is noted and nothing held against anything while the block runs."""

    @contextlib.contextmanager
    def blind(model: Any) -> Iterator[Witness]:
        yield Witness(model)

    def received(columns: Any, *_: Any, **__: Any) -> list[None]:
        return [None for _ in columns]

    seen = answers.ChangedScores
    with (
        patch.object(generation, "watched", blind),
        patch.object(context_scores, "watched", blind),
        patch.object(generation, "Settlement", _Trusting),
        patch.object(decoding_rows, "Settlement", _Trusting),
        patch.object(context_scores, "Settlement", _Trusting),
        patch.object(decoding_rows, "check_order", lambda *_: None),
        patch.object(context_scores, "scored_receipts", received),
        patch.object(seen, "__call__", lambda self, ids, scores: scores),
        patch.object(seen, "settle", lambda *_: None),
    ):
        yield


def random_maps(model: Any) -> ActivationMaps:
    """Small random maps of all norms."""
    generator = torch.Generator().manual_seed(0)
    width = model.config.hidden_size

    def vector() -> torch.Tensor:
        return 0.02 * torch.randn(width, generator=generator)

    sites = choose_sites(model, r".*layernorm")
    return ActivationMaps({site: AffineMap.everywhere(1 + vector(), vector()) for site in sites})


def measure(kind: str, rounds: int = 5) -> dict[str, Any]:
    """Seconds with and without receipts, for a transport and for noise."""
    folder = demo_model_folder()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model.generation_config.eos_token_id = None
    engine = huggingface.HuggingFaceEngine(model, tokenizer, max_length=512)
    maps, scoring = random_maps(model), kind == "scoring"
    result: dict[str, Any] = {}
    columns_by_kind = {
        "transport": columns_of(transport=maps, strength=[0.5, 1.0] if scoring else "0.25:1:0.25"),
        "noise": columns_of(noise_std="0.25:2:0.25" if scoring else "0.25:1:0.25"),
    }
    encoded = [tokenizer(text)["input_ids"] for text in TEXTS]
    requests = [ScoreRequest(tokens[:-8], tokens[-8:]) for tokens in encoded]
    rows = tokenizer(TEXTS[:4], return_tensors="pt", padding=True)
    prompts = Prompts(rows["input_ids"], rows["attention_mask"])
    length = prompts.token_ids.shape[1] + 24
    for name, columns in columns_by_kind.items():

        def run(columns: Any = columns) -> None:
            if scoring:
                engine.score(requests, columns, batch_size=8, progress=False)
            else:
                engine.generate(
                    prompts, columns, max_length=length, do_sample=False, pad_token_id=0
                )

        def run_unwatched() -> None:
            with unwatched():
                run()

        medians = paired_medians({"with": run, "without": run_unwatched}, rounds=rounds)
        ratio = medians["with"] / medians["without"]
        result[name] = {"cpu_seconds": medians, "with / without": ratio}
    return result


def _ratios(contestants: dict[str, tuple[Any, Any]], rounds: int, **options: Any) -> dict[str, Any]:
    """Seconds of each kind with receipts and without, which take turns."""
    result: dict[str, Any] = {}
    for kind, (run, run_unwatched) in contestants.items():
        both = {"with": run, "without": run_unwatched}
        medians = paired_medians(both, rounds=rounds, **options)
        ratio = medians["with"] / medians["without"]
        result[kind] = {"cpu_seconds": medians, "with / without": ratio}
    return result


def _engine_options(folder: Path, **given: Any) -> dict[str, Any]:
    """Of an engine of vLLM with a transport of all norms."""
    from aim_plugins.engines.vllm import llm_arguments
    from benchmarks.vllm_transport import save_transport

    save_transport(demo_model_folder(), folder)
    return {
        "model": str(demo_model_folder()),
        "dtype": "float32",
        "max_model_len": 256,
        "max_num_seqs": 64,
        "kv_cache_memory_bytes": 1 << 30,
        **llm_arguments(transports={"": folder}),
        **given,
    }


def measure_vllm(rounds: int = 5) -> dict[str, Any]:
    """Seconds of batches of vLLM in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams, TokensPrompt

    from aim_plugins.engines.vllm.parameters import extra_args
    from aim_plugins.engines.vllm.runs import Runs
    from aim_plugins.engines.vllm.steps import RunnerSteps
    from aim_plugins.engines.vllm.transports import configured_maps

    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(**_engine_options(Path(folder) / "transport"))
        maps = configured_maps(llm.llm_engine.vllm_config)
    runs, prompts = Runs(llm, maps), [[number + 5, 7, 11] for number in range(64)]
    (runner,) = llm.collective_rpc(lambda worker: worker.model_runner)

    def parameters(column: Any) -> list[Any]:
        how = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True, "detokenize": False}
        return [SamplingParams(**how, extra_args=extra_args(column)) for _ in prompts]

    def run(column: Any) -> None:
        runs.run(prompts, parameters(column), [column] * len(prompts))

    def run_unwatched(column: Any) -> None:
        asked = [TokensPrompt(prompt_token_ids=tokens) for tokens in prompts]
        llm.generate(asked, parameters(column), use_tqdm=False)

    def run_unheard(column: Any) -> None:
        listeners = RunnerSteps.of(runner).listeners
        listeners.remove(runner.aim_answers)
        run_unwatched(column)
        listeners.append(runner.aim_answers)

    def turns(column: Any, watched: Callable[..., None], without: Callable[..., None]) -> Any:
        return lambda: watched(column), lambda: without(column)

    (steered,) = columns_of(transport=maps[""], strength=0.5)
    (noisy,), (plain,) = columns_of(noise_std=0.5), columns_of(noise_std=0.0)
    return _ratios(
        {
            "transport": turns(steered, run, run_unwatched),
            "noise": turns(noisy, run, run_unwatched),
            "nothing asked for": turns(plain, run_unwatched, run_unheard),
        },
        rounds,
    )


def measure_served(rounds: int = 5) -> dict[str, Any]:
    """Seconds of requests to a server's engine, and of the process that it computes in."""
    import psutil
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    with tempfile.TemporaryDirectory() as folder:
        options = _engine_options(Path(folder) / "transport")
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**options))
        watched = type(engine).generate
        unwatched = watched.__wrapped__  # type: ignore[attr-defined]

        async def ask(generate: Any, asked: dict[str, float]) -> None:
            how = {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True, "extra_args": asked}
            waiting = iter(range(256))

            async def client() -> None:
                for number in waiting:
                    prompt = {"prompt_token_ids": [number % 64 + 5, 7, 11]}
                    given = SamplingParams(**how, output_kind=RequestOutputKind.FINAL_ONLY)
                    async for _ in generate(engine, prompt, given, str(time.monotonic_ns())):
                        pass

            await asyncio.gather(*(client() for _ in range(64)))

        def seconds(work: Callable[[], Any]) -> float:
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            before = [sum(one.cpu_times()[:2]) for one in processes]
            work()
            return sum(sum(one.cpu_times()[:2]) for one in processes) - sum(before)

        def turns(asked: dict[str, float]) -> Any:
            return tuple(
                lambda generate=generate: loop.run_until_complete(ask(generate, asked))
                for generate in (watched, unwatched)
            )

        kinds = {"transport": {"aim_strength": 0.5}, "noise": {"aim_std": 0.5}}
        try:
            return _ratios({k: turns(v) for k, v in kinds.items()}, rounds, clock=seconds)
        finally:
            engine.shutdown()


def main() -> None:
    """Measures what is named, or what this environment can; prints and writes the results."""
    torch.set_num_threads(1)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "scoring": lambda: measure("scoring"),
        "decoding": lambda: measure("decoding"),
        "vllm": measure_vllm,
        "served": measure_served,
    }
    for name in sys.argv[1:] or ("scoring", "decoding"):
        found = measures[name]()
        for kind, one in found.items():
            print(f"{name}, {kind}: with / without = {one['with / without']:.3f}")
        print(f"written: {write_result(f'receipts_{name}', found)}", flush=True)


if __name__ == "__main__":
    main()
