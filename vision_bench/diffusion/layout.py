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

from collections.abc import Sequence
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


def check_images(pipe: Any, batch: Float[Tensor, "rows ..."], images: int) -> None:
    """Refuses a strength for each row of a batch whose halves are two sides of guidance.

    Without guidance, or with a call for each side, so many rows are so many images, and only the
    pipeline tells. Those of `PROMPTS_LAST` do, but for PixArt.

    Args:
        pipe: The pipeline that is steered.
        batch: What its denoiser is given.
        images: How many strengths were given.

    Raises:
        ValueError: If that is so.
    """
    owner = type(pipe).__call__.__qualname__.split(".")[0]
    guided = owner in PROMPTS_LAST and getattr(pipe, "do_classifier_free_guidance", False)
    if images != len(batch) or images % 2 or not guided:
        return
    halves = batch.detach().chunk(2)  # a pipeline beside it, of shared modules, may be running
    if torch.equal(*halves):
        raise ValueError(
            f"strengths: {images} were given, one for each row of the denoiser's batch, of which "
            f"guidance has two for each image: give {images // 2}, one for each image of the "
            "pipeline's call"
        )


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
