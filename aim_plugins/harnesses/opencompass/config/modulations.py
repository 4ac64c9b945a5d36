"""What the settings of a model entry change of its model: arguments of the registered changes.

    dict(type=..., path=..., noise_std=0.5, noise_seed=1)
    dict(type=..., path=..., transport="runs/toxicity", strength=0.5)

One entry has one strength of each; all may stand in its `generation_kwargs` or beside them.
"""

from __future__ import annotations

import copy
from collections.abc import ItemsView, Iterable, Mapping
from typing import Any, NamedTuple

from aim_plugins.modulation.arguments import read_columns, split_arguments, swept_kinds
from aim_plugins.modulation.changes import DRAWS, SEED
from aim_plugins.modulation.columns import Column


class SplitSettings(NamedTuple):
    """The settings of a model entry, sorted.

    Attributes:
        column: What is changed of the model.
        given: The arguments that ask for it.
        rest: A deep copy of all other settings.
    """

    column: Column
    given: dict[str, Any]
    rest: dict[str, Any]


def split_modulation(settings: Mapping[str, Any], required: Iterable[str] = ()) -> SplitSettings:
    """Reads the modulation of a model entry.

    Args:
        settings: A model entry, or the keyword arguments of a model.
        required: Arguments without which its class makes no sense.

    Raises:
        ValueError: If the two places disagree, an argument is misspelt, malformed or missing, there
            are several strengths or draws, or files that an argument names are damaged.
        FileNotFoundError: If there are no such files.
    """
    given, rest = split_arguments({key: copy.deepcopy(value) for key, value in items(settings)})
    inner = rest.get("generation_kwargs")
    if inner is not None:
        if not isinstance(inner, dict):
            raise ValueError(
                f"generation_kwargs={inner!r} is no dict: write dict(noise_std=0.5, ...)"
            )
        within, rest["generation_kwargs"] = split_arguments(dict(items(inner)))
        for key, value in within.items():
            if key in given and given[key] != value:
                raise ValueError(
                    f"{key}={given[key]!r} beside generation_kwargs disagrees with "
                    f"{key}={value!r} in it: give it in one place"
                )
        given |= within
    # Of one that is missing its kind knows what to say.
    return SplitSettings(_only_column(given, required), given, rest)


def describe(column: Column) -> str:
    """A modulation in the words of an entry.

    >>> from aim_plugins.modulation.arguments import columns_of
    >>> describe(*columns_of(noise_std=0.5, noise_seed=1))
    'noise_std=0.5, noise_mean=0.0, noise_seed=1'
    """
    return ", ".join(f"{key}={value!r}" for key, value in column.settings.items())


def items(settings: Mapping[str, Any]) -> ItemsView[str, Any]:
    """The settings as they are: mmengine imports a lazy object read in any other way."""
    return dict.items(settings) if isinstance(settings, dict) else settings.items()


def _only_column(given: Mapping[str, Any], required: Iterable[str]) -> Column:
    columns = read_columns(given, required)
    if len(columns) == 1:
        return columns[0]
    kind = swept_kinds(columns)[0]
    name, strengths = next(iter(kind.arguments)), {one.strength_of(kind) for one in columns}
    if len(strengths) > 1:
        what, entries = f"{len(strengths)} strengths", f"{name}=x) for x in (0.0, 0.5)]"
    else:
        name, what, entries = DRAWS, f"{len(columns)} draws", f"{SEED}=x) for x in (0, 1)]"
    raise ValueError(
        f"{name}={given[name]!r} holds {what}, and one entry has one strength: write an entry for "
        f"each, as in [dict(..., {entries}; draws (seeds) are entries of their own too"
    )
