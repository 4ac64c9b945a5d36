"""Things that are made once and kept in the user's cache: trained weights, composed scenes.

A finished folder appears by one rename and carries the SHA-256 of each of its files, so a killed or
damaged one is made anew. Its name holds a digest of its recipe, so a changed recipe never meets old
results.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aim_plugins.core.files import seal, sha256_of, unseal
from aim_plugins.demo_model import cache_folder

RECORD = "record.json"
_PARTIAL = ".partial-"
_DIGITS = 12


def make_once(
    name: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
) -> Path:
    """Finds a folder in the cache, or makes it.

    Args:
        name: What it holds, as a file name.
        recipe: All that the content depends on, as JSON.
        make: Writes the content into the empty folder it is given, and returns what is worth
            knowing about it, as JSON.

    Returns:
        The folder, which holds what `make` wrote and a record.

    Raises:
        OSError: If the cache cannot be written; `AIM_PLUGINS_CACHE` chooses another.
    """
    root = cache_folder() / "vision"
    folder = root / f"{name}-{_digest(recipe)}"
    if is_whole(folder):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"another process is making {name}; waiting for it")
        lock.acquire()
    try:
        if not is_whole(folder):
            _make(folder, name, recipe, make)
    finally:
        lock.release()
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder holds every file of its record, unchanged."""
    try:
        files = unseal((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return all(sha256_of(folder / file) == digest for file, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_record(folder: Path) -> dict[str, Any]:
    """What the maker of a whole folder noted: its `recipe`, and `notes` such as an accuracy."""
    return unseal((folder / RECORD).read_text(encoding="utf-8"))


def _make(
    folder: Path,
    name: str,
    recipe: Mapping[str, Any],
    make: Callable[[Path], Mapping[str, Any]],
) -> None:
    for leftover in folder.parent.glob(f"{_PARTIAL}{name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():
        _say(f"{folder} is damaged; making it again")
        shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(prefix=f"{_PARTIAL}{name}-", dir=folder.parent) as partial:
        staging = Path(partial) / "folder"
        staging.mkdir()
        notes = make(staging)
        files = {
            path.relative_to(staging).as_posix(): sha256_of(path)
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        record = {"recipe": dict(recipe), "notes": dict(notes), "files": files}
        (staging / RECORD).write_text(seal(record), encoding="utf-8")
        os.replace(staging, folder)
    _say(f"{name} is ready in {folder}")


def _digest(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _say(message: str) -> None:
    print(f"vision-bench: {message}", file=sys.stderr, flush=True)
