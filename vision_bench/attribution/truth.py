"""True outputs under masks, and baselines, kept as files: killed anywhere, an evaluation goes on.

What lies in the folder is of one model, its components and images, which the study's manifest pins.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aim_plugins.attribution.subject import BatchSubject, factors_of
from aim_plugins.core.files import safe_name, write_atomic
from vision_bench.attribution.init import GRADIENT_COST

_BLOCK = 64
"""Masks in a file."""

_TENSOR, _PASSES = "values", "passes"


class Truth:
    """What a subject's outputs are, and what follows from them alone.

    Args:
        subject: The classifier with its components, and the images.
        folder: Where files go; made with the first one.
        after: Called after each block of masks with how many are there, and how many there are.
    """

    def __init__(
        self,
        subject: BatchSubject,
        folder: Path,
        after: Callable[[str], Callable[[int, int], None]] | None = None,
    ) -> None:
        self.subject, self.folder, self._after = subject, folder, after

    def under(
        self, name: str, ablated: Bool[np.ndarray, "masks components"]
    ) -> Float[Tensor, "masks images"]:
        """Outputs of all images under masks.

        Args:
            name: Names the masks, whatever their number.
            ablated: Which components each of them ablates.
        """
        return self._blocks(name, len(ablated), lambda start, stop: ablated[start:stop])

    def leave_one_out(self) -> tuple[Float[Tensor, "images components"], float]:
        """By how much each output falls when one component alone is ablated, and passes."""
        count = len(self.subject.components)

        def alone(start: int, stop: int) -> Bool[np.ndarray, "masks components"]:
            return np.eye(stop - start, count, start, dtype=bool)

        whole, _ = self.kept("whole", lambda: self.subject.whole()[None])
        return (whole - self._blocks("one", count, alone)).T.contiguous(), count + 1.0

    def kept(self, name: str, compute: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """A tensor that is computed once, and passes that this took.

        Args:
            name: Names it.
            compute: Computes it.
        """
        path = self.folder / f"{safe_name(name)}.safetensors"
        if (held := _read(path)) is not None:
            return held
        before = self._passes()
        found = compute()
        passes = round(self._passes() - before, 6)  # sums of shares are not to show
        self.folder.mkdir(parents=True, exist_ok=True)
        content = safetensors.torch.save(
            {_TENSOR: found.contiguous()}, metadata={_PASSES: repr(passes)}
        )
        write_atomic(path, content)
        return found, passes

    def _blocks(
        self, name: str, count: int, masks: Callable[[int, int], Bool[np.ndarray, "masks _"]]
    ) -> Float[Tensor, "masks images"]:
        tell = None if self._after is None else self._after(name)
        found = []
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            ablated = masks(start, stop)
            part, _ = self.kept(
                f"{name},{start}-{stop - 1}",
                lambda ablated=ablated: self.subject.outputs(factors_of(ablated)),  # type: ignore[misc]
            )
            found.append(part)
            if tell is not None:
                tell(stop, count)
        return torch.cat(found)

    def _passes(self) -> float:
        """What was computed so far, in forward passes."""
        passes = self.subject.passes
        return passes.forward + (GRADIENT_COST - 1) * passes.backward


def _read(path: Path) -> tuple[Tensor, float] | None:
    """What a file holds; None if there is none, or a damaged one, which is computed again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as held:
            return held.get_tensor(_TENSOR), float((held.metadata() or {})[_PASSES])
    except (SafetensorError, KeyError, ValueError):
        return None
