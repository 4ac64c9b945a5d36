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

from aim_plugins.attribution.checks import check_mode
from aim_plugins.modulation.ablation import multiplied
from aim_plugins.modulation.components import Components
from aim_plugins.modulation.freezing import frozen
from aim_plugins.modulation.rows import check_rows

MASKS = 64
"""Masks whose outputs are asked for at a time."""


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
        output: What is attributed, for instance "margin".
        names: Names of the examples; by default their numbers.
        data_sha256: SHA-256 of the examples.

    Attributes:
        passes: What was computed so far.

    Raises:
        ValueError: If a part of the model is in train mode, or there are not as many names as
            examples.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Components,
        examples: int,
        *,
        output: str = "",
        names: Sequence[str] | None = None,
        data_sha256: str = "",
    ) -> None:
        check_mode(model)
        self.model, self.components, self.examples = model, components, examples
        self.passes = Passes()
        self._known: dict[str, Any] = {}
        self.describe(output=output, names=names, data_sha256=data_sha256)

    @property
    def output(self) -> str:
        """What is attributed; "" where nobody has said it."""
        return str(self._known.get("output", ""))

    @property
    def names(self) -> list[str]:
        """Names of the examples."""
        return list(self._known.get("names", map(str, range(self.examples))))

    @property
    def data_sha256(self) -> str:
        """SHA-256 of the examples; "" where nobody has said it."""
        return str(self._known.get("data_sha256", ""))

    def describe(
        self, *, output: str = "", names: Sequence[str] | None = None, data_sha256: str = ""
    ) -> None:
        """Says what is attributed and of which examples, where that is not known yet.

        Args:
            output: What is attributed.
            names: Names of the examples.
            data_sha256: SHA-256 of the examples.

        Raises:
            ValueError: If it is known to be something else, or there are not as many names as
                examples.
        """
        if names is not None and len(names) != self.examples:
            raise ValueError(
                f"examples: {len(names)} names of {self.examples} examples: give one for each"
            )
        given = {
            "output": output or None,
            "names": None if names is None else list(names),
            "data_sha256": data_sha256 or None,
        }
        for what, value in given.items():
            if value is not None and self._known.setdefault(what, value) != value:
                raise ValueError(
                    f"{what}: the subject has {self._known[what]!r}, not {value!r}: make one of "
                    "its own for each"
                )

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

    A kind of example fills in `_rows` and `_forward`. Of the first batch of several rows two are
    run together and each alone, so that a model that lays rows out anew is refused.

    Args:
        model: The model, in eval mode.
        components: Its components.
        examples: How many examples there are.
        batch_size: Pairs of a mask and an example in one batch.
        output: What is attributed, for instance "margin".
        names: Names of the examples; by default their numbers.
        data_sha256: SHA-256 of the examples.
    """

    def __init__(
        self,
        model: nn.Module,
        components: Components,
        examples: int,
        batch_size: int = 256,
        *,
        output: str = "",
        names: Sequence[str] | None = None,
        data_sha256: str = "",
    ) -> None:
        super().__init__(
            model, components, examples, output=output, names=names, data_sha256=data_sha256
        )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give 1 or more")
        self.batch_size = batch_size
        self._rows_checked = False
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
        check_mode(self.model)
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
            if not alone:
                self._check_rows(chosen)
            given = (factors[own[:1]], None) if alone else (factors, by_row)
            with multiplied(self.model, self.components, *given) as check_ran:
                found.append(self._forward(inputs).float().cpu())
                check_ran()
        self.passes.forward += len(places) / self.examples
        return torch.cat(found)

    def gradients(
        self, factors: Float[Tensor, " components"]
    ) -> tuple[Float[Tensor, " examples"], Float[Tensor, "examples components"]]:
        """Outputs under one mask, and their derivatives by its factors; see `Subject`."""
        check_mode(self.model)
        outputs, gradients = [], []
        with frozen(self.model), torch.enable_grad():
            for chosen in torch.arange(self.examples).split(self.batch_size):
                self._check_rows(chosen)
                inputs, rows = self._rows(chosen.tolist())
                own = factors.to(self.device).repeat(len(chosen), 1).requires_grad_()
                with multiplied(self.model, self.components, own, rows) as check_ran:
                    output = self._forward(inputs).float()
                    check_ran()
                outputs.append(output.detach().cpu())
                gradients.append(torch.autograd.grad(output.sum(), own)[0].cpu())
        self.passes.forward += 1
        self.passes.backward += 1
        return torch.cat(outputs), torch.cat(gradients)

    def _check_rows(self, places: Int[Tensor, " pairs"]) -> None:
        """Refuses, at the first batch of several rows, a model whose rows are not told apart."""
        if self._rows_checked or len(places) < 2:
            return
        pair = places[[0, -1]].tolist()
        _, owners = self._rows(pair)
        check_rows(
            self.model, lambda: self._forward(self._rows(pair)[0]).float(), self.components, owners
        )
        self._rows_checked = True


def factors_of(
    ablated: Bool[np.ndarray, "masks components"],
) -> Float[Tensor, "masks components"]:
    """The factors of masks: 0 where a component is ablated, else 1."""
    return torch.from_numpy(~ablated).float()
