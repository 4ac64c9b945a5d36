"""Activation transport as a change: learned maps on activations, at a strength λ for each row.

Source: arXiv 2410.23054, eq. 1: (1 - λ) x + λ T(x).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.windows import check_window
from aim_plugins.transport.vocabulary import existing_transport

if TYPE_CHECKING:
    from aim_plugins.modulation.activations import ActivationMaps
    from aim_plugins.modulation.conditions import Condition, ConditionText
    from aim_plugins.transport.artifact import LearnedTransport

logger = logging.getLogger(__name__)

FULL_STRENGTH = 1.0
"""Applies maps as they were learned; what a transport without a `strength` asks for."""


@dataclass(frozen=True)
class Transport(Change):
    """A transport of activations at one strength.

    Attributes:
        strength: Strength λ; 0 leaves activations as they are, 1 applies the maps as learned.
        fingerprint: Fingerprint of the maps.
        maps: The maps.
        learned: The maps with what they were learned on, where that is known.
        folder: Where they were read from, if anywhere.
        force: Whether they may run on another model than they were learned on.
        window: The tokens that they reach, see `windows`; empty for the maps' own positions.
        condition: Of which prompts they act at all; None for all of them.
    """

    name = "transport"
    axis = Axis("strength", "λ", "transport strength")
    acts_on = "activations"
    arguments = {
        "strength": "strengths of the transport: 1 applies its maps as they were learned",
        "transport": "folder that `aim-plugins transport fit` wrote",
        "window": "tokens that it reaches: all, prompt, generation, last, or such as 0-15",
        "condition": "folder that `aim-plugins transport condition` wrote: prompts that it acts on",
        "force_transport": "run the maps on other weights than they were learned on",
    }
    several = True
    # 1 reaches the target; each site of a model multiplies what the sites before it have moved, so
    # that far beyond float32 runs over.
    request_limit = 100.0

    strength: float
    fingerprint: str = field()
    maps: ActivationMaps = field(compare=False, repr=False)
    learned: LearnedTransport | None = field(default=None, compare=False, repr=False)
    folder: str = field(default="", compare=False)
    force: bool = field(default=False, compare=False)
    window: str = ""
    condition: Condition | ConditionText | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> tuple[Transport, ...]:
        strength, transport, window, condition, forced = cls.arguments
        reached = check_window(given[window], window) if window in given else ""
        strengths = cls.axis.parse(given.get(strength, FULL_STRENGTH), strength)
        force = given.get(forced, False)
        if str(force) not in ("True", "False"):  # a text where it was an option
            raise ValueError(f"{forced}={force!r} is neither True nor False: write one")
        force = str(force) == "True"
        named = given.get(transport)
        if named is None or named == "":
            known = transport in given
            problem = f"{transport}= is missing" if known else f"{_asked(given)} has no transport"
            raise ValueError(
                f"{problem}: name the folder that `aim-plugins transport fit` wrote, as in "
                f"{transport}=DIR"
            )
        if isinstance(named, str | int | os.PathLike):
            existing_transport(named, argument=transport)  # before torch is imported
        from aim_plugins.modulation.activations import ActivationMaps
        from aim_plugins.transport.artifact import LearnedTransport

        asked = given.get(condition)
        met = None if asked is None else read_condition(asked, condition)
        if isinstance(named, ActivationMaps):
            return tuple(
                cls(one, named.fingerprint, named, force=force, window=reached, condition=met)
                for one in strengths
            )
        learned, folder = (
            (named, "") if isinstance(named, LearnedTransport) else read_transport(named)
        )
        if warning := learned.metadata.warning_of(strengths):
            warn_once(warning)
        return tuple(
            cls(one, learned.fingerprint, learned.maps, learned, folder, force, reached, met)
            for one in strengths
        )

    @property
    def positions(self) -> str:  # type: ignore[override]
        """The tokens that are transported."""
        return self.window or self.maps.positions

    @property
    def identity(self) -> dict[str, Any]:
        own = {"window": self.window, "condition": _identity(self.condition)}
        found = super().identity | own
        return {name: value for name, value in found.items() if name not in own or value}

    @property
    def settings(self) -> dict[str, Any]:
        strength, _, window, condition, _ = self.arguments
        return {strength: self.strength} | self._asked(window, condition)

    @classmethod
    def request_names(cls) -> tuple[str, ...]:
        strength, _, window, condition, _ = cls.arguments
        return f"aim_{strength}", f"aim_{window}", f"aim_{condition}"

    @property
    def request(self) -> dict[str, Any]:
        strength, window, condition = self.request_names()
        return {strength: self.strength} | self._asked(window, condition)

    def _asked(self, window: str, condition: str) -> dict[str, str]:
        """Window and condition, under the names of their arguments, as far as there are any."""
        met = getattr(self.condition, "asked", None) or self.condition
        asked = {window: self.window, condition: "" if met is None else str(met)}
        return {name: text for name, text in asked.items() if text}

    @classmethod
    def of_request(cls, given: Mapping[str, Any]) -> Transport | None:
        """As of every change, but without maps and conditions: those of the engine are meant."""
        strength, window, condition = cls.request_names()
        if strength not in given:
            if alone := next((name for name in (window, condition) if name in given), None):
                raise ValueError(f"{alone}={given[alone]!r} has no strength: give {strength} too")
            return None
        from aim_plugins.modulation.activations import ActivationMaps
        from aim_plugins.modulation.conditions import ConditionText

        reached = check_window(given[window], window) if window in given else ""
        met = ConditionText.read(given[condition], condition) if condition in given else None
        value = cls.axis.check(given[strength], strength, limit=cls.request_limit)
        return cls(value, "", ActivationMaps({}), window=reached, condition=met)

    @property
    def certain(self) -> bool:  # type: ignore[override]
        """Whether its maps surely move what they are given."""
        return self.maps.is_certain

    def sites(self, model: Any) -> Sequence[str]:
        return list(self.maps.maps)

    def check_model(self, model: Any, tokenizer: Any) -> None:
        _, transport, _, condition, forced = self.arguments
        metadata = getattr(self.condition, "metadata", None)
        if metadata is not None:
            try:
                metadata.check_model(model, force=self.force)
            except ValueError as error:
                asked = self._asked("", condition)[condition]
                raise ValueError(
                    f"{condition}={asked!r} is of another model: {error}, or give {forced}=True"
                ) from error
        if self.learned is None:
            return
        try:
            self.learned.check_model(model, tokenizer, force=self.force)
        except ValueError as error:
            mend = str(error).replace("force=True (--force)", f"{forced}=True")
            place = f"={self.folder!r}" if self.folder else ""
            raise ValueError(f"{transport}{place} is of another model: {mend}") from error

    @classmethod
    def applied(
        cls, model: Any, changes: Sequence[Transport | None], layout: Any = None
    ) -> contextlib.AbstractContextManager[None]:
        from aim_plugins.modulation.columns import applied

        return applied(model, [() if one is None else (one,) for one in changes], layout)


def _asked(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


def _identity(condition: Condition | ConditionText | None) -> str | None:
    if condition is None:
        return None
    return str(getattr(condition, "fingerprint", condition))  # a request's text has none


def read_condition(given: Any, name: str = "condition") -> Condition:
    """Reads a condition.

    Args:
        given: What `ConditionText.read` takes, or a `Condition`.
        name: The argument, for errors.

    Raises:
        ValueError: If it is none, or its files are missing or damaged.
    """
    from aim_plugins.modulation.conditions import Condition, ConditionText
    from aim_plugins.transport.conditions.artifact import LearnedCondition

    if isinstance(given, Condition):
        return given
    asked = ConditionText.read(given, name)
    return asked.of(LearnedCondition.load(Path(asked.named).expanduser(), name).condition)


def read_transport(named: object) -> tuple[LearnedTransport, str]:
    """Reads a transport, once for each state of its files.

    Args:
        named: The folder that `aim-plugins transport fit` wrote.

    Returns:
        The transport, and its folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its files are missing or damaged.
    """
    place = existing_transport(named)
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in place.iterdir()]
    return _read(place, tuple(sorted(states))), str(place)


@lru_cache(maxsize=64)
def _read(folder: Path, _states: tuple[tuple[str, int, int], ...]) -> LearnedTransport:
    from aim_plugins.transport.artifact import LearnedTransport

    return LearnedTransport.load(folder)


@cache
def warn_once(message: str) -> None:
    """Warns the user, once for each message."""
    logger.warning(message)
