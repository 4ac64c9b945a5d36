"""Several changes of one kind side by side, each under a name that ends its arguments.

`transport_praise=DIR,strength_praise=0.5` asks for a transport under the name "praise": a kind of
its own, with an axis of its own. So columns hold several, a grid varies two, and engines, harnesses
and pictures take them as they take any kind.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import weakref
from collections.abc import Iterable
from typing import Any

from aim_plugins.modulation.changes import Change, kinds

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def is_label(text: str) -> bool:
    """Whether an argument may end in a text that names one of several changes."""
    return _LABEL.fullmatch(text) is not None


def kinds_in(given: Iterable[str]) -> tuple[type[Change], ...]:
    """All kinds, each before those of it that are asked for under a name.

    Args:
        given: Arguments of a harness or a request.

    >>> [kind.name for kind in kinds_in(["noise_std", "strength_sea", "transport_praise"])][:4]
    ['noise', 'transport', 'transport_praise', 'transport_sea']
    """
    found = kinds()
    known = {name for kind in found for name in (*kind.arguments, *kind.request_names())}
    others = [name for name in given if name not in known]
    return tuple(
        one
        for kind in found
        for one in (
            kind,
            *(named_kind(kind, label) for label in sorted(_labels(kind, others) - known)),
        )
    )


def _labels(kind: type[Change], given: Iterable[str]) -> set[str]:
    if not kind.several:
        return set()
    prefixes = [f"{name}_" for name in (*kind.arguments, *kind.request_names())]
    ends = {name.removeprefix(one) for name in given for one in prefixes if name.startswith(one)}
    return set(filter(is_label, ends))


# Bounded, as the clients of a server think of names.
@functools.lru_cache(maxsize=1024)
def named_kind(kind: type[Change], label: str) -> type[Change]:
    """A kind under a name, which ends its own name, its arguments and its axis."""
    return _IN_USE.get((kind, label)) or _IN_USE.setdefault((kind, label), _made(kind, label))


_IN_USE: weakref.WeakValueDictionary[tuple[type[Change], str], type[Change]] = (
    weakref.WeakValueDictionary()
)
"""Kinds that somebody holds: what clients name drives none of them out."""


def _made(kind: type[Change], label: str) -> type[Change]:
    axis = dataclasses.replace(
        kind.axis,
        name=f"{kind.axis.name}_{label}",
        symbol=f"{kind.axis.symbol}_{label}",
        quantity=f"{kind.axis.quantity} of {label}",
    )
    own: dict[str, Any] = {
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "name": f"{kind.name}_{label}",
        "label": label,
        "axis": axis,
        "arguments": {f"{name}_{label}": meaning for name, meaning in kind.arguments.items()},
    }
    return type(f"{kind.__name__}_{label}", (kind,), own)
