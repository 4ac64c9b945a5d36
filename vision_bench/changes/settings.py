"""Settings of a change of what a vision model computes, named as in the harnesses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aim_plugins.core.files import existing_folder
from aim_plugins.core.settings import Grid, Settings, option
from aim_plugins.modulation.arguments import read_columns
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.edits import EditedComponents

logger = logging.getLogger(__name__)

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

    @property
    def described_change(self) -> dict[str, Any]:
        """Where the change was read from, for manifests."""
        return {} if self.edit is None else {"edit": self.edit}

    def columns(self) -> tuple[Column, ...]:
        """What is measured: the model under each strength of the change, or as it is.

        Raises:
            ValueError: If what the folder holds is no edit.
        """
        if self.edit is None:
            return (Column(),)
        given: dict[str, Any] = {"edit": self.edit, "force_edit": self.force_edit}
        columns = read_columns(given | self.change_strengths)
        self._warn_of_preprocessing(columns)
        return columns

    def _warn_of_preprocessing(self, columns: Sequence[Column]) -> None:
        """Warns where images were prepared in another way when the edit was made."""
        mine = getattr(self, "preprocessing", None)
        edits = (one.learned for one in columns[-1].changes if isinstance(one, EditedComponents))
        for settings in (one.metadata.settings for one in edits if one is not None):
            if "preprocessing" in settings and settings["preprocessing"] != mine:
                logger.warning(
                    "the edit was made with preprocessing=%r, and here it is %r: on images of "
                    "another size or scale it may do nothing; give the same",
                    *(settings["preprocessing"], mine),
                )
