"""The strengths that maps were applied with, as they lay on the device, and the maps' bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.modulation.parameters import to_host


class AppliedWeights:
    """The factors of displacements, in the end of all passes.

    Args:
        kept: Each factor, in a shape that broadcasts over the activations; the first entry of its
            key is the shape of those without neurons.
        uses: How often each site used each factor.

    Attributes:
        sites: The sites.
    """

    def __init__(self, kept: Mapping[Any, Tensor], uses: Mapping[str, Counter[Any]]) -> None:
        self.sites = list(uses)
        found = zip(kept, to_host(list(kept.values())), strict=True)
        self._values = [np.broadcast_to(one, (*key[0], 1)) for key, one in found]
        self._uses = np.array([[uses[site][key] for key in kept] for site in uses])

    def calls(self) -> list[int]:
        """How often each site was reached."""
        return self._uses.sum(1).tolist()

    def tokens(self, strengths: Sequence[float]) -> Int[np.ndarray, "sites rows"]:
        """Tokens of each row that each site moved at that row's strength."""
        rows, asked = len(strengths), np.array(strengths, dtype=np.float32)[:, None]
        marks = [
            (values.reshape(rows, -1) == asked).sum(1)
            if values.size % rows == 0
            else np.zeros(rows, dtype=int)
            for values in self._values
        ]
        return self._uses @ np.stack(marks)


def checksum(vectors: Sequence[Tensor]) -> Tensor:
    """The sum of the bits of float32 tensors, as an integer on their device."""
    flat = torch.cat([one.reshape(-1) for one in vectors])
    return flat.view(torch.int32).sum(dtype=torch.int64)
