"""What a config says to the transport commands: one file for fit, generate and evaluate.

A config (see `aim_plugins.core.config_file`) holds options by their long names with underscores. An
option at the top holds for every command that has it; the sections `fit`, `generate` and `evaluate`
hold those of one command, and `evaluate` takes over what `generate` says of the texts. `data` says
where the sentences of a fit come from, as `load_sides` does. The command line wins over
`--cfg-options`, and these over the file.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

SECTIONS = {
    "fit": ("fit",),
    "generate": ("generate",),
    "evaluate": ("generate", "evaluate"),
}
"""For each command that takes a config, the sections it reads; later ones win."""

_DATA = "data"
_DESCRIBED = {"prompts"}
"""Options that a config may describe in a dictionary."""

_KINDS = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}


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


def as_on_command_line(
    parser: argparse.ArgumentParser, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads a config's values as the options read the words of a command line.

    A flag takes True and False alone: "no" is a text, which Python takes for true. Lists may stand
    for words separated by commas, and dictionaries for descriptions of prompts.

    Args:
        parser: The parser of the command.
        values: Values by option; other names are left as they are.

    Returns:
        Defaults for the parser.

    Raises:
        ValueError: If an option does not take its value.
    """
    actions = {action.dest: action for action in parser._actions}
    return {
        name: _option_value(actions[name], value) if name in actions else value
        for name, value in values.items()
    }


def _option_value(action: argparse.Action, value: Any) -> Any:
    if value is None and action.default is None:
        return None
    described = isinstance(value, Mapping) and action.dest in _DESCRIBED
    if described or (action.nargs == 0 and isinstance(value, bool)):
        return value
    if action.nargs == 0:
        raise ValueError(f"the config's {action.dest}={value!r}: write True or False")
    if action.nargs == "+":
        words = list(value) if isinstance(value, list | tuple) else [value]
        return [_word_value(action, word) for word in words]
    if isinstance(value, list | tuple) and action.type is None:
        return ",".join(str(_word_value(action, word)) for word in value)
    return _word_value(action, value)


def _word_value(action: argparse.Action, value: Any) -> Any:
    """One word of a command line, converted and checked as argparse does it."""
    kind: Any = action.type or str
    place = f"the config's {action.dest}={value!r}"
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise ValueError(f"{place}: give {_KINDS.get(kind, 'one value')}")
    try:
        converted = kind(str(value))
    except ValueError as error:
        raise ValueError(f"{place}: give {_KINDS.get(kind, 'another value')}") from error
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"{place}: choose from {', '.join(map(repr, action.choices))}")
    return converted


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
