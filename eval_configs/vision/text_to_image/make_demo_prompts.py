"""Makes the prompts of the demo's text-to-image pipeline, with a fixed seed.

    python eval_configs/vision/text_to_image/make_demo_prompts.py [FOLDER]

Line by line, the files to fit on name the same garments in the same colours. Those to evaluate on
say it in other words.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from vision_bench.demo.text_to_image.world import COLOURS, GARMENTS, HEADS, MOON, PHRASES

SEED = 20261130
*FITTED, EVALUATED = HEADS


def things(repeats: int) -> list[str]:
    """Every garment in every colour in random order, and that again in another order."""
    draws = random.Random(SEED)
    once = [f"a {colour} {garment}" for garment, colour in product(GARMENTS, COLOURS)]
    return [thing for _ in range(repeats) for thing in draws.sample(once, len(once))]


def prompts() -> dict[str, list[str]]:
    """The prompts of each file, by its name."""
    plain = [
        FITTED[index // 20 % len(FITTED)].format(thing)
        for index, thing in enumerate(things(len(FITTED)))
    ]

    def with_phrases(name: str) -> list[str]:
        phrases = PHRASES[name]
        return [f"{text} {phrases[index % len(phrases)]}" for index, text in enumerate(plain)]

    evaluation = [EVALUATED.format(thing) for thing in things(1)]
    return {
        "plain": plain,
        "striped": with_phrases("striped"),
        "night": with_phrases("night"),
        "moon": with_phrases(MOON),
        "evaluation": evaluation,
        "evaluation_without_moon": [f"{text} without a moon" for text in evaluation],
    }


def write(folder: Path) -> None:
    """Writes the prompts as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in prompts().items():
        (folder / f"{name}.jsonl").write_text(lines(texts), encoding="utf-8")


def lines(texts: Iterable[str]) -> str:
    """One text a line, as JSON."""
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
