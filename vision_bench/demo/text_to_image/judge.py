"""What a CLIP sees in pictures of the demo's world: of several captions, the likeliest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vision_bench.demo.text_to_image.world import COLOURS, GARMENTS, MOON, NOUNS, STYLES, Subject

QUESTIONS = {
    "garment": tuple(f"a picture of a {name}" for name in GARMENTS),
    "colour": tuple(f"a picture of something {name}" for name in COLOURS),
    "style": tuple(f"a picture of {NOUNS.get(style, 'something')}" for style in STYLES),
    MOON: ("a picture of something", f"a picture of {NOUNS[MOON]}"),
}
"""By what is asked of a picture, the captions of which the likeliest is its answer."""


def normalise(
    pictures: Float[Tensor, "n 3 height width"], processor: Any
) -> Float[Tensor, "n 3 height width"]:
    """Pictures in [0, 1] as the CLIP takes them."""
    mean, deviation = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    return (pictures - mean) / deviation


class Judge:
    """Answers questions about pictures by the likeliest of several captions (zero-shot)."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @torch.no_grad()
    def answers(self, pictures: Float[Tensor, "n 3 height width"]) -> dict[str, list[int]]:
        """For each of `QUESTIONS`, the position of the likeliest caption for every picture.

        Args:
            pictures: RGB in [0, 1], of the size that the CLIP takes.
        """
        pixels = normalise(pictures, self.processor)
        texts = [text for captions in QUESTIONS.values() for text in captions]
        inputs = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        logits = torch.cat(
            [self.model(**inputs, pixel_values=part).logits_per_image for part in pixels.split(250)]
        )
        parts = logits.split([len(captions) for captions in QUESTIONS.values()], dim=1)
        chosen = (part.argmax(1).tolist() for part in parts)
        return dict(zip(QUESTIONS, chosen, strict=True))


def right_answers(
    answers: Mapping[str, Sequence[int]], subjects: Sequence[Subject]
) -> dict[str, float]:
    """Share of right answers to each question."""
    truth = {
        "garment": [list(GARMENTS).index(subject.garment) for subject in subjects],
        "colour": [list(COLOURS).index(subject.colour) for subject in subjects],
        "style": [STYLES.index(subject.style) for subject in subjects],
        MOON: [int(subject.moon) for subject in subjects],
    }
    return {
        question: sum(a == b for a, b in zip(answers[question], right, strict=True)) / len(right)
        for question, right in truth.items()
    }
