"""One study: from what determines it to its report, through a kill and a restart.

A study says what identifies it, how to load what it needs, how to measure what is missing and what
to show; `run` does the rest, the same for every harness and every system. One whose results are
curves over a strength is a `Study`; others are a `FolderStudy`.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from aim_plugins.core.commands import keeping_finished_work, say
from aim_plugins.core.devices import is_main_process, one_voice
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.cells import Cell, CellRecord
from aim_plugins.sweep.front import Front, publish
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.trackers import Trackers


class FolderStudy(abc.ABC):
    """A study in one folder.

    A killed run goes on where it was: `measure` finds finished cells and batches in the store.

    Attributes:
        output: The folder.
        axes: What varies: one strength, the two of a grid, or nothing.
        command: The words that repeat the study, for the report.
        packages: Packages whose versions the manifest notes.
        goes_on: Whether anything is kept of a run that is interrupted.
    """

    packages: ClassVar[Sequence[str]] = ("aim-plugins", "torch")
    goes_on: ClassVar[bool] = True

    output: Path
    axes: tuple[Axis, ...] = ()
    command: Sequence[str] = ()

    @property
    @abc.abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What determines the results, as JSON; a folder is resumed only by the same ones."""

    def load(self) -> None:  # noqa: B027
        """Loads what measuring needs, in every process, before a folder is made.

        What refuses its model or data here leaves no folder behind.
        """

    @abc.abstractmethod
    def measure(self, store: SweepStore) -> None:
        """Computes what the store lacks, in the first process."""

    @abc.abstractmethod
    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        """Writes and prints what the finished study has to show; returns the report's path."""

    def check(self) -> None:
        """Tells early whether the folder can hold this study, and writes nothing.

        Raises:
            SweepMismatchError: If it holds another one, or other files.
        """
        SweepStore.check(self.output, self.arguments)

    def open(self) -> SweepStore:
        """Opens the folder; see `SweepStore.open`."""
        versions = {name: version(name) for name in self.packages}
        return SweepStore.open(self.output, self.arguments, versions=versions, axes=self.axes)

    def run(self, trackers: Trackers | None = None) -> Path | None:
        """Computes what is missing, and writes and prints the folder's front.

        Returns:
            The report's path; None in processes other than the first.

        Raises:
            ValueError: If a setting or file is not usable, or the folder holds another study.
            OSError: If the folder cannot be written.
        """
        with keeping_finished_work() if self.goes_on else contextlib.nullcontext():
            with one_voice():
                self.check()
                self.load()
            if not is_main_process():
                return None
            with self.open() as store:
                store.update_manifest(command=list(self.command))
                self.measure(store)
                return self.show(store, trackers)


class Study(FolderStudy):
    """A sweep of one model in one folder, over one strength or a grid of two.

    Attributes:
        cells: The cells of the store that results go to; none where batches alone are kept.
    """

    cells: Sequence[Cell] = ()

    @abc.abstractmethod
    def front(self, store: SweepStore) -> Front:
        """What the finished study shows."""

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        return publish(self.output, self.front(store), store.manifest, trackers)

    def pending(self, store: SweepStore) -> list[Cell]:
        """The cells that are not finished."""
        return [cell for cell in self.cells if store.read_cell(cell) is None]

    def finished(self, store: SweepStore) -> list[CellRecord]:
        """The finished cells, in order."""
        records = (store.read_cell(cell) for cell in self.cells)
        return [record for record in records if record is not None]

    def say_finished(self, pending: Sequence[Cell]) -> None:
        """Says how much of a resumed study is there already."""
        done = len(self.cells) - len(pending)
        rest = ", and the finished batches of the others are kept" if pending else ""
        text = f"{self.output}: {done} of {len(self.cells)} cells are finished{rest}"
        say(text)
