"""Which sentences to carry through the maps learned so far: effect at equal perplexity, and time.

    python -m benchmarks.causal_fit [causal source atonce]

For each rule of `fit --incremental`, the demo's two steerings are fitted; the strength is sought at
which plain text becomes 20 % more perplexing, and 8 texts are sampled there from each of 32
prompts, with the same random numbers for every rule. Effects are means over these 256 texts;
differences from the published rule ("causal") have 95 % intervals by a bootstrap over prompts.

SmolLM2-135M in float32; CPU seconds.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from numpy.typing import NDArray

from aim_plugins.engines.loading import load_engine
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.steering.commands.fit import read_sides
from aim_plugins.steering.concepts import Lexicon
from aim_plugins.steering.perplexity import score_documents
from aim_plugins.steering.sentiment import vader_compounds
from aim_plugins.steering.settings import read_sections
from aim_plugins.steering.settings.evaluation import EvaluationSettings
from aim_plugins.steering.settings.transports import FitSettings
from aim_plugins.steering.texts import generate_texts
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.data.datasets import load_prompts, read_sentences
from aim_plugins.transport.fit import fit_transport
from aim_plugins.transport.incremental import TITLES
from benchmarks._timing import paired_medians, write_result

CONFIGS = Path("eval_configs/transport")
STEERINGS = ("sea", "sentiment")
METHODS = ("linear", "mean")
GROWTH = 0.2
REPEATS = 8
PROMPTS, DOCUMENTS = 32, 42
"""The first ones of the demo's files."""

Effects = NDArray[np.float64]
"""[prompts, repeats]"""


class Steering:
    """What the demo of one steering fits and measures."""

    def __init__(self, name: str, engine: Any) -> None:
        config = {"config": CONFIGS / f"demo_{name}.py", "output": Path("unused")}
        self.settings = read_sections(FitSettings, config, ("fit",))
        self.asked = read_sections(
            EvaluationSettings, {**config, "transport": Path("unused")}, ("generate", "evaluate")
        )
        self.sides = read_sides(self.settings)
        (plain_text,) = self.asked.perplexity
        self.documents = list(read_sentences(plain_text))[:DOCUMENTS]
        self.prompts = load_prompts(self.asked.prompts)[:PROMPTS]
        self.engine = engine

    def fit(self, method: str, rule: str) -> LearnedTransport:
        """The transport of a method and a rule, its other settings as the demo has them."""
        return fit_transport(
            self.engine.model,
            self.engine.tokenizer,
            *self.sides,
            modules=self.settings.modules,
            method=method,
            incremental=rule,
            batch_size=self.settings.batch_size,
            max_length=self.settings.max_length,
            progress=False,
        )

    def growth(self, transport: LearnedTransport, strength: float) -> float:
        """By which share the perplexity of plain text grows."""
        columns = columns_of(strength=[0.0, strength], transport=transport)
        scored = score_documents(self.engine, self.documents, columns, progress=False)
        plain, steered = scored.perplexities()
        return steered.value / plain.value - 1

    def strength_of_growth(self, transport: LearnedTransport) -> tuple[float, float]:
        """The strength at which it has grown by `GROWTH`, within 1 %, and by how much it has."""
        strength, limit = 1.0, np.log1p(GROWTH)
        for _ in range(6):
            grown = self.growth(transport, strength)
            if abs(grown - GROWTH) < 0.01:
                break
            strength *= float(np.sqrt(limit / np.log1p(grown)))  # it grows about as λ²
        return strength, grown

    def effects(self, transport: LearnedTransport, strength: float) -> Effects:
        """Effects of texts sampled at a strength."""
        repeated = [prompt for prompt in self.prompts for _ in range(REPEATS)]
        columns = columns_of(strength=strength, transport=transport)
        texts = generate_texts(
            self.engine, repeated, columns, self.asked, batch_size=64, progress=False
        )
        written = [one.text for one in texts]
        if self.asked.lexicon is not None:
            lexicon = Lexicon.read(self.asked.lexicon)
            values = [float(lexicon.occurs_in(text)) for text in written]
        else:
            values = vader_compounds(written)
        return np.array(values).reshape(len(self.prompts), REPEATS)


def standard_error(effects: Effects) -> float:
    """Of the mean, from the spread of prompts' means."""
    return float(effects.mean(1).std(ddof=1) / np.sqrt(len(effects)))


def interval(difference: Effects) -> list[float]:
    """95 % interval of a mean difference, by a bootstrap over prompts."""
    drawn = np.random.default_rng(0).integers(0, len(difference), (10_000, len(difference)))
    means = difference.mean(1)[drawn].mean(1)
    return [round(float(one), 4) for one in np.quantile(means, [0.025, 0.975])]


def measure(steering: Steering, method: str, rules: Sequence[str]) -> dict[str, Any]:
    """Effects of one method under each rule, at equal perplexity."""
    result: dict[str, Any] = {}
    base: Effects | None = None
    for rule in rules:
        transport = steering.fit(method, rule)
        strength, grown = steering.strength_of_growth(transport)
        effects = steering.effects(transport, strength)
        base = effects if base is None else base
        result[rule] = {
            "strength": round(strength, 3),
            "growth of perplexity": round(grown, 4),
            "effect": round(float(effects.mean()), 4),
            "standard error": round(standard_error(effects), 4),
            f"less {rules[0]}": round(float((effects - base).mean()), 4),
            "its interval": interval(effects - base),
        }
        print(steering.settings.data["source"], method, rule, result[rule], flush=True)
    return result


def main(rules: list[str]) -> None:
    """Measures the named rules, all by default; the first is what the others are held against."""
    logging.disable(logging.WARNING)
    rules = rules or list(TITLES)
    engine = load_engine("demo:smollm2", dtype="float32", device="cpu")
    steerings = {name: Steering(name, engine) for name in STEERINGS}
    sea = steerings["sea"]
    times = paired_medians({rule: lambda r=rule: sea.fit("linear", r) for rule in rules}, rounds=3)
    print("CPU seconds of a fit:", {rule: round(one, 2) for rule, one in times.items()}, flush=True)
    effects = {
        f"{method}, {name}": measure(steering, method, rules)
        for method in METHODS
        for name, steering in steerings.items()
    }
    result = {"cpu_seconds": times, **effects}
    print(f"written: {write_result('causal_fit', result)}")


if __name__ == "__main__":
    main(sys.argv[1:])
