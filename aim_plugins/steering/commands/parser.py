"""`aim-plugins transport`: learn, look at, apply and evaluate activation transports.

aim-plugins transport fit ...         learns one from two files of sentences
aim-plugins transport show DIR        what it does, in numbers
aim-plugins transport fold DIR ...    a plain checkpoint with it in the weights
aim-plugins transport convert ...     from the original implementation's files
aim-plugins transport generate ...    what a steered model writes, at every strength
aim-plugins transport evaluate ...    its effect and its cost, against strength
aim-plugins transport compare ...     several in one report
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from aim_plugins.core.commands import join_negative_values
from aim_plugins.core.config_file import read_config
from aim_plugins.core.settings import (
    SECTIONS,
    add_config_options,
    as_on_command_line,
    command_defaults,
)
from aim_plugins.steering.commands import artifact as artifact_command
from aim_plugins.steering.commands import compare as compare_command
from aim_plugins.steering.commands import evaluate as evaluate_command
from aim_plugins.steering.commands import fit as fit_command
from aim_plugins.steering.commands import generate as generate_command
from aim_plugins.sweep.manifest import redact

_MODULES = (
    fit_command,
    artifact_command,
    generate_command,
    evaluate_command,
    compare_command,
)
_NOT_IN_CONFIGS = {"help", "config", "cfg_options"}


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit status.

    Args:
        arguments: The words behind `aim-plugins transport`.

    Raises:
        ValueError: If the config is malformed, or whatever else the command finds.
    """
    arguments = join_negative_values(arguments, {"--strength"})
    parser, commands = _parsers()
    options = parser.parse_args(arguments)
    if options.name in SECTIONS:
        defaults = _config_defaults(options, commands)
        if defaults:
            commands[options.name].set_defaults(**defaults)
            options = parser.parse_args(arguments)
    options.command = redact(["aim-plugins", "transport", *arguments])  # it goes into results
    return options.run(options)


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="aim-plugins transport",
        description="Learn, look at, apply and evaluate activation transports.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    for module in _MODULES:
        module.add_parser(subparsers)
    for name in SECTIONS:
        add_config_options(subparsers.choices[name])
    return parser, subparsers.choices


def _config_defaults(
    options: argparse.Namespace, commands: Mapping[str, argparse.ArgumentParser]
) -> dict[str, object]:
    if options.config is None:
        if options.cfg_options:
            raise ValueError("--cfg-options replaces settings of a file: add --config FILE")
        return {}
    names = {
        command: {action.dest for action in commands[command]._actions} - _NOT_IN_CONFIGS
        for command in SECTIONS
    }
    config = read_config(options.config, options.cfg_options)
    defaults = command_defaults(config, options.name, names)
    if getattr(options, "generations", None) is not None:
        defaults.pop("prompts", None)  # texts that are there need not be written
    return as_on_command_line(commands[options.name], defaults)
