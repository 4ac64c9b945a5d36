"""The settings of a command, said once: config, options with their --help, and the checked object.

    @dataclass(frozen=True)
    class FitSettings(Settings):
        '''How to fit.

        Attributes:
            method: Learns the map of a site.
            batch_size: Sentences in a forward pass.
        '''

        method: str
        batch_size: Count = 32

Annotations say what a value may be, and the docstring's Attributes are the help. The command line
wins over `--cfg-options`, these over the file, and the file over the defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import math
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from aim_plugins.core.config_file import read_config
from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.strengths import parse_strengths, validate_strength

_WANTED = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"} | {
    Path: "a path",
    type(None): "None",
}
_COMMAS = "separated by commas"
_UNIONS = (Union, types.UnionType)

_S = TypeVar("_S", bound="Settings")


def bound(wanted: str, holds: Callable[[Any], bool]) -> Callable[[str, Any], None]:
    """A check for an annotation, such as `Annotated[int, bound("an even number", is_even)]`."""

    def check(name: str, value: Any) -> None:
        if not holds(value):
            raise ValueError(f"{name}={value!r}: give {wanted}")

    return check


Count = Annotated[int, bound("a whole number from 1 upwards", lambda value: value >= 1)]
Natural = Annotated[int, bound("a whole number from 0 upwards", lambda value: value >= 0)]
Positive = Annotated[float, bound("a number above 0", lambda value: value > 0)]
NonNegative = Annotated[float, bound("a number from 0 upwards", lambda value: value >= 0)]
Part = Annotated[
    float, bound("a share above 0 and below 1, such as 0.1", lambda value: 0 < value < 1)
]
Share = Annotated[float, bound("a share above 0 and up to 1", lambda value: 0 < value <= 1)]
Strength = Annotated[float, lambda name, value: validate_strength(value, name=name)]
SignedStrength = Annotated[
    float, lambda name, value: validate_strength(value, name=name, low=-math.inf)
]
_Strengths = str | float | Sequence[str | float]
Grid = Annotated[_Strengths, lambda name, value: parse_strengths(value, name=name)]
SignedGrid = Annotated[
    _Strengths, lambda name, value: parse_strengths(value, name=name, low=-math.inf)
]
Names = Annotated[Sequence[str], _COMMAS]
"""A list that is one word of a command line."""
Classes = Annotated[Sequence[str | int], _COMMAS]
"""Names or indices of classes, in one word of a command line."""
_SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")


def _is_shard(text: str) -> bool:
    found = _SHARD.fullmatch(text)
    return found is not None and int(found[1]) <= int(found[2])


Shard = Annotated[str, bound("a part such as 1/4, the first of four", _is_shard)]
_given = bound("at least one number", bool)
Counts = Annotated[Sequence[Count], _COMMAS, _given]
Shares = Annotated[Sequence[Share], _COMMAS, _given]


@dataclass(frozen=True)
class Settings:
    """Base of all settings, which are checked when they are made."""

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            value = getattr(self, name)
            # Only `read_settings` makes numbers and paths of texts, and settings of dictionaries.
            if _fit(kind, value, name) != (tuple(value) if isinstance(value, list) else value):
                raise ValueError(f"{name}={value!r}: give {_wanted(kind)}")
        self.check()

    def check(self) -> None:
        """Refuses settings that do not go together; loads nothing.

        Raises:
            ValueError: If so.
        """

    def check_files(self) -> None:
        """Refuses files that are not there; commands ask before they import anything heavy.

        Raises:
            FileNotFoundError: If one is missing.
            ValueError: If a folder cannot be written to.
        """


def read_shard(text: str | None) -> tuple[int, int]:
    """Which part of how many a setting of the kind `Shard` means, the first one being 0.

    >>> read_shard("2/4"), read_shard(None)
    ((1, 4), (0, 1))
    """
    number, _, count = (text or "1/1").partition("/")
    return int(number) - 1, int(count)


def option(
    default: Any = MISSING, *, short: str = "", metavar: str = "", positional: bool = False
) -> Any:
    """A field that says more of its option than name, default and help."""
    words = {"short": short, "metavar": metavar, "positional": positional}
    return dataclasses.field(default=default, metadata=words)


class PositionalsFirst(argparse.HelpFormatter):
    """Shows a usage whose order works: behind options of several values, these take positionals."""

    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], *rest: Any, **others: Any
    ) -> None:
        actions = list(actions)
        positionals = [one for one in actions if not one.option_strings]
        needed = [one for one in actions if one.option_strings and one.required]
        if positionals and usage is None:
            words = ["%(prog)s"]
            for one in positionals + needed:
                value = str(one.metavar or one.dest)
                values = f"{value} [{value} ...]" if one.nargs == "+" else value
                words.append(" ".join([*one.option_strings[-1:], values]))
            usage = " ".join([*words, "[options]"])
        super().add_usage(usage, actions, *rest, **others)


def add_config(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds the argument `name` for a config file, and --cfg-options."""
    text = "settings from a .py, .yaml or .json file; a .py file is run, so only use your own"
    parser.add_argument(name, type=Path, metavar="CONFIG", help=text)
    text = "settings that replace those of the file, such as batch_size=8"
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="NAME=VALUE", help=text)


