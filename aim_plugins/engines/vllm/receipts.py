"""Receipts in vLLM: what workers saw of each request, and what their engine makes of it.

A request of `VLLMEngine` has a number. While it runs, the worker counts its tokens that the model
has computed and the steps at which its logits were changed, and keeps from time to time what lay on
the device: strengths, and whether logits came out otherwise. It is read once, when a batch is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from aim_plugins.core.errors import ReceiptError, first_few
from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.vllm.steps import Step, StepListener, to_device
from aim_plugins.engines.vllm.worker_maps import PARTS
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.applied_strengths import checksum
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.parameters import to_host
from aim_plugins.transport.vectors import affine_maps

NUMBER_ARGUMENT = "_aim_answer"
"""Entry of a request's `extra_args` that says which answer of the batch it is."""

Seen = dict[int, tuple[int, int, int, bool, list[float]]]
"""Of each answer: the first token that was computed, one past the last, steps at which its logits
were changed, whether they came out otherwise, and the strengths that lay at its tokens."""


class Sampled:
    """Decides which steps are looked at: the 1st, 2nd, 4th, 8th … with the same requests."""

    def __init__(self) -> None:
        self._names: Any = None
        self._calls = 0

    def now(self, names: Any) -> bool:
        """Whether to look at this step of these requests."""
        self._calls = self._calls + 1 if names == self._names else 1
        self._names = names
        return not self._calls & (self._calls - 1)


@dataclass
class LogitsSeen:
    """What the logits processor did to requests with a number.

    Attributes:
        steps: Steps at which the logits of each were changed.
        samples: Numbers, and flags on the device: whether the logits of each came out otherwise.
    """

    steps: Counter[int] = field(default_factory=Counter)
    samples: list[tuple[list[int | None], Tensor]] = field(default_factory=list)

    def unmoved(self) -> set[int]:
        """Numbers of those whose logits came out as they were at a step that was looked at."""
        flags = to_host([moved for _, moved in self.samples])
        return {
            number
            for (numbers, _), moved in zip(self.samples, flags, strict=True)
            for number, found in zip(numbers, moved.tolist(), strict=True)
            if number is not None and not found
        }


class AnswersSeen(StepListener):
    """Watches the requests with a number that a model runner computes.

    Args:
        runner: The runner.
        logits: What its logits processor sees; None if it has none.
    """

    def __init__(self, runner: Any, logits: LogitsSeen | None) -> None:
        self._maps = getattr(runner, "aim_maps", None)
        self._logits = logits
        self._numbers: dict[str, int] = {}
        self._prompts: dict[int, int] = {}
        self._spans: dict[int, list[int]] = {}
        self._sampled = Sampled()
        self._strengths: list[tuple[list[int], Tensor]] = []

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """Takes a request that has a number."""
        if (number := extra_args.get(NUMBER_ARGUMENT)) is not None:
            self._numbers[name] = number
            self._prompts[number] = len(prompt)

    def remove_request(self, name: str) -> None:
        """Forgets a request; what was seen of it stays."""
        self._numbers.pop(name, None)

    def before_forward(self, step: Step) -> None:
        """Notes the tokens of a step, and from time to time their strengths."""
        numbers, lasts, ending = [], [], False
        firsts, rows = step.positions.tolist(), step.rows.tolist()
        for index, name in enumerate(step.names):
            if (number := self._numbers.get(name)) is None:
                continue
            first, stop = firsts[index], firsts[index] + rows[index + 1] - rows[index]
            span = self._spans.setdefault(number, [first, first])
            if first <= span[1]:  # what lies between would be unknown
                span[1] = max(span[1], stop)
            ending |= first < self._prompts[number] <= stop  # where "last" begins
            numbers.append(number)
            lasts.append(rows[index + 1] - 1)
        if self._maps is not None and numbers and (self._sampled.now(numbers) or ending):
            strengths = self._maps.strengths
            own = strengths[to_device(np.array(lasts), strengths.device)]
            self._strengths.append((numbers, own.sum(1)))

    def result(self) -> Seen:
        """What was seen of each answer."""
        found: dict[int, set[float]] = {number: set() for number in self._spans}
        flags = to_host([values for _, values in self._strengths])
        for (numbers, _), values in zip(self._strengths, flags, strict=True):
            for number, value in zip(numbers, values.tolist(), strict=True):
                found[number].add(value)
        unmoved = set() if self._logits is None else self._logits.unmoved()
        steps = Counter[int]() if self._logits is None else self._logits.steps
        return {
            number: (*span, steps[number], number not in unmoved, sorted(found[number]))  # type: ignore[misc]
            for number, span in self._spans.items()
        }


