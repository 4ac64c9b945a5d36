"""Reads the config of the transport commands: one mmengine file for fit, generate and evaluate.

A config is a Python, YAML or JSON file, possibly on top of others (`_base_`), of options by their
long names with underscores. An option at the top holds for every command that has it; the sections
`fit`, `generate` and `evaluate` hold those of one command, and `evaluate` takes over what
`generate` says of the texts. `data` says where the sentences of a fit come from, as `load_sides`
does. The command line wins over `--cfg-options`, and these over the file.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SECTIONS = {
    "fit": ("fit",),
    "generate": ("generate",),
    "evaluate": ("generate", "evaluate"),
}
"""For each command that takes a config, the sections it reads; later ones win."""

_DATA = "data"
_SUFFIXES = (".py", ".yaml", ".yml", ".json")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds --config and --cfg-options to a command."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="options from a .py, .yaml or .json file; a .py file is run, so only use your own",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options that replace those of the file, such as fit.batch_size=8",
    )


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a config file.

    Args:
        path: The file. A Python file is run, so only read one that you trust.
        overrides: Words such as "fit.batch_size=8".

    Returns:
        Its settings as plain dictionaries, lists, texts and numbers. Names that start with an
        underscore are the file's own.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as a config, or an override is malformed.
        ImportError: If mmengine is not installed.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"config={str(path)!r}: the suffix is none of {' '.join(_SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"config={str(path)!r}: no such file")
    try:
        from mmengine.config import Config
    except ImportError as error:
        raise ImportError(
            "config files need mmengine: pip install 'aim-plugins[transport]'"
        ) from error
    replacements = _parse_overrides(overrides)
    try:
        config = Config.fromfile(str(path), import_custom_modules=False)
        config.merge_from_dict(replacements)
        settings = config.to_dict()
    except Exception as error:
        # The file is the user's own program, which may raise anything.
        raise ValueError(f"{path} is no config: {type(error).__name__}: {error}") from error
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def command_defaults(
    config: Mapping[str, Any], command: str, options: Mapping[str, Collection[str]]
) -> dict[str, Any]:
    """What a config says of one command's options.

    Args:
        config: The settings of a file.
        command: The command.
        options: For each command, the names of its options.

    Returns:
        Values by option, and the section `data` for the fit.

    Raises:
        ValueError: If a setting is no option of any command, in whichever section it is.
    """
    everywhere = set().union(*options.values())
    sections = {name: _section(config, name) for name in (*options, _DATA)}
    top = {name: value for name, value in config.items() if name not in sections}
    _refuse_unknown(top, everywhere | sections.keys(), "the config")
    for name, known in options.items():
        _refuse_unknown(sections[name], known, f"the config's section {name!r}")
    values = dict(top)
    for name in SECTIONS[command]:
        values.update(sections[name])
    chosen = {name: value for name, value in values.items() if name in options[command]}
    return {**chosen, _DATA: sections[_DATA]} if command == "fit" else chosen


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"the config's {name!r} is {section!r}: give a dictionary, dict(...)")
    return section


def _refuse_unknown(names: Iterable[str], known: Collection[str], place: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"{place} holds {name!r}, which is no option; {hint}")


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
