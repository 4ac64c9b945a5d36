"""What vLLM's workers see of the requests whose answers get receipts.

Such a request has a number. While it runs, the worker counts its tokens that the model has computed
and the steps at which its logits were changed, and keeps from time to time what lay on the device:
strengths, and whether logits came out otherwise. That goes to the host on its own; whoever takes
what was seen, waits for no step.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.engines.vllm.parameters import RequestModulation
from aim_plugins.engines.vllm.steps import (
    Arriving,
    RunnerSteps,
    Step,
    StepListener,
    beside,
    to_device,
)
from aim_plugins.engines.vllm.tables import RequestTable
from aim_plugins.engines.vllm.worker_maps import PARTS
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.windows import ENDLESS
from aim_plugins.modulation.witness import is_looked_at

NUMBER_ARGUMENT = "_aim_answer"
"""Entry of a request's `extra_args` that says which answer it is: a number, or any name."""

SeenAnswer = tuple[int, int, int, bool, list[list[float]]]
"""Of one answer: the first token that was computed, one past the last, steps at which its logits
were changed, whether they came out otherwise; and of tokens that were looked at, the position and
the strength of each of the engine's transports that lay there."""

Taken = tuple[list[SeenAnswer | None], list[str | None], dict[str, dict[str, int | None]]]
"""What a worker has seen of some answers; the transport of each place of its strengths; and of some
transports the sum of the bits of each site's map, None where there is no hook any more."""

_GIVEN_UP = 1024
"""Answers that nobody wants any more and that are remembered, as their requests may be to come."""

_SPAN = 3
"""Columns of `AnswersSeen` before the positions: the first token, one past the last, steps."""


class LogitsSeen:
    """What the logits processor did to requests with a number."""

    def __init__(self) -> None:
        self._steps: dict[Hashable, int] = {}
        self._unmoved: set[Hashable] = set()
        self._samples: list[tuple[list[Hashable], Arriving]] = []
        self._given_up: deque[Hashable] = deque(maxlen=_GIVEN_UP)

    def begin(self, number: Hashable | None) -> None:
        """Watches a request, if it has a number; after a preemption again, without effect."""
        if number is not None and number not in self._given_up:
            self._steps.setdefault(number, 0)

    def count(self, numbers: Sequence[Hashable | None]) -> list[int]:
        """Counts a step; returns the indices of the requests that are looked at in it."""
        due = []
        for index, number in enumerate(numbers):
            # One that was taken may be in a step that was under way.
            if number is not None and (steps := self._steps.get(number)) is not None:
                self._steps[number] = steps + 1
                if is_looked_at(steps + 1):
                    due.append(index)
        return due

    def look(self, numbers: list[Hashable], moved: Tensor) -> None:
        """Notes whether the logits of some requests came out otherwise."""
        self._samples.append((numbers, Arriving(moved)))

    def take(
        self, numbers: Sequence[Hashable], forgotten: Sequence[Hashable] = ()
    ) -> list[tuple[int, bool]]:
        """Forgets requests; returns the steps of each, and whether it came out otherwise.

        Args:
            numbers: Those of which that is wanted.
            forgotten: Others of which nobody wants to know any more.
        """
        self._given_up.extend(forgotten)
        wanted, waiting = {*numbers, *forgotten}, []
        for sample in self._samples:
            own, moved = sample
            if moved.has_come() or not wanted.isdisjoint(own):
                flags = zip(own, moved.array(), strict=True)
                self._unmoved |= {one for one, flag in flags if not flag and one in self._steps}
            else:
                waiting.append(sample)
        self._samples = waiting
        found = [(self._steps.pop(one, 0), one not in self._unmoved) for one in numbers]
        for one in forgotten:
            self._steps.pop(one, None)
        self._unmoved -= wanted
        return found


