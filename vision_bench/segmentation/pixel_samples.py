"""Samples of an image's pixels that leave no class out.

A law that needs an integral for each pixel is computed on some pixels only. Drawn from the whole
image, they would mostly miss its small classes, and the mean over classes would lack them. So each
class of the ground truth is a stratum of its own: small ones are taken whole, the others share the
rest evenly, and every pixel stands for as many as its class has pixels per pixel drawn. Counts are
then unbiased, and the number of pixels of each class is exact.

Whether a class that is labelled nowhere is predicted anywhere hangs on the few pixels where it wins
without noise, which such a sample would miss: for that question a few more of each are drawn.

Source: stratified sampling, Cochran, "Sampling Techniques", 1977, chapter 5.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

STRAYS = 2
"""Pixels drawn of a class that wins somewhere in an image that has no such label."""


def sample_pixels(
    labels: Int64[Tensor, " pixels"], classes: int, total: int, *, seed: int
) -> tuple[Int64[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Draws pixels of every class present, without replacement.

    Args:
        labels: Class of each pixel; those outside [0, classes) are left out.
        classes: Number of classes.
        total: Pixels to draw; exceeded only where more classes than that are present.
        seed: Seed of the draw.

    Returns:
        Indices of pixels by class, and how many pixels each stands for, in float64.

    >>> pixels, weights = sample_pixels(torch.tensor([0, 1, 0, 9, 0, 0]), 2, 3, seed=0)
    >>> len(pixels), 1 in pixels, weights
    (3, True, tensor([2., 2., 1.], dtype=torch.float64))
    """
    labelled = ((labels >= 0) & (labels < classes)).nonzero().squeeze(1).cpu()
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))
    shuffled = labelled[order]
    strata, by_class = labels.cpu()[shuffled].sort(stable=True)
    counts = torch.bincount(strata, minlength=classes)
    sizes = _allocate(counts, total)
    rank = torch.arange(len(strata)) - (counts.cumsum(0) - counts)[strata]
    drawn = rank < sizes[strata]
    pixels, strata = shuffled[by_class][drawn], strata[drawn]
    weights = counts[strata].double() / sizes[strata]
    return pixels.to(labels.device), weights.to(labels.device)


def sample_with_strays(
    labels: Int64[Tensor, " pixels"],
    strays: Int64[Tensor, " pixels"],
    classes: int,
    total: int,
    *,
    seed: int,
) -> tuple[Int64[Tensor, " sampled"], tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]]:
    """Draws pixels as `sample_pixels` does, and some of each class that strayed into the image.

    Args:
        labels: Class of each pixel; those outside [0, classes) are left out.
        strays: The class that wins without noise where the image has no such label, elsewhere
            `classes`.
        classes: Number of classes.
        total: Pixels to draw by label; `STRAYS` of each stray class come on top.
        seed: Seed of the draw.

    Returns:
        Indices of pixels, and in float64 how many pixels each stands for: by label, and by whether
        and which class strayed.
    """
    pixels, weights = sample_pixels(labels, classes, total, seed=seed)
    kinds = int((torch.bincount(strays, minlength=classes + 1)[:classes] > 0).sum())
    others, stray_weights = sample_pixels(strays, classes, STRAYS * kinds, seed=seed)
    at_home = torch.where(strays[pixels] < classes, 0.0, weights)
    return torch.cat([pixels, others]), (
        torch.cat([weights, torch.zeros_like(stray_weights)]),
        torch.cat([at_home, stray_weights]),
    )


def _allocate(counts: Int64[Tensor, " classes"], total: int) -> Int64[Tensor, " classes"]:
    """Shares pixels out: all of a class where it has fewer than an even share of what is left."""
    sizes = torch.zeros_like(counts)
    present = [index for index in counts.argsort(stable=True).tolist() if counts[index]]
    for position, index in enumerate(present):
        share = max(1, total // (len(present) - position))
        sizes[index] = min(int(counts[index]), share)
        total -= int(sizes[index])
    return sizes
