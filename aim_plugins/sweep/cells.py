"""The cells of a sweep: the results of one strength and draw, in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.files import seal, sha256_of, write_atomic
from aim_plugins.core.strengths import validate_strength
from aim_plugins.sweep.table import Row

CELL = "cell.json"
NOISE_STRENGTH = "std"
"""What names the cells of a noise's strengths, which are never negative."""


@dataclass(frozen=True)
class CellRecord:
    """What one finished cell holds.

    Attributes:
        strength: Strength of the modulation.
        draw: Index of the noise draw.
        seed: Seed of that draw.
        rows: The cell's part of the tidy table.
        metadata: Whatever else belongs to it; JSON.
        folder: The cell's folder, with the harness's own files.
    """

    strength: float
    draw: int
    seed: int
    rows: tuple[Row, ...]
    metadata: dict[str, Any]
    folder: Path


class StagedCell:
    """A cell being written; see `SweepStore.cell`.

    Attributes:
        folder: Where the harness writes its own files.
    """

    def __init__(self, folder: Path, strength: float, draw: int) -> None:
        self.folder = folder
        self._content: dict[str, Any] = {"strength": strength, "draw": draw}

    def record(
        self, rows: Iterable[Row], *, seed: int, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """States the cell's results; they are written last, when the block ends.

        Raises:
            ValueError: If a row belongs to another strength.
        """
        rows = list(rows)
        strength = self._content["strength"]
        for row in rows:
            if float(row.strength) != strength:
                raise ValueError(
                    f"rows: {row.task}/{row.metric} has strength={row.strength}, but the cell has "
                    f"{strength}: record each row in its own cell"
                )
        self._content |= {
            "seed": seed,
            "rows": [asdict(row) for row in rows],
            "metadata": dict(metadata or {}),
        }

    def _finish(self) -> None:
        if "rows" not in self._content:
            raise RuntimeError(
                f"the cell of strength={self._content['strength']}, draw={self._content['draw']} "
                "ended without results: call its record() inside the with block"
            )
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                _flush(path)
                files[path.relative_to(self.folder).as_posix()] = sha256_of(path)
        write_atomic(self.folder / CELL, seal(self._content | {"files": files}))


def check_cell(
    strength: float, draw: int, *, strength_name: str = NOISE_STRENGTH
) -> tuple[float, int]:
    """Refuses a cell that cannot be.

    Raises:
        ValueError: If the draw is no index, or the strength not finite or, of noise, negative.
    """
    if isinstance(draw, bool) or not isinstance(draw, int) or draw < 0:
        raise ValueError(f"draw={draw!r} is no draw: give an integer from 0 upwards")
    signed = strength_name != NOISE_STRENGTH
    return validate_strength(strength, name="strength", signed=signed), draw


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
