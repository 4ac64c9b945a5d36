"""Which image a row of a module's output belongs to.

A pipeline that computes guidance in one batch lays out [negative prompts, positive prompts], each
with all images in order (`num_images_per_prompt` ones next to each other). A strength for each
image is therefore tiled over the rows, never repeated consecutively. Pipelines without guidance, or
which call their denoiser twice a step, have a row for each image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = ("both", "conditional")
"""Which rows of guidance are transported: all, or those of the positive prompts."""


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
    if not output.dim() or len(output) != count:
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
