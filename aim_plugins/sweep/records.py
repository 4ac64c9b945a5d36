"""An engine's journal as a folder: one sealed record for each finished batch."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any

from aim_plugins.core.files import CorruptRecordError, is_temporary, seal, unseal, write_atomic

_KEY_PATTERN = re.compile(r"[A-Za-z0-9_=,+-][A-Za-z0-9._=,+-]{0,149}")


class CorruptRecordWarning(UserWarning):
    """A record was damaged from outside and is computed again."""


class BatchRecords:
    """Records of the batches of an interrupted run, so that it goes on where it was.

    A record is whole or absent, and one that was damaged counts as absent. Several processes may
    share the folder: a key names all that a batch's results depend on, so whoever writes a record
    first or last writes the same.

    Args:
        folder: Where the records go; made with the first of them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read_batch(self, key: str) -> Any | None:
        """Reads the record of an engine batch; None if there is none, or a damaged one.

        Raises:
            ValueError: If the key is no safe file name.
        """
        path = self._path(key)
        try:
            record = unseal(path.read_text(encoding="utf-8"))
            if record["key"] != key:
                raise CorruptRecordError(f"it belongs to the batch {record['key']!r}")
        except FileNotFoundError:
            return None
        except (CorruptRecordError, UnicodeDecodeError) as error:
            warn_corrupt(path, error)
            return None
        return record["payload"]

    def write_batch(self, key: str, payload: Any) -> None:
        """Writes the record of an engine batch.

        Args:
            key: Names the batch and all that its results depend on; letters, digits and `._=,+-`.
            payload: JSON; floats read back exactly, NaN and infinities included.

        Raises:
            ValueError: If the key is no safe file name.
            OSError: If it cannot be written; what is there already is kept.
        """
        path, record = self._path(key), seal({"key": key, "payload": payload})
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            write_atomic(path, record)
        except FileNotFoundError:
            # Another process cleared the records between the two lines.
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, record)

    def clear(self) -> None:
        """Removes all records, and the folder unless it holds anything else.

        For when what the batches were computed for is finished. Several processes may clear at
        once.
        """
        try:
            found = list(self.folder.iterdir())
        except FileNotFoundError:
            return
        for path in found:
            record = path.suffix == ".json" and _KEY_PATTERN.fullmatch(path.stem)
            if record or is_temporary(path):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is gone already, or not empty
            self.folder.rmdir()

    def _path(self, key: str) -> Path:
        if not _KEY_PATTERN.fullmatch(key):
            raise ValueError(
                f"key={key!r} is no safe file name: use up to 150 letters, digits and ._=,+- "
                "that do not start with a dot, such as a hash"
            )
        return self.folder / f"{key}.json"


def warn_corrupt(path: Path, error: Exception) -> None:
    """Tells the user that a record is damaged and what becomes of it."""
    warnings.warn(
        f"{path} is damaged ({error}): it is computed again", CorruptRecordWarning, stacklevel=3
    )
