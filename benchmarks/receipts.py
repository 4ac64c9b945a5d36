"""What receipts cost: answers with them against the same answers without any watching.

    python -m benchmarks.receipts [scoring] [decoding]

- scoring: 8 sentences in one batch at 2 strengths of a transport of 60 norms, and at 8 σ.
- decoding: 4 prompts × 4 strengths × 24 tokens in one batch, of the same two.

SmolLM2-135M in float32, random maps; CPU seconds, medians of paired runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.demo_model import demo_model_folder
from aim_plugins.engines import answers, decoding_rows, generation, huggingface
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
        patch.object(huggingface, "watched", blind),
        patch.object(generation, "Settlement", _Trusting),
        patch.object(decoding_rows, "Settlement", _Trusting),
        patch.object(huggingface, "Settlement", _Trusting),
        patch.object(decoding_rows, "check_order", lambda *_: None),
        patch.object(huggingface, "scored_receipts", received),
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ("scoring", "decoding"):
        found = measure(name)
        for kind, one in found.items():
            print(f"{name}, {kind}: with / without = {one['with / without']:.3f}")
        print(f"written: {write_result(f'receipts_{name}', found)}", flush=True)
