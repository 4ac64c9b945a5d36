"""How far a strength that spends a budget on one half of the plain texts misses it on the other.

    python -m benchmarks.calibration

Transports of the demo's steering towards the sea, each near the strength of KL 0.1, run over all
112 plain texts once. The texts are then dealt out to halves 2000 times, by chance and matched by
the plain model's loss as `transport calibrate` does. To first order the strength moves the costs of
all texts alike, so the miss of a deal is the ratio of its halves' costs less 1.

SmolLM2-135M in float32; CPU seconds.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from aim_plugins.engines.loading import load_engine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.costs import (
    Changed,
    TextCosts,
    encode_texts,
    measure_costs,
)
from aim_plugins.steering.calibration.halves import Halves, split_halves, split_matched
from aim_plugins.sweep.estimates import ratio
from aim_plugins.transport.change import Transport
from aim_plugins.transport.data.datasets import read_sentences
from aim_plugins.transport.fit import fit_transport
from benchmarks._timing import write_result

DATA = Path("eval_configs/transport/data")
CASES = (
    ("linear", r".*layernorm", 0.447),
    ("mean", r"model\.layers\.27", 1.92),
    ("caa", r"model\.layers\.28", 1.47),
    ("iti", r"model\.layers\.25", 4.8),
)
DEALS, NEAR = 2000, 0.1


def misses(costs: TextCosts, deal: Callable[[int], Halves[int]]) -> list[float]:
    """Of each deal, the cost of the held-out half against that of the other, less 1."""

    def cost(members: Sequence[int]) -> float:
        return ratio(
            [costs.divergences[one] for one in members], [costs.tokens[one] for one in members]
        ).value

    halves = map(deal, range(DEALS))
    return [cost(one.held_out) / cost(one.calibration) - 1 for one in halves]


def main() -> None:
    """Measures the cases and writes their figures."""
    logging.disable(logging.WARNING)
    engine = load_engine("demo:smollm2", dtype="float32", device="cpu")
    texts = encode_texts(engine, read_sentences(DATA / "plain_text.jsonl"))
    numbers = [str(place) for place in range(len(texts))]
    sides = [read_sentences(DATA / f"sea_{side}.jsonl") for side in ("source", "target")]
    result = {}
    for method, modules, strength in CASES:
        learned = fit_transport(
            engine.model, engine.tokenizer, *sides, modules=modules, method=method,
            batch_size=16, progress=False,
        )  # fmt: skip
        change = Transport(strength, learned.fingerprint, learned.maps)
        started = time.process_time()
        [costs] = measure_costs(engine, texts, [Changed(Column((change,)))], batch_size=16)
        seconds = time.process_time() - started
        losses = [
            one / count for one, count in zip(costs.reference_losses, costs.tokens, strict=True)
        ]

        def dealt(seed: int) -> Halves[int]:
            halves = split_halves(numbers, seed, "numbers")
            return Halves(*(list(map(int, side)) for side in (halves.calibration, halves.held_out)))

        def matched(seed: int, losses: Sequence[float] = losses) -> Halves[int]:
            return split_matched(range(len(texts)), losses, seed)

        found = {"strength": strength, "texts": len(texts), "cpu_seconds": seconds}
        found |= {"kl": costs.divergence.value, "kl_stderr": costs.divergence.stderr}
        for name, deal in (("dealt", dealt), ("matched", matched)):
            missed = misses(costs, deal)
            found[f"{name}_deviation"] = statistics.pstdev(missed)
            found[f"{name}_within"] = statistics.fmean(abs(one) < NEAR for one in missed)
        result[f"{method} at {modules}"] = found
        print(f"{method} at {modules}:", {k: round(v, 4) for k, v in found.items()}, flush=True)
    print(f"written: {write_result('calibration', result)}")


if __name__ == "__main__":
    main()
