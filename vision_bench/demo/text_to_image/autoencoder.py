"""The autoencoder in whose latents the pipeline works: principal components, and a decoder.

The encoder is exact: convolutions gather each patch of 4 x 4 pixels, and the last projects it on
its leading principal components. The decoder learns to undo that, and sees the neighbouring patches
too. The class is that of the "tiny" autoencoders for Stable Diffusion (TAESD).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vision_bench.demo.text_to_image.world import Garments, draw_subject, render

CHANNELS = 16
"""Latent channels, of the 48 numbers of a patch."""
SCALE = 4
"""Pixels of a patch's side."""
_SCALING = 3.0
"""What latents are divided by for the decoder, which squeezes all beyond 3."""
_JITTER = 0.05
"""Noise on the latents that the decoder learns from: a pipeline's are not exact either."""


def build_autoencoder(pictures: Float[Tensor, "n 3 height width"]) -> Any:
    """An `AutoencoderTiny` whose encoder is fitted to pictures, and whose decoder is random.

    Args:
        pictures: RGB in [0, 1]; a thousand are enough.

    Returns:
        The autoencoder. Its latents, times its `scaling_factor`, have a mean of 0 and a variance of
        1 on average over channels; leading components keep more, but less than by their share.
    """
    from diffusers import AutoencoderTiny

    patch = 3 * SCALE**2
    autoencoder: Any = AutoencoderTiny(
        encoder_block_out_channels=(patch, patch, patch),
        num_encoder_blocks=(0, 0, 0),
        decoder_block_out_channels=(24, 24, 24),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=CHANNELS,
        scaling_factor=_SCALING,
    )
    autoencoder.encoder.requires_grad_(False)
    first, *halvings, last = autoencoder.encoder.layers
    _gather(first, [(1, 1)])
    for layer in halvings:
        _gather(layer, [(1, 1), (1, 2), (2, 1), (2, 2)])
    patches = autoencoder.encoder.layers[:-1](pictures).movedim(1, -1).flatten(0, -2).double()
    variances, directions = torch.linalg.eigh(torch.cov(patches.T))
    variances, directions = variances.flip(0)[:CHANNELS], directions.flip(1)[:, :CHANNELS]
    # Between whitening, which drowns the leading components, and leaving all as they are.
    kept = variances.sqrt() / variances.sqrt().mean()
    projection = (directions * (kept / variances).sqrt()).T / _SCALING
    with torch.no_grad():
        last.weight.zero_()
        last.weight[:, :, 1, 1] = projection.float()
        last.bias.copy_(-projection @ patches.mean(0))
        # To start from a picture's mean colour saves a third of the steps.
        autoencoder.decoder.layers[-1].bias.copy_(pictures.mean((0, 2, 3)))
    return autoencoder


def decoder_loss(autoencoder: Any, garments: Garments, seed: int) -> Callable[[Tensor], Tensor]:
    """The squared error of decoded pictures, of a batch of garments painted afresh."""
    draws = random.Random(seed)

    def loss_of(chosen: Tensor) -> Tensor:
        subjects = [draw_subject(draws, garments.names[index]) for index in chosen.tolist()]
        pictures = render(garments.shapes[chosen], subjects) * 2 - 1
        latents = autoencoder.encode(pictures).latents
        latents = latents + _JITTER * torch.randn_like(latents) / _SCALING
        return F.mse_loss(autoencoder.decode(latents).sample, pictures)

    return loss_of


@torch.no_grad()
def signal_to_noise(autoencoder: Any, pictures: Float[Tensor, "n 3 height width"]) -> float:
    """Peak signal-to-noise ratio of decoded pictures in decibels, from the error over all.

    Args:
        autoencoder: An `AutoencoderTiny`.
        pictures: RGB in [0, 1].
    """
    errors = [
        (autoencoder.decode(autoencoder.encode(part * 2 - 1).latents).sample / 2 + 0.5)
        .clamp(0, 1)
        .sub(part)
        .square()
        .mean((1, 2, 3))
        for part in pictures.split(250)
    ]
    return float(-10 * torch.cat(errors).mean().log10())


def _gather(layer: nn.Conv2d, taps: list[tuple[int, int]]) -> None:
    """Makes a convolution hand on what lies at some places of its window, channel by channel."""
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
        for output in range(layer.out_channels):
            channel, tap = divmod(output, len(taps))
            if channel < layer.in_channels:
                layer.weight[output, channel, taps[tap][0], taps[tap][1]] = 1
