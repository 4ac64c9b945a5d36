"""Images of prompts in a folder: a file for each image and strength, and a table of them.

OUT/
  images/strength=0.5/7.png   image 7 at strength 0.5
  images.jsonl                a line for each file: its number, prompt, seed and strength
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aim_plugins.core.files import write_atomic
from aim_plugins.core.strengths import format_strength

IMAGES = "images"
TABLE = "images.jsonl"


@dataclass(frozen=True)
class ImageFile:
    """An image of a prompt at a strength.

    Attributes:
        number: Number of the image, the same at all strengths; images of a prompt follow each
            other.
        prompt: The prompt.
        seed: Seed of its noise, as of `torch.Generator().manual_seed`.
        strength: The strength λ.
        file: Where it lies, from the folder on.
    """

    number: int
    prompt: str
    seed: int
    strength: float
    file: str


def plan_images(
    prompts: Iterable[str], strengths: Sequence[float], *, per_prompt: int = 1, seed: int = 0
) -> list[list[ImageFile]]:
    """The images to make, each with its files by strength in the order given.

    >>> (plain, moved), other = plan_images(["a coat", "a boot"], [0, 0.5])
    >>> moved.file, other[0].seed
    ('images/strength=0.5/0.png', 1)
    """
    every = [prompt for prompt in prompts for _ in range(per_prompt)]
    return [
        [
            ImageFile(number, prompt, seed + number, float(strength), _file(number, strength))
            for strength in strengths
        ]
        for number, prompt in enumerate(every)
    ]


def write_images(folder: Path, images: Iterable[Sequence[ImageFile]]) -> Path:
    """Writes the table of a folder's images."""
    rows = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for files in images for one in files]
    return write_atomic(folder / TABLE, "".join(rows))


def _file(number: int, strength: float) -> str:
    return f"{IMAGES}/strength={format_strength(strength)}/{number}.png"
