"""`aim-plugins transport condition`: learns of which prompts a transport is to act.

aim-plugins transport condition --pretrained M --source others.jsonl --target ours.jsonl -o DIR
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aim_plugins.core.files import write_atomic
from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.loading import load_engine
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.steering.commands.fit import read_sides, seed_of
from aim_plugins.steering.settings.conditions import ConditionSettings
from aim_plugins.sweep.formats import interval_texts
from aim_plugins.sweep.paired import Interval
from aim_plugins.transport.conditions.artifact import ConditionMetadata, LearnedCondition
from aim_plugins.transport.conditions.fit import FittedCondition, Sides, deal, fit_condition
from aim_plugins.transport.conditions.picture import draw_similarities
from aim_plugins.transport.sentences import tokenize

PICTURE = "similarities.png"
"""Beside a condition's files: the similarity of each prompt at each site."""


def condition(settings: ConditionSettings, command: Sequence[str]) -> None:
    """Learns a condition.

    Raises:
        ValueError: If a file or the model is not usable, or the output folder is not empty.
        FileNotFoundError: If a file is missing.
    """
    source, target = read_sides(settings)
    parts = deal(source, target, paired=settings.paired)  # before a large model is loaded
    engine = load_engine(settings.pretrained, **settings.loading)
    started = time.perf_counter()
    states = _states(engine, source, target, settings)
    fitted = fit_condition(states, parts, summary=settings.summary, paired=settings.paired)
    found = fitted.condition
    metadata = ConditionMetadata.of_model(
        engine.model,
        method="pca_pairwise" if settings.paired else "pca_all_pairs",
        sites=[found.site],
        seed=seed_of(settings),
        data_sha256=fingerprint([source, target]),
        threshold=found.threshold,
        above=found.above,
        summary=found.summary,
        chat=settings.chat,
        n_source=len(source),
        n_target=len(target),
        held_out=fitted.held_out.numbers,
    )
    LearnedCondition(found, metadata).save(settings.output)
    write_atomic(settings.output / PICTURE, draw_similarities(fitted)["png"])
    print(_report(fitted, metadata, time.perf_counter() - started, settings.output))


def _states(
    engine: HuggingFaceEngine,
    source: Sequence[str],
    target: Sequence[str],
    settings: ConditionSettings,
) -> dict[str, Sides]:
    """States of both sides at each site."""
    sites = choose_sites(engine.model, settings.layers)
    prompts = _tokens(engine, source, target, chat=settings.chat)
    rows = engine.states(prompts, [(site, settings.summary) for site in sites])
    stacked = [torch.stack(own) for own in zip(*rows, strict=True)]
    count = len(source)
    return {site: (own[:count], own[count:]) for site, own in zip(sites, stacked, strict=True)}


def _tokens(
    engine: HuggingFaceEngine, source: Sequence[str], target: Sequence[str], *, chat: bool
) -> list[list[int]]:
    """Token ids of all prompts, those of the source first.

    Raises:
        ValueError: If one is empty, or too long as it is or in the chat template; or there is none.
    """
    tokenizer: Any = engine.tokenizer
    sides = {"source": source, "target": target}
    rows = tokenize(tokenizer, sides, None, engine.max_length)
    if not chat:
        return sum(rows, [])
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("--chat: the model's tokenizer has no chat template: leave it out")
    for name, texts in sides.items():
        turns = [[{"role": "user", "content": text}] for text in texts]
        sides[name] = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
    return sum(tokenize(tokenizer, sides, None, engine.max_length, special=False), [])


def _report(
    fitted: FittedCondition, metadata: ConditionMetadata, seconds: float, folder: Path
) -> str:
    """What was learned and how well it holds, in a few lines."""
    told, n = fitted.held_out, fitted.n_held_out
    pairs = "partners" if metadata.method == "pca_pairwise" else "all pairs"
    return "\n".join(
        [
            f"holds where the {fitted.condition} ({metadata.summary} of a prompt's tokens), chosen "
            f"among {len(fitted.similarities)} sites at F1 {fitted.chosen.f1:.3f}",
            f"on {n[0]} + {n[1]} prompts held out: F1 {_shown(told.f1)}, true positives "
            f"{_shown(told.true_positive_rate)}, false positives "
            f"{_shown(told.false_positive_rate)}",
            f"learned from {metadata.n_source} + {metadata.n_target} prompts by PCA of {pairs} in "
            f"{seconds:.1f} s: {folder}",
        ]
    )


def _shown(one: Interval) -> str:
    return " ".join(interval_texts(one.value, one.low, one.high))
