"""Binary masks on the weights of a frozen model, learned by their gradient.

A weight with a mask acts as W ⊙ b with b = (m > 0): the *score* m starts at 1 and is trained, the
weight is not. The gradient of b is handed on to m, clipped to [-1, 1]:
dL/dm = hardtanh(dL/db).

Source: Qi et al., "Reusing Deep Neural Network Models through Model Re-engineering" (SeaM),
ICSE 2023, arXiv:2304.00245, section III-B; `Binarization` and `MaskConv` of the authors' code.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from aim_plugins.core.errors import nearest
from aim_plugins.modulation.freezing import evaluating, frozen

MASKED_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, Conv1D)
"""Layers whose weights and biases are masked; norms never are, as in the paper."""

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
"""The linear layers that PyTorch's attention has inside of itself."""


class _Binarize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, scores: Tensor) -> Tensor:
        return (scores > 0).to(scores.dtype)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return F.hardtanh(gradients[0])


def binarize(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 where a score is positive, else 0; hands on the gradient, clipped to [-1, 1]."""
    return _Binarize.apply(scores)


def maskable_parameters(model: nn.Module) -> list[str]:
    """Names of the weights and biases of every convolution and linear layer.

    A parameter that several layers share has the first of its names.

    Raises:
        ValueError: If the model has none.

    >>> maskable_parameters(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    ['0.weight', '0.bias']
    """
    found: dict[Tensor, str] = {}
    for name, layer in model.named_modules():
        for kind, parameter in own_parameters(layer).items():
            found.setdefault(parameter, f"{name}.{kind}" if name else kind)
    names = list(found.values())
    if not names:
        raise ValueError(
            f"{type(model).__name__} has neither convolutions nor linear layers, whose weights "
            "masks are for: give another model"
        )
    return names


def own_parameters(layer: nn.Module) -> dict[str, Tensor]:
    """The weights and biases of a layer that are masked; none of most layers.

    >>> list(own_parameters(nn.MultiheadAttention(4, 2)))
    ['in_proj_weight', 'in_proj_bias']
    """
    kinds: tuple[str, ...] = ()
    if isinstance(layer, MASKED_LAYERS):
        kinds = ("weight", "bias")
    elif isinstance(layer, nn.MultiheadAttention):
        kinds = _PROJECTIONS
    found = {kind: getattr(layer, kind, None) for kind in kinds}
    return {kind: one for kind, one in found.items() if one is not None}


class Masks(nn.Module, abc.ABC):
    """Scores of the masks on a model, and how they act on its parameters."""

    @abc.abstractmethod
    def scores_of(self, name: str) -> Float[Tensor, "*shape"]:
        """The scores of a masked parameter, in a shape that spreads over the parameter's."""

    def gates_of(self, name: str) -> Float[Tensor, "*shape"]:
        """The binary mask of a parameter, in the shape of its scores, with a gradient to them."""
        return binarize(self.scores_of(name))

    @property
    @abc.abstractmethod
    def names(self) -> Sequence[str]:
        """The masked parameters."""

    @abc.abstractmethod
    def retained_share(self) -> Float[Tensor, ""]:
        """What the penalty presses on: a share in [0, 1] with a gradient to the scores."""

    @abc.abstractmethod
    def retained_ratio(self) -> float:
        """Share of weights and biases of convolutions and linear layers that is left."""

    @torch.no_grad()
    def binary(self) -> dict[str, Bool[Tensor, "*shape"]]:
        """The masks by parameter, in shapes that spread over the parameters'."""
        return {name: self.scores_of(name) > 0 for name in self.names}

    @contextlib.contextmanager
    def training_on(self, model: nn.Module) -> Iterator[None]:
        """Lets the masks act on a model with their gradients; leaving it restores the model.

        The model's own parameters are frozen meanwhile, and it is in eval mode, so that batch
        normalisation keeps its statistics. A parameter that layers share is masked in all of them.
        """
        owners = {name: owners_of(model, name) for name in self.names}
        orders = {layer: list(layer._parameters) for layer in model.modules()}
        attached: list[tuple[nn.Module, str]] = []
        with frozen(model), evaluating(model):
            try:
                for name, held in owners.items():
                    for layer, kind in held:
                        parametrize.register_parametrization(layer, kind, _Masked(self, name))
                        attached.append((layer, kind))
                yield
            finally:
                for layer, kind in reversed(attached):
                    parametrize.remove_parametrizations(layer, kind, leave_parametrized=False)
                for layer, order in orders.items():
                    # What was parametrised comes back last, and optimisers go by the order.
                    for kind in order:
                        layer._parameters[kind] = layer._parameters.pop(kind)


class _Masked(nn.Module):
    """What a masked parameter is computed by."""

    def __init__(self, masks: Masks, name: str) -> None:
        super().__init__()
        # In a tuple, so that the model does not take the scores for its own parameters.
        self._source = (masks, name)

    def forward(self, weight: Tensor) -> Tensor:
        masks, name = self._source
        return weight * masks.gates_of(name).to(weight.dtype)


class WeightMasks(Masks):
    """A mask for every single weight and bias: SeaM as published.

    Args:
        model: The model.
        names: Those of `maskable_parameters` that get one, and of which shares are taken; by
            default all.
    """

    def __init__(self, model: nn.Module, names: Sequence[str] | None = None) -> None:
        super().__init__()
        chosen = maskable_parameters(model) if names is None else names
        shapes = {name: model.get_parameter(name).shape for name in chosen}
        self._places = {name: place for place, name in enumerate(shapes)}
        device = next(model.parameters()).device
        # In float32 whatever the weights are in: small steps would be lost.
        self.scores = nn.ParameterList(
            torch.ones(shape, dtype=torch.float32, device=device) for shape in shapes.values()
        )

    @property
    def names(self) -> Sequence[str]:
        return list(self._places)

    def scores_of(self, name: str) -> Tensor:
        return self.scores[self._places[name]]

    def retained_share(self) -> Float[Tensor, ""]:
        """The paper's retained ratio: the mean of the binary masks over all their elements."""
        kept = torch.stack([binarize(one).sum() for one in self.scores]).sum()
        return kept / sum(one.numel() for one in self.scores)

    def retained_ratio(self) -> float:
        return self.retained_share().item()


def owner_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The layer that a parameter belongs to, and what it is called there.

    >>> owner_of(nn.Sequential(nn.Linear(2, 3)), "0.weight")[1]
    'weight'
    """
    layer, _, kind = name.rpartition(".")
    return model.get_submodule(layer), kind


def owners_of(model: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """All layers that hold a parameter, and what it is called there.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> model[1].weight = model[0].weight
    >>> [kind for _, kind in owners_of(model, "0.weight")]
    ['weight', 'weight']
    """
    parameter = model.get_parameter(name)
    return [
        (layer, kind)
        for layer in model.modules()
        for kind, one in layer._parameters.items()
        if one is parameter
    ]


def retained_ratio(model: nn.Module, masks: Mapping[str, Bool[Tensor, "*shape"]]) -> float:
    """Share of the weights and biases of convolutions and linear layers that masks retain.

    Parameters without a mask count as retained. Section IV-C of the paper.
    """
    kept = total = 0
    for name in maskable_parameters(model):
        size = model.get_parameter(name).numel()
        total += size
        mask = masks.get(name)
        kept += size if mask is None else int(mask.sum()) * (size // mask.numel())
    return kept / total


@contextlib.contextmanager
def masked(model: nn.Module, masks: Mapping[str, Bool[Tensor, "*shape"]]) -> Iterator[None]:
    """Zeroes what masks don't retain while the block runs, and restores it to the bit.

    Args:
        model: The model.
        masks: By parameter, true where it is retained, in a shape that spreads over it.

    Raises:
        ValueError: If the model has no such parameter, it is of another shape, or its values are
            not at hand (quantised or offloaded weights).
    """
    kept: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    try:
        for name, mask in masks.items():
            parameter = _checked(parameters, name, mask)
            kept[name] = parameter.detach().clone()
            with torch.no_grad():
                parameter.mul_(mask.to(parameter.device))
        yield
    finally:
        with torch.no_grad():
            # The last one first, as masks may name a shared parameter twice.
            for name, values in reversed(kept.items()):
                parameters[name].copy_(values)


def _checked(parameters: Mapping[str, Tensor], name: str, mask: Tensor) -> Tensor:
    parameter = parameters.get(name)
    if parameter is None:
        raise ValueError(
            f"mask of {name!r}: the model has no such parameter; nearest: "
            f"{', '.join(nearest(name, parameters, cutoff=0.0))}; give the model that it was "
            "learned on"
        )
    if parameter.is_meta or not parameter.is_floating_point():
        raise ValueError(
            f"mask of {name!r}: its values are not at hand, as they are offloaded or quantised; "
            "load the model whole"
        )
    fits = mask.ndim == parameter.ndim and all(
        own in (1, full) for own, full in zip(mask.shape, parameter.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"mask of {name!r} has the shape {tuple(mask.shape)}, the parameter "
            f"{tuple(parameter.shape)}: it was learned on another model"
        )
    return parameter


def magnitude_masks(
    model: nn.Module, names: Sequence[str], ratio: float
) -> dict[str, Bool[Tensor, "*shape"]]:
    """Masks that retain the largest weights of all layers together.

    Args:
        model: The model.
        names: The parameters that are masked.
        ratio: Share of their elements that is retained.
    """
    values = torch.cat([model.get_parameter(name).detach().abs().flatten() for name in names])
    return _by_rank(model, names, values, ratio)


def random_masks(
    model: nn.Module, names: Sequence[str], ratio: float, seed: int
) -> dict[str, Bool[Tensor, "*shape"]]:
    """Masks that retain weights drawn at random, exactly as many as `magnitude_masks` do."""
    total = sum(model.get_parameter(name).numel() for name in names)
    generator = torch.Generator().manual_seed(seed)
    return _by_rank(model, names, torch.rand(total, generator=generator), ratio)


def _by_rank(
    model: nn.Module, names: Sequence[str], values: Float[Tensor, " all"], ratio: float
) -> dict[str, Bool[Tensor, "*shape"]]:
    order = values.argsort(descending=True, stable=True)[: round(ratio * len(values))]
    flat = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    flat[order] = True
    shapes = [model.get_parameter(name).shape for name in names]
    parts: Sequence[Tensor] = flat.split([shape.numel() for shape in shapes])
    return {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
