"""Changes of what a vision model computes, asked for as everywhere, beside noise on its logits.

A change of activations, such as an edit, takes a forward pass for each strength; noise on logits
takes none. So what is measured under both stands on a grid: at every strength of the change the
logits are those of one pass, which serve all strengths of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from aim_plugins.core.files import existing_folder
from aim_plugins.core.settings import Grid, Settings, option
from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.modulation.arguments import read_columns
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.edits import EditedComponents
from aim_plugins.sweep.table import Row, is_expected
from vision_bench.models.model import VisionModel, named_module

_STRENGTHS = "0:1:0.25"
"""Of an edit, where none are given."""


@dataclass(frozen=True, kw_only=True)
class ChangeSettings(Settings):
    """A change of what the model computes, beside noise on its logits.

    Attributes:
        edit: Folder of an edit that `vision-bench attribute edit` wrote: its components are
            multiplied by 1 - s at strength s.
        edit_strength: Strengths of the edit, from 0, the model as it is, to 1, which ablates its
            components; by default "0:1:0.25".
        force_edit: Applies an edit that was made for other weights.
    """

    edit: str | None = None
    edit_strength: Grid | None = option(None, metavar="GRID")
    force_edit: bool = False

    def check(self) -> None:
        super().check()
        for name in ("edit_strength", "force_edit"):
            if self.edit is None and (value := getattr(self, name)) not in (None, False):
                raise ValueError(f"{name}={value!r} is of an edit: add its folder as edit")
        _ = self.change_strengths

    def check_files(self) -> None:
        super().check_files()
        if self.edit is not None:
            existing_folder(self.edit, "edit")

    @property
    def change_strengths(self) -> dict[str, list[float]]:
        """Strengths of the change by their argument; nothing where none is asked for."""
        if self.edit is None:
            return {}
        given = _STRENGTHS if self.edit_strength is None else self.edit_strength
        return {"edit_strength": list(EditedComponents.axis.parse(given, "edit_strength"))}

    def columns(self) -> tuple[Column, ...]:
        """What is measured: the model under each strength of the change, or as it is.

        Raises:
            ValueError: If what the folder holds is no edit.
        """
        if self.edit is None:
            return (Column(),)
        given: dict[str, Any] = {"edit": self.edit, "force_edit": self.force_edit}
        return read_columns(given | self.change_strengths)


def check_columns(columns: Sequence[Column], model: VisionModel) -> None:
    """Refuses changes that a model cannot take.

    Raises:
        ValueError: If one was made for another model.
        ImportError: If what compares strengths is missing.
    """
    for change in dict.fromkeys(one for column in columns for one in column.changes):
        if find_spec("scipy") is None:
            raise ImportError("intervals need scipy: pip install 'aim-plugins[vision]'")
        change.check_model(named_module(model.module), None)


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


def _is_answer(row: Row) -> bool:
    """Whether a row is what the first draw answered; without noise all draws are one."""
    return not is_expected(row.metric) and not row.draw
