"""Threads that take turns between meetings."""

from __future__ import annotations

import itertools
import signal
import threading

import pytest

from aim_plugins.transport.lockstep import Lockstep


def steps_of(lockstep, index, steps, got):
    def part():
        for step in steps:
            got.append((index, step, lockstep[0].meet(index, step, f"{step}{index}")))

    return part


def run(plans, meeting):
    """Runs parts with their own steps; returns what each got, in order."""
    got, holder = [], []
    holder.append(
        Lockstep([steps_of(holder, index, plan, got) for index, plan in enumerate(plans)], meeting)
    )
    holder[0].run()
    return got


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_meeting_sees_all_parts_in_order_before_any_goes_on(parts):
    met = []

    def meeting(step, brought):
        met.append((step, brought))
        return [text.upper() for text in brought]

    got = run([["a", "b"]] * parts, meeting)
    assert met == [(step, [f"{step}{index}" for index in range(parts)]) for step in "ab"]
    assert got == [
        (index, step, f"{step}{index}".upper()) for step in "ab" for index in range(parts)
    ]


def test_one_part_alone_runs_in_the_calling_thread():
    seen = []
    Lockstep([lambda: seen.append(threading.current_thread())], lambda *_: []).run()
    assert seen == [threading.current_thread()]


def test_only_one_part_computes_at_a_time():
    computing, most = [], []
    holder = []

    def part(index):
        for step in "abcd":
            computing.append(index)
            most.append(len(computing))
            sum(range(20_000))  # long enough for other threads to be scheduled
            computing.remove(index)
            holder[0].meet(index, step, None)

    holder.append(Lockstep([lambda i=i: part(i) for i in range(6)], lambda step, brought: brought))
    holder[0].run()
    assert most == [1] * 24


@pytest.mark.parametrize("failing", [0, 1, 2])
@pytest.mark.parametrize("when", ["part", "meeting"])
def test_an_error_anywhere_ends_all_threads_and_is_raised_here(failing, when):
    before = threading.active_count()

    def meeting(step, brought):
        if when == "meeting" and step == f"s{failing}":
            raise LookupError("broken")
        return brought

    holder = []

    def part(index):
        for number in range(4):
            if when == "part" and index == failing and number == 2:
                raise LookupError("broken")
            holder[0].meet(index, f"s{number}", None)

    holder.append(Lockstep([lambda i=i: part(i) for i in range(3)], meeting))
    with pytest.raises(LookupError, match="broken"):
        holder[0].run()
    assert threading.active_count() == before


def test_an_interrupt_of_the_calling_thread_ends_all_threads():
    before = threading.active_count()
    holder = []

    def part(index):
        for number in itertools.count():  # only the interrupt ends it
            if index == 1 and number == 2:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            holder[0].meet(index, str(number), None)

    holder.append(Lockstep([lambda i=i: part(i) for i in range(3)], lambda step, got: got))
    with pytest.raises(KeyboardInterrupt):
        holder[0].run()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "plans", [[["a", "b"], ["a"]], [["a"], ["a", "b"]], [["a", "b"], ["b", "a"]]]
)
def test_parts_that_take_different_steps_are_refused(plans):
    with pytest.raises(ValueError, match="one batch reaches"):
        run(plans, lambda step, brought: brought)
