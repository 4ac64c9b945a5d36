"""How a command about lm-eval's tasks reads its words, and runs its study."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from aim_plugins.core.commands import CommandParser, say
from aim_plugins.core.settings import (
    PositionalsFirst,
    Settings,
    add_config,
    add_options,
    read_settings,
)
from aim_plugins.sweep.manifest import redact


def run_task_study(
    kind: type[Settings], word: str, about: str, target: str, arguments: Sequence[str]
) -> int:
    """Reads the settings of `aim-plugins WORD`, and runs its study.

    Args:
        kind: The settings.
        word: What calls the command.
        about: What it does.
        target: "module:Class" of the study; imported once the settings are known to be usable.
        arguments: The words behind it.

    Returns:
        The exit status.

    Raises:
        ValueError: If a setting is missing, unknown or not usable, or whatever else it finds.
        ImportError: If lm-eval is missing.
    """
    parser = CommandParser(
        prog=f"aim-plugins {word}",
        description=about,
        formatter_class=PositionalsFirst,
        allow_abbrev=False,
    )
    add_config(parser, "--config")
    add_options(parser, kind, required=False)
    options = vars(parser.parse_args(list(arguments)))
    settings = read_settings(kind, options["config"], options["cfg_options"], options)
    settings.check_files()
    if find_spec("lm_eval") is None:
        raise ImportError("lm_eval is not installed: pip install 'aim-plugins[lm-eval]'")
    say(f"{word}: loading libraries")
    module, _, name = target.partition(":")
    command = redact(["aim-plugins", word, *arguments])  # words go into results
    getattr(import_module(module), name)(settings, command).run()
    return 0
