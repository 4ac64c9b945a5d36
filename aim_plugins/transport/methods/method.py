"""A way to learn the map of one module.

Every method sees two tables of pooled activations, a row for each sentence and a column for each
neuron, and most end in a scale and a shift of each neuron (`AffineMap`): AcT's own maps, AurA, and
the baselines the AcT paper compares with. The source is what the model does, the target what it
should do: to make a model less toxic, the source holds toxic sentences.

Methods whose sites have one direction say in such a map what a site tells, and `settled` makes the
maps of all sites from it; LinEAS learns all by descent through the model. CHaRS makes maps of
another kind.

Statistics are float64; the maps are float32.

Source: arXiv 2410.23054, section 3.1 (maps, support), 3.3 and table 1 (methods as affine maps).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from aim_plugins.core.errors import did_you_mean
from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.statistics import in_double

_BLOCK = 2**18  # float64 samples in work at once, few enough for the processor's cache


class Method:
    """A way to learn the map of one module.

    A new method fills in `_fit`, or `_map` where its map is not affine, and the attributes, and is
    registered in `METHODS`. The last four are defaults that a user may change. Options of its own
    are the fields of a dataclass.

    Attributes:
        name: What the command line and artifacts call it.
        title: What plots and reports call it.
        minimum_samples: Samples each side needs.
        bounded: Whether a support makes sense.
        joint: Whether a neuron's map depends on the module's other neurons.
        paired: Whether source and target sentences at the same places belong together.
        together: Whether the maps of all sites are learned as one, so that each depends on which
            others there are.
        shared: Whether sites are settled with each other once each has told its own: all then act
            along what some of them told.
        stream: Whether it belongs where the residual stream is written, or is read whole.
        aimed: Whether the map carries each neuron from the source to the target, so that it can be
            held against other sentences of both.
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
    together: ClassVar[bool] = False
    shared: ClassVar[bool] = False
    stream: ClassVar[bool] = False
    aimed: ClassVar[bool] = True
    pooling: ClassVar[str] = "mean"
    positions: ClassVar[str] = "all"
    incremental: ClassVar[str] = "atonce"
    support: ClassVar[str] = "none"

    def fit(
        self, source: Float[Tensor, "n neurons"], target: Float[Tensor, "m neurons"]
    ) -> ActivationMap:
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
        self.check(source, target)
        return self._map(source, target)

    def _map(
        self, source: Float[Tensor, "n neurons"], target: Float[Tensor, "m neurons"]
    ) -> ActivationMap:
        """The map from checked samples: by `_fit`, of a block of neurons after the other."""
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

    @property
    def joined(self) -> bool:
        """Whether a site's map depends on which other sites there are."""
        return self.together or self.shared

    @property
    def options(self) -> dict[str, Any]:
        """Options of its own, as results record them."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}

    def settled(
        self, learned: Mapping[str, ActivationMap], separations: Mapping[str, float]
    ) -> tuple[dict[str, ActivationMap], dict[str, Any]]:
        """The maps of all sites, from what each site told.

        Args:
            learned: What each told, in the order of a forward pass.
            separations: Of `shared` methods, how far apart the sides are at each site.

        Returns:
            The maps, and the options that make them.
        """
        return dict(learned), self.options

    def _fit(
        self, source: Float64[Tensor, "n neurons"], target: Float64[Tensor, "m neurons"]
    ) -> tuple[Float64[Tensor, " neurons"], Float64[Tensor, " neurons"]]:
        """Scale and shift of each neuron from checked samples."""
        raise NotImplementedError

    def check(self, source: Tensor, target: Tensor) -> None:
        """Refuses pooled activations that allow no fit.

        Raises:
            ValueError: Naming the side.
        """
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


@dataclasses.dataclass(frozen=True)
class SharedDirection(Method):
    """A method whose maps come of one direction for all sites, a difference of last tokens' means.

    Attributes:
        direction_site: The site whose direction it is; None chooses.
    """

    bounded: ClassVar[bool] = False
    shared: ClassVar[bool] = True
    aimed: ClassVar[bool] = False
    pooling: ClassVar[str] = "last"

    direction_site: str | None = None

    def _fit(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(source[0]), target.mean(0) - source.mean(0)


def direction_of(learned: Mapping[str, ActivationMap], site: str) -> Tensor:
    """The difference of means at a site, for maps of all sites.

    Raises:
        ValueError: If it is none of the sites, or another one has another width.
    """
    if site not in learned:
        raise ValueError(
            f"direction_site={site!r} is none of the {len(learned)} modules; "
            f"{did_you_mean(site, learned)}"
        )
    width = learned[site].neurons
    if others := [one for one, each in learned.items() if each.neurons != width]:
        raise ValueError(
            f"modules: {others[0]!r} has {learned[others[0]].neurons} neurons and {site!r} has "
            f"{width}, and one direction is for all: choose modules of one width, such as blocks"
        )
    return learned[site].parts["shift"]