class AnswersSeen(StepListener):
    """Watches the requests with a number that a model runner computes.

    Args:
        runner: The runner.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        transports = self._maps.strengths.shape[1] if self._maps is not None else 0
        # Of each request `_SPAN` counts, then the positions at which it is looked at in any case.
        self._table = RequestTable((_SPAN + 2 + 2 * transports,), np.int64)
        self._numbers: dict[str, Hashable] = {}
        self._strengths: dict[Hashable, set[tuple[float, ...]]] = {}
        self._samples: list[tuple[list[Hashable], list[int], Arriving]] = []
        self._batch: Sequence[str] | None = None
        self._given_up: deque[Hashable] = deque(maxlen=_GIVEN_UP)

    @property
    def _maps(self) -> Any:
        return getattr(self._runner, "aim_maps", None)

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """Watches a request that has a number; again after a preemption, which keeps its counts."""
        number = extra_args.get(NUMBER_ARGUMENT)
        if number is None or number in self._given_up:
            return
        self._numbers[name], self._batch = number, None
        if number not in self._table:
            asked = RequestModulation.read(extra_args)
            windows = [] if self._maps is None else self._maps.windows(asked, len(prompt))
            prompt_length = len(prompt) if asked.prompt_length is None else asked.prompt_length
            values = np.full(self._table.values.shape[1], -1)
            values[_SPAN - 1] = 0
            positions = looked_at(windows, prompt_length)
            values[_SPAN : _SPAN + len(positions)] = positions
            self._table[number], self._strengths[number] = values, set()

    def remove_request(self, name: str) -> None:
        """Forgets a request's name; what was seen of it stays until it is taken."""
        self._numbers.pop(name, None)

    def before_forward(self, step: Step) -> None:
        """Notes the tokens of a step, and from time to time their strengths."""
        if not self._numbers:
            return
        if self._batch != step.names:
            self._batch = list(step.names)
            self._own = [self._numbers.get(name) for name in step.names]
            rows = self._table.rows(self._own)
            self._members = np.flatnonzero(rows >= 0)
            self._rows = rows[self._members]
        if not len(self._members):
            return
        firsts = step.positions[self._members].astype(np.int64)
        stops = firsts + np.diff(step.rows)[self._members]
        values = self._table.values[self._rows]
        begun = values[:, 0] >= 0
        values[:, 0] = np.where(begun, values[:, 0], firsts)
        known = np.where(begun, values[:, 1], firsts)
        # Of a token that was left out the rest would be unknown.
        values[:, 1] = np.where(firsts <= known, np.maximum(known, stops), known)
        values[:, 2] += 1
        self._table.values[self._rows] = values
        if self._maps is not None:
            self._look(step, firsts, stops, values)

    def _look(
        self,
        step: Step,
        firsts: Int[np.ndarray, " watched"],
        stops: Int[np.ndarray, " watched"],
        values: Int[np.ndarray, "watched columns"],
    ) -> None:
        """Keeps strengths: at positions of note, and at each request's 1st, 2nd, 4th … step."""
        asked, steps = values[:, _SPAN:], values[:, 2]
        owners, which = np.nonzero((firsts[:, None] <= asked) & (asked < stops[:, None]))
        ends = np.flatnonzero(steps & (steps - 1) == 0)
        owners = np.concatenate([owners, ends])
        if not len(owners):
            return
        positions = np.concatenate([asked[owners[: len(which)], which], stops[ends] - 1])
        members = self._members[owners]
        tokens = step.rows[members] + positions - firsts[owners]
        strengths = self._maps.strengths
        own = strengths[to_device(tokens.astype(np.int64), strengths.device)]
        numbers = [self._own[member] for member in members]
        self._samples.append((numbers, positions.tolist(), Arriving(own)))

    def take(
        self, numbers: Sequence[Hashable], forgotten: Sequence[Hashable], logits: LogitsSeen
    ) -> list[SeenAnswer | None]:
        """What was seen of some answers, of which nothing is kept.

        Args:
            numbers: Which.
            forgotten: Others of which nobody wants to know any more, whose requests may be to come.
            logits: What the logits processor has seen.
        """
        self._given_up.extend(forgotten)
        self._read(set(numbers))
        steps = logits.take(numbers, forgotten)
        found: list[SeenAnswer | None] = []
        for row, number, own in zip(self._table.rows(numbers), numbers, steps, strict=True):
            first, stop, *_ = self._table.values[row].tolist()
            strengths = sorted(map(list, self._strengths.get(number, ())))
            found.append((first, stop, *own, strengths) if row >= 0 and first >= 0 else None)
        for number in (*numbers, *forgotten):
            del self._table[number]
            self._strengths.pop(number, None)
        self._batch = None  # its rows may become others'
        return found

    def _read(self, wanted: set[Hashable]) -> None:
        """Takes in what has come to the host; what is wanted lay in steps that are over."""
        waiting = []
        for sample in self._samples:
            numbers, positions, strengths = sample
            if not strengths.has_come() and wanted.isdisjoint(numbers):
                waiting.append(sample)
                continue
            for number, position, row in zip(
                numbers, positions, strengths.array().tolist(), strict=True
            ):
                if (own := self._strengths.get(number)) is not None:
                    own.add((position, *row))
        self._samples = waiting


