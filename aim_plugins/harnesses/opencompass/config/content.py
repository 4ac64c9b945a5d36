"""What the files behind a model entry or a data set hold, for fingerprints.

Contents count, times do not: a copied or touched file is the same file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from opencompass.utils.datasets import DATASETS_MAPPING, DEFAULT_DATA_FOLDER

from aim_plugins.core.files import sha256_of

_MODEL_KEYS = ("path", "tokenizer_path", "peft_path")
_NAMES_FILES = re.compile("path|file|dir|folder", re.IGNORECASE)
"""Readers name their files as they like: `path`, `data_files`, `needle_file_name`, `root_dir`."""
_NO_DATA = frozenset({"reader_cfg", "infer_cfg", "eval_cfg"})
_WHOLE_WEIGHTS = 32 << 20
"""Weight files above this size, in bytes, are sampled: reading a large model takes minutes."""
_WHOLE_DATA = 1 << 30
_BLOCK, _BLOCKS = 64 << 10, 64

Content = list[list[Any]]
"""Name, size in bytes and digest of each file."""


def model_content(settings: Mapping[str, Any]) -> dict[str, Content]:
    """Reads the local files of a model entry.

    Args:
        settings: The entry. A path that is no local file or folder, such as the name of a model on
            a hub, has no content.

    Returns:
        For each of its paths that is local, the files in that folder; those of subfolders, such as
        the checkpoints of a training, are not loaded with the model and not read.
    """
    contents = {}
    for key in _MODEL_KEYS:
        path = settings.get(key)
        if isinstance(path, str) and path and os.path.exists(path):
            names = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
            contents[key] = _content(Path(path), names, _WHOLE_WEIGHTS)
    return contents


def data_content(settings: Mapping[str, Any]) -> dict[str, list[Content]]:
    """Reads the local files of a data set.

    Args:
        settings: The data set.

    Returns:
        For each of its settings that names local files or folders, by its place in the settings,
        the files of every place where OpenCompass could find it now. Nothing is downloaded. A
        folder that holds the working folder has no content: runs write their outputs there.
    """
    contents = {}
    for key, value in settings.items():
        if key not in _NO_DATA:
            for name, path in _named_files(key, value, names=False):
                if places := _places(path):
                    contents[name] = [
                        _content(place, _walk(place), _WHOLE_DATA) for place in places
                    ]
    return contents


def _named_files(key: str, value: Any, *, names: bool) -> Iterator[tuple[str, str]]:
    """The texts below a setting that may name files: its place among the settings, and the text."""
    names = names or bool(_NAMES_FILES.search(key.rpartition("/")[2]))
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _named_files(f"{key}/{inner}", item, names=names)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _named_files(f"{key}/{index}", item, names=names)
    elif isinstance(value, str) and value and names:
        yield key, value


def data_places(path: str) -> list[Path]:
    """Where OpenCompass looks for the local files of a data set before it downloads any.

    Args:
        path: The path of a data set: a path, or a name that OpenCompass maps to one.

    Returns:
        The places, first choice first; they need not exist.
    """
    if os.path.isabs(path):
        return [Path(path)]
    cache = os.environ.get("COMPASS_DATA_CACHE", "")
    local = DATASETS_MAPPING.get(path, {}).get("local") or path
    return [Path(cache, local), Path(DEFAULT_DATA_FOLDER, cache, local)]


def _places(path: str) -> list[Path]:
    # Some readers of OpenCompass take the path as it is, and not from its data folder.
    # `os.path.exists`, because `Path.exists` fails on what is too long for a name.
    found = [place for place in data_places(path) if os.path.exists(place)][:1]
    given = Path(path)
    return found if given in found or not os.path.exists(path) else [given, *found]


def _walk(place: Path) -> list[str]:
    if place.is_file():
        return [""]
    if Path.cwd().is_relative_to(place.resolve()):
        return []
    names = []
    for folder, subfolders, files in os.walk(place):
        subfolders[:] = [name for name in subfolders if name != "__pycache__"]
        names += [os.path.relpath(os.path.join(folder, name), place) for name in files]
    return sorted(names)


def _content(root: Path, names: Iterable[str], whole: int) -> Content:
    content = []
    for name in names:
        path = root / name if name else root
        # Hidden files are bookkeeping of editors, git and downloads.
        if not path.is_file() or any(part.startswith(".") for part in Path(name).parts):
            continue
        state = path.stat()
        digest = _digest(os.path.abspath(path), state.st_size, state.st_mtime_ns, whole)
        content.append([Path(name).as_posix(), state.st_size, digest])
    return content


@cache
def _digest(path: str, size: int, _modified: int, whole: int) -> str:
    """Hashes a file once in a process; its time only tells whether to read it again."""
    if size <= whole:
        return sha256_of(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for index in range(_BLOCKS):
            file.seek((size - _BLOCK) * index // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
