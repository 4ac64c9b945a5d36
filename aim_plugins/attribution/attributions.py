"""Component attributions: by how much each component raises the output for each example.

The output under a mask is predicted by the intercept and the sum of the weights of the components
that are kept: of the ablated ones the effect is the sum of their weights, with the opposite sign.

Source: arXiv:2404.11534, section 2, definitions 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aim_plugins.attribution.metadata import AblationMetadata
from aim_plugins.core import artifact
from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing
from aim_plugins.modulation.components import Components

PUBLISHED = "published"
"""The method of attributions that were read from a file of others."""


@dataclass(frozen=True)
class AttributionMetadata(AblationMetadata):
    """Where attributions come from.

    Attributes:
        prior: "gradient" or "".
        prior_factors: What mean gradients where a component is kept, and their change where it is
            ablated, were multiplied by.
        penalty: Of the ridge regression.
        asked_penalty: The penalty that was asked for; None where the data chose it.
    """

    KIND: ClassVar[str] = "attribution"
    MADE_BY: ClassVar[str] = "`attribute fit` or `attribute import`"

    prior: str = ""
    prior_factors: Sequence[float] = ()
    penalty: float = 0.0
    asked_penalty: float | None = None


class TopComponent(NamedTuple):
    """A component of an example.

    Attributes:
        number: Its number.
        name: Its name.
        weight: What it adds to the output.
    """

    number: int
    name: str
    weight: float


@dataclass(frozen=True)
class Attributions:
    """Weights of components for examples.

    Attributes:
        weights: What each component, when it is kept, adds to the output [examples, components].
        intercepts: The output without any component, as the linear model has it.
        metadata: Where they come from.
    """

    weights: Float[Tensor, "examples components"]
    intercepts: Float[Tensor, " examples"]
    metadata: AttributionMetadata

    @property
    def components(self) -> Components:
        """The components."""
        return self.metadata.read_components()

    @property
    def examples(self) -> list[str]:
        """Names of the examples."""
        return list(self.metadata.examples)

    def place(self, example: str | int) -> int:
        """Place of an example.

        Args:
            example: Its name or place.

        Raises:
            ValueError: If there is none.
        """
        count = len(self.weights)
        if isinstance(example, int):
            if not 0 <= example < count:
                raise ValueError(f"example={example}: there are {count}, counted from 0")
            return example
        if example not in self.metadata.examples:
            raise ValueError(f"example={example!r}: {did_you_mean(example, self.examples)}")
        return self.examples.index(example)

    def predict(self, ablated: Bool[Tensor, "masks components"]) -> Float[Tensor, "masks examples"]:
        """Predicted outputs under masks.

        Args:
            ablated: Which components each mask ablates.
        """
        return self.intercepts + (~ablated).to(self.weights.dtype) @ self.weights.T

    def counterfactual_effect(self, ablated: Sequence[int]) -> Float[Tensor, " examples"]:
        """By how much the outputs change when components are ablated, as predicted.

        Args:
            ablated: Numbers of the components.
        """
        return -self.weights[:, list(ablated)].sum(1)

    def top(self, example: str | int, count: int, *, lowest: bool = False) -> list[TopComponent]:
        """The components that raise an example's output most, the first of them most of all.

        Args:
            example: The example.
            count: How many components.
            lowest: Those that lower it most instead.

        Raises:
            ValueError: If there is no such example, or there are fewer components.
        """
        own, components = self.weights[self.place(example)], self.components
        if not 1 <= count <= len(components):
            raise ValueError(
                f"count={count}: give 1 to {len(components)}, the number of components"
            )
        found = own.topk(count, largest=not lowest)
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [TopComponent(number, components.name(number), value) for number, value in pairs]

    def save(self, folder: str | Path) -> Path:
        """Writes them into a folder; returns that.

        Raises:
            OSError: If a file cannot be written.
        """
        tensors = {"weights": self.weights, "intercepts": self.intercepts}
        return artifact.save(folder, tensors, self.metadata)

    @classmethod
    def load(cls, folder: str | Path) -> Attributions:
        """Reads what `save` wrote.

        Raises:
            ValueError: If a file is missing, altered, or of another kind.
        """
        tensors, metadata = artifact.load(folder, AttributionMetadata)
        return cls(tensors["weights"], tensors["intercepts"], metadata)


def read_published(
    published: str | Path,
    components: Components,
    alpha: float,
    *,
    output: str = "margin",
    examples: Sequence[str] | None = None,
) -> Attributions:
    """Reads attributions that the paper's authors published, or that their code has written.

    Their regression standardises each component's mask, and stores what it found for standardised
    ones; here it is brought back to masks of 0 and 1. Nothing in the file is executed.

    Args:
        published: A file of `torch.save` with "weight" [components, examples] and "bias".
        components: The components, in the order in which the file has them.
        alpha: Probability of a component to be ablated, in the masks they were learned from.
        output: What is attributed.
        examples: Names of the examples; by default their numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, the weights of other components, or of a regression
            that failed.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha:g}: give a probability above 0 and below 1")
    try:
        held = torch.load(existing(published, "published"), map_location="cpu", weights_only=True)
        weights = held["weight"].T.float()
        bias = held["bias"].float().reshape(-1)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"published={str(published)!r} holds no attributions ({error}): give a file with a "
            "tensor 'weight' and a tensor 'bias'"
        ) from error
    if weights.shape != (len(bias), len(components)):
        raise ValueError(
            f"published={str(published)!r} has weights of {weights.shape[1]} components for "
            f"{len(weights)} examples, not of {len(components)} for {len(bias)}: choose the "
            "components that its authors did"
        )
    weights = _known(weights, bias, published, components)
    # Their model is bias + sum of weight * (mask - mean) / deviation, with 1 for what is kept.
    weights = weights / math.sqrt(alpha * (1 - alpha))
    names = list(map(str, range(len(weights)))) if examples is None else list(examples)
    if len(names) != len(weights):
        raise ValueError(f"examples: {len(names)} names of {len(weights)} examples")
    metadata = AttributionMetadata(
        method=PUBLISHED,
        sites=[site.name for site in components.sites],
        components=components.to_json(),
        examples=names,
        output=output,
        alpha=alpha,
    )
    return Attributions(weights, bias - (1 - alpha) * weights.sum(1), metadata)


def _known(
    weights: Float[Tensor, "examples components"],
    bias: Float[Tensor, " examples"],
    published: str | Path,
    components: Components,
) -> Float[Tensor, "examples components"]:
    """Weights with 0 for components that were never ablated, which the code stores as NaN.

    Raises:
        ValueError: If others are not finite, or all are those of components never ablated.
    """
    never = weights.isnan().all(0)
    if never.all() or not bias.isfinite().all():
        raise ValueError(
            f"published={str(published)!r} has a regression that failed: all its weights are NaN, "
            "or a bias is not finite; fit it again"
        )
    weights = torch.where(never, 0.0, weights)
    if not weights.isfinite().all():
        place, number = (~weights.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"published={str(published)!r}: the weight of {components.name(number)} for example "
            f"{place} is {weights[place, number]:g}, though other examples have one: fit it again"
        )
    return weights
