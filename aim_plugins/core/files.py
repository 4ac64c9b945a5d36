"""Files that are whole or absent: atomic writing, checksums, sealed JSON, safe names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

_MAX_NAME_LENGTH = 100


class CorruptRecordError(ValueError):
    """A record does not hold what was written into it."""


def existing(path: str | Path, name: str = "", suffixes: Collection[str] = ()) -> Path:
    """The path, if it is a file.

    Args:
        path: The path.
        name: The argument that names it, for the error; empty for a file that none does.
        suffixes: Those that it may have; by default any.

    Raises:
        ValueError: If it has another suffix.
        FileNotFoundError: If it is no file.
    """
    path = Path(path)
    place = f"{name}={str(path)!r}" if name else path
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{place}: the suffix is {path.suffix!r}, not one of {' '.join(suffixes)}")
    if not path.is_file():
        raise FileNotFoundError(f"{place}: no such file")
    return path


def existing_folder(path: str | Path, name: str) -> Path:
    """The path, if it is a folder.

    Args:
        path: The path.
        name: The argument that names it, for the error.

    Raises:
        FileNotFoundError: If it is none.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{name}={str(path)!r}: no such folder")
    return path


def check_model_name(name: str, argument: str) -> None:
    """Refuses the name of a model that can only be a folder, and is none.

    Args:
        name: A folder, or a name on a hub.
        argument: The argument that names it, for the error.

    Raises:
        FileNotFoundError: If it is a path to no folder.
    """
    if Path(name).is_absolute() or name.startswith(("./", "../", "~")):
        existing_folder(Path(name).expanduser(), argument)


def refuse_filled(folder: Path) -> None:
    """Refuses to write results into a folder that holds anything.

    Raises:
        ValueError: If it does, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output={str(folder)!r} is a file: choose a folder")
    if folder.is_dir() and (names := sorted(path.name for path in folder.iterdir())):
        raise ValueError(
            f"output={str(folder)!r} holds files (first: {names[0]!r}): choose a new or empty "
            "folder"
        )


def write_atomic(path: str | Path, data: bytes | str) -> Path:
    """Writes a file such that a reader finds the old content or the new, never a part.

    The content goes to a temporary file in the same folder (a rename is atomic only within one file
    system), is flushed to the disk, and then takes the name over.

    Args:
        path: The file to write; its folder exists.
        data: The content; text is written as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written, for instance because the disk is full. Nothing is
            left behind, and the file keeps its former content.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise
    sync_folder(path.parent)
    return path


def append(path: str | Path, data: bytes) -> int:
    """Adds to the end of a file, without waiting for the disk.

    A kill or a crash can cut off what was written last, so a reader has to know whole data from
    others, as `unseal` does.

    Args:
        path: The file, to which nobody else appends; its folder exists.
        data: What to add.

    Returns:
        The number of bytes before it.

    Raises:
        OSError: If it cannot be written, for instance because the disk is full. The file keeps its
            former content.
    """
    path = Path(path)
    try:
        with open(path, "ab", buffering=0) as file:
            start, rest = file.tell(), memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise
    except OSError as error:
        raise _cannot_write(path, error) from error
    return start


def temporary_path(path: Path) -> Path:
    """Names an unused hidden neighbour of a path, which `is_temporary` recognises."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Tells whether a path is the leftover of a killed write."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk, where the system can."""
    # Some file systems and Windows cannot open or flush a folder; the data itself is flushed.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def safe_name(text: str) -> str:
    """Turns any text into a file name: one path component, the same on every system.

    A text that had to be changed gets a short hash, so that different texts keep different names.

    >>> safe_name("mmlu_pro.v2")
    'mmlu_pro.v2'
    >>> safe_name("../etc/passwd")
    '_etc_passwd-7fef78f5'
    """
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "_", text).lstrip(".")[:_MAX_NAME_LENGTH]
    if name == text and name:
        return name
    return f"{name}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def seal(payload: Any) -> str:
    """Writes a payload as JSON together with its checksum.

    Floats read back exactly; NaN and infinities are allowed, as in Python's own JSON. As in any
    JSON, tuples read back as lists and keys as text.
    """
    body = _encode(payload)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"sha256": "{checksum}", "payload": {body}}}\n'


def unseal(text: str) -> Any:
    """Reads what `seal` wrote.

    Raises:
        CorruptRecordError: If the text is truncated or altered.
    """
    try:
        envelope = json.loads(text)
        payload, checksum = envelope["payload"], envelope["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRecordError("it is not a whole record") from error
    if hashlib.sha256(_encode(payload).encode()).hexdigest() != checksum:
        raise CorruptRecordError("its checksum does not fit its content")
    return payload


def _cannot_write(path: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"cannot write ({error.strerror}); what was finished before is kept: "
        "mend this and start the same command again to continue",
        str(path),
    )


def _encode(payload: Any) -> str:
    # ASCII, because model text may hold lone surrogates, which UTF-8 refuses.
    return json.dumps(payload, ensure_ascii=True)
