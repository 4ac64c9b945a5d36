"""A way to learn the map of one module.

Every method sees two tables of pooled activations, a row for each sentence and a column for each
neuron, and ends in a scale and a shift of each neuron (`AffineMap`): AcT's own maps, AurA, and the
baselines the AcT paper compares with. The source is what the model does, the target what it should
do: to make a model less toxic, the source holds toxic sentences.

Statistics are float64; the maps are float32.

Source: arXiv 2410.23054, section 3.1 (maps, support), 3.3 and table 1 (methods as affine maps).
"""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.statistics import in_double

_BLOCK = 2**18  # float64 samples in work at once, few enough for the processor's cache


class Method(abc.ABC):
    """A way to learn the map of one module.

    A new method fills in `_fit` and the attributes, and is registered in `METHODS`. All but the
    first six are defaults that a user may change.

    Attributes:
        name: What the command line and artifacts call it.
        title: What plots and reports call it.
        minimum_samples: Samples each side needs.
        bounded: Whether a support makes sense.
        joint: Whether a neuron's map depends on the module's other neurons.
        paired: Whether source and target sentences at the same places belong together.
        aimed: Whether the map carries the source to the target, so that it can be held against
            other sentences of both.
        pooling: How a sentence's tokens become one sample.
        positions: Tokens to transport, see `ActivationMaps`.
        incremental: Which sentences go through earlier maps while later ones are learned, see
            `incremental`.
        support: Where the map acts, see `support_bounds`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    minimum_samples: ClassVar[int] = 2
    bounded: ClassVar[bool] = True
    joint: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    aimed: ClassVar[bool] = True
    pooling: ClassVar[str] = "mean"
    positions: ClassVar[str] = "all"
    incremental: ClassVar[str] = "atonce"
    support: ClassVar[str] = "none"

    def fit(
        self, source: Float[Tensor, "n neurons"], target: Float[Tensor, "m neurons"]
    ) -> AffineMap:
        """Learns the map of one module, without a support.

        Args:
            source: Pooled activations of the source sentences.
            target: Pooled activations of the target sentences; their number may differ.

        Returns:
            The map, on the device of the source.

        Raises:
            ValueError: If a side has too few samples, holds NaN or infinity, or the widths differ;
                or if a scale or shift exceeds float32.
        """
        self._check(source, target)
        block = source.shape[1]
        if not self.joint:
            block = max(1, _BLOCK // (len(source) + len(target)))
        blocks = zip(source.split(block, dim=1), target.split(block, dim=1), strict=True)
        fitted = [self._fit(in_double(a), in_double(b)) for a, b in blocks]
        scale, shift = (
            torch.cat(parts).float().to(source.device) for parts in zip(*fitted, strict=True)
        )
        learned = AffineMap.everywhere(scale, shift)
        if not bool((learned.scale.isfinite() & learned.shift.isfinite()).all()):
            raise ValueError(
                f"method={self.name!r} learned a scale or shift that exceeds float32: source and "
                "target differ by too many orders of magnitude; fit another module"
            )
        return learned

    @abc.abstractmethod
    def _fit(
        self, source: Float64[Tensor, "n neurons"], target: Float64[Tensor, "m neurons"]
    ) -> tuple[Float64[Tensor, " neurons"], Float64[Tensor, " neurons"]]:
        """Scale and shift of each neuron from checked samples."""

    def _check(self, source: Tensor, target: Tensor) -> None:
        for side, samples in (("source", source), ("target", target)):
            if samples.dim() != 2:
                raise ValueError(
                    f"{side} has the shape {tuple(samples.shape)}: give pooled activations with a "
                    "row for each sample and a column for each neuron"
                )
            if len(samples) < self.minimum_samples:
                needed = f"at least {self.minimum_samples}: give more"
                if len(samples) and self.minimum_samples > 1:
                    needed += ", or use method='actadd', which needs one a side"
                raise ValueError(
                    f"{side} has {len(samples)} sample(s), and method={self.name!r} needs {needed}"
                )
            finite = samples.isfinite()
            if not bool(finite.all()):
                row, neuron = (~finite).nonzero()[0].tolist()
                raise ValueError(
                    f"{int((~finite).sum())} activations of the {side} are NaN or infinite, first "
                    f"neuron {neuron} of sample {row}: leave that sample out, or run the model "
                    "in float32 or bfloat16 (float16 overflows beyond 65504)"
                )
        if source.shape[1] != target.shape[1]:
            raise ValueError(
                f"source has {source.shape[1]} neurons and target {target.shape[1]}: both must "
                "come from the same module"
            )
        check_pairs(self, len(source), len(target))


def check_pairs(method: Method, n_source: int, n_target: int) -> None:
    """Refuses sides of different numbers where a method takes pairs.

    Raises:
        ValueError: Naming the numbers.
    """
    if method.paired and n_source != n_target:
        raise ValueError(
            f"source has {n_source} sample(s) and target {n_target}, and method={method.name!r} "
            "takes pairs: give as many, partners at the same place of both"
        )
