"""Keyed noise on the logits of a data set's documents, the same in every command.

The noise of a document depends on its index and the seed alone, so a document keeps its noise
whatever batch it comes in and whichever documents are left out.

Source: AIM, arXiv 2603.12755, "utility modulation" and "focus modulation".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.modulation.noise import prefix_keys, standard_normal, standard_normal_at


def document_noise(
    documents: Int[Tensor, " documents"],
    classes: int,
    seed: int,
    targets: Mapping[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "documents classes"]:
    """What a strength of 1 adds to the logits of some documents.

    Args:
        documents: Index of each in its data set.
        classes: Number of classes.
        seed: Seed of the draw.
        targets: For focus modulation, class index → +1 (noise upwards) or −1 (noise downwards);
            without it every class receives signed noise.
        dtype: Of the noise.

    Returns:
        The noise, on the documents' device.
    """
    keys = prefix_keys(documents[:, None])[:, 0]
    if targets is None:
        return standard_normal(keys, classes, seed=seed, dtype=dtype)
    index = torch.tensor(list(targets), device=documents.device)
    signs = torch.tensor(list(targets.values()), dtype=dtype, device=documents.device)
    noise = torch.zeros(len(documents), classes, dtype=dtype, device=documents.device)
    noise[:, index] = signs * standard_normal_at(keys, index, seed=seed).to(dtype).abs()
    return noise
