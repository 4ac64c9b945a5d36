"""How often a calibration's verdicts tell lines apart that are equally good, on its own results.

Of every prompt the effects are dealt out anew among the lines, so that none is better than another
and everything else is as it was measured. No model runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aim_plugins.steering.calibration.entries import Entry
from aim_plugins.steering.calibration.verdicts import Verdict, spread_of, verdicts
from aim_plugins.sweep.paired import Interval, mean_share


@dataclass(frozen=True)
class Replays:
    """What verdicts call in replays without a difference.

    Attributes:
        count: Replays.
        beaten: Share of them in which any line "beats" what the lines are held against.
        called: Share in which any beats it or falls behind it.
        lines: Lines that are held against it.
        found: Lines that beat it in the results as they are.
    """

    count: int
    beaten: Interval
    called: Interval
    lines: int
    found: int


def label_permuted(entries: Sequence[Entry], seed: int) -> Iterator[list[Entry]]:
    """The same lines without end, each prompt's effects dealt out anew among them.

    Args:
        entries: Lines over the same prompts.
        seed: Seed of the deals.
    """
    generator = np.random.default_rng(seed)
    effects = np.array([one.point.effects for one in entries])
    while True:
        dealt = generator.permuted(effects, axis=0).tolist()
        yield [
            replace(one, point=replace(one.point, effects=tuple(row)))
            for one, row in zip(entries, dealt, strict=True)
        ]


def replay_verdicts(path: str | Path, count: int = 200, seed: int = 0) -> Replays:
    """Replays the verdicts of a finished calibration against its prompt, or the plain model.

    Args:
        path: Its calibration.json.
        count: Replays.
        seed: Seed of the deals.

    Raises:
        FileNotFoundError: If it is not there, as of a calibration that is not finished.
    """
    stored = json.loads(Path(path).read_text(encoding="utf-8"))
    against = "prompt" if "prompt" in stored["verdicts"] else "plain"
    named = [one["name"] for one in stored["verdicts"][against]]
    other = stored["verdicts"][against][0]["other"]
    lines = {one["name"]: Entry.from_json(one) for one in stored["entries"]}
    entries = [lines[name] for name in (other, *named)]
    deals = label_permuted(entries, seed)
    replayed = [_held(next(deals), stored) for _ in range(count)]
    return Replays(
        count,
        mean_share([[any(map(_beats, one)) for one in replayed]]),
        mean_share([[any(line.is_clear for line in one) for one in replayed]]),
        len(named),
        sum(map(_beats, _held(entries, stored))),
    )


def _held(entries: Sequence[Entry], stored: dict[str, Any]) -> list[Verdict]:
    """Verdicts of all lines against the first."""
    return verdicts(
        entries[1:],
        entries[0],
        lower_is_better=stored["lower_is_better"],
        spread=spread_of(stored["metric"]),
    )


def _beats(one: Verdict) -> bool:
    return one.is_clear and one.gain.value > 0
