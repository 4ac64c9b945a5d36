"""Settings of the comparison of two sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aim_plugins.core.files import existing_folder
from aim_plugins.core.settings import Names, Settings, option
from aim_plugins.core.strengths import validate_strength


class Place(NamedTuple):
    """A sweep, or one strength of it.

    Attributes:
        text: As it was given.
        folder: The sweep's folder.
        strengths: One along each axis; None for all that were swept.
    """

    text: str
    folder: Path
    strengths: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """What is compared.

    Attributes:
        sweeps: Folders of two finished sweeps over the same documents, the one that counts as plain
            first; FOLDER:0.5 is one strength of a sweep, FOLDER:0.5/1 one of a grid.
        output: Folder for the table and the report.
        metrics: Metrics to compare, separated by commas; by default all that both keep.
    """

    sweeps: Sequence[str] = option(positional=True, metavar="SWEEP")
    output: Path = option(short="-o", metavar="FOLDER")
    metrics: Names = option((), metavar="NAMES")

    def check(self) -> None:
        if len(self.sweeps) != 2:
            raise ValueError(
                f"sweeps={list(self.sweeps)!r}: name two, such as runs/plain and runs/steered, or "
                "two strengths of one, such as runs/llama:0 and runs/llama:0.5"
            )
        first, second = self.places
        same = first.folder.resolve() == second.folder.resolve()
        if same and first.strengths == second.strengths:
            raise ValueError(
                f"sweeps={list(self.sweeps)!r} are one and the same: name two strengths of it, "
                f"such as {first.folder}:0 and {first.folder}:0.5"
            )

    def check_files(self) -> None:
        for place in self.places:
            existing_folder(place.folder, "sweeps")

    @property
    def places(self) -> tuple[Place, Place]:
        """What is compared with what."""
        first, second = map(read_place, self.sweeps)
        return first, second


def read_place(text: str) -> Place:
    """Reads a folder, or a folder and a strength behind a colon.

    >>> read_place("runs/llama:0.5/1").strengths, read_place("runs/llama").strengths
    ((0.5, 1.0), None)
    """
    folder, colon, written = text.rpartition(":")
    if not colon or not folder or Path(text).is_dir():
        return Place(text, Path(text), None)
    try:
        numbers = [float(one) for one in written.split("/")]
    except ValueError:
        return Place(text, Path(text), None)
    low = -float("inf")
    strengths = [validate_strength(one, name=f"the strength of {text}", low=low) for one in numbers]
    return Place(text, Path(folder), tuple(strengths))
