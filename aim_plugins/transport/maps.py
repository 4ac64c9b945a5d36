"""The methods by name, and the map of one module with its support."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.methods.ablation import DirectionalAblation
from aim_plugins.transport.methods.actadd import ActAdd
from aim_plugins.transport.methods.angular import AngularSteering
from aim_plugins.transport.methods.aura import AurA
from aim_plugins.transport.methods.caa import CAA
from aim_plugins.transport.methods.chars import CHaRS
from aim_plugins.transport.methods.gaussian import GaussianTransport
from aim_plugins.transport.methods.iti import ITI
from aim_plugins.transport.methods.linear import LinearTransport
from aim_plugins.transport.methods.lineas import LinEAS
from aim_plugins.transport.methods.mean import MeanTransport
from aim_plugins.transport.methods.method import Method
from aim_plugins.transport.methods.pca import PCA
from aim_plugins.transport.statistics import constant_neurons
from aim_plugins.transport.support import support_bounds
from aim_plugins.transport.vocabulary import check_method, check_options, parse_support

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        LinearTransport,
        GaussianTransport,
        MeanTransport,
        AurA,
        ActAdd,
        CAA,
        ITI,
        PCA,
        LinEAS,
        DirectionalAblation,
        AngularSteering,
        CHaRS,
    )
}
"""Methods by name."""


def find_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method of a name.

    Args:
        name: The name.
        options: Options of its own; it keeps its defaults for the others.

    >>> find_method("linear").title
    'Linear-AcT'
    >>> find_method("lineas", {"steps": 50}).steps
    50

    Raises:
        ValueError: If there is none, or it does not take an option.
    """
    check_method(name)
    options = options or {}
    check_options(options, [name])
    return METHODS[name](**options)


def fit_map(
    method: Method | str,
    support: str | None,
    source: Float[Tensor, "n neurons"],
    target: Float[Tensor, "m neurons"],
    site: str,
) -> ActivationMap:
    """Learns the map of one module, with its support.

    Args:
        method: The method, or its name.
        support: Where the map acts, see `support_bounds`; None for the method's default. Neurons
            that are constant in the source have none: nothing is known of where else they go, and
            an empty interval would keep their mean from moving.
        source: Pooled activations of the source sentences.
        target: Pooled activations of the target sentences.
        site: The module's name, for errors.

    Raises:
        ValueError: If the activations do not allow a fit, the support is malformed, or the method
            takes none.
    """
    method = find_method(method) if isinstance(method, str) else method
    support = method.support if support is None else support
    check_support(method, support)
    try:
        learned = method.fit(source, target)
        low, high, clip = support_bounds(support, source)
    except ValueError as error:
        raise ValueError(f"module {site!r}: {error}") from error
    if not isinstance(learned, AffineMap):
        return learned
    constant = constant_neurons(source)
    low = low.masked_fill(constant, -torch.inf)
    return AffineMap(learned.scale, learned.shift, low, high.masked_fill(constant, torch.inf), clip)


def check_support(method: Method, support: str) -> None:
    """Refuses a support that is malformed or that the method does not take.

    Raises:
        ValueError: Naming what to write.
    """
    quantiles, _ = parse_support(support)
    if quantiles is not None and not method.bounded:
        raise ValueError(
            f"support={support!r}: {method.title} is learned to act wherever activations are; "
            "leave its support at 'none'"
        )
