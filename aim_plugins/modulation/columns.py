"""Modulations as nouns: a column of a table is an ordered tuple of changes.

Engines, harnesses and sweeps ask a column what it changes; they know no kind by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.changes import SEED, Change, Target


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table: what is changed of the frozen model, in this order.

    Attributes:
        changes: The changes; those that are the identity are asked for but do nothing.
        seed: Seed of the draw: of what the changes draw, and of sampled tokens.
    """

    changes: tuple[Change, ...] = ()
    seed: int = 0

    @functools.cached_property
    def effective(self) -> Column:
        """The representative of all columns that give the same answers, but for sampled tokens."""
        return Column(tuple(change for change in self.changes if not change.is_identity))

    @property
    def is_identity(self) -> bool:
        """Whether the column is the unmodulated model."""
        return not self.effective.changes

    def acting_on(self, *targets: Target) -> tuple[Change, ...]:
        """Its changes of logits, activations or weights that are not the identity."""
        return tuple(change for change in self.effective.changes if change.acts_on in targets)

    @property
    def conditions(self) -> tuple[Any, ...]:
        """Conditions on a prompt that some of its changes have, each once."""
        asked = (one.condition for one in self.effective.changes)
        return tuple(dict.fromkeys(one for one in asked if one is not None))

    def decided(self, held: Mapping[Any, bool]) -> Column:
        """What is left of it for a prompt of which its conditions hold or not."""
        changes = (
            one if one.condition is None else one.decided(held[one.condition])
            for one in self.effective.changes
        )
        return Column(tuple(one for one in changes if one is not None), self.seed)

    @property
    def forward(self) -> tuple[Change, ...]:
        """What gives it a forward pass of its own."""
        return self.acting_on("activations", "weights")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies what is changed, in cache keys, records and manifests."""
        return fingerprint([change.identity for change in self.effective.changes])

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that ask for it."""
        found = {name: value for one in self.changes for name, value in one.settings.items()}
        return found | {SEED: self.seed}

    @property
    def has_argmax_law(self) -> bool:
        """Whether the exact law of the argmax is known."""
        changes = self.acting_on("logits")
        return not changes or (
            len(changes) == 1 and type(changes[0]).argmax_law is not Change.argmax_law
        )

    def argmax_law(self, logits: Any) -> Any | None:
        """The exact law of the argmax; see `Change.argmax_law`."""
        if not self.has_argmax_law:
            return None
        if changes := self.acting_on("logits"):
            return changes[0].argmax_law(logits)
        from aim_plugins.modulation.ordering import argmax_probabilities

        return argmax_probabilities(logits, 0.0)

    def strength_of(self, kind: type[Change]) -> float:
        """Its strength of a kind, the neutral one where it has no change of it."""
        own = (change.strength for change in self.changes if change.name == kind.name)
        return next(own, kind.neutral)


def by_forward(columns: Sequence[Column]) -> dict[tuple[Change, ...], list[int]]:
    """Indices of columns that share a forward pass, by the changes of that pass."""
    members: dict[tuple[Change, ...], list[int]] = {}
    for index, column in enumerate(columns):
        members.setdefault(column.forward, []).append(index)
    return members


def by_kind(
    rows: Sequence[Sequence[Change]],
) -> Iterator[tuple[type[Change], list[Change | None]]]:
    """The steps that change every row in the order of its own changes, a kind at a time.

    Yields:
        A kind, and for each row its change of it, or None.
    """
    for place in range(max(map(len, rows), default=0)):
        here = [row[place] if place < len(row) else None for row in rows]
        for kind in dict.fromkeys(type(change) for change in here if change is not None):
            yield kind, [change if type(change) is kind else None for change in here]


@contextlib.contextmanager
def applied(model: Any, rows: Sequence[Sequence[Change]], layout: Any = None) -> Iterator[None]:
    """Changes activations and weights while the block runs, each row of a batch by its own changes.

    Changes that are maps act together, as `applied_maps` does, and before all others.

    Args:
        model: The model.
        rows: Changes of each row, or of all rows; those of weights are the same in all.
        layout: As in `Change.applied`.

    Raises:
        ValueError: If a change has a condition, which engines decide before.
    """
    from aim_plugins.modulation.witness import current  # which needs torch

    if asked := next((one for row in rows for one in row if one.condition is not None), None):
        raise ValueError(
            f"the {asked.name} has a condition ({asked.condition}) that nobody has decided: ask an "
            "engine, whose `score` and `generate` do"
        )
    witness = current()
    maps = [[one for one in row if one.maps is not None] for row in rows]
    with contextlib.ExitStack() as stack:
        if any(maps):
            from aim_plugins.modulation.activations import Movement, applied_maps

            moves = [[Movement(one.maps, one.strength, one.positions) for one in r] for r in maps]
            with contextlib.nullcontext() if witness is None else witness.entering():
                stack.enter_context(applied_maps(model, moves, layout))
        for kind, own in by_kind([[one for one in row if one.maps is None] for row in rows]):
            with contextlib.nullcontext() if witness is None else witness.entering(kind):
                stack.enter_context(kind.applied(model, own, layout))
        yield
        if witness is not None:
            witness.leaving()


def distinct_columns(columns: Sequence[Column]) -> tuple[list[Column], list[int]]:
    """Columns with answers of their own where nothing is sampled, and for each column its index."""
    distinct = list(dict.fromkeys(column.effective for column in columns))
    place = {column: index for index, column in enumerate(distinct)}
    return distinct, [place[column.effective] for column in columns]
