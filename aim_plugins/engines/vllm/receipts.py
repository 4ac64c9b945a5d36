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
from aim_plugins.modulation.windows import ENDLESS, window_bounds
from aim_plugins.modulation.witness import is_looked_at
from aim_plugins.transport.vectors import affine_maps

NUMBER_ARGUMENT = "_aim_answer"
"""Entry of a request's `extra_args` that says which answer of the batch it is."""

TOKENS_ARGUMENT = "_aim_looked_at"
"""Entry with the positions of its tokens at which strengths are looked at in any case."""

SeenAnswer = tuple[int, int, int, bool, list[list[float]]]
"""Of one answer: the first token that was computed, one past the last, steps at which its logits
were changed, whether they came out otherwise; and of tokens that were looked at, the position and
the strength of each of the engine's transports that lay there."""

Seen = dict[int, SeenAnswer]
"""What was seen, by the answer's number."""


class Sampled:
    """Decides which steps are looked at, counted anew with other requests."""

    def __init__(self) -> None:
        self._names: Any = None
        self._calls = 0

    def now(self, names: Any) -> bool:
        """Whether to look at this step of these requests."""
        self._calls = self._calls + 1 if names == self._names else 1
        self._names = names
        return is_looked_at(self._calls)


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
        self._looked_at: dict[int, list[int]] = {}
        self._spans: dict[int, list[int]] = {}
        self._sampled = Sampled()
        self._strengths: list[tuple[list[tuple[int, int]], Tensor]] = []

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """Takes a request that has a number."""
        if (number := extra_args.get(NUMBER_ARGUMENT)) is not None:
            self._numbers[name] = number
            self._looked_at[number] = extra_args.get(TOKENS_ARGUMENT, [])

    def remove_request(self, name: str) -> None:
        """Forgets a request; what was seen of it stays."""
        self._numbers.pop(name, None)

    def before_forward(self, step: Step) -> None:
        """Notes the tokens of a step, and from time to time their strengths."""
        numbers, tokens, where, due = [], [], [], False
        firsts, rows = step.positions.tolist(), step.rows.tolist()
        for index, name in enumerate(step.names):
            if (number := self._numbers.get(name)) is None:
                continue
            first, stop = firsts[index], firsts[index] + rows[index + 1] - rows[index]
            span = self._spans.setdefault(number, [first, first])
            if first <= span[1]:  # what lies between would be unknown
                span[1] = max(span[1], stop)
            asked = [one for one in self._looked_at[number] if first <= one < stop]
            due |= bool(asked)
            numbers.append(number)
            for position in {*asked, stop - 1}:
                tokens.append((number, position))
                where.append(rows[index] + position - first)
        if self._maps is not None and numbers and (self._sampled.now(numbers) or due):
            strengths = self._maps.strengths
            own = strengths[to_device(np.array(where), strengths.device)]
            self._strengths.append((tokens, own))

    def result(self) -> Seen:
        """What was seen of each answer."""
        found: dict[int, set[tuple[float, ...]]] = {number: set() for number in self._spans}
        tables = to_host([values for _, values in self._strengths])
        for (tokens, _), table in zip(self._strengths, tables, strict=True):
            for (number, position), row in zip(tokens, table.tolist(), strict=True):
                found[number].add((position, *row))
        unmoved = set() if self._logits is None else self._logits.unmoved()
        steps = Counter[int]() if self._logits is None else self._logits.steps
        return {
            number: (
                *span,
                steps[number],
                number not in unmoved,
                [*map(list, sorted(found[number]))],
            )  # type: ignore[misc]
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


def looked_at(changes: Sequence[Change], prompt: int) -> list[int]:
    """Positions at which strengths of changes of activations tell whether their windows are kept.

    Args:
        changes: The changes.
        prompt: Tokens that count as the prompt.

    Returns:
        The prompt's last token, the one after it, and both ends of each window.
    """
    found = {prompt - 1, prompt} if changes else set()
    for change in changes:
        start, stop = window_bounds(change.positions, prompt)
        found |= {start, stop - 1}
    return sorted(one for one in found if 0 <= one < ENDLESS - 1)


def settle(
    column: Column,
    seen: SeenAnswer | None,
    *,
    transports: Sequence[str],
    prompt: int,
    new: int,
    place: str,
    context: int | None = None,
) -> dict[Change, int]:
    """Holds what workers saw of an answer against its column.

    Args:
        column: The column.
        seen: What was seen; None if nothing was.
        transports: Names of the engine's transports, in their order.
        prompt: Tokens of the prompt.
        new: Tokens of the answer; 0 where the prompt alone was scored.
        place: Which row it is, for errors.
        context: Tokens that count as the prompt for windows, if not all of it.

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
    if moving:
        length = prompt if context is None else context
        computed = [one for one in looked_at(moving, length) if first <= one < read]
        if reason := _why_others(moving, strengths, transports, length, computed):
            raise ReceiptError(f"{place}: asked for {wanted}, and {reason}")
    return {one: len(one.maps.maps) for one in moving}


def _why_others(
    moving: Sequence[Change],
    seen: Sequence[Sequence[float]],
    transports: Sequence[str],
    prompt: int,
    computed: Sequence[int],
) -> str | None:
    """How strengths at tokens differ from those that were asked for; None if they do not."""
    if not seen or not {int(one) for one, *_ in seen}.issuperset(computed):
        return "the strengths at its tokens were never seen"
    by_name = {one.label: one for one in moving}
    for position, *found in seen:
        for index, strength in enumerate(found):
            name = transports[index] if index < len(transports) else None  # a slot for later
            wanted = 0.0
            if name is not None and (change := by_name.get(name)) is not None:
                start, stop = window_bounds(change.positions, prompt)
                wanted = change.strength if start <= position < stop else 0.0
            if np.float32(wanted) != np.float32(strength):
                what = f"that of {name}" if name else "the strength"
                return (
                    f"{what} at its token {int(position)} was {format_strength(strength)} instead "
                    f"of {format_strength(wanted)}"
                )
    return None
