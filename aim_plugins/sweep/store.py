"""A sweep's folder: safe against kills, resumable, one writer at a time.

    DIR/
      manifest.json            what was asked for, and what it was computed with
      records/batches-0.jsonl  the finished batches of an engine, a sealed line each
      cells/std=0.5,draw=0/    one finished cell: the harness's own files, and cell.json; named by
                               what varies, as strength=0.5,draw=0 of a transport
      .staging/                cells not finished yet

A file or cell folder takes its name only once it is whole, by a rename, so that whatever a killed
run leaves behind is either finished or recognised and removed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aim_plugins.core.errors import ForeseenFailure
from aim_plugins.core.files import (
    CorruptRecordError,
    is_temporary,
    sha256_of,
    sync_folder,
    unseal,
    write_atomic,
)
from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.cells import CELL, Cell, CellRecord, StagedCell
from aim_plugins.sweep.manifest import (
    AXES,
    LOCK,
    MANIFEST,
    OWN_FIELDS,
    SweepMismatchError,
    manifest_text,
    new_manifest,
    read_manifest,
    redact,
    refuse_foreign,
    refuse_mismatch,
)
from aim_plugins.sweep.records import BatchRecords, CorruptRecordWarning, warn_corrupt
from aim_plugins.sweep.table import Row

__all__ = [
    "Cell",
    "CellRecord",
    "CorruptRecordWarning",
    "StagedCell",
    "SweepLockedError",
    "SweepMismatchError",
    "SweepStore",
    "write_atomic",
]

_CELLS = "cells"
_STAGING = ".staging"
_RECORDS = "records"


class SweepLockedError(ForeseenFailure):
    """Another process is writing to the folder."""


class SweepStore:
    """The folder of one sweep, locked for this process until closed.

    Use it as a context, or call `close`. The lock ends with the process, however it ends.

    Attributes:
        folder: The sweep's folder.
        axes: What varies from cell to cell.
        resumed: Whether the folder held this sweep already.
    """

    def __init__(self, folder: Path, lock: FileLock, manifest: dict[str, Any], resumed: bool):
        self.folder = folder
        self.resumed = resumed
        self._lock = lock
        self._manifest = manifest
        self.axes = tuple(Axis(**fields) for fields in manifest[AXES])
        self._records = BatchRecords(folder / _RECORDS)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        arguments: Mapping[str, Any],
        *,
        versions: Mapping[str, str] | None = None,
        axes: Sequence[Axis],
    ) -> SweepStore:
        """Creates a sweep's folder, or resumes the sweep it holds.

        Args:
            folder: The folder; new, empty, or of the same sweep.
            arguments: What determines the results, as JSON; a sweep is resumed only if all agree.
                Secrets among them, such as a token, are neither written nor compared.
            versions: Versions of the packages that compute them. Resuming with others only warns.
            axes: What varies from cell to cell: one strength, or the two of a grid.

        Raises:
            SweepMismatchError: If the folder holds a sweep with other arguments or along other
                axes, or other files.
            SweepLockedError: If another process has it open.
            OSError: If the folder cannot be written.
        """
        folder = Path(folder)
        asked = _comparable(arguments)
        refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            _remove_leftovers(folder)
            path = folder / MANIFEST
            resumed = path.exists()
            if resumed:
                manifest = read_manifest(path)
                refuse_mismatch(folder, redact(manifest["arguments"]), asked)
                refuse_mismatch(
                    folder,
                    {AXES: [axis["name"] for axis in manifest[AXES]]},
                    {AXES: [axis.name for axis in axes]},
                )
            else:
                manifest = new_manifest(asked, versions, axes)
                write_atomic(path, manifest_text(manifest))
            store = cls(folder, lock, manifest, resumed)
            if resumed and versions is not None:
                store._note_versions(dict(versions))
        except BaseException:
            lock.release()
            raise
        return store

    @staticmethod
    def check(folder: str | Path, arguments: Mapping[str, Any]) -> None:
        """Tells early whether `open` would accept the folder, and writes nothing.

        Raises:
            SweepMismatchError: If the folder holds a sweep with other arguments, or other files.
        """
        folder = Path(folder)
        refuse_foreign(folder)
        if (folder / MANIFEST).exists():
            held = read_manifest(folder / MANIFEST)["arguments"]
            refuse_mismatch(folder, redact(held), _comparable(arguments))

    @staticmethod
    def strengths_held(folder: str | Path, axis: Axis) -> list[float]:
        """Strengths of the finished cells in the folder of a sweep along one axis, unopened."""
        names = (path.name for path in Path(folder, _CELLS).glob(f"{axis.name}=*,draw=*"))
        return [float(name.split(",")[0].partition("=")[2]) for name in names]

    @classmethod
    def join(cls, folder: str | Path) -> SweepStore:
        """Opens a sweep beside the process that holds its lock, to share batch records with it.

        The processes of one distributed run write records of different batches, under different
        names; everything else is left to the process that opened the sweep.
        """
        folder = Path(folder)
        return cls(folder, FileLock(folder / LOCK), read_manifest(folder / MANIFEST), resumed=True)

    def close(self) -> None:
        """Lets other processes write to the folder."""
        self._lock.release()

    def __enter__(self) -> SweepStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def manifest(self) -> dict[str, Any]:
        """A copy of the manifest."""
        return json.loads(json.dumps(self._manifest))

    def update_manifest(self, **fields: Any) -> None:
        """Adds or replaces fields of the manifest, such as fingerprints.

        Raises:
            ValueError: If a field is one that the store keeps itself.
        """
        if reserved := OWN_FIELDS & fields.keys():
            raise ValueError(
                f"the manifest's {', '.join(sorted(reserved))} cannot be changed: "
                "open another folder for another sweep"
            )
        manifest = self._manifest | json.loads(json.dumps(fields))
        if manifest != self._manifest:
            write_atomic(self.folder / MANIFEST, manifest_text(manifest))
            self._manifest = manifest

    def pin_manifest(self, **fields: Any) -> None:
        """Records what must not change between resumptions but is known only later.

        A model's fingerprint is: its path may agree while the weights behind it were replaced.

        Raises:
            SweepMismatchError: If the manifest holds another value already.
        """
        fields = json.loads(json.dumps(fields))
        held = {name: self._manifest[name] for name in fields if name in self._manifest}
        refuse_mismatch(self.folder, held, {name: fields[name] for name in held})
        self.update_manifest(**fields)

    def read_batch(self, key: str) -> Any | None:
        """Reads the record of an engine batch; see `BatchRecords.read_batch`."""
        return self._records.read_batch(key)

    def write_batch(self, key: str, payload: Any) -> None:
        """Writes the record of an engine batch; see `BatchRecords.write_batch`."""
        self._records.write_batch(key, payload)

    def cell_folder(self, cell: Cell) -> Path:
        """Names the folder of a finished cell, which need not exist."""
        return self.folder / _CELLS / cell.checked(self.axes).name(self.axes)

    def read_cell(self, cell: Cell) -> CellRecord | None:
        """Reads a finished cell; None if it is missing, or damaged and to be computed again."""
        cell, folder = cell.checked(self.axes), self.cell_folder(cell)
        if not folder.exists():
            return None
        try:
            content = unseal((folder / CELL).read_text(encoding="utf-8"))
            if Cell(**content["cell"]) != cell:
                raise CorruptRecordError("it belongs to another cell")
            for name, checksum in content["files"].items():
                if _checksum(folder / name) != checksum:
                    raise CorruptRecordError(f"its file {name} was changed")
        except (CorruptRecordError, UnicodeDecodeError, OSError) as error:
            warn_corrupt(folder, error)
            return None
        return CellRecord(
            cell=cell,
            seed=content["seed"],
            rows=tuple(Row(**row) for row in content["rows"]),
            metadata=content["metadata"],
            folder=folder,
        )

    @contextlib.contextmanager
    def cell(self, cell: Cell) -> Iterator[StagedCell]:
        """Writes one cell: whole, or not at all.

        Let the harness write its files into the `folder` of what the context returns, and call its
        `record` with the results. When the block ends, the folder is renamed to `cell_folder`,
        replacing a damaged or older cell; when it raises, nothing remains. The files of a finished
        cell must not be changed: `read_cell` takes that for damage.

        Raises:
            RuntimeError: If the block ends without a call of `record`.
            OSError: If the cell cannot be written.
        """
        target = self.cell_folder(cell)
        staging = self.folder / _STAGING
        staged = staging / f"{target.name}.{secrets.token_hex(4)}"
        replaced = staging / f"{target.name}.{secrets.token_hex(4)}"
        staged.mkdir(parents=True)
        try:
            content = StagedCell(staged, cell.checked(self.axes))
            yield content
            content._finish()
            target.parent.mkdir(exist_ok=True)
            if target.exists():  # a folder cannot be renamed onto a filled one
                os.replace(target, replaced)
            os.replace(staged, target)
            sync_folder(target.parent)
        finally:
            for leftover in (staged, replaced):
                shutil.rmtree(leftover, ignore_errors=True)
            with contextlib.suppress(OSError):  # another cell is being written
                staging.rmdir()

    def _note_versions(self, versions: dict[str, str]) -> None:
        changed = [
            f"{name} {self._manifest['versions'].get(name)} -> {version}"
            for name, version in versions.items()
            if self._manifest["versions"].get(name) != version
        ]
        if changed:
            warnings.warn(
                f"{self.folder} was begun with other versions ({', '.join(changed)}); the finished "
                "cells are kept. Choose a new folder to compute all with one version.",
                stacklevel=3,
            )
            self.update_manifest(resumed_versions=versions)


def _lock(folder: Path) -> FileLock:
    # The system drops this kind of lock with the process, so a kill cannot leave it stuck.
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SweepLockedError(
            f"output={str(folder)!r} is being written by another process: "
            "wait for it, stop it, or choose another folder"
        ) from error
    return lock


def _comparable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the manifest holds them."""
    return redact(json.loads(json.dumps(dict(arguments))))


def _remove_leftovers(folder: Path) -> None:
    shutil.rmtree(folder / _STAGING, ignore_errors=True)
    for path in filter(is_temporary, list(folder.iterdir())):
        path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    """SHA-256 of a file, read once in a process as long as the file stays as it is."""
    stat = path.stat()
    return _remembered_checksum(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _remembered_checksum(path: Path, *state: int) -> str:
    return sha256_of(path)
