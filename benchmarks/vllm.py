"""A sweep in one continuous batch of vLLM, against an engine for each strength and transformers.

    make test-vllm
    .venv-vllm/bin/python -m benchmarks.vllm [--strengths 32] [--prompts 8] [--tokens 24]

Times are CPU seconds of this process, in which vLLM's worker runs too. Few of the many engines are
loaded and few of the strengths run alone: both are averaged and multiplied by the number of
strengths, as the result says. A load counts without Python's start and imports, and with what vLLM
can read of its cache of compiled graphs. Texts of transformers are compared with vLLM's on the way.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aim_plugins.engines.engine import Prompts
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from benchmarks._timing import cpu_seconds, paired_times, write_result

PLACES = ("France", "Japan", "Peru", "Kenya", "Norway", "India", "Canada", "Egypt")


def load(folder: Path, *, rows: int, eager: bool) -> Any:
    """An engine of the demo model that decodes so many rows at a time."""
    from vllm import LLM

    from aim_plugins.engines.vllm import llm_arguments

    return LLM(
        str(folder),
        dtype="float32",
        enforce_eager=eager,
        max_model_len=256,
        max_num_seqs=rows,
        kv_cache_memory_bytes=1 << 30,
        **llm_arguments(),
    )


def unload(llm: Any) -> None:
    llm.llm_engine.engine_core.shutdown()
    gc.collect()


def read_prompts(tokenizer: Any, count: int) -> Prompts:
    texts = [f"Question: What is {PLACES[n % 8]} known for? ({n})\nAnswer:" for n in range(count)]
    rows = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    return Prompts(rows.input_ids, rows.attention_mask)


def compare_sweeps(llm: Any, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of a sweep each way, and its tokens per CPU second."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aim_plugins.engines.huggingface import HuggingFaceEngine
    from aim_plugins.engines.vllm import VLLMEngine

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = read_prompts(tokenizer, options.prompts)
    length = prompts.token_ids.shape[1] + options.tokens
    columns = columns_of(noise_std=[3 * n / options.strengths for n in range(options.strengths)])
    engine = VLLMEngine(llm)

    def sweep(under: Sequence[Column]) -> list[list[list[int]]]:
        return engine.generate(prompts, under, max_length=length)

    # Some from all over the grid, since a strength decides when texts end.
    alone = columns[:: max(1, len(columns) // options.alone)][: options.alone]
    answers = sweep(columns)
    tokens = sum(len(row) for prompt in answers for row in prompt)
    times = paired_times(
        {
            "one batch": lambda: sweep(columns),
            "one strength at a time": lambda: [sweep((column,)) for column in alone],
        },
        rounds=options.rounds,
        warm_up=False,
    )
    seconds = {name: statistics.median(values) for name, values in times.items()}
    per_strength = seconds["one strength at a time"] / len(alone)
    seconds["one strength at a time"] = per_strength * len(columns)
    unload(llm)
    loads = []
    for _ in range(options.loads):
        loaded: list[Any] = []
        loads.append(
            cpu_seconds(
                lambda loaded=loaded: loaded.append(
                    load(folder, rows=options.strengths * options.prompts, eager=options.eager)
                )
            )
        )
        unload(loaded.pop())
    seconds["one engine for each strength"] = (statistics.mean(loads) + per_strength) * len(columns)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference = HuggingFaceEngine(model, tokenizer, max_length=255)
    decoding = {"max_length": length, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    expected: list[Any] = []
    seconds["transformers, one batch"] = cpu_seconds(
        lambda: expected.append(reference.generate(prompts, columns, **decoding))
    )
    same = [
        tokens == reference[: len(tokens)]
        for row, wanted in zip(answers, expected[0], strict=True)
        for tokens, reference in zip(row, wanted, strict=True)
    ]
    return {
        "shape": {"strengths": len(columns), "prompts": options.prompts, "tokens": options.tokens},
        "tokens of the sweep": tokens,
        "CPU seconds": seconds,
        "tokens per CPU second": {name: tokens / value for name, value in seconds.items()},
        "strengths run alone": len(alone),
        "CPU seconds of each load": loads,
        "engines for each strength / one batch": seconds["one engine for each strength"]
        / seconds["one batch"],
        "transformers / one batch": seconds["transformers, one batch"] / seconds["one batch"],
        "texts equal to those of transformers": sum(same) / len(same),
    }


def measure_overhead(llm: Any, options: argparse.Namespace) -> dict[str, Any]:
    """What the processor costs a batch of which every request has noise."""
    from vllm import SamplingParams, TokensPrompt

    rows = options.strengths
    prompts = [TokensPrompt(prompt_token_ids=[n + 5, 7, 11]) for n in range(rows)]

    def run(std: float) -> None:
        parameters = [
            SamplingParams(
                temperature=0.0,
                max_tokens=2 * options.tokens,
                ignore_eos=True,
                detokenize=False,
                extra_args={"aim_std": std, "aim_seed": n} if std else None,
            )
            for n in range(rows)
        ]
        llm.generate(prompts, parameters, use_tqdm=False)

    times = paired_times({"plain": lambda: run(0.0), "noise": lambda: run(1.0)}, rounds=7)
    ratios = [noise / plain for noise, plain in zip(times["noise"], times["plain"], strict=True)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "rows": rows,
        "CPU seconds": medians,
        "noise / plain": medians["noise"] / medians["plain"],
        "noise / plain of each round": ratios,
        "compiled": os.environ.get("AIM_PLUGINS_COMPILE", "" if options.eager else "1"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="a sweep in one continuous batch of vLLM")
    parser.add_argument("--strengths", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", type=int, default=2)
    parser.add_argument("--alone", type=int, default=4, help="strengths that are run alone")
    parser.add_argument("--eager", action="store_true", help="compile neither model nor noise")
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed here: make test-vllm, then", end=" ")
        print(".venv-vllm/bin/python -m benchmarks.vllm")
        sys.exit(0)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from aim_plugins.demo_model import demo_model_folder

    folder = demo_model_folder()
    llm = load(folder, rows=options.strengths * options.prompts, eager=options.eager)
    overhead = measure_overhead(llm, options)
    import vllm

    result = {
        "vllm": vllm.__version__,
        "overhead of the processor": overhead,
        **compare_sweeps(llm, folder, options),
    }
    print(f"noise / plain: {overhead['noise / plain']:.3f}")
    for name, value in result["tokens per CPU second"].items():
        print(f"{name}: {value:.1f} tokens per CPU second")
    print(f"written: {write_result('vllm_eager' if options.eager else 'vllm', result)}")


if __name__ == "__main__":
    main()
