"""Images of prompts at several strengths, made together: a row of a batch for each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch

from aim_plugins.modulation.token_weights import read_strengths

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image


@runtime_checkable
class Steering(Protocol):
    """What transports a pipeline, as `ImageMaps` and learned transports do."""

    def applied(
        self, pipe: DiffusionPipeline, strengths: Sequence[float]
    ) -> AbstractContextManager[None]:
        """Transports the pipeline while the block runs, at a strength for each image."""
        ...


class GeneratedImage(NamedTuple):
    """An image of a prompt.

    Attributes:
        prompt: Index of its prompt.
        strength: The strength λ that it was made at.
        image: The image.
    """

    prompt: int
    strength: float
    image: Image


def generate_images(
    pipe: DiffusionPipeline,
    transport: Steering,
    prompts: Sequence[str],
    strengths: Sequence[float],
    seeds: Sequence[int],
    *,
    batch_size: int = 8,
    negative_prompt: str | None = None,
    done: Collection[tuple[int, float]] = (),
    **arguments: Any,
) -> Iterator[GeneratedImage]:
    """Makes an image of each prompt at each strength, those of a prompt from the same noise.

    An image depends on its prompt, seed and strength alone, up to the rounding in which batches of
    another size differ. The latents of a batch are decoded one by one, which is where a large batch
    would need the most memory.

    Args:
        pipe: The pipeline.
        transport: What it is steered by.
        prompts: The prompts.
        strengths: Strengths λ; at 0 an image is the plain pipeline's.
        seeds: Seed of each prompt's noise, as of `torch.Generator().manual_seed`.
        batch_size: Images of a batch; prompts and strengths are spread over batches in order.
        negative_prompt: What guidance leads away from; by default the pipeline's own.
        done: Pairs of prompt and strength that are not needed. Batches of nothing else are left
            out; all others are made whole, so that images come out with the same bits.
        **arguments: More of the pipeline's own, such as `num_inference_steps`, `guidance_scale`,
            `height` and `width`; None leaves one to the pipeline.

    Yields:
        The images, prompt by prompt, and by strength in the order given.

    Raises:
        ValueError: If there is nothing to make, the seeds are not as many as the prompts, a
            strength is no finite number or occurs twice, the batch size is not positive, or the
            pipeline has no autoencoder or cannot be steered.
    """
    _check(pipe, prompts, strengths, seeds, batch_size)
    rows = list(itertools.product(range(len(prompts)), strengths))
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    wanted = [batch for batch in batches if not set(batch) <= set(done)]
    given = {name: value for name, value in arguments.items() if value is not None}

    def make(batch: Sequence[tuple[int, float]]) -> Sequence[Image]:
        own: dict[str, Any] = dict(given)
        if negative_prompt is not None:  # not every pipeline spreads one text over a batch
            own["negative_prompt"] = [negative_prompt] * len(batch)
        # A generator for each row, for schedulers that draw noise at every step; on the CPU, so
        # that noise is the same on any device.
        own["generator"] = [torch.Generator().manual_seed(seeds[index]) for index, _ in batch]
        texts = [prompts[index] for index, _ in batch]
        run: Any = pipe
        with _sliced(run.vae), transport.applied(pipe, [strength for _, strength in batch]):
            return run(prompt=texts, output_type="pil", **own).images

    return (
        GeneratedImage(index, strength, image)
        for batch in wanted
        for (index, strength), image in zip(batch, make(batch), strict=True)
    )


@contextlib.contextmanager
def _sliced(vae: Any) -> Iterator[None]:
    """Decodes latents one by one while the block runs."""
    before = getattr(vae, "use_slicing", True)  # other autoencoders cannot
    if not before:
        vae.enable_slicing()
    try:
        yield
    finally:
        if not before:
            vae.disable_slicing()


def _check(
    pipe: Any,
    prompts: Sequence[str],
    strengths: Sequence[float],
    seeds: Sequence[int],
    batch_size: int,
) -> None:
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts={prompts!r}: give a list of at least one text")
    if len(seeds) != len(prompts):
        raise ValueError(
            f"seeds: {len(seeds)} were given for {len(prompts)} prompts: give one for each prompt"
        )
    if not len(read_strengths(strengths)):
        raise ValueError("strengths is empty: give at least one, such as [0.0, 1.0]")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"strengths={list(strengths)!r} has one twice: give each once")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if getattr(pipe, "vae", None) is None:
        raise ValueError(
            f"pipeline: {type(pipe).__name__} has no 'vae', which makes images of latents: load it "
            "with one"
        )