def looked_at(windows: Iterable[tuple[int, int]], prompt: int) -> list[int]:
    """Positions at which strengths tell whether windows are kept.

    Args:
        windows: The first position that each change of activations reaches, and one past the last.
        prompt: Tokens that count as the prompt.

    Returns:
        The prompt's last token, the one after it, and both ends of each window.

    >>> looked_at([(0, ENDLESS), (2, 8)], 5)
    [0, 2, 4, 5, 7]
    """
    ends = {end for start, stop in windows for end in (start, stop - 1)}
    found = ends | {prompt - 1, prompt} if ends else ends
    return sorted(one for one in found if 0 <= one < ENDLESS - 1)


def map_bits(model: Any, sites: Sequence[str], place: int) -> dict[str, int | None]:
    """The sum of the bits of the maps that lie in a model, None where there is no hook any more.

    Args:
        model: The model.
        sites: Where they are.
        place: The place of their transport among those of the engine.
    """
    there: dict[str, list[Tensor]] = {}
    for site in sites:
        module = find_module(model, site)
        found = [module._buffers.get(f"aim_{part}_{place}") for part in PARTS]
        vectors = [one for one in found if one is not None]
        hooked = getattr(module, "aim_moved_by", None) in module._forward_hooks
        if hooked and len(vectors) == len(PARTS):
            there[site] = vectors
    if not there:
        return dict.fromkeys(sites)
    ends = np.cumsum([sum(one.numel() for one in vectors) for vectors in there.values()])
    device = next(iter(there.values()))[0].device
    with beside(device):
        flat = torch.cat([one.reshape(-1) for vectors in there.values() for one in vectors])
        totals = flat.view(torch.int32).cumsum(0, dtype=torch.int64)
        read = totals[torch.from_numpy(ends - 1).to(device)].cpu().numpy()
    sums = dict(zip(there, np.diff(read, prepend=0).tolist(), strict=True))
    return {site: sums.get(site) for site in sites}


def watch_after_loading(worker: Any) -> None:
    """Lets a worker watch requests once it has loaded its model, and whatever is attached to it."""
    load_model = worker.load_model

    @functools.wraps(load_model)
    def load(*arguments: Any, **options: Any) -> None:
        load_model(*arguments, **options)
        runner = worker.model_runner
        if not hasattr(runner, "aim_answers"):
            runner.aim_answers = AnswersSeen(runner)
            # Behind the transports' own, which have written their strengths by then.
            RunnerSteps.of(runner).listeners.append(runner.aim_answers)

    worker.load_model = load


def take_answers(
    runner: Any,
    logits: LogitsSeen | None,
    numbers: Sequence[Hashable],
    forgotten: Sequence[Hashable],
    names: Sequence[str],
) -> Taken:
    """What a worker has seen of some answers, and the maps that it has.

    Args:
        runner: The worker's model runner.
        logits: What its logits processor has seen, if it has one.
        numbers: The answers, of which the worker keeps nothing.
        forgotten: Others of which nobody wants to know any more.
        names: Transports whose maps are looked at.
    """
    answers = runner.aim_answers.take(numbers, forgotten, logits or LogitsSeen())
    if (maps := getattr(runner, "aim_maps", None)) is None:
        return answers, [], {}
    model = runner.get_model()
    sites = {name: maps.sites[name] for name in names if name in maps.sites}
    sums = {name: map_bits(model, own, maps.place(name)) for name, own in sites.items()}
    return answers, maps.names(), sums