def add_options(
    parser: argparse.ArgumentParser, kind: type[Settings], *, required: bool = True
) -> None:
    """Adds an option for each setting but dictionaries; those of a base class are a group.

    Args:
        parser: The command's parser.
        kind: The settings; one that a class says anew stands in the group of that class.
        required: Whether those without a default have to be given, as no config may hold them.
    """
    kinds, helps = _kinds(kind), _helps(kind)
    owners = {
        name: base for base in reversed(kind.__mro__) for name in inspect.get_annotations(base)
    }
    for base in reversed(kind.__mro__):
        own = [one for one in dataclasses.fields(kind) if owners[one.name] is base]
        title = (base.__doc__ or "").partition(".")[0]
        group = parser if base is kind or not own else parser.add_argument_group(title)
        for one in own:
            words = _option_words(one, kinds[one.name], helps.get(one.name, ""))
            if words is None:
                continue
            if one.metadata.get("positional"):
                group.add_argument(one.name, **words)
                continue
            flags = [one.metadata.get("short"), _flag(one.name)]
            needed = required and _has_no_default(one)
            group.add_argument(*filter(None, flags), required=needed, **words)


def read_settings(
    kind: type[_S],
    config: str | Path | None = None,
    cfg_options: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
    *,
    sections: Mapping[str, type[Settings]] | None = None,
    read: Collection[str] = (),
    resolve: Callable[[Any], Any] | None = None,
) -> _S:
    """Reads the settings of a command.

    Args:
        kind: The settings.
        config: A config file.
        cfg_options: Words such as "batch_size=8", which replace settings of the file.
        given: Values of the command line; names that are no settings are left alone.
        sections: Where a file serves several commands, the settings of each section; what stands
            outside of sections holds for every command that has it.
        read: Names of the sections that hold for this command; later ones win.
        resolve: Replaces a value by what it stands for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a setting is missing, unknown or not usable.
        ImportError: If mmengine is missing.
    """
    if config is None and cfg_options:
        raise ValueError("--cfg-options replaces settings of a file: add --config FILE")
    content = {} if config is None else read_config(config, cfg_options)
    parts = {name: content.pop(name, {}) for name in sections or {}}
    known = [name for one in (sections or {"": kind}).values() for name in _kinds(one)]
    _refuse_unknown(content, [*known, *parts], "the config")
    for name, part in parts.items():
        if not isinstance(part, Mapping):
            raise ValueError(f"the config's {name!r} is {part!r}: give a dictionary, dict(...)")
        _refuse_unknown(part, _kinds((sections or {})[name]), f"the config's section {name!r}")
    values: dict[str, Any] = {}
    for source in (content, *(parts[name] for name in read), given or {}):
        values |= {name: source[name] for name in _kinds(kind) if name in source}
    if resolve is not None:
        values = {name: resolve(value) for name, value in values.items()}
    return make_settings(kind, values, "" if config is None else "the config")


