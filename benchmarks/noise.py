"""Keyed noise against `torch.randn`: wall time of one draw for every logit of a batch.

    python -m benchmarks.noise [--rows 32] [--vocab-size 49152] [--device cpu] [--json PATH]

The default shape is that of 32 next-token distributions of SmolLM2. `torch.randn` draws on one
thread whatever the number of threads; the keyed draws use all of them.
"""

from __future__ import annotations

import argparse
import time

import torch

from aim_plugins.modulation.noise import prefix_keys, standard_normal
from benchmarks._timing import paired_medians, wall_seconds, write_result


def compare(rows: int, vocab_size: int, device: str, rounds: int) -> dict[str, object]:
    """Times the three in turn, and checks that both keyed paths drew the same."""
    keys = prefix_keys(torch.arange(rows, device=device)[None])[0]

    def finish() -> None:
        if device != "cpu":
            torch.accelerator.synchronize()

    def plain() -> None:
        torch.randn(rows, vocab_size, device=device)
        finish()

    def eager() -> None:
        standard_normal(keys, vocab_size, compiled=False)
        finish()

    def compiled() -> None:
        standard_normal(keys, vocab_size, compiled=True)
        finish()

    start = time.perf_counter()
    compiled()
    compile_seconds = time.perf_counter() - start
    medians = paired_medians(
        {"torch.randn": plain, "keyed, eager": eager, "keyed, compiled": compiled},
        rounds=rounds,
        clock=wall_seconds,
    )
    difference = standard_normal(keys, vocab_size, compiled=True) - standard_normal(
        keys, vocab_size, compiled=False
    )
    return {
        "shape": [rows, vocab_size],
        "rounds": rounds,
        "seconds": medians,
        "eager / torch.randn": medians["keyed, eager"] / medians["torch.randn"],
        "compiled / torch.randn": medians["keyed, compiled"] / medians["torch.randn"],
        "seconds of the first compiled call": compile_seconds,
        "largest difference of the two paths": difference.abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="keyed noise against torch.randn")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--vocab-size", type=int, default=49152)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=101)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = compare(options.rows, options.vocab_size, options.device, options.rounds)
    for name, value in result.items():
        if isinstance(value, float):
            print(f"{name}: {value:.3g}")
    print(f"written: {write_result('noise', result)}")


if __name__ == "__main__":
    main()
