"""What one vLLM request asks for: `extra_args` of its sampling parameters, read and checked.

Offline `SamplingParams(extra_args={"aim_std": 0.5, "aim_seed": 3})`; to a server the same entries
as `vllm_xargs` in the body of the request, but for `aim_sampling`: a body has no room for mappings.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import LogitsProcessor

from aim_plugins.core.strengths import validate_strength
from aim_plugins.engines.engine import Modulation
from aim_plugins.engines.sampling import SAMPLING_OPTIONS, warpers

PREFIX = "aim_"
NAMES = ("aim_std", "aim_mean", "aim_seed", "aim_strength", "aim_start")
SAMPLING_NAME = "aim_sampling"

MAX_STD = 1e4
"""Largest std, and mean either way. Logits differ by tens: at a hundred times that nothing is left
of the model, and float32 keeps three decimals of the sum, where farther out it would lose them."""

MAX_STRENGTH = 100.0
"""Largest strength of a transport either way. 1 reaches the target; each site of a model multiplies
what the sites before it have moved, so that far beyond float32 runs over."""


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


@dataclass(frozen=True, slots=True)
class RequestModulation:
    """The modulation of one request.

    Attributes:
        std: Standard deviation of the noise in logit units; 0 leaves logits as they are.
        mean: Mean of the noise in logit units.
        seed: Seed of the noise.
        strength: Strength of the engine's transport; 0 leaves activations as they are.
        start: First token that a transport of the "last" positions reaches; None is the last one of
            the prompt.
        sampling: How tokens are drawn by keys; None leaves it to vLLM.
    """

    std: float = 0.0
    mean: float = 0.0
    seed: int = 0
    strength: float = 0.0
    start: int | None = None
    sampling: KeyedSampling | None = None

    @property
    def concerns_logits(self) -> bool:
        """Whether the logits processor has anything to do."""
        return self.std > 0 or self.sampling is not None

    @classmethod
    def read(cls, extra_args: Mapping[str, Any] | None) -> RequestModulation:
        """Reads and checks a request's arguments; those of other plugins are left alone.

        Raises:
            ValueError: If a name that starts with "aim_" is unknown, or a value is out of range.
        """
        given = extra_args or {}
        known = {*NAMES, SAMPLING_NAME}
        unknown = sorted(name for name in given if name.startswith(PREFIX) and name not in known)
        if unknown:
            raise ValueError(
                f"{unknown[0]}={shown(given[unknown[0]])} is no argument of aim-plugins; "
                f"it knows {', '.join(NAMES)}"
            )
        return cls(
            std=_number(given, "aim_std", MAX_STD, signed=False),
            mean=_number(given, "aim_mean", MAX_STD),
            seed=_seed(given.get("aim_seed", 0), "aim_seed"),
            strength=_number(given, "aim_strength", MAX_STRENGTH),
            start=_start(given.get("aim_start")),
            sampling=None
            if (asked := given.get(SAMPLING_NAME)) is None
            else KeyedSampling.read(asked),
        )


def extra_args(column: Modulation, start: int | None = None) -> dict[str, Any]:
    """The arguments that ask for a column; none for the unmodulated model.

    Args:
        column: The column.
        start: First token that a transport of the "last" positions reaches, if not the last.
    """
    arguments: dict[str, Any] = {}
    if column.has_noise:
        arguments |= {"aim_std": column.std, "aim_mean": column.mean, "aim_seed": column.seed}
    if column.transport_strength != 0:
        arguments["aim_strength"] = column.transport_strength
        if start is not None:
            arguments["aim_start"] = start
    return arguments


def shown(value: Any) -> str:
    """A value as an error prints it: shortened, as clients may send integers of many digits."""
    return reprlib.repr(value)


def _number(given: Mapping[str, Any], name: str, bound: float, *, signed: bool = True) -> float:
    value = given.get(name, 0.0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) > bound and abs(value) != math.inf:
        raise ValueError(
            f"{name}={shown(value)} is beyond {bound:g}: give a number from "
            f"{-bound if signed else 0:g} to {bound:g}"
        )
    return validate_strength(value, name=name, signed=signed)


def _seed(value: Any, name: str) -> int:
    # Bodies of requests are JSON, whose numbers some clients all write as 3.0.
    seed = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(
            f"{name}={shown(value)} is no 64-bit integer: give a whole number such as 0"
        )
    return seed


def _start(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(
            f"aim_start={shown(value)} is no position: give a whole number from 0 upwards"
        )
    return value
