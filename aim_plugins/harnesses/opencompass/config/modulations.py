"""What the settings of a model entry change of its model: noise on logits, a transport, or both.

    dict(type=..., path=..., noise_std=0.5, noise_seed=1)
    dict(type=..., path=..., transport="runs/toxicity", strength=0.5)

One entry has one strength of each; both may stand in its `generation_kwargs` or beside them.
"""

from __future__ import annotations

import copy
import difflib
import numbers
import os
from collections.abc import ItemsView, Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from opencompass.utils import get_logger

from aim_plugins.core.strengths import parse_strengths
from aim_plugins.engines.engine import Modulation, modulation_columns
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata

NOISE_KEYS = ("noise_std", "noise_mean", "noise_seed")
TRANSPORT_KEYS = ("transport", "strength", "force_transport")

_FULL_STRENGTH = 1.0
"""Applies maps as they were learned; what an entry without a `strength` asks for."""
_SIMILARITY = 0.8

_read: dict[str, TransportMetadata] = {}
"""What is known of the transports that this process has read, by their fingerprints."""


class SplitSettings(NamedTuple):
    """The settings of a model entry, sorted.

    Attributes:
        modulation: What is changed of the model.
        rest: A deep copy of all other settings.
        folder: The folder of the transport; empty without one.
        force: Whether the transport runs on other weights than it was learned on.
    """

    modulation: Modulation
    rest: dict[str, Any]
    folder: str = ""
    force: bool = False


def split_modulation(settings: Mapping[str, Any], *, transports: bool = True) -> SplitSettings:
    """Reads the modulation of a model entry.

    Args:
        settings: A model entry, or the keyword arguments of a model. Without a `noise_std` its
            logits are left as they are, without a `transport` its activations; a `transport`
            without a `strength` is applied as it was learned.
        transports: Whether `transport`, `strength` and `force_transport` are read; other people's
            classes may mean something else by them.

    Raises:
        ValueError: If the two places disagree, a key is misspelt, the noise is not exactly one
            strength, one mean and one seed, the transport is not exactly one strength, a strength
            has no transport, or the transport's files are damaged.
        FileNotFoundError: If there is no such transport.
    """
    rest = {key: copy.deepcopy(value) for key, value in items(settings)}
    given = _take(rest, transports=transports)
    inner = rest.get("generation_kwargs")
    if inner is not None:
        if not isinstance(inner, dict):
            raise ValueError(
                f"generation_kwargs={inner!r} is no dict: write dict(noise_std=0.5, ...)"
            )
        for key, value in _take(inner, transports=transports).items():
            if key in given and given[key] != value:
                raise ValueError(
                    f"{key}={given[key]!r} beside generation_kwargs disagrees with "
                    f"{key}={value!r} in it: give it in one place"
                )
            given[key] = value
    force = given.get("force_transport", False)
    if not isinstance(force, bool):
        raise ValueError(f"force_transport={force!r} is neither True nor False: write one of them")
    return SplitSettings(_modulation(given), rest, given.get("transport", ""), force)


def read_transport(folder: str) -> LearnedTransport:
    """Reads a transport, once for each state of its files.

    Args:
        folder: The folder that `aim-plugins transport fit` wrote.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its files are missing or damaged.
    """
    place = os.path.abspath(os.path.expanduser(folder))
    if not os.path.isdir(place):
        raise FileNotFoundError(
            f"transport={folder!r} is no folder: name the one that `aim-plugins transport fit` "
            "wrote, or start from the folder it is relative to"
        )
    with os.scandir(place) as files:
        states = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _read_transport(place, tuple(states))


def refuse_misplaced(kind: str, split: SplitSettings, *, takes_transport: bool) -> None:
    """Refuses a transport in an entry of the wrong class, and a class without its transport.

    Args:
        kind: Name of the entry's class.
        split: The entry's settings.
        takes_transport: Whether the class is one for transports.

    Raises:
        ValueError: With the class or setting to write instead.
    """
    if split.folder and not takes_transport:
        other = kind.replace("Noise", "AcT")
        raise ValueError(f"transport={split.folder!r} is not for {kind}: write type={other}")
    if takes_transport and not split.folder:
        other = kind.replace("AcT", "Noise")
        raise ValueError(
            f"transport is missing, and {kind} needs one: write transport='FOLDER', or "
            f"type={other} for a model without"
        )


