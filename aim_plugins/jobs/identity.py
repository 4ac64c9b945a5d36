"""What a job's results depend on, as far as its words tell: they, and the files that they name."""

from __future__ import annotations

import ast
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.files import sha256_of

_LARGEST = 1 << 20
"""Bytes of a config or a list of prompts; of larger files, such as weights, the size counts."""
_WRITTEN = ("-o", "--output", "--output_path", "--output-path", "-w", "--work-dir")
"""Options whose files a command writes."""
_APART = re.compile(r"[=,]")


def named_files(words: Sequence[str], folder: Path) -> dict[str, str]:
    """Tells apart the files that a command names, and the configs that these build on.

    Of a folder, such as a model's or a transport's, the JSON files right in it count. What the
    command writes does not.

    Args:
        words: The command's words; `name=path,name=path` names files too.
        folder: Where it runs.

    Returns:
        By path, the SHA-256 of small files, and the size of large ones.
    """
    found: dict[str, str] = {}
    for option, word in itertools.pairwise(["", *words]):
        if option in _WRITTEN or word.partition("=")[0] in _WRITTEN:
            continue
        for part in {word, *_APART.split(word)}:
            for path in _files_at(folder, part):
                size = path.stat().st_size
                told = sha256_of(path) if size <= _LARGEST else f"{size} bytes"
                found[os.path.relpath(path, folder)] = told
    return dict(sorted(found.items()))


def _files_at(folder: Path, text: str) -> Iterator[Path]:
    try:
        path = folder / Path(text).expanduser()
        is_file, is_folder = path.is_file(), bool(text) and path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long for a path, or of no known user
        return
    if is_file:
        yield from _with_bases(path, set())
    elif is_folder:
        yield from sorted(path.glob("*.json"))


def _with_bases(path: Path, seen: set[Path]) -> Iterator[Path]:
    """A file, and the configs that it builds on."""
    path = path.resolve()
    if path in seen or not path.is_file():
        return
    seen.add(path)
    yield path
    if path.stat().st_size <= _LARGEST:
        for base in _bases(path):
            yield from _with_bases(path.parent / base, seen)


def _bases(path: Path) -> Sequence[str]:
    """The files that a config names in `_base_`, or imports relatively under `read_base`."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            return list(_python_bases(ast.parse(text)))
        if path.suffix in (".yaml", ".yml", ".json"):
            import yaml

            content = yaml.safe_load(text)  # JSON is YAML
            named = content.get("_base_", ()) if isinstance(content, Mapping) else ()
            return [named] if isinstance(named, str) else [str(one) for one in named]
    except Exception:  # the command itself says what is wrong with its file
        pass
    return ()


def _python_bases(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == "_base_" for one in node.targets
        ):
            value: Any = ast.literal_eval(node.value)
            yield from [value] if isinstance(value, str) else value
        elif isinstance(node, ast.ImportFrom) and node.level:
            up = "../" * (node.level - 1)
            yield f"{up}{(node.module or '').replace('.', '/')}.py"
