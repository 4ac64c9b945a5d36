"""Where results stand: along the strength of noise, of another change, or on a grid of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column
from aim_plugins.sweep.table import Row, is_expected


class Along:
    """The strengths that results stand at: of noise, of a change, or of both as a grid.

    Args:
        noise: What the noise's strength is.
        stds: Its strengths.
        columns: The changes, one in each column or none at all.

    Attributes:
        axes: What varies, the noise first.
        kind: The kind of the change; None where there is none.
    """

    def __init__(self, noise: Axis, stds: Sequence[float], columns: Sequence[Column]) -> None:
        self._noise, self._stds, self._columns = noise, tuple(stds), columns
        self.kind: type[Change] | None = next(
            (type(change) for column in columns for change in column.changes), None
        )
        noisy = self.kind is None or len(self._stds) > 1
        changed = self.kind is not None and (len(columns) > 1 or not noisy)
        change = [self.kind.axis] if changed and self.kind is not None else []
        self.axes: tuple[Axis, ...] = (*([noise] if noisy else []), *change)

    @property
    def is_quiet(self) -> bool:
        """Whether a change alone acts: no noise is drawn, and no law says more than the answers."""
        return self.kind is not None and not any(self._stds)

    @property
    def is_grid(self) -> bool:
        """Whether strengths of both vary."""
        return len(self.axes) == 2

    def strength(self, column: Column) -> float:
        """The strength of the change."""
        return 0.0 if self.kind is None else column.strength_of(self.kind)

    def place(self, rows: Sequence[Row], column: Column) -> list[Row]:
        """Rows along the noise's strength, measured under a change, where they belong."""
        if self.is_quiet:
            rows = [replace(row, draw=None) for row in rows if _is_answer(row)]
        if self.is_grid:
            return [replace(row, second_strength=self.strength(column)) for row in rows]
        if self.kind is None or self.axes != (self.kind.axis,):
            return list(rows)
        return [replace(row, strength=self.strength(column)) for row in rows]

    def strengths(self, std: float, column: Column) -> tuple[float, ...]:
        """Where an answer under noise of this strength and a change stands, along each axis."""
        own = {self._noise: std}
        if self.kind is not None:
            own[self.kind.axis] = self.strength(column)
        return tuple(own[axis] for axis in self.axes)

    def describe(self) -> str:
        """Strengths that stay the same, for the head of a report; empty where all vary."""
        if self.kind is None:
            return ""
        still = []
        if self._noise not in self.axes and not self.is_quiet:
            still.append((self._noise, self._stds[0]))
        if self.kind.axis not in self.axes:
            still.append((self.kind.axis, self.strength(self._columns[0])))
        return ", ".join(
            f"{axis.quantity} {axis.symbol} = {format_strength(strength)}"
            for axis, strength in still
        )


def by_metric(rows: Sequence[Row]) -> list[Row]:
    """Rows with those of each task and metric together, in order of first appearance."""
    order = {key: place for place, key in enumerate(dict.fromkeys(map(_curve, rows)))}
    return sorted(rows, key=lambda row: order[_curve(row)])


def _curve(row: Row) -> tuple[str, str]:
    return row.task, row.metric


def _is_answer(row: Row) -> bool:
    """Whether a row is what the first draw answered; without noise all draws are one."""
    return not is_expected(row.metric) and not row.draw
