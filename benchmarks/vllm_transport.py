"""What a transport costs vLLM's decoding: 60 maps on norms, every request at a strength.

    make test-vllm
    .venv-vllm/bin/python -m benchmarks.vllm_transport [--rows 64] [--tokens 24] [--eager]

Engines of one model take turns, without a transport, with one and with two, in CPU seconds of this
process, in which vLLM's workers run too. Then one batch has 1, 8, 64 and 256 distinct strengths.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._timing import paired_times, write_result

DISTINCT = (1, 8, 64, 256)
"""Numbers of distinct strengths in one batch of as many requests as the last."""


def save_transport(model_folder: Path, folder: Path, seed: int = 0) -> int:
    """Writes small random maps of all layer norms; returns their number."""
    from transformers import AutoModelForCausalLM

    from aim_plugins.modulation.activations import ActivationMaps, AffineMap
    from aim_plugins.modulation.hooks import choose_sites
    from aim_plugins.transport import LearnedTransport, TransportMetadata

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    sites = choose_sites(model, r".*layernorm")
    generator = torch.Generator().manual_seed(seed)
    width = model.config.hidden_size
    maps = {
        site: AffineMap.everywhere(
            1 + 0.01 * torch.randn(width, generator=generator),
            0.01 * torch.randn(width, generator=generator),
        )
        for site in sites
    }
    metadata = TransportMetadata.describe(model, None, method="mean", sites=sites)
    LearnedTransport(ActivationMaps(maps), metadata).save(folder)
    return len(sites)


def measure(model_folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Paired times of both engines."""
    from vllm import LLM, SamplingParams, TokensPrompt

    from aim_plugins.engines.vllm import llm_arguments

    def load(**given: Any) -> LLM:
        return LLM(
            str(model_folder),
            dtype="float32",
            enforce_eager=options.eager,
            max_model_len=256,
            max_num_seqs=max(options.rows, *DISTINCT),
            kv_cache_memory_bytes=1 << 30,
            **llm_arguments(**given),
        )

    def run(llm: LLM, rows: Sequence[dict[str, float]], tokens: int = options.tokens) -> None:
        asked = [
            SamplingParams(
                temperature=0.0,
                max_tokens=tokens,
                ignore_eos=True,
                detokenize=False,
                extra_args={f"aim_strength_{name}": value for name, value in row.items()},
            )
            for row in rows
        ]
        prompts = [TokensPrompt(prompt_token_ids=[n + 5, 7, 11]) for n in range(len(rows))]
        llm.generate(prompts, asked, use_tqdm=False)

    with tempfile.TemporaryDirectory() as folder:
        folders = {name: Path(folder) / name for name in ("praise", "sea")}
        for seed, place in enumerate(folders.values()):
            sites = save_transport(model_folder, place, seed)
        plain, two = load(), load(transports=folders)
        one = load(transports={"praise": folders["praise"]})
    rows, most = options.rows, max(DISTINCT)
    praise, sea = {"praise": 0.5}, {"sea": 0.5}
    times = paired_times(
        {
            "plain engine": lambda: run(plain, [{}] * rows),
            "strength 0.5": lambda: run(one, [praise] * rows),
            "strength 0": lambda: run(one, [{}] * rows),
            "two transports, half of the rows each": lambda: run(two, [praise, sea] * (rows // 2)),
            "two transports in every row": lambda: run(two, [praise | sea] * rows),
        },
        rounds=options.rounds,
    )
    batches = {
        number: [{"praise": 1 - (n % number) / most} for n in range(most)] for number in DISTINCT
    }
    times |= paired_times(
        {
            f"{number} distinct strengths": functools.partial(
                run, one, strengths, options.distinct_tokens
            )
            for number, strengths in batches.items()
        },
        rounds=options.rounds,
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    same = medians["1 distinct strengths"]
    return {
        "sites": sites,
        "rows": rows,
        "compiled": not options.eager,
        "CPU seconds": medians,
        "strength 0.5 / plain engine": medians["strength 0.5"] / medians["plain engine"],
        "strength 0 / plain engine": medians["strength 0"] / medians["plain engine"],
        **{
            f"{name} / one transport": medians[name] / medians["strength 0.5"]
            for name in ("two transports, half of the rows each", "two transports in every row")
        },
        "rows with distinct strengths": most,
        "throughput of K distinct strengths / of one": {
            number: same / medians[f"{number} distinct strengths"] for number in DISTINCT
        },
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description="the cost of a transport in vLLM's decoding")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--distinct-tokens", type=int, default=8, help="of each of the 256 rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed here: make test-vllm, then", end=" ")
        print(".venv-vllm/bin/python -m benchmarks.vllm_transport")
        sys.exit(0)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from aim_plugins.demo_model import demo_model_folder

    result = measure(demo_model_folder(), options)
    for name, value in result.items():
        if " / " in name and isinstance(value, float):
            print(f"{name}: {value:.3f}")
    for number, ratio in result["throughput of K distinct strengths / of one"].items():
        print(f"{number} distinct strengths in a batch, throughput / of one: {ratio:.3f}")
    name = "vllm_transport_eager" if options.eager else "vllm_transport"
    print(f"written: {write_result(name, result)}")


if __name__ == "__main__":
    main()
