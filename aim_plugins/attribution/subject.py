"""A model whose components are ablated, and the examples whose outputs are watched."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aim_plugins.modulation.ablation import multiplied
from aim_plugins.modulation.components import Components
from aim_plugins.modulation.freezing import frozen


@dataclass
class Passes:
    """What was computed, in passes over all examples.

    Attributes:
        forward: Forward passes.
        backward: Backward passes.
    """

    forward: float = 0.0
    backward: float = 0.0


class Subject(abc.ABC):
    """A model, its components, and examples whose outputs are attributed to them.

    Args:
        model: The model, in eval mode.
        components: Its components.
        examples: How many examples there are.

    Attributes:
        passes: What was computed so far.
    """

    def __init__(self, model: nn.Module, components: Components, examples: int) -> None:
        self.model, self.components, self.examples = model, components, examples
        self.passes = Passes()

    @abc.abstractmethod
    def paired_outputs(
        self,
        factors: Float[Tensor, "masks components"],
        owners: Int[Tensor, " pairs"],
        places: Int[Tensor, " pairs"],
    ) -> Float[Tensor, " pairs"]:
        """Outputs of pairs of a mask and an example, without gradients, on the CPU.

        Args:
            factors: What components are multiplied by: 1 leaves one as it is, 0 ablates it.
            owners: Which mask each pair goes by.
            places: Which example it is of.
        """

    @abc.abstractmethod
    def gradients(
        self, factors: Float[Tensor, " components"]
    ) -> tuple[Float[Tensor, " examples"], Float[Tensor, "examples components"]]:
        """Outputs of all examples under one mask, and their derivatives by its factors."""

    def outputs(
        self, factors: Float[Tensor, "masks components"]
    ) -> Float[Tensor, "masks examples"]:
        """Outputs of all examples under each mask; many masks are rows of one batch."""
        masks = len(factors)
        # All masks of an example lie next to each other: inputs of one length share a batch.
        owners = torch.arange(masks).repeat(self.examples)
        places = torch.arange(self.examples).repeat_interleave(masks)
        found = self.paired_outputs(factors, owners, places)
        return found.view(self.examples, masks).T.contiguous()

    def whole(self) -> Float[Tensor, " examples"]:
        """Outputs of the model as it is."""
        return self.outputs(torch.ones(1, len(self.components)))[0]


class BatchSubject(Subject):
    """Examples that a function reads in batches.

    A kind of example fills in `_rows` and `_forward`.

    Args:
        model: The model, in eval mode.
        components: Its components.
        examples: How many examples there are.
        batch_size: Pairs of a mask and an example in one batch.
    """

    def __init__(
        self, model: nn.Module, components: Components, examples: int, batch_size: int = 256
    ) -> None:
        super().__init__(model, components, examples)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give 1 or more")
        self.batch_size = batch_size
        self.device = next(model.parameters()).device

    @abc.abstractmethod
    def _rows(self, places: Sequence[int]) -> tuple[Any, Int[Tensor, " rows"] | None]:
        """What the model reads for some examples, on its device.

        Args:
            places: Which examples, of which some may come several times.

        Returns:
            What `_forward` takes, and for each row of the model's batch the place in `places` of
            the example that it belongs to; None where each example is one row.
        """

    @abc.abstractmethod
    def _forward(self, inputs: Any) -> Float[Tensor, " examples"]:
        """Outputs of the examples that `_rows` was asked for."""

    def _scaled(self, inputs: Any, share: float) -> Any:
        """Inputs part of the way from nothing to what they are, for baselines that need it.

        Raises:
            ValueError: If there is nothing between two inputs, as with tokens.
        """
        raise ValueError(
            f"{type(self).__name__} has inputs that cannot be scaled, so no way leads to them: "
            "choose another baseline than neuron conductance and internal influence"
        )

    @torch.no_grad()
    def paired_outputs(
        self,
        factors: Float[Tensor, "masks components"],
        owners: Int[Tensor, " pairs"],
        places: Int[Tensor, " pairs"],
    ) -> Float[Tensor, " pairs"]:
        """Outputs of pairs of a mask and an example; see `Subject`."""
        found = []
        factors = factors.to(self.device)
        for own, chosen in zip(
            owners.split(self.batch_size), places.split(self.batch_size), strict=True
        ):
            inputs, rows = self._rows(chosen.tolist())
            own = own.to(self.device)
            by_row = own if rows is None else own[rows]
            # One mask for a whole batch needs no copy for each row.
            alone = bool((own == own[0]).all())
            given = (factors[own[:1]], None) if alone else (factors, by_row)
            with multiplied(self.model, self.components, *given):
                found.append(self._forward(inputs).float().cpu())
        self.passes.forward += len(places) / self.examples
        return torch.cat(found)

    def gradients(
        self, factors: Float[Tensor, " components"]
    ) -> tuple[Float[Tensor, " examples"], Float[Tensor, "examples components"]]:
        """Outputs under one mask, and their derivatives by its factors; see `Subject`."""
        outputs, gradients = [], []
        with frozen(self.model), torch.enable_grad():
            for chosen in torch.arange(self.examples).split(self.batch_size):
                inputs, rows = self._rows(chosen.tolist())
                own = factors.to(self.device).repeat(len(chosen), 1).requires_grad_()
                with multiplied(self.model, self.components, own, rows):
                    output = self._forward(inputs).float()
                outputs.append(output.detach().cpu())
                gradients.append(torch.autograd.grad(output.sum(), own)[0].cpu())
        self.passes.forward += 1
        self.passes.backward += 1
        return torch.cat(outputs), torch.cat(gradients)


def factors_of(
    ablated: Bool[np.ndarray, "masks components"],
) -> Float[Tensor, "masks components"]:
    """The factors of masks: 0 where a component is ablated, else 1."""
    return torch.from_numpy(~ablated).float()
