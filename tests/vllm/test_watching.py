"""What a worker notes of requests with a number, against counts by hand, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from aim_plugins.engines.vllm.steps import Step
from aim_plugins.engines.vllm.watching import AnswersSeen, LogitsSeen, looked_at
from aim_plugins.modulation.windows import ENDLESS

WINDOW = (2, 9)
LOOKED_AT = {0, 2, 4, 5, 8}
"""Of a prompt of 5 tokens, a transport of all tokens, and one of `WINDOW`."""


class Maps:
    """Two transports, whose strengths at a row of a step are numbers of their own."""

    def __init__(self) -> None:
        self.strengths = torch.zeros(64, 2)

    def windows(self, asked: Any, prompt_length: int) -> list[tuple[int, int]]:
        return [(0, ENDLESS), WINDOW]


def step_of(maps: Maps, parts: dict[str, tuple[int, int]]) -> tuple[Step, dict[str, list[float]]]:
    """A step of some tokens of each request, and what lies at each request's tokens."""
    counts = [count for _, count in parts.values()]
    rows = np.append(0, np.cumsum(counts)).astype(np.int32)
    maps.strengths.uniform_()
    values = maps.strengths[:, 0].tolist()
    found = {name: values[rows[i] : rows[i + 1]] for i, name in enumerate(parts)}
    positions = np.array([first for first, _ in parts.values()], dtype=np.int32)
    return Step(list(parts), rows, positions), found


def test_tokens_and_strengths_are_noted_as_counting_by_hand_would() -> None:
    generator = np.random.default_rng(0)
    maps = Maps()
    watching = AnswersSeen(SimpleNamespace(aim_maps=maps))
    names = [f"request {number}" for number in range(6)]
    watched = set(names[:4])
    for name in names:
        number = {"_aim_answer": f"answer to {name}"} if name in watched else {}
        watching.add_request(name, number, [1] * 5)
    computed = dict.fromkeys(names, 0)
    spans: dict[str, list[int]] = {}
    steps = dict.fromkeys(names, 0)
    expected: dict[str, set[tuple[int, float]]] = {name: set() for name in names}
    for _ in range(40):
        chosen = generator.permutation(names)[: generator.integers(1, 7)].tolist()
        if generator.random() < 0.1:  # a preemption: it is computed anew
            computed[chosen[0]] = 0
            watching.remove_request(chosen[0])
            number = {"_aim_answer": f"answer to {chosen[0]}"} if chosen[0] in watched else {}
            watching.add_request(chosen[0], number, [1] * 5)
        parts = {name: (computed[name], int(generator.integers(1, 4))) for name in chosen}
        step, values = step_of(maps, parts)
        watching.before_forward(step)
        for name, (first, count) in parts.items():
            span = spans.setdefault(name, [first, first + count])
            span[1] = max(span[1], first + count)
            steps[name] += 1
            for token, value in enumerate(values[name]):
                last = token == count - 1 and steps[name] in (1, 2, 4, 8, 16, 32)
                if first + token in LOOKED_AT or last:
                    expected[name].add((first + token, value))
            computed[name] = first + count
    asked = [f"answer to {name}" for name in names]
    for name, seen in zip(names, watching.take(asked, [], LogitsSeen()), strict=True):
        if name not in watched:
            assert seen is None
            continue
        first, stop, logits, _, strengths = seen
        assert [first, stop] == spans[name] and logits == 0
        assert {(position, value) for position, value, _ in strengths} == expected[name]
    assert watching.take(asked, [], LogitsSeen()) == [None] * len(names)


def test_of_a_token_that_was_left_out_the_rest_is_not_counted() -> None:
    maps = Maps()
    watching = AnswersSeen(SimpleNamespace(aim_maps=maps))
    watching.add_request("a", {"_aim_answer": 1}, [1] * 5)
    for first in (3, 4, 6, 7):
        watching.before_forward(step_of(maps, {"a": (first, 1)})[0])
    ((first, stop, *_),) = watching.take([1], [], LogitsSeen())
    assert (first, stop) == (3, 5)


def test_of_plain_requests_nothing_is_noted() -> None:
    watching = AnswersSeen(SimpleNamespace())
    watching.add_request("a", {"other": 1}, [1] * 5)
    # Not even the step is looked at.
    watching.before_forward(None)  # type: ignore[arg-type]


def test_a_request_that_was_given_up_is_not_noted_again() -> None:
    maps = Maps()
    watching, logits = AnswersSeen(SimpleNamespace(aim_maps=maps)), LogitsSeen()
    for name in ("a", "b"):
        watching.add_request(name, {"_aim_answer": name}, [1] * 5)
        logits.begin(name)
    watching.before_forward(step_of(maps, {"a": (0, 5), "b": (0, 5)})[0])
    assert watching.take([], ["a"], logits) == []
    # A step that was under way, and a request that has come to its row since.
    watching.add_request("c", {"_aim_answer": "c"}, [1] * 5)
    logits.begin("c")
    watching.before_forward(step_of(maps, {"a": (5, 1), "b": (5, 1), "c": (0, 3)})[0])
    assert logits.count(["a", "b", "c", None]) == [1, 2]
    none, b, c = watching.take(["a", "b", "c"], [], logits)
    assert none is None
    assert b[:3] == (0, 6, 1) and c[:3] == (0, 3, 1)


def test_a_request_that_comes_after_it_was_given_up_is_not_watched() -> None:
    """As when a client goes while its request is admitted."""
    watching, logits = AnswersSeen(SimpleNamespace(aim_maps=Maps())), LogitsSeen()
    assert watching.take([], ["a"], logits) == []
    for name in ("a", "b"):
        watching.add_request(name, {"_aim_answer": name}, [1] * 5)
        logits.begin(name)
    assert logits.count(["a", "b"]) == [1]
    assert "a" not in watching._table and "b" in watching._table
    assert watching._numbers == {"b": "b"} and list(watching._strengths) == ["b"]


def test_logits_are_looked_at_by_each_requests_own_count() -> None:
    logits = LogitsSeen()
    logits.begin("a")
    due = [logits.count(["a", None]) for _ in range(9)]
    assert [bool(one) for one in due] == [True, True, False, True, False, False, False, True, False]
    logits.begin("b")
    logits.begin("a")  # after a preemption
    assert logits.count(["b", "a"]) == [0]
    logits.look(["a", "b"], torch.tensor([True, False]))
    assert logits.take(["a", "b"]) == [(10, True), (1, False)]
    assert logits.take(["a", "b"]) == [(0, True), (0, True)]


def test_windows_are_looked_at_at_their_ends() -> None:
    assert looked_at([(0, ENDLESS), WINDOW], 5) == sorted(LOOKED_AT)
    assert looked_at([(5, ENDLESS)], 5) == [4, 5]
    assert looked_at([], 5) == []