def warn_outside(columns: Iterable[Modulation]) -> None:
    """Warns of strengths of a transport beyond the range that it was learned for; they may run."""
    strengths: dict[str, list[float]] = {}
    for column in columns:
        strengths.setdefault(column.transport, []).append(column.transport_strength)
    for transport, asked in strengths.items():
        known = _read.get(transport)  # whoever has a transport's fingerprint has read it
        if known is not None and (warning := known.warning_of(asked)):
            _warn_once(warning)


@cache
def _warn_once(message: str) -> None:
    get_logger().warning(message)


def describe(modulation: Modulation) -> str:
    """A modulation in the words of an entry.

    >>> describe(Modulation(0.5, seed=1))
    'noise_std=0.5, noise_mean=0.0, noise_seed=1'
    """
    pairs = zip(NOISE_KEYS, (modulation.std, modulation.mean, modulation.seed), strict=True)
    text = ", ".join(f"{key}={value!r}" for key, value in pairs)
    return f"{text}, strength={modulation.transport_strength!r}" if modulation.transport else text


def items(settings: Mapping[str, Any]) -> ItemsView[str, Any]:
    """The settings as they are: mmengine imports a lazy object read in any other way."""
    return dict.items(settings) if isinstance(settings, dict) else settings.items()


@lru_cache(maxsize=64)
def _read_transport(folder: str, _states: tuple[tuple[str, int, int], ...]) -> LearnedTransport:
    transport = LearnedTransport.load(Path(folder))
    _read[transport.fingerprint] = transport.metadata
    return transport


def _take(settings: dict[str, Any], *, transports: bool) -> dict[str, Any]:
    names = [key for key in settings if isinstance(key, str)]
    noise = [key for key in names if key.startswith("noise")]
    _refuse_unknown(settings, noise, NOISE_KEYS)
    taken = noise
    if transports:
        moved = [key for key in names if _means_transport(key)]
        _refuse_unknown(settings, moved, TRANSPORT_KEYS)
        taken = noise + moved
    return {key: settings.pop(key) for key in taken}


def _means_transport(key: str) -> bool:
    """Whether a key is meant for the transport, well spelt or not."""
    return key.startswith(TRANSPORT_KEYS) or bool(
        difflib.get_close_matches(key, TRANSPORT_KEYS, n=1, cutoff=_SIMILARITY)
    )


def _refuse_unknown(
    settings: Mapping[str, Any], keys: Iterable[str], known: tuple[str, ...]
) -> None:
    for key in keys:
        if key not in known:
            within = [name for name in known if key.endswith(name)]
            near = within or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise ValueError(
                f"{key}={settings[key]!r} is unknown; did you mean {near[0]}? A model entry takes "
                f"{', '.join(known)}; strengths and draws (seeds) are entries of their own"
            )


def _modulation(given: Mapping[str, Any]) -> Modulation:
    std, mean, seed = (given.get(key, 0) for key in NOISE_KEYS)
    if not isinstance(mean, numbers.Real) or isinstance(mean, bool):
        raise ValueError(f"noise_mean={mean!r} is not a number: give one such as 0.0")
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise ValueError(f"noise_seed={seed!r} is not a whole number: give one such as 0")
    std = _one_strength("noise_std", std)
    strength, transport = _transport(given)
    (column,) = modulation_columns(
        std, float(mean), int(seed), strength=strength, transport=transport
    )
    return column


def _transport(given: Mapping[str, Any]) -> tuple[float, str]:
    """Strength and fingerprint of the transport; 0 and nothing without one."""
    if "transport" not in given:
        if "strength" in given:
            raise ValueError(
                f"strength={given['strength']!r} has no transport: write transport='FOLDER' beside "
                "it, the folder of a fitted one"
            )
        return 0.0, ""
    folder = given["transport"]
    if not isinstance(folder, str) or not folder:
        raise ValueError(f"transport={folder!r} is no folder: write its path as text")
    strength = _one_strength("strength", given.get("strength", _FULL_STRENGTH), signed=True)
    return strength, read_transport(folder).fingerprint


def _one_strength(name: str, value: Any, *, signed: bool = False) -> float:
    strengths = parse_strengths(value, name=name, signed=signed)
    if len(strengths) != 1:
        raise ValueError(
            f"{name}={value!r} holds {len(strengths)} strengths, and one entry has one strength: "
            f"write an entry for each, as in [dict(..., {name}=x) for x in (0.0, 0.5)]"
        )
    return strengths[0]
