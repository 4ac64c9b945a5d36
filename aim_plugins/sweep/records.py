"""An engine's journal as a folder: a file to which each process appends its finished batches."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from aim_plugins.core.files import CorruptRecordError, append, seal, unseal

_NAME = "batches-{}.jsonl"
_NAMES = re.compile(r"batches-\d+\.jsonl")


class CorruptRecordWarning(UserWarning):
    """A record was damaged from outside and is computed again."""


class _Place(NamedTuple):
    """Where a record stands: in which file, from which byte on, and over how many."""

    path: Path
    start: int
    size: int


class BatchRecords:
    """Records of the batches of an interrupted run, so that it goes on where it was.

    A record is a sealed line. One that was damaged, or cut off by a kill, counts as absent. Each
    process has a file of its own, so that several may share the folder: a key names all that a
    batch's results depend on, so whoever writes a record first or last writes the same.

    Args:
        folder: Where the files go; made with the first record.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._own: Path | None = None
        self._places: dict[str, _Place] = {}
        self._read: dict[Path, int] = {}  # how many bytes of each file

    def read_batch(self, key: str) -> Any | None:
        """Reads the record of an engine batch; None if there is none, or a damaged one."""
        if key not in self._places:
            self._look()
        place = self._places.get(key)
        if place is None:
            return None
        try:
            with open(place.path, "rb") as file:
                file.seek(place.start)
                return _unseal(file.read(place.size))["payload"]
        except FileNotFoundError:  # another process has cleared the records
            return None
        except CorruptRecordError as error:
            warn_corrupt(place.path, error)
            return None

    def write_batch(self, key: str, payload: Any) -> None:
        """Appends the record of an engine batch; of several of one key the last counts.

        Args:
            key: Names the batch and all that its results depend on.
            payload: JSON; floats read back exactly, NaN and infinities included.

        Raises:
            OSError: If it cannot be written; what is there already is kept.
        """
        line = seal({"key": key, "payload": payload}).encode()
        try:
            path = self._own_file()
            start = append(path, line)
        except FileNotFoundError:  # another process cleared the records between the two lines
            self._own = None
            path = self._own_file()
            start = append(path, line)
        self._places[key] = _Place(path, start, len(line))
        self._read[path] = start + len(line)

    def clear(self) -> None:
        """Removes all records, and the folder unless it holds anything else.

        For when what the batches were computed for is finished. Several processes may clear at
        once.
        """
        for path in self._files():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is gone already, or not empty
            self.folder.rmdir()
        self._own, self._places, self._read = None, {}, {}

    def _look(self) -> None:
        """Finds the records that were written since the last look."""
        for path in self._files():
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):  # cut off by a kill, or just being written
                        break
                    start = self._read.get(path, 0)
                    self._read[path] = start + len(line)
                    try:
                        self._places[_unseal(line)["key"]] = _Place(path, start, len(line))
                    except CorruptRecordError as error:
                        warn_corrupt(path, error)

    def _files(self) -> list[Path]:
        try:
            found = [path for path in self.folder.iterdir() if _NAMES.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda path: (len(path.name), path.name))

    def _own_file(self) -> Path:
        """A file that no other process writes to; the first free number names it."""
        if self._own is None:
            self._look()  # what stands in former files is older than what is written now
        number = 0
        while self._own is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / _NAME.format(number)
            try:
                path.touch(exist_ok=False)
                self._own = path
            except FileExistsError:
                number += 1
        return self._own


def warn_corrupt(path: Path, error: Exception) -> None:
    """Tells the user that a record is damaged and what becomes of it."""
    warnings.warn(
        f"{path} is damaged ({error}): it is computed again", CorruptRecordWarning, stacklevel=3
    )


def _unseal(line: bytes) -> dict[str, Any]:
    try:
        record = unseal(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorruptRecordError("it is not text") from error
    if not isinstance(record, dict) or not {"key", "payload"} <= record.keys():
        raise CorruptRecordError("it is no record of a batch")
    return record
