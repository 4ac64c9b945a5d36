"""What conditions cost vLLM: a layer that could be looked at while nothing is, and probes.

    make test-vllm
    .venv-vllm/bin/python -m benchmarks.vllm_conditions [--rows 64] [--prompts 16] [--eager]

Two engines of one model and transport take turns, without a condition and with one, in CPU seconds
of this process, in which vLLM's workers run too. Then the second one answers prompts outright, and
behind probes of them; its prefix cache is emptied before.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks._timing import paired_times, write_result
from benchmarks.vllm_transport import save_transport

SITE = "model.layers.15"
"""The layer that is looked at: the middle of the demo's model."""


def save_condition(model_folder: Path, folder: Path) -> None:
    """Writes a condition with a random direction."""
    from transformers import AutoModelForCausalLM

    from aim_plugins.modulation.conditions import Condition
    from aim_plugins.transport.conditions.artifact import ConditionMetadata, LearnedCondition

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    direction = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    metadata = ConditionMetadata.of_model(model, sites=[SITE], method="cast")
    LearnedCondition(Condition(SITE, direction, 0.0), metadata).save(folder)


def measure(model_folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Paired times of both engines, and of the second one with and without probes."""
    from vllm import LLM, SamplingParams, TokensPrompt

    from aim_plugins.engines.vllm import llm_arguments
    from aim_plugins.engines.vllm.probes import prompt_states

    def load(**given: Any) -> LLM:
        return LLM(
            str(model_folder),
            dtype="float32",
            enforce_eager=options.eager,
            max_model_len=256,
            max_num_seqs=options.rows,
            block_size=32,
            kv_cache_memory_bytes=1 << 30,
            **llm_arguments(**given),
        )

    def run(llm: LLM, prompts: list[list[int]], strength: float) -> None:
        asked = SamplingParams(
            temperature=0.0,
            max_tokens=options.tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args={"aim_strength": strength},
        )
        given = [TokensPrompt(prompt_token_ids=tokens) for tokens in prompts]
        llm.generate(given, asked, use_tqdm=False)

    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder) / name for name in ("transport", "condition")}
        save_transport(model_folder, places["transport"])
        save_condition(model_folder, places["condition"])
        transports = {"": places["transport"]}
        without = load(transports=transports)
        looking = load(transports=transports, conditions={"harmful": places["condition"]})
    short = [[n + 5, 7, 11] for n in range(options.rows)]
    times = paired_times(
        {
            "no condition": lambda: run(without, short, 0.5),
            "unused condition": lambda: run(looking, short, 0.5),
        },
        rounds=options.rounds,
    )
    generator = torch.Generator().manual_seed(0)
    size = (options.prompts, options.length)
    prompts = torch.randint(5, 1000, size, generator=generator).tolist()

    def answer(strength: float, *, probed: bool) -> None:
        looking.reset_prefix_cache()
        if probed:
            prompt_states(looking, prompts, [(SITE, "mean")])
        run(looking, prompts, strength)

    times |= paired_times(
        {
            "plain": lambda: answer(0.0, probed=False),
            "condition not met": lambda: answer(0.0, probed=True),
            "steered": lambda: answer(0.5, probed=False),
            "condition met": lambda: answer(0.5, probed=True),
        },
        rounds=options.rounds,
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    pairs = (
        ("unused condition", "no condition"),
        ("condition not met", "plain"),
        ("condition met", "steered"),
    )
    return {
        "site": SITE,
        "rows": options.rows,
        "prompts": options.prompts,
        "prompt tokens": options.length,
        "new tokens": options.tokens,
        "compiled": not options.eager,
        "CPU seconds": times,
        **{f"{one} / {other}": medians[one] / medians[other] for one, other in pairs},
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description="the cost of conditions in vLLM")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=16, help="prompts that are probed")
    parser.add_argument("--length", type=int, default=128, help="tokens of each")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed here: make test-vllm, then", end=" ")
        print(".venv-vllm/bin/python -m benchmarks.vllm_conditions")
        sys.exit(0)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from aim_plugins.demo_model import demo_model_folder

    result = measure(demo_model_folder(), options)
    for name, value in result.items():
        if " / " in name:
            print(f"{name}: {value:.3f}")
    name = "vllm_conditions_eager" if options.eager else "vllm_conditions"
    print(f"written: {write_result(name, result)}")


if __name__ == "__main__":
    main()
