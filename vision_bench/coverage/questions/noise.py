"""Noise on an image's most relevant pixels, and on random ones.

Source: Gerasimou et al., "Importance-driven deep learning system testing" (ICSE 2020), section 5.3:
Gaussian noise on the 2 % of pixels of the highest relevance by LRP. LRP-ε of the input of a ReLU
network is gradient × input.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.noise import prefix_keys, standard_normal

Pixels = Float[Tensor, "images 3 height width"]


def pixel_relevance(module: nn.Module, images: Pixels) -> Float[Tensor, "images pixels"]:
    """Absolute relevance of each pixel for the predicted class, by gradient × input.

    Args:
        module: Takes normalised images, gives logits.
        images: Normalised images.

    Returns:
        |Σ over channels of gradient × input|, pixels row by row.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(leaf).amax(1).sum(), leaf)
    return (images * gradient).sum(1).abs().flatten(1)


def most_relevant(
    relevance: Float[Tensor, "images pixels"], share: float
) -> Int[Tensor, "images chosen"]:
    """The pixels of the highest relevance, at least one of each image."""
    return relevance.topk(share_of(relevance.shape[1], share), dim=1).indices


def share_of(pixels: int, share: float) -> int:
    """How many pixels a share of them is, at least one.

    >>> share_of(1024, 0.02)
    21
    """
    return max(1, math.ceil(share * pixels - 1e-9))


def random_pixels(
    positions: Int[Tensor, " images"], pixels: int, chosen: int, seed: int
) -> Int[Tensor, "images chosen"]:
    """As many pixels at random, a pure function of the image's position and the seed."""
    draws = standard_normal(_keys(positions), pixels, seed=seed_of(seed, "pixels"))
    return draws.topk(chosen, dim=1).indices


def add_noise(
    pixels: Pixels,
    chosen: Int[Tensor, "images chosen"],
    positions: Int[Tensor, " images"],
    std: float,
    seed: int,
) -> Pixels:
    """Adds Gaussian noise to some pixels, and clips to [0, 1].

    The draw of a pixel is a pure function of the image's position, the pixel, its channel and the
    seed. Grey images stay grey: their channels have one draw.

    Args:
        pixels: Images in [0, 1].
        chosen: The pixels of each that are changed.
        positions: Where the images stand in their data set.
        std: Standard deviation of the noise, as a share of the range.
        seed: Seed of the draw.
    """
    flat = pixels.flatten(2)
    count, channels, size = flat.shape
    draws = standard_normal(_keys(positions), channels * size, seed=seed_of(seed, "noise"))
    noise = draws.view(count, channels, size).to(flat)
    grey = (flat.amax(1) - flat.amin(1)).amax(1) < 1e-4
    noise = torch.where(grey[:, None, None], noise[:, :1], noise)
    mask = torch.zeros(count, 1, size, dtype=torch.bool, device=flat.device)
    mask.scatter_(2, chosen.to(flat.device)[:, None], True)
    return torch.where(mask, flat + std * noise, flat).clamp(0, 1).view_as(pixels)


def _keys(positions: Int[Tensor, " images"]) -> Int[Tensor, " images"]:
    return prefix_keys(positions.to(torch.int64).cpu()[:, None])[:, 0]
