"""Adversarial images: FGSM, PGD in the L∞ ball, and the L2 attack of Carlini and Wagner.

An attack works on pixels in [0, 1], where its bounds mean something: `model` takes pixels and gives
logits. Networks take normalised images, so `NormalisedModel` puts the normalisation inside.

    model = NormalisedModel(network, preprocessing.mean, preprocessing.std)
    adversarial = make_attack("pgd", eps=8 / 255)(model, model.pixels(images), labels)
    logits = network(model.normalise(adversarial))

All are untargeted. A row depends on its own image, label and index alone, up to the rounding of the
network; nothing reads or moves PyTorch's random state. The network runs in eval mode, and is left
as it was found: modes, `requires_grad` and gradients.
"""

from __future__ import annotations

from typing import Any

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.settings import make_settings
from vision_bench.attacks.attack import Attack
from vision_bench.attacks.carlini_wagner import CarliniWagner
from vision_bench.attacks.gradient_sign import FGSM, PGD
from vision_bench.attacks.normalised import NormalisedModel

__all__ = [
    "ATTACKS",
    "FGSM",
    "PGD",
    "Attack",
    "CarliniWagner",
    "NormalisedModel",
    "make_attack",
]

ATTACKS: dict[str, type[Attack]] = {one.name: one for one in (FGSM, PGD, CarliniWagner)}
"""Attacks by name."""


def make_attack(name: str, **fields: Any) -> Attack:
    """Makes an attack by its name.

    Args:
        name: One of `ATTACKS`.
        fields: Its parameters; the others keep their defaults.

    Raises:
        ValueError: If there is no such attack or parameter, or a value is not usable.

    >>> make_attack("fgsm", eps=0.1)
    FGSM(eps=0.1)
    """
    if name not in ATTACKS:
        raise ValueError(f"attack={name!r}: {did_you_mean(name, ATTACKS)}")
    return make_settings(ATTACKS[name], fields, f"attack {name!r}")