def intact_sites(model: Any, places: Sequence[tuple[str, int]]) -> list[int | None]:
    """The bits of the maps that lie in a model, None where there is no hook any more.

    Args:
        model: The model.
        places: Sites, and the place of the transport among those of the engine.
    """
    sums: list[int | None] = []
    for site, index in places:
        module = find_module(model, site)
        vectors = [getattr(module, f"aim_{part}_{index}", None) for part in PARTS]
        hooked = module._forward_hooks and all(one is not None for one in vectors)
        sums.append(int(checksum(vectors)) if hooked else None)  # type: ignore[arg-type]
    return sums


def map_sums(transports: Mapping[str, ActivationMaps]) -> dict[tuple[str, int], int]:
    """The bits of an engine's maps, as `intact_sites` should find them at each place."""
    return {
        (site, index): int(checksum([one.scale - 1, one.shift, one.support_min, one.support_max]))
        for index, maps in enumerate(transports.values())
        for site, one in affine_maps(maps.maps, "vLLM").items()
    }


def check_maps_intact(found: Sequence[int | None], wanted: Mapping[tuple[str, int], int]) -> None:
    """Refuses a worker whose hooks are gone or whose maps are others.

    Raises:
        ReceiptError: Naming the modules.
    """
    wrong = [place[0] for place, one in zip(wanted, found, strict=True) if one != wanted[place]]
    if wrong:
        raise ReceiptError(
            f"{first_few(wrong)} of the worker move activations no longer as the transport: hooks "
            "were removed, or maps overwritten; start the engine again"
        )


def settle(
    column: Column,
    seen: tuple[int, int, int, bool, list[float]] | None,
    *,
    prompt: int,
    new: int,
    place: str,
) -> dict[Change, int]:
    """Holds what workers saw of an answer against its column.

    Args:
        column: The column.
        seen: What was seen; None if nothing was.
        prompt: Tokens of the prompt.
        new: Tokens of the answer; 0 where the prompt alone was scored.
        place: Which row it is, for errors.

    Returns:
        Sites at which each change of activations acted.

    Raises:
        ReceiptError: If the answer was not changed as it was asked to be.
    """
    changes = column.effective.changes
    if not changes:
        return {}
    wanted = " and ".join(f"{one.name} {format_strength(one.strength)}" for one in changes)
    if seen is None:
        raise ReceiptError(f"{place}: asked for {wanted}, and no worker has seen the request")
    first, stop, steps, moved, strengths = seen
    read = prompt + max(new - 1, 0)
    if stop < read:
        raise ReceiptError(
            f"{place}: asked for {wanted}, and {stop} of its {read} tokens were computed"
        )
    logits = column.acting_on("logits")
    if new and logits and steps < new:
        raise ReceiptError(f"{place}: asked for {wanted}, changed at {steps} of {new} steps")
    if new and any(one.certain for one in logits) and not moved:
        raise ReceiptError(f"{place}: asked for {wanted}, and its logits are what they were")
    moving = column.acting_on("activations")
    sums = {0.0}
    for change in moving:  # each may reach a token or not
        with_it = {one + change.strength for one in sums}
        sums = with_it if change.positions == "all" else sums | with_it
    reaching = any(one.positions in ("all", "last") for one in moving)  # at the prompt's last token
    known = all(any(np.isclose(value, one, 1e-6) for one in sums) for value in strengths)
    if moving and (not known or not strengths or (reaching and not any(strengths))):
        raise ReceiptError(
            f"{place}: asked for {wanted}, and the strengths at its tokens were "
            f"{', '.join(map(format_strength, strengths)) or 'never seen'}"
        )
    return {one: len(one.maps.maps) for one in moving}
