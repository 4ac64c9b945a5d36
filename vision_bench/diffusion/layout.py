"""Which image a row of a module's output belongs to.

A pipeline that computes guidance in one batch lays out [negative prompts, positive prompts], each
with all images in order (`num_images_per_prompt` ones next to each other). A strength for each
image is therefore tiled over the rows, never repeated consecutively. Pipelines without guidance, or
which call their denoiser twice a step, have a row for each image.

Some lay out [positive, negative], or rows that are no side of guidance at all, and the batch does
not tell them apart. Where it matters which rows are the prompts', only pipelines are taken whose
order was tried.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = ("both", "conditional")
"""Which rows of guidance are transported: all, or those of the positive prompts."""


PROMPTS_LAST = frozenset(
    (
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "SanaPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
    )
)
"""Pipelines that were seen to lay out [negative prompts, positive prompts]."""


def check_prompts_last(pipe: Any) -> None:
    """Refuses a pipeline that is not known to lay out the prompts' rows last under guidance.

    Args:
        pipe: A pipeline whose denoiser runs several rows for each image.

    Raises:
        ValueError: If its call is none of those of `PROMPTS_LAST`.
    """
    # A subclass may have a call of its own, as those with perturbed attention have.
    owner = type(pipe).__call__.__qualname__.split(".")[0]
    if owner not in PROMPTS_LAST:
        raise ValueError(
            f"pipeline: {type(pipe).__name__} runs several rows for each image, and it is not "
            f"known which of them are the prompts', as it is for {', '.join(sorted(PROMPTS_LAST))}"
            ": give a guidance_scale that runs one row for each image (0 or 1, with perturbed "
            "attention off), and rows='both'"
        )


@contextlib.contextmanager
def images_counted(pipe: Any, images: int) -> Iterator[None]:
    """Refuses calls of a pipeline that make another number of images, while the block runs.

    The scheduler is given the latents of all images at each step, whatever guidance made of them in
    the denoiser, whose rows alone do not tell two sides of an image from two images of one seed.

    Args:
        pipe: The pipeline. A copy of its scheduler counts too, another scheduler does not.
        images: How many images its calls make.

    Raises:
        ValueError: In the first step of a call that makes another number.
    """
    scheduler = pipe.scheduler
    before = vars(scheduler).get("step")

    @functools.wraps(type(scheduler).step)  # pipelines look for its arguments
    def step(self: Any, output: Tensor, time: Any, sample: Tensor, *more: Any, **named: Any) -> Any:
        if len(sample) != images:
            raise ValueError(
                f"strengths: {images} were given, and the pipeline's call makes {len(sample)} "
                "image(s): give one for each, prompts times num_images_per_prompt"
            )
        return type(self).step(self, output, time, sample, *more, **named)

    scheduler.step = MethodType(step, scheduler)  # bound, so that a deep copy has its own
    try:
        yield
    finally:
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before


def check_rows(rows: str) -> None:
    """Refuses a word that is none of `ROWS`.

    Raises:
        ValueError: If it is another.
    """
    if rows not in ROWS:
        raise ValueError(f"rows={rows!r} is unknown: write 'both' or 'conditional'")


def tiles(count: int, images: int) -> int:
    """How many rows of a batch each image has.

    Args:
        count: Rows of the batch.
        images: Images of it.

    Raises:
        ValueError: If the images do not divide the rows.
    """
    if count % images:
        raise ValueError(_mismatch(count, images))
    return count // images


def check_tiled(batch: Float[Tensor, "rows ..."], images: int) -> None:
    """Refuses a batch that is not laid out as so many images, all of them once and again.

    Sides of guidance denoise the same latents: rows an image apart are equal, bit by bit.

    Args:
        batch: What a denoiser is given.
        images: Images of it.

    Raises:
        ValueError: If it holds another number of images.
    """
    sides = batch.detach().reshape(tiles(len(batch), images), images, -1)
    # Broken runs have NaN, which equals nothing.
    if not all(torch.allclose(sides[0], side, 0.0, 0.0, equal_nan=True) for side in sides[1:]):
        raise ValueError(_mismatch(len(batch), images))


def check_row_axis(output: Tensor, count: int, site: str) -> None:
    """Refuses an output whose first axis does not hold the rows of the denoiser's batch.

    Args:
        output: A module's output.
        count: Rows of the batch.
        site: The site's name, for the error.

    Raises:
        ValueError: If it has another length.
    """
    if output.shape[:1] != (count,):
        raise ValueError(
            f"modules: {site!r} has an output of the shape {tuple(output.shape)}, whose first axis "
            f"is not the {count} rows of the denoiser's batch: leave it out of the pattern"
        )


def over_rows(
    strengths: Float[Tensor, " images"] | Sequence[float], count: int, rows: str = "both"
) -> Float[Tensor, " rows"]:
    """The strength of each row of a batch.

    Args:
        strengths: Strength of each image.
        count: Rows of the batch.
        rows: One of `ROWS`; "conditional" leaves the rows of negative prompts as they are.

    Raises:
        ValueError: If the images do not divide the rows, or rows="conditional" where there is no
            batch of negative and positive prompts.

    >>> over_rows([0.0, 0.5], 4), over_rows([0.0, 0.5], 4, "conditional")
    (tensor([0.0000, 0.5000, 0.0000, 0.5000]), tensor([0.0000, 0.0000, 0.0000, 0.5000]))
    """
    check_rows(rows)
    values = torch.as_tensor(strengths, dtype=torch.float32)
    repeats = tiles(count, len(values))
    if rows == "both":
        return values.repeat(repeats)
    return torch.where(conditional(count, len(values)), values.repeat(repeats), 0.0)


def conditional(count: int, images: int) -> Tensor:
    """Which rows of a batch are those of the positive prompts, under batched guidance.

    Raises:
        ValueError: If each image has another number of rows than 2.
    """
    repeats = tiles(count, images)
    if repeats != 2:
        raise ValueError(
            f"rows='conditional' needs a batch of negative and positive prompts, but the denoiser "
            f"runs {repeats} row(s) for each image, as without guidance or with a call for each "
            "side: write rows='both'"
        )
    return torch.arange(count) >= images


def _mismatch(count: int, images: int) -> str:
    return (
        f"strengths: {images} were given, but the denoiser's batch of {count} rows is not that "
        "many images, side by side for guidance: give one strength for each image of the "
        "pipeline's call, prompts times num_images_per_prompt"
    )
