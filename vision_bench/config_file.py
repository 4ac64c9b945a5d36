"""A command's config and the `--cfg-options` above it, on top of `aim_plugins.core.config_file`.

Settings are flat, so that an override reaches what uses it. A word such as "demo:resnet20" stands
for something made here (`vision_bench.demo`).
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core import config_file
from vision_bench.demo import resolve


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
    settings = config_file.read_config(path, overrides)
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
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="config file; a .py file is run"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings that replace those of the file, such as limit=100",
    )
