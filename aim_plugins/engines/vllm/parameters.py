"""What one vLLM request asks for: `extra_args` of its sampling parameters, read and checked.

Offline `SamplingParams(extra_args={"aim_std": 0.5, "aim_seed": 3})`; to a server the same entries
as `vllm_xargs` in the body of the request, but for `aim_sampling`: a body has no room for mappings.
Every kind of change is asked for by "aim_" and the name of its axis.
"""

from __future__ import annotations

import functools
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import LogitsProcessor

from aim_plugins.core.errors import did_you_mean
from aim_plugins.engines.sampling import SAMPLING_OPTIONS, warpers
from aim_plugins.modulation.changes import REQUEST_SEED, Change
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.named_kinds import kinds_in
from aim_plugins.modulation.windows import window_bounds

PREFIX = "aim_"
SAMPLING_NAME = "aim_sampling"
PROMPT_NAME = "aim_prompt_length"


@dataclass(frozen=True, slots=True)
class KeyedSampling:
    """How a request's tokens are drawn where its draws are keyed, as in the Hugging Face engine.

    Attributes:
        seed: Seed of the draws.
        settings: Names and values of options of `generate`.
    """

    seed: int
    settings: tuple[tuple[str, float], ...]

    @classmethod
    def read(cls, value: Any) -> KeyedSampling:
        """Reads and checks the argument.

        Raises:
            ValueError: If it is no mapping, or an entry is unknown or out of range.
        """
        if not isinstance(value, Mapping):
            raise ValueError(
                f"aim_sampling={shown(value)} is no mapping such as "
                '{"seed": 0, "temperature": 0.7}, which only extra_args can hold; clients of a '
                "server sample with temperature and seed"
            )
        settings = {name: setting for name, setting in value.items() if name != "seed"}
        if unknown := [name for name in settings if name not in SAMPLING_OPTIONS]:
            raise ValueError(
                f"aim_sampling: {unknown[0]}={shown(settings[unknown[0]])} is no option of "
                f"sampling; it knows seed, {', '.join(SAMPLING_OPTIONS)}"
            )
        for name, setting in settings.items():
            number = isinstance(setting, int | float) and not isinstance(setting, bool)
            if not number or not math.isfinite(setting):
                raise ValueError(f"aim_sampling: {name}={shown(setting)} is no finite number")
        found = cls(_seed(value.get("seed", 0), "aim_sampling: seed"), tuple(settings.items()))
        found.warpers()
        return found

    def warpers(self) -> list[LogitsProcessor]:
        """The processors of transformers that shape the distribution before the draw."""
        return warpers(dict(self.settings))


@dataclass(frozen=True)
class RequestModulation:
    """The modulation of one request.

    Attributes:
        column: What is changed. Changes of activations come without maps, which are the engine's.
        prompt_length: Tokens that count as its prompt, where windows ask for it; None is all of it.
        sampling: How tokens are drawn by keys; None leaves it to vLLM.
    """

    column: Column = Column()
    prompt_length: int | None = None
    sampling: KeyedSampling | None = None

    @functools.cached_property
    def logits(self) -> tuple[Change, ...]:
        """Its changes of logits."""
        return self.column.acting_on("logits")

    @functools.cached_property
    def transports(self) -> dict[str, Change]:
        """Its changes of activations, by the names of the engine's transports."""
        return {one.label: one for one in self.column.acting_on("activations")}

    def movements(
        self, positions: Mapping[str, str], prompt_length: int
    ) -> dict[str, tuple[float, int, int]]:
        """How the engine's transports move the request.

        Args:
            positions: The window of each transport where the request names none.
            prompt_length: Tokens of its prompt.

        Returns:
            By name the strength, the first position that it reaches, and one past the last.

        Raises:
            KeyError: If the engine has not one of them.
        """
        prompt = prompt_length if self.prompt_length is None else self.prompt_length
        found = {}
        for name, one in self.transports.items():
            own = positions[name]  # of one that is unknown a request would be left unsteered
            found[name] = (one.strength, *window_bounds(one.window or own, prompt))
        return found

    @property
    def concerns_logits(self) -> bool:
        """Whether the logits processor has anything to do."""
        return bool(self.logits) or self.sampling is not None

    @classmethod
    def read(cls, extra_args: Mapping[str, Any] | None) -> RequestModulation:
        """Reads and checks a request's arguments; those of other plugins are left alone.

        Raises:
            ValueError: If a name that starts with "aim_" is unknown, a value is out of range, or
                vLLM cannot carry a change out.
        """
        given = {k: v for k, v in (extra_args or {}).items() if k.startswith(PREFIX)}
        if not given:
            return cls()
        asked_kinds = kinds_in(given)
        known = [name for kind in asked_kinds for name in kind.request_names()]
        known += [REQUEST_SEED, PROMPT_NAME, SAMPLING_NAME]
        if unknown := sorted(given.keys() - set(known)):
            raise ValueError(
                f"{unknown[0]}={shown(given[unknown[0]])} is no argument of aim-plugins: "
                f"{did_you_mean(unknown[0], known)}"
            )
        seed = _seed(given.get(REQUEST_SEED, 0), REQUEST_SEED)
        asked = [kind.of_request(given) for kind in asked_kinds]
        column = Column(tuple(one.drawn(seed) for one in asked if one is not None), seed)
        for change in column.forward:
            _refuse_beyond_vllm(change)
        return cls(
            column,
            prompt_length=_length(given.get(PROMPT_NAME)),
            sampling=None
            if (sampling := given.get(SAMPLING_NAME)) is None
            else KeyedSampling.read(sampling),
        )


def extra_args(column: Column, prompt_length: int | None = None) -> dict[str, Any]:
    """The arguments that ask for a column; none for the unmodulated model.

    Args:
        column: The column.
        prompt_length: Tokens that count as the prompt, if not all.
    """
    asked = {k: v for change in column.effective.changes for k, v in change.request.items()}
    if prompt_length is not None and column.acting_on("activations"):
        asked[PROMPT_NAME] = prompt_length
    return asked


def asked_for(change: Change) -> str:
    """A change as its request's argument, for errors."""
    return f"{change.request_names()[0]}={change.strength}"


def _refuse_beyond_vllm(change: Change) -> None:
    if change.acts_on == "weights":
        raise ValueError(
            f"{asked_for(change)} changes weights, which all requests of a vLLM engine share: fold "
            f"the {change.name} into a checkpoint, or use the Hugging Face engine"
        )
    if change.maps is None:
        raise ValueError(
            f"{asked_for(change)} changes activations by other than affine maps, which vLLM cannot "
            "compile into the model: use the Hugging Face engine"
        )


def shown(value: Any) -> str:
    """A value as an error prints it: shortened, as clients may send integers of many digits."""
    return reprlib.repr(value)


def _whole(value: Any) -> int | None:
    # Bodies of requests are JSON, whose numbers some clients all write as 3.0.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seed(value: Any, name: str) -> int:
    seed = _whole(value)
    if seed is None or not -(2**63) <= seed < 2**63:
        raise ValueError(
            f"{name}={shown(value)} is no 64-bit integer: give a whole number such as 0"
        )
    return seed


def _length(value: Any) -> int | None:
    if value is None:
        return None
    length = _whole(value)
    if length is None or not 1 <= length < 2**31:
        raise ValueError(
            f"{PROMPT_NAME}={shown(value)} is no number of tokens: give a whole number above 0 and "
            "below 2**31"
        )
    return length
