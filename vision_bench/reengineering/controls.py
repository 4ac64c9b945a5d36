"""What a module is held against: as much of the model, chosen without learning.

Of masks on weights the largest weights are retained, or random ones; of channels those whose makers
have the largest weights, or random ones, until as few MACs are left. A head is trained on each, as
the module has one of its own.
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


def control_masks(
    kind: str, model: nn.Module, masks: Masks, share: float, seed: int
) -> dict[str, Tensor]:
    """Masks of the same share as a module, chosen without learning.

    Args:
        kind: One of `CONTROLS`.
        model: The model.
        masks: What the module was learned by; it stays as it is.
        share: The share that its penalty presses on.
        seed: Of what is drawn at random.
    """
    if isinstance(masks, ChannelMasks):
        return _channels(kind, model, masks, share, seed)
    if kind == MAGNITUDE:
        return magnitude_masks(model, masks.names, share)
    return random_masks(model, masks.names, share, seed_of(seed, "random weights"))


def _channels(
    kind: str, model: nn.Module, masks: ChannelMasks, share: float, seed: int
) -> dict[str, Tensor]:
    """Closes channels in the order of a ranking until no more than the share is left."""
    if kind == MAGNITUDE:
        ranks = torch.cat(
            [_size_of_channels(model, masks, place) for place in range(len(masks.groups))]
        )
    else:
        generator = torch.Generator().manual_seed(seed_of(seed, "random channels"))
        ranks = torch.rand(len(masks.scores), generator=generator)
    order = ranks.argsort(stable=True)
    tried = copy.deepcopy(masks)
    low, high = 0, len(order)
    while low < high:  # the fewest channels to close
        middle = (low + high) // 2
        _close(tried, order[:middle])
        if tried.retained_share().item() <= share:
            high = middle
        else:
            low = middle + 1
    _close(tried, order[:low])
    return tried.binary()


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

    Returns:
        The masks with this head.
    """
    (inputs, labels), (held, truth) = training, validation
    head = make_head(inputs.shape[1], outputs, seed)
    optimizer = torch.optim.Adam(head.parameters(), lr)
    generator = torch.Generator().manual_seed(seed_of(seed, "order"))
    best, state, waited = -1.0, head.state_dict(), 0
    for _ in range(epochs):
        for part in torch.randperm(len(inputs), generator=generator).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(head(F.relu(inputs[part])), labels[part]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = float((head(F.relu(held)).argmax(1) == truth).double().mean())
        if accuracy > best:
            best, waited = accuracy, 0
            state = {name: one.detach().clone() for name, one in head.state_dict().items()}
        elif (waited := waited + 1) >= _PATIENCE:
            break
    return replace(point, head=state)
