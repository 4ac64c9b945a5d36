"""The cells of a sweep: the results of one strength and draw, in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.files import seal, sha256_of, write_atomic
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.sweep.table import Row

CELL = "cell.json"


@dataclass(frozen=True, order=True)
class Cell:
    """One cell of a sweep: where its results belong.

    Attributes:
        strength: Its strength along the first axis.
        draw: Index of the draw.
        second_strength: Of a grid, its strength along the second axis.
    """

    strength: float
    draw: int = 0
    second_strength: float | None = None

    @classmethod
    def at(cls, strengths: Sequence[float], draw: int = 0) -> Cell:
        """The cell of a strength along each axis."""
        first, *second = strengths
        return cls(first, draw, *second)

    @property
    def strengths(self) -> tuple[float, ...]:
        """Its strength along each axis."""
        second = self.second_strength
        return (self.strength,) if second is None else (self.strength, second)

    def checked(self, axes: Sequence[Axis]) -> Cell:
        """The cell with its strengths as floats.

        Raises:
            ValueError: If the draw is no index, or a strength is none of its axis.
        """
        draw = self.draw
        if isinstance(draw, bool) or not isinstance(draw, int) or draw < 0:
            raise ValueError(f"draw={draw!r} is no draw: give an integer from 0 upwards")
        pairs = zip(axes, self.strengths, strict=True)
        return Cell.at([axis.check(strength) for axis, strength in pairs], draw)

    def name(self, axes: Sequence[Axis]) -> str:
        """The name of its folder."""
        parts = zip(axes, self.strengths, strict=True)
        named = [f"{axis.name}={format_strength(strength)}" for axis, strength in parts]
        return ",".join([*named, f"draw={self.draw}"])


@dataclass(frozen=True)
class CellRecord:
    """What one finished cell holds.

    Attributes:
        cell: Where it belongs.
        seed: Seed of its draw.
        rows: The cell's part of the tidy table.
        metadata: Whatever else belongs to it; JSON.
        folder: The cell's folder, with the harness's own files.
    """

    cell: Cell
    seed: int
    rows: tuple[Row, ...]
    metadata: dict[str, Any]
    folder: Path


class StagedCell:
    """A cell being written; see `SweepStore.cell`.

    Attributes:
        folder: Where the harness writes its own files.
    """

    def __init__(self, folder: Path, cell: Cell) -> None:
        self.folder = folder
        self.cell = cell
        self._content: dict[str, Any] = {"cell": asdict(cell)}

    def record(
        self, rows: Iterable[Row], *, seed: int, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """States the cell's results; they are written last, when the block ends.

        Raises:
            ValueError: If a row belongs to another strength.
        """
        rows = list(rows)
        for row in rows:
            own = Cell(float(row.strength), self.cell.draw, row.second_strength)
            if own != self.cell:
                raise ValueError(
                    f"rows: {row.task}/{row.metric} has strength={_shown(own)}, but the cell has "
                    f"{_shown(self.cell)}: record each row in its own cell"
                )
        self._content |= {
            "seed": seed,
            "rows": [asdict(row) for row in rows],
            "metadata": dict(metadata or {}),
        }

    def _finish(self) -> None:
        if "rows" not in self._content:
            raise RuntimeError(
                f"the cell of strength={_shown(self.cell)}, draw={self.cell.draw} "
                "ended without results: call its record() inside the with block"
            )
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                _flush(path)
                files[path.relative_to(self.folder).as_posix()] = sha256_of(path)
        write_atomic(self.folder / CELL, seal(self._content | {"files": files}))


def _shown(cell: Cell) -> str:
    return ",".join(map(str, cell.strengths))


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
