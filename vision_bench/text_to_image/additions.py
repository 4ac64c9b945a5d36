"""What is added to a caption so that a picture of it has a style, or a concept in it or not.

It is drawn with the seed and the caption alone, so that it is the same whatever else is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from aim_plugins.core.identity import seed_of
from vision_bench.text_to_image.captions import NONE, Parts, find_subset, read_phrases, read_styles

Write = Callable[[str, str], str]
"""Writes the prompt of a caption in a subset."""


def with_tags(texts: str | Path, subsets: Mapping[str, str], num_tags: int, seed: int) -> Write:
    """Writes a style's first tags behind a caption, and then others of it that are drawn.

    Args:
        texts: The file of styles, or its folder.
        subsets: By option, the style that it names, or "none".
        num_tags: How many tags; half of them are the first, and a style may have fewer others.
        seed: Seed of the draws.
    """
    if num_tags < 1:
        raise ValueError(f"num_tags={num_tags}: give 1 or more")
    path, styles = read_styles(texts)
    used = _used(subsets, styles, path)
    first = num_tags // 2

    def write(caption: str, name: str) -> str:
        if name == NONE:
            return caption
        rest = used[name][first:]
        drawn = _draws(seed, caption).sample(rest, min(num_tags - first, len(rest)))
        return f"{caption} {', '.join([*used[name][:first], *drawn])}"

    return write


def with_phrase(texts: str | Path, subsets: Mapping[str, str], seed: int) -> Write:
    """Writes one of a concept's phrases behind a caption.

    Args:
        texts: The file of concepts, or its folder.
        subsets: By option, the concept that it names, or "none".
        seed: Seed of the draws.
    """
    path, phrases = read_phrases(texts)
    used = _used(subsets, phrases, path)

    def write(caption: str, name: str) -> str:
        if name == NONE:
            return caption
        # A phrase and the one that denies it stand in the same place, and so are drawn together.
        return f"{caption} {_draws(seed, caption).choice(used[name])}"

    return write


def _used(subsets: Mapping[str, str], known: Parts, path: Path) -> Parts:
    named = {option: name for option, name in subsets.items() if name != NONE}
    return {name: find_subset(option, name, known, path) for option, name in named.items()}


def _draws(seed: int, caption: str) -> random.Random:
    return random.Random(seed_of(seed, caption))
