"""Transports: maps on activations, learned from two sets of sentences.

The names below are loaded when first used, so that a loaded transport or a single map does not
wait for the import of transformers, which only fitting on a model needs.

Source: "Controlling Language and Diffusion Models by Transporting Activations", arXiv 2410.23054.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
    from aim_plugins.transport.fit import fit_transport
    from aim_plugins.transport.folding.fold import fold_transport
    from aim_plugins.transport.maps import (
        CAA,
        ITI,
        METHODS,
        PCA,
        ActAdd,
        AngularSteering,
        AurA,
        CHaRS,
        DirectionalAblation,
        GaussianTransport,
        LinearTransport,
        LinEAS,
        MeanTransport,
        Method,
        constant_neurons,
        find_method,
        fit_map,
        support_bounds,
    )

__all__ = [
    "CAA",
    "ITI",
    "METHODS",
    "PCA",
    "ActAdd",
    "AngularSteering",
    "AurA",
    "CHaRS",
    "DirectionalAblation",
    "GaussianTransport",
    "LearnedTransport",
    "LinEAS",
    "LinearTransport",
    "MeanTransport",
    "Method",
    "TransportMetadata",
    "constant_neurons",
    "find_method",
    "fit_map",
    "fit_transport",
    "fold_transport",
    "support_bounds",
]

_MODULES = {
    "LearnedTransport": "artifact",
    "TransportMetadata": "artifact",
    "fit_transport": "fit",
    "fold_transport": "folding.fold",
}


def __getattr__(name: str) -> object:
    if name in __all__:
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'maps')}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