def make_settings(kind: type[_S], values: Mapping[str, Any], place: str) -> _S:
    """Makes settings of values as files and command lines hold them.

    Args:
        kind: The settings.
        values: By name.
        place: What holds them, for errors; empty for a command line.

    Raises:
        ValueError: If a setting is missing, unknown or not usable.
    """
    kinds = _kinds(kind)
    _refuse_unknown(values, kinds, place)
    for one in dataclasses.fields(kind):
        if _has_no_default(one) and one.name not in values:
            mend = f"{one.name} is missing: add {_flag(one.name)}, or a config that holds it"
            raise ValueError(f"{place} holds no {one.name}: add it" if place else mend)
    return kind(**{name: _fit(kinds[name], value, name) for name, value in values.items()})


class _MisfitError(ValueError):
    """A value is of another kind than its annotation."""


def _fit(kind: Any, value: Any, name: str, place: str = "") -> Any:
    """A value as its annotation has it: texts are read as numbers and paths, one item as a list.

    Args:
        kind: The annotation.
        value: The value.
        name: The setting.
        place: How errors name the value.

    Raises:
        ValueError: If it is of another kind, or a check refuses it.
    """
    place = place or f"{name}={value!r}"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if _COMMAS in inner and isinstance(value, str):
            value = [word.strip() for word in value.split(",") if word.strip()]
        found = _fit(inner[0], value, name, place)
        for check in filter(callable, inner[1:]):
            check(name, found)
        return found
    if origin in _UNIONS:
        if type(None) in inner and value in (None, "None"):
            return None
        for member in inner:
            with contextlib.suppress(_MisfitError):
                return _fit(member, value, name, place)
    elif origin is Literal:
        if str(value).lower() in inner:  # all of ours are texts in small letters
            return str(value).lower()
        raise ValueError(f"{place}: {did_you_mean(value, inner)}")
    elif origin is Sequence and isinstance(value, list | tuple):
        return tuple(_fit(inner[0], one, name, f"{name} holds {one!r}") for one in value)
    elif origin is Sequence and value is not None:
        with contextlib.suppress(_MisfitError):
            return (_fit(inner[0], value, name, place),)
    elif origin is Mapping and isinstance(value, Mapping):
        return value
    elif dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return make_settings(kind, value, name)  # type: ignore
    elif origin is None and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    elif (kind is float and type(value) is int) or (
        kind in (int, float, Path) and isinstance(value, str)
    ):
        with contextlib.suppress(ValueError):
            return kind(value)
    raise _MisfitError(f"{place}: give {_wanted(kind)}")


def _wanted(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _wanted(inner[0])
    if origin in _UNIONS:
        return " or ".join(map(_wanted, inner))
    if origin is Sequence:
        return f"a list, each {_wanted(inner[0])}"
    return _WANTED.get(kind, "a dictionary")


def _option_words(one: Any, kind: Any, text: str) -> dict[str, Any] | None:
    """What argparse is told of a setting; None of a dictionary."""
    splits = _COMMAS in get_args(kind)
    while get_origin(kind) in (Annotated, *_UNIONS):
        kind = get_args(kind)[0]
    item = get_args(kind)[0] if get_origin(kind) is Sequence else kind
    if get_origin(item) is Mapping or dataclasses.is_dataclass(item):
        return None
    if isinstance(one.default, int | float | str) and not isinstance(one.default, bool):
        text += f" Default: {one.default}."
    words: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if kind is bool:
        words["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        words["metavar"] = "{" + ",".join(get_args(kind)) + "}"
    elif get_origin(kind) is Sequence and not splits:
        words["nargs"] = "+"
    if metavar := one.metadata.get("metavar"):
        words["metavar"] = metavar
    return words


def _refuse_unknown(names: Iterable[str], known: Collection[str], place: str) -> None:
    for name in names:
        if name not in known:
            hint = did_you_mean(name, dict.fromkeys(known))
            raise ValueError(f"{place} holds {name!r}, which is no option; {hint}")


def _kinds(kind: type[Settings]) -> dict[str, Any]:
    """Annotations by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {one.name: hints[one.name] for one in dataclasses.fields(kind)}


def _helps(kind: type[Settings]) -> dict[str, str]:
    """The Attributes of a class's docstring, and of those that it derives from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def _has_no_default(one: Any) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
