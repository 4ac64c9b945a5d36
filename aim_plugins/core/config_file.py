"""Reads the config files of all commands: Python, YAML or JSON, and `--cfg-options` above them.

A file may build on others (`_base_`), as mmengine has it; names that start with an underscore are
the file's own. A Python file is a program and is run, with whatever it builds on. YAML and JSON
hold data alone: mmengine would run code that a YAML file names, so they are read here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.files import existing

_BASE = "_base_"
_DATA_SUFFIXES = (".yaml", ".yml", ".json")
_SUFFIXES = (".py", *_DATA_SUFFIXES)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a config file.

    Args:
        path: The file. A Python file is run, so only read one that you trust.
        overrides: Words such as "fit.batch_size=8", which replace settings of the file.

    Returns:
        Its settings as plain dictionaries, lists, texts and numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as a config, or an override is malformed.
        ImportError: If mmengine is not installed.
    """
    path = existing(path, "config", _SUFFIXES)
    try:
        from mmengine.config import Config
    except ImportError as error:
        raise ImportError(
            "config files need mmengine: pip install 'aim-plugins[transport]' or "
            "'aim-plugins[vision]'"
        ) from error
    replacements = _parse_overrides(overrides)
    try:
        if path.suffix == ".py":
            config = Config.fromfile(str(path), import_custom_modules=False)
        else:
            config = Config(_read_data(path))
        config.merge_from_dict(replacements)
        settings = config.to_dict()
    except Exception as error:
        # A Python file is the user's own program, which may raise anything.
        text = " ".join(str(error).split())  # parsers of YAML draw pictures
        raise ValueError(f"{path} is no config: {type(error).__name__}: {text}") from error
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def _read_data(path: Path) -> dict[str, Any]:
    """The settings of a YAML or JSON file on top of those it builds on; nothing is run."""
    import yaml

    text = path.read_text(encoding="utf-8")
    content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path.name} holds no settings by name: write NAME: VALUE")
    bases = content.pop(_BASE, [])
    below: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if Path(base).suffix not in _DATA_SUFFIXES:
            raise ValueError(
                f"{path.name} builds on {base!r}: a YAML or JSON file, which runs no code, builds "
                "on such files only; write this one in Python"
            )
        settings = _read_data(path.parent / base)
        if twice := sorted(below.keys() & settings.keys()):
            raise ValueError(f"two files that {path.name} builds on hold {twice[0]!r}")
        below |= settings
    return _merged(below, content)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of others: dictionaries are merged unless `_delete_` says otherwise."""
    merged = dict(below)
    for name, value in above.items():
        if isinstance(value, dict):
            inner = {key: one for key, one in value.items() if key != "_delete_"}
            known = merged.get(name)
            replaced = value.get("_delete_", False) or not isinstance(known, dict)
            merged[name] = _merged({} if replaced else dict(known or {}), inner)
        else:
            merged[name] = value
    return merged


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    from mmengine.config import DictAction

    for word in overrides:
        if not word.partition("=")[1]:
            raise ValueError(f"--cfg-options holds {word!r}: write NAME=VALUE")
    if not overrides:
        return {}
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *overrides]).cfg_options
