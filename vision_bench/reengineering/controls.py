"""What a module is held against: as much of the model, chosen without learning.

Of masks on weights the largest weights are retained, or random ones; of channels those whose makers
have the largest weights, or random ones, so that no fewer MACs are left. A head is trained on each,
as the module has one of its own, but without the ReLU in front of it.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.channels import ChannelMasks
from aim_plugins.modulation.masks import Masks, magnitude_masks, random_masks
from aim_plugins.modulation.retained import MaskPoint
from vision_bench.reengineering.module import make_head

MAGNITUDE, RANDOM = "largest weights", "random weights"
CONTROLS = (MAGNITUDE, RANDOM)

_PATIENCE = 5
"""Epochs without a better head after which no better one is looked for."""


def control(
    kind: str, model: nn.Module, masks: Masks, share: float, seed: int
) -> tuple[MaskPoint, float]:
    """As much of a model as a module retains, chosen without learning.

    Args:
        kind: One of `CONTROLS`.
        model: The model.
        masks: What the module was learned by; it stays as it is.
        share: The share that its penalty presses on.
        seed: Of what is drawn at random.

    Returns:
        Masks without a head, and their share: of channels the nearest that can be had, and not
        less than the module's.
    """
    tried = copy.deepcopy(masks)
    if isinstance(tried, ChannelMasks):
        _close_in_order(tried, _ranking(kind, model, tried, seed), share)
        return MaskPoint(
            tried.binary(), channels=tried.open_channels()
        ), tried.retained_share().item()
    if kind == MAGNITUDE:
        return MaskPoint(magnitude_masks(model, masks.names, share)), share
    own_seed = seed_of(seed, "random weights")
    return MaskPoint(random_masks(model, masks.names, share, own_seed)), share


def _ranking(
    kind: str, model: nn.Module, masks: ChannelMasks, seed: int
) -> Float[Tensor, " channels"]:
    """What orders the channels of all groups together; the lowest close first."""
    if kind == MAGNITUDE:
        places = range(len(masks.groups))
        return torch.cat([_size_of_channels(model, masks, place) for place in places])
    generator = torch.Generator().manual_seed(seed_of(seed, "random channels"))
    return torch.rand(len(masks.scores), generator=generator)


def _close_in_order(masks: ChannelMasks, ranking: Float[Tensor, " channels"], share: float) -> None:
    """Closes as many channels as leave no less than a share."""
    order = ranking.argsort(stable=True)
    low, high = 0, len(order)
    while low < high:  # the most channels to close
        middle = (low + high + 1) // 2
        _close(masks, order[:middle])
        if masks.retained_share().item() >= share - 1e-6:
            low = middle
        else:
            high = middle - 1
    _close(masks, order[:low])


def _close(masks: ChannelMasks, closed: Int[Tensor, " closed"]) -> None:
    with torch.no_grad():
        masks.scores.fill_(1.0)
        masks.scores[closed] = -1.0


@torch.no_grad()
def _size_of_channels(
    model: nn.Module, masks: ChannelMasks, place: int
) -> Float[Tensor, " channels"]:
    """The mean absolute weight by which the layer that a group is named by makes each channel."""
    weight = model.get_parameter(f"{masks.groups[place].name}.weight")
    return weight.detach().abs().flatten(1).mean(1).cpu()


def fit_head(
    point: MaskPoint,
    training: tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]],
    validation: tuple[Float[Tensor, "m classes"], Int[Tensor, " m"]],
    outputs: int,
    *,
    lr: float,
    batch_size: int,
    epochs: int,
    seed: int,
    relu: bool = True,
) -> MaskPoint:
    """Trains a head on the outputs of a masked model, and keeps the best on the validation images.

    Args:
        point: The masks.
        training: Logits of the masked model and labels.
        validation: The same of the images that select.
        outputs: Classes of the problem.
        lr: Learning rate of Adam.
        batch_size: Images in a step.
        epochs: Passes over them at most.
        seed: Of the first weights and of the order.
        relu: Whether the head has a ReLU in front of it, as a module's has. Outputs of a model that
            was cut without learning may all be negative, of which nothing would be left.

    Returns:
        The masks with this head.
    """
    (inputs, labels), (held, truth) = training, validation
    if relu:
        inputs, held = F.relu(inputs), F.relu(held)
    head = make_head(inputs.shape[1], outputs, seed)
    optimizer = torch.optim.Adam(head.parameters(), lr)
    generator = torch.Generator().manual_seed(seed_of(seed, "order"))
    best, state, waited = -1.0, head.state_dict(), 0
    for _ in range(epochs):
        for part in torch.randperm(len(inputs), generator=generator).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(head(inputs[part]), labels[part]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = float((head(held).argmax(1) == truth).double().mean())
        if accuracy > best:
            best, waited = accuracy, 0
            state = {name: one.detach().clone() for name, one in head.state_dict().items()}
        elif (waited := waited + 1) >= _PATIENCE:
            break
    return replace(point, head=state)
