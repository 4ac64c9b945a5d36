"""What follows from the times of measuring."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aim_plugins.sweep.page import Section, Table
from aim_plugins.sweep.paired import Interval
from vision_bench.coverage.questions.front import Answer, show_interval, show_number
from vision_bench.coverage.questions.pictures import draw_costs
from vision_bench.coverage.questions.settings import OverheadSettings

PLAIN, TOGETHER = "the model alone", "all in one pass"
IN_TURN = "one by one"
_COLUMNS = ("what", "CPU s", "times the model", "images/s", "learning, CPU s")


@dataclass(frozen=True)
class Cost:
    """What something takes.

    Attributes:
        cpu: CPU seconds of all threads.
        wall: Seconds.
    """

    cpu: float
    wall: float


def middle(values: Sequence[float]) -> Interval:
    """The median of turns, between the least and the largest."""
    return Interval(statistics.median(values), min(values), max(values))


def answer_of(
    turns: Sequence[Mapping[str, Cost]],
    builds: Sequence[Mapping[str, Cost]],
    images: int,
    training: int,
    settings: OverheadSettings,
    data: str,
) -> Answer:
    """The answer, for readers.

    Args:
        turns: What each took, by turn and name.
        builds: What learning took, by turn and name.
        images: Number of images measured.
        training: Number of training inputs learned from.
        settings: What was asked.
        data: What a person calls the data set.
    """
    names = list(settings.criteria)
    seconds = _by_name([{name: one.cpu for name, one in turn.items()} for turn in turns], names)
    walls = _by_name([{name: one.wall for name, one in turn.items()} for turn in turns], names)
    learned = _by_name([{name: one.cpu for name, one in turn.items()} for turn in builds], names)
    rows = [
        _row(name, seconds, walls, learned, images) for name in (PLAIN, *names, IN_TURN, TOGETHER)
    ]
    alone = {name: middle(seconds[name]) for name in (*names, IN_TURN)}
    drawn = draw_costs(alone, middle(seconds[TOGETHER]), middle(seconds[PLAIN]), images)
    section = Section(
        "Overhead",
        _note(len(turns), images, settings.batch_size, training),
        _sentences(seconds, learned),
        {"CPU seconds": drawn["png"]},
        [Table(_COLUMNS, rows)],
    )
    return Answer(
        settings.QUESTION,
        "What does coverage cost?",
        data,
        _summary(seconds, len(names), images),
        _COLUMNS,
        rows,
        [section],
        {f"overhead.{kind}": content for kind, content in drawn.items()},
        ["step", "turn", "what", "cpu_seconds", "seconds"],
        _lines({"run": turns, "build": builds}),
        {"run": _plain(turns), "build": _plain(builds), "images": images, "training": training},
    )


def _by_name(turns: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, list[float]]:
    """What each took by turn, and what all criteria took one by one."""
    if not turns:
        return {}
    found = {name: [one[name] for one in turns] for name in turns[0]}
    return found | {IN_TURN: [sum(one[name] for name in names) for one in turns]}


def _row(
    name: str,
    seconds: Mapping[str, Sequence[float]],
    walls: Mapping[str, Sequence[float]],
    learned: Mapping[str, Sequence[float]],
    images: int,
) -> list[str]:
    return [
        name,
        _show(middle(seconds[name])),
        _show(ratio(seconds[name], seconds[PLAIN])),
        f"{images / middle(walls[name]).value:.0f}",
        _show(middle(learned[name])) if any(learned.get(name, ())) else "–",
    ]


def _note(turns: int, images: int, batch_size: int, training: int) -> str:
    return (
        f"Medians of {turns} turns, and in brackets the least and the largest; ratios are taken "
        f"turn by turn. {images} images, read before, in batches of {batch_size}. Each criterion's "
        f"time holds the pass of the model. Learning holds reading {training} training images; "
        "criteria without it know nothing of them."
    )


def _lines(steps: Mapping[str, Sequence[Mapping[str, Cost]]]) -> list[list[object]]:
    return [
        [step, turn, name, cost.cpu, cost.wall]
        for step, each in steps.items()
        for turn, costs in enumerate(each)
        for name, cost in costs.items()
    ]


def ratio(seconds: Sequence[float], others: Sequence[float]) -> Interval:
    """How many times as long one takes as another, turn by turn."""
    # A clock too coarse for a small model shows no time at all.
    return middle([one / max(other, 1e-9) for one, other in zip(seconds, others, strict=True)])


def _sentences(
    seconds: Mapping[str, Sequence[float]], learned: Mapping[str, Sequence[float]]
) -> list[str]:
    saved = ratio(seconds[IN_TURN], seconds[TOGETHER])
    found = [f"One by one, the criteria take {_show(saved)} times as long as in one pass."]
    extra = {
        name: statistics.median(values) - statistics.median(seconds[PLAIN])
        for name, values in seconds.items()
        if name not in (PLAIN, TOGETHER, IN_TURN)
    }
    name = max(extra, key=lambda one: extra[one])
    found.append(f"{name} takes most beside the model: {show_number(max(extra[name], 0.0))} s.")
    if learned:
        times = ratio(learned[IN_TURN], learned[TOGETHER])
        found.append(
            f"Learning for all at once takes {_show(middle(learned[TOGETHER]))} s; for one after "
            f"the other, {_show(times)} times as long."
        )
    return found


def _summary(seconds: Mapping[str, Sequence[float]], count: int, images: int) -> str:
    times = ratio(seconds[TOGETHER], seconds[PLAIN])
    return (
        f"Measuring all {count} criteria on {images} images takes {_show(times)} times the CPU "
        "time of the model alone."
    )


def _show(one: Interval) -> str:
    return show_number(one.value) if one.low == one.high else show_interval(one)


def _plain(turns: Sequence[Mapping[str, Cost]]) -> list[dict[str, dict[str, float]]]:
    return [{name: vars(cost) for name, cost in one.items()} for one in turns]
