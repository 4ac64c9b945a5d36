"""Settings of rows as vectors on a device, copied there once.

A decoding step asks for the same few numbers as the step before. Copied anew, each would let the
host wait for the device once more for every token.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor


def placed(
    values: Sequence[int | float], dtype: torch.dtype, device: torch.device
) -> Shaped[Tensor, " values"]:
    """Numbers as a vector on a device.

    Args:
        values: The numbers.
        dtype: Type of the vector.
        device: Where it lies.

    Returns:
        The vector, to be read only: whoever asks for the same numbers again gets the same one.
    """
    return _placed(tuple(values), dtype, device)


@functools.lru_cache(maxsize=64)
def _placed(values: tuple[int | float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor of inference mode could not be used outside of it.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
