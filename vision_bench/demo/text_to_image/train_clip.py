"""A small CLIP, trained on pictures and their captions as OpenAI trained its own.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020). Captions leave things out at random, so that what is not mentioned doesn't
count, and "a picture of something" fits every picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_bench.demo.store import make_once
from vision_bench.demo.text_to_image.judge import Judge, normalise, right_answers
from vision_bench.demo.text_to_image.tokens import LENGTH, make_tokenizer
from vision_bench.demo.text_to_image.world import (
    SIDE,
    Garments,
    caption,
    draw_subjects,
    load_garments,
    render,
    vocabulary,
)
from vision_bench.demo.training import fit, reproducible


@dataclass(frozen=True)
class ClipRecipe:
    """How the CLIP is trained.

    Attributes:
        epochs: Passes over the training garments.
        batch_size: Pictures in a step, each beside all captions of the batch.
        learning_rate: The highest one of AdamW; it rises and falls once (OneCycle).
        mentioned: How likely a caption mentions each thing that is there.
        noise: The most noise on a training picture, as a standard deviation: what a pipeline makes
            is not as clean.
        limit: How many images of the data set are looked through; None takes all.
        seed: Of the first weights and all draws.
        version: Changes with the training code and the world.
    """

    epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 2e-3
    mentioned: float = 0.7
    noise: float = 0.1
    limit: int | None = None
    seed: int = 0
    version: int = 1


def clip_folder() -> Path:
    """Folder of the trained CLIP in the cache; trains it on the first call.

    Returns:
        A folder for `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained`, whose record
        notes the share of right answers to each of `QUESTIONS` on pictures of test garments.
    """
    recipe = ClipRecipe()

    def make(folder: Path) -> dict[str, Any]:
        garments, test = load_garments("train", recipe.limit), load_garments("test", recipe.limit)
        model, processor = train_clip(garments, recipe)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        subjects = draw_subjects(random.Random(recipe.seed), test.names)
        answers = Judge(model, processor).answers(render(test.shapes, subjects))
        return {**right_answers(answers, subjects), "pictures": len(subjects)}

    return make_once("clip", asdict(recipe), make)


def train_clip(garments: Garments, recipe: ClipRecipe, *, progress: bool = True) -> tuple[Any, Any]:
    """Trains a CLIP on one thread of the CPU.

    Returns:
        A `CLIPModel` in eval mode and its `CLIPProcessor`.
    """
    from transformers import CLIPImageProcessor, CLIPProcessor

    tokenizer = make_tokenizer(vocabulary())
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = CLIPProcessor(images, tokenizer)
    with reproducible(recipe.seed):
        model = build_clip(tokenizer)
        losses = clip_loss(model, processor, garments, recipe)
        fit(
            torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.05),
            losses,
            count=len(garments.names),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            title="training a CLIP",
            progress=progress,
        )
    return model.eval(), processor


def build_clip(tokenizer: Any) -> Any:
    """A `CLIPModel` with random weights: ViT-S in spirit, for pictures of `SIDE` pixels."""
    from transformers import CLIPConfig, CLIPModel

    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "projection_dim": 64,
        **ends,
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 8,
        "projection_dim": 64,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def clip_loss(
    model: Any, processor: Any, garments: Garments, recipe: ClipRecipe
) -> Callable[[Tensor], Tensor]:
    """The contrastive loss of a batch of garments, each freshly painted and described."""
    draws = random.Random(recipe.seed)

    def loss_of(chosen: Tensor) -> Tensor:
        subjects = draw_subjects(draws, [garments.names[index] for index in chosen.tolist()])
        pictures = render(garments.shapes[chosen], subjects)
        noise = recipe.noise * torch.rand(len(subjects), 1, 1, 1) * torch.randn_like(pictures)
        texts = [caption(draws, subject, mentioned=recipe.mentioned) for subject in subjects]
        inputs = processor.tokenizer(texts, padding=True, return_tensors="pt")
        pixels = normalise((pictures + noise).clamp(0, 1), processor)
        return model(**inputs, pixel_values=pixels, return_loss=True).loss

    return loss_of
