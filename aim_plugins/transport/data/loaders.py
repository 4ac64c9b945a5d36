"""Calls one of several loaders of data by its name, with options that a config gave."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aim_plugins.core.errors import did_you_mean

_Loaded = TypeVar("_Loaded")


def load_named(
    name: str, loaders: Mapping[str, Callable[..., _Loaded]], options: Mapping[str, Any]
) -> _Loaded:
    """What the loader of a name makes of the options.

    Args:
        name: Name of a loader.
        loaders: All there are; their parameters are the options they take.
        options: The options.

    Raises:
        ValueError: If there is no such loader, or an option is unknown or missing.
    """
    if name not in loaders:
        raise ValueError(f"name={name!r} is no data set; {did_you_mean(name, loaders)}")
    parameters = inspect.signature(loaders[name]).parameters
    for option in options:
        if option not in parameters:
            hint = did_you_mean(option, parameters)
            raise ValueError(f"{name} has no option {option!r}; {hint}")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise ValueError(f"{name} needs {option}: add it")
    return loaders[name](**options)
