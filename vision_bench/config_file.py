"""Reads a command's config: an mmengine config file, and `--cfg-options` that override it.

A config is a Python, YAML or JSON file of settings, possibly on top of others (`_base_`). Settings
are flat, so that an override reaches what uses it; a name that starts with an underscore is the
file's own. A word such as "demo:resnet20" stands for something made here (`vision_bench.demo`).
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from vision_bench.demo import resolve

_SUFFIXES = (".py", ".yaml", ".yml", ".json")


def read_config(
    path: str | Path, overrides: Sequence[str] = (), *, known: Collection[str]
) -> dict[str, Any]:
    """Reads a config file.

    Args:
        path: The file. A Python file is run, so only read one that you trust.
        overrides: Words such as "limit=100" or "PERTURBATION.RATIO=0.5".
        known: Names of the settings that there are.

    Returns:
        The settings as plain dictionaries, lists, texts and numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as a config, an override is malformed, or a setting is
            unknown.
        ImportError: If mmengine is not installed.
    """
    try:
        from mmengine.config import Config
    except ImportError as error:
        raise ImportError(
            "config files need mmengine: pip install 'aim-plugins[vision]'"
        ) from error
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: the suffix is {path.suffix!r}, not one of {' '.join(_SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    replacements = _parse_overrides(overrides)
    try:
        config = Config.fromfile(str(path), import_custom_modules=False)
        config.merge_from_dict(replacements)
        settings = config.to_dict()
    except Exception as error:
        # The file is the user's own program, which may raise anything.
        raise ValueError(f"{path} is no config: {type(error).__name__}: {error}") from error
    settings = {name: value for name, value in settings.items() if not name.startswith("_")}
    for name in settings:
        if name not in known:
            nearest = difflib.get_close_matches(name, list(known), n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
            raise ValueError(f"{path} holds {name!r}, which is no setting of this command; {hint}")
    # Last: a misspelt setting is told before a model is trained.
    return {name: resolve(value) for name, value in settings.items()}


def read_required(
    path: str | Path,
    overrides: Sequence[str],
    *,
    known: Collection[str],
    required: Sequence[str],
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Reads a config file that has to hold some settings.

    Args:
        path: The file.
        overrides: Words such as "limit=100".
        known: Names of the settings that there are.
        required: Names of those that have no default.
        output: Replaces the config's folder of results.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or a setting is missing or unknown.
    """
    values = read_config(path, overrides, known=known)
    for name in required:
        if name not in values:
            raise ValueError(f"{path} holds no {name}: add it")
    return values if output is None else {**values, "output": str(output)}


def require(name: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuses a setting that is not of a kind; True and False are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}={value!r}: give {wanted}")


def require_count(name: str, value: object, lowest: int) -> None:
    """Refuses a setting that is no whole number from `lowest` upwards."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name}={value!r}: give an integer from {lowest} upwards")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments CONFIG and --cfg-options to a command."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="config file")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings that replace those of the file, such as limit=100",
    )


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
