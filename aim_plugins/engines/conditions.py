"""The door of an engine: which conditions hold of which prompt, decided before anything is changed.

One plain pass over the prompts decides. Behind the door there are no conditions: a prompt of which
one does not hold meets the column without that change. What is left of several columns may be the
same, and is answered once; columns that the same prompts need are answered together. So a column
without conditions is computed from the batches that it would be computed from by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.answers import Answer
from aim_plugins.engines.engine import Engine, Prompts, ScoreRequest, ScoreRow
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.conditions import Condition
from aim_plugins.modulation.receipts import Receipt

_RECORDED = 256
"""Prompts that are decided together, and kept in the journal together."""

Similarities = Mapping[Condition, float]
"""By what each condition is decided of one prompt."""

ScoreColumns = Callable[
    [Sequence[ScoreRequest], Sequence[Column], Callable[[int, ScoreRow], None] | None],
    list[ScoreRow],
]
"""Scores requests under columns without conditions, and tells of each row when it is known."""

GenerateColumns = Callable[[list[int], Sequence[Column]], list[list[Answer]]]
"""Continues some of the prompts, by their indices, under columns without conditions."""


def score_decided(
    engine: Engine,
    requests: Sequence[ScoreRequest],
    columns: Sequence[Column],
    score: ScoreColumns,
    on_row: Callable[[int, ScoreRow], None] | None = None,
) -> list[ScoreRow]:
    """Scores under columns that may have conditions on the requests' contexts.

    Args:
        engine: Decides the conditions.
        requests: What to score; checked.
        columns: The columns.
        score: What answers columns without conditions.
        on_row: Called with the index and the row of each request as soon as all of it is known.
    """
    if not any(column.conditions for column in columns):
        return score(requests, columns, on_row)
    plan = _Plan.of(engine, [_kept_context(one, engine.max_length) for one in requests], columns)
    cells: list[dict[Column, Any]] = [{} for _ in requests]
    rows: dict[int, ScoreRow] = {}
    for members, own in plan.parts:

        def keep(place: int, row: ScoreRow, members: list[int] = members) -> None:
            index = members[place]
            cells[index] |= {one: row.cell(at) for at, one in enumerate(own)}  # noqa: B023
            if len(cells[index]) == len(set(plan.left[index])):
                rows[index] = plan.scored(index, row, cells[index])
                if on_row:
                    on_row(index, rows[index])

        score([requests[index] for index in members], own, keep)
    return [rows[index] for index in range(len(requests))]


def generate_decided(
    engine: Engine,
    prompts: Prompts,
    columns: Sequence[Column],
    generate: GenerateColumns,
) -> list[list[Answer]]:
    """Continues prompts under columns that may have conditions on them.

    Args:
        engine: Decides the conditions.
        prompts: The prompts.
        columns: The columns.
        generate: What answers columns without conditions.
    """
    if not any(column.conditions for column in columns):
        return generate(list(range(len(prompts.token_ids))), columns)
    plan = _Plan.of(engine, [one.tolist() for one in prompts.unpadded()], columns)
    answers: list[dict[Column, Answer]] = [{} for _ in plan.left]
    for members, own in plan.parts:
        for index, row in zip(members, generate(members, own), strict=True):
            answers[index] |= zip(own, row, strict=True)
    return [
        [
            Answer(found[left], plan.receipt(index, at, found[left].receipt))
            for at, left in enumerate(plan.left[index])
        ]
        for index, found in enumerate(answers)
    ]


def decide(
    engine: Engine, prompts: Sequence[Sequence[int]], conditions: Sequence[Condition]
) -> list[Similarities]:
    """The similarity of each prompt to each condition, from one plain pass over distinct prompts.

    Args:
        engine: Runs the pass; its journal keeps what was found.
        prompts: Token ids of each prompt.
        conditions: The conditions.
    """
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    found: dict[tuple[int, ...], Similarities] = {}
    for start in range(0, len(distinct), _RECORDED):
        part = distinct[start : start + _RECORDED]
        found |= zip(part, _recalled(engine, part, conditions), strict=True)
    return [found[tuple(prompt)] for prompt in prompts]


def _recalled(
    engine: Engine, prompts: list[tuple[int, ...]], conditions: Sequence[Condition]
) -> list[Similarities]:
    """The similarities of some prompts, from the journal where an earlier run has found them."""
    measured = {one.measure: one for one in conditions}  # whatever they are compared with
    key = fingerprint(
        {
            "kind": "conditions",
            "model": engine.fingerprint,
            "measures": list(measured),
            "prompts": [list(prompt) for prompt in prompts],
        }
    )
    record = engine.journal.read_batch(key) if engine.journal is not None else None
    if record is None:
        watched = list(dict.fromkeys(one.watched for one in conditions))
        by_pair = zip(*engine.states(prompts, watched), strict=True)
        states = {pair: torch.stack(own) for pair, own in zip(watched, by_pair, strict=True)}
        table = [one.similarity(states[one.watched]).tolist() for one in measured.values()]
        record = {"similarities": [list(row) for row in zip(*table, strict=True)]}
        if engine.journal is not None:
            engine.journal.write_batch(key, record)
    rows = [dict(zip(measured, row, strict=True)) for row in record["similarities"]]
    return [{one: row[one.measure] for one in conditions} for row in rows]


@dataclass(frozen=True)
class _Plan:
    """What is asked of each prompt, once it is known what holds of it.

    Attributes:
        columns: The columns that were asked for.
        similarities: By what conditions were decided, for each prompt.
        left: What they leave of the columns, for each prompt.
    """

    columns: Sequence[Column]
    similarities: Sequence[Similarities]
    left: Sequence[Sequence[Column]]

    @classmethod
    def of(
        cls, engine: Engine, prompts: Sequence[Sequence[int]], columns: Sequence[Column]
    ) -> _Plan:
        """Decides all conditions of all columns."""
        conditions = list(dict.fromkeys(one for column in columns for one in column.conditions))
        similarities = decide(engine, prompts, conditions)
        by_outcome: dict[tuple[bool, ...], list[Column]] = {}
        left = []
        for found in similarities:
            held = {one: one.holds(found[one]) for one in conditions}
            outcome = tuple(held.values())
            if outcome not in by_outcome:
                by_outcome[outcome] = [column.decided(held) for column in columns]
            left.append(by_outcome[outcome])
        return cls(columns, similarities, left)

    @property
    def parts(self) -> list[tuple[list[int], list[Column]]]:
        """Prompts, and the columns that these and no others need."""
        needed: dict[Column, list[int]] = {}
        for index, columns in enumerate(self.left):
            for column in dict.fromkeys(columns):
                needed.setdefault(column, []).append(index)
        together: dict[tuple[int, ...], list[Column]] = {}
        for column, members in needed.items():
            together.setdefault(tuple(members), []).append(column)
        return [(list(members), columns) for members, columns in together.items()]

    def receipt(self, prompt: int, column: int, left: Receipt | None) -> Receipt | None:
        """The receipt of the column that was asked for, from that of what was left of it."""
        if left is None:
            return None
        return Receipt.of_decided(self.columns[column], left, self.similarities[prompt])

    def scored(self, prompt: int, row: ScoreRow, cells: Mapping[Column, Any]) -> ScoreRow:
        """The row of the columns that were asked for, from the cells of what was left of them."""
        own = [cells[column] for column in self.left[prompt]]
        scores, greedy, clean, receipts = map(list, zip(*own, strict=True))
        receipts = [self.receipt(prompt, at, one) for at, one in enumerate(receipts)]
        return replace(
            row, log_likelihoods=scores, is_greedy=greedy, clean=clean, receipts=receipts
        )


def _kept_context(request: ScoreRequest, max_length: int) -> list[int]:
    """A request's context as engines keep it: without the start that the model has no room for."""
    kept = [*request.context, *request.continuation][-(max_length + 1) :]
    return kept[: -len(request.continuation)]
