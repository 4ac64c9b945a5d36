"""How the commands of `vision-bench` read their words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

from aim_plugins.core.commands import join_negative_values, say
from aim_plugins.core.settings import (
    PositionalsFirst,
    Settings,
    add_config,
    add_options,
    read_settings,
)
from aim_plugins.sweep.manifest import redact
from vision_bench.demo.names import resolve

_STRENGTHS = {"--noise-std", "--perturb-step", "--strength", "--min-strength", "--max-strength"}
"""Options whose values may start with a minus, to be refused in so many words."""

_S = TypeVar("_S", bound=Settings)


def run_study(
    kind: type[Settings],
    words: str,
    about: str,
    target: str,
    arguments: Sequence[str],
    *,
    config: bool = True,
    besides: Sequence[type[Settings]] = (),
) -> Any:
    """Reads the settings of a command, and runs its study.

    Args:
        kind: The settings.
        words: The words that call the command, behind `vision-bench`.
        about: What it does.
        target: "module:Class" of the study; imported once the settings are known to be usable.
        arguments: The words behind them.
        config: As in `read_command`.
        besides: As in `read_command`.

    Returns:
        The study, finished.

    Raises:
        ValueError: If a setting or file is not usable.
        FileNotFoundError: If a file is missing.
        OSError: If the folder cannot be written.
    """
    settings, command = read_command(
        kind, f"vision-bench {words}", about, arguments, config=config, besides=besides
    )
    module, _, name = target.partition(":")
    study = getattr(import_module(module), name)(settings, command)
    study.run()
    return study


def read_command(
    kind: type[_S],
    program: str,
    about: str,
    arguments: Sequence[str],
    *,
    config: bool = True,
    given: Mapping[str, Any] | None = None,
    besides: Sequence[type[Settings]] = (),
    sections: Mapping[str, type[Settings]] | None = None,
    read: Sequence[str] = (),
) -> tuple[_S, list[str]]:
    """Reads the settings of a command.

    Args:
        kind: The settings.
        program: The words that call the command.
        about: What it does.
        arguments: The words behind them.
        config: Whether a config file comes first; without one, settings that have no default are
            options that must be given.
        given: Settings that hold where no option says otherwise.
        besides: Settings of other commands, which the config may hold too, and are left aside.
        sections: Where a config serves several commands, the settings of each of its sections; it
            is an option then, `--config`, as everything may be said without one.
        read: Sections that hold for this command; none takes no config.

    Returns:
        The settings, and the words that repeat the command, without secrets.

    Raises:
        ValueError: If a setting is missing, unknown or not usable.
        FileNotFoundError: If there is no such config.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=about, formatter_class=PositionalsFirst
    )
    if sections is not None and read:
        add_config(parser, "--config")
    elif config:
        add_config(parser, "config")
    add_options(parser, kind, required=not config)
    parser.set_defaults(**(given or {}))
    options = vars(parser.parse_args(join_negative_values(arguments, _STRENGTHS)))
    if besides:
        kinds: tuple[type[Settings], ...] = (kind, *besides)
        sections = {one.__name__: one for one in kinds}
    settings = read_settings(
        kind,
        options.get("config"),
        options.get("cfg_options", ()),
        options,
        sections=sections,
        read=read,
        resolve=resolve,
    )
    settings.check_files()
    say(f"{program}: loading libraries")
    return settings, redact([*program.split(), *arguments])
