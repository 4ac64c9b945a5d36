"""Columns from arguments and back: what harnesses, configs and command lines say of modulations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aim_plugins.core.errors import nearest
from aim_plugins.modulation.changes import DRAWS, SEED, Change, kinds
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.named_kinds import kinds_in


def split_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sorts the arguments of modulations from all others.

    Args:
        given: Arguments of a model of a harness.

    Returns:
        The modulations' and the others.

    Raises:
        ValueError: If one of the others is nearly one of the modulations', which its own reader
            would only call unknown.
    """
    known = argument_names(given)
    ours = {name: value for name, value in given.items() if name in known}
    rest = {name: value for name, value in given.items() if name not in known}
    for name, value in rest.items():
        if near := _meant(name):
            raise ValueError(f"{name}={value!r} is unknown: did you mean {near[0]}=?")
    return ours, rest


def _meant(name: str) -> list[str]:
    """The arguments that a name was meant for which is none of them, if any."""
    if near := nearest(name, argument_names(), cutoff=0.8):
        return near
    # What starts as a kind is called, such as noise_sigma, is meant for one of its arguments.
    for kind in kinds():
        if name.startswith(f"{kind.name}_"):
            within = [one for one in kind.arguments if name.endswith(f"_{one}")]
            return within or nearest(name, kind.arguments, cutoff=0.0)
    return []


def argument_names(given: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the arguments of all modulations.

    Args:
        given: Arguments, of which those that end in a name such as `strength_praise` count too.
    """
    return (*itertools.chain.from_iterable(one.arguments for one in kinds_in(given)), SEED, DRAWS)


def read_columns(given: Mapping[str, Any], required: Iterable[str] = ()) -> tuple[Column, ...]:
    """Spells out the columns of a table: every combination of strengths, draws innermost.

    Args:
        given: Arguments of modulations. A strength is a number, several, or a grid such as
            "0:3:0.25".
        required: Arguments that must be among them, maybe under a name; their kind says what is
            missing.

    Returns:
        The columns; the strengths of the kind that acts last are outermost.

    Raises:
        ValueError: If an argument is malformed, or no argument of a modulation.
    """
    known = argument_names(given)
    for name in required:
        if not any(one == name or one.startswith(f"{name}_") for one in known if one in given):
            given = {name: None, **given}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"{unknown[0]}={given[unknown[0]]!r} is no argument of a modulation")
    seed, draws = _seed(given.get(SEED, 0)), _draws(given.get(DRAWS, 1))
    if seed + draws > 2**63:
        raise ValueError(f"{SEED}={seed} does not fit into 64 bits with {draws} draws")
    changes: list[tuple[Change, ...]] = []
    for kind in kinds_in(given):
        own = {name: given[name] for name in kind.arguments if name in given}
        if own:
            changes.append(kind.read(own))
    return tuple(
        Column(tuple(change.drawn(seed + draw) for change in reversed(combination)), seed + draw)
        for combination in itertools.product(*reversed(changes))
        for draw in range(draws)
    )


def columns_of(**given: Any) -> tuple[Column, ...]:
    """`read_columns` by keyword, such as `columns_of(noise_std="0:3:0.25", noise_draws=2)`."""
    return read_columns(given)


def swept_kinds(columns: Sequence[Column], named: Iterable[str] = ()) -> tuple[type[Change], ...]:
    """The kinds along which columns vary; where none does, the one that acts last.

    Args:
        columns: All columns of a table.
        named: Arguments that were named as what varies, which counts where nothing does.
    """
    present = _kinds_of(columns) or list(kinds()[:1])
    varying = [
        kind for kind in present if len({column.strength_of(kind) for column in columns}) > 1
    ]
    asked = [kind for kind in present if next(iter(kind.arguments)) in named]
    return tuple(varying or (asked or present)[-1:])


def describe_columns(columns: Sequence[Column]) -> dict[str, Any]:
    """What determines the columns of a table, as arguments and for manifests.

    Returns:
        The strengths of each kind by their argument, the seed of the first draw, the number of
        draws, and as `changes` what else tells each kind from others, such as the fingerprint of
        maps: a folder's name may agree while the maps in it were fitted anew.
    """
    described: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for kind in _kinds_of(columns):
        own = [one for column in columns for one in column.changes if one.name == kind.name]
        described |= own[0].settings
        strengths = dict.fromkeys(column.strength_of(kind) for column in columns)
        described[next(iter(kind.arguments))] = list(strengths)
        identities = [change.identity for change in own]
        changes[kind.name] = {
            name: value
            for name, value in identities[0].items()
            if name not in ("kind", "seed", "strength", kind.axis.name)
            and all(identity.get(name) == value for identity in identities)
        }
    seeds = list(dict.fromkeys(column.seed for column in columns))
    return {**described, SEED: seeds[0], DRAWS: len(seeds), "changes": changes}


def _kinds_of(columns: Sequence[Column]) -> list[type[Change]]:
    """The kinds of the changes of columns, in the order in which they act."""
    changes = [change for column in columns for change in column.changes]
    names = {change.name for change in changes}
    asked = {name for change in changes for name in change.arguments}
    return [kind for kind in kinds_in(asked) if kind.name in names]


def _seed(value: Any) -> int:
    if _whole(value) is None or not -(2**63) <= int(value) < 2**63:
        raise ValueError(f"{SEED}={value} is no 64-bit integer: give a whole number such as 0")
    return int(value)


def _draws(value: Any) -> int:
    if (_whole(value) or 0) < 1:
        raise ValueError(f"{DRAWS}={value} must be a whole number of at least 1")
    return int(value)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return int(value) if int(value) == float(value) else None
    except (TypeError, ValueError, OverflowError):
        return None
