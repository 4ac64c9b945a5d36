"""Arguments of a sweep: the harness's own, and those of what is changed."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aim_plugins.core.errors import did_you_mean
from aim_plugins.harnesses.lm_eval.register import MODELS
from aim_plugins.modulation.arguments import (
    argument_names,
    read_columns,
    split_arguments,
    swept_kinds,
)
from aim_plugins.modulation.changes import DRAWS, SEED, Change, kinds
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.named_kinds import kinds_in
from aim_plugins.sweep.cells import Cell

if TYPE_CHECKING:
    from lm_eval.config.evaluate_config import EvaluatorConfig

REFUSED = {
    "output_path": "the sweep writes the harness's files itself: use --output",
    "use_cache": "the sweep keeps and resumes its own records",
    "predict_only": "a curve needs metrics",
    "wandb_args": "log the finished table instead",
    "trackio_args": "log the finished table instead",
    "hf_hub_log_args": "push the finished folder instead",
}
"""Arguments of the harness that make no sense in a sweep, and why."""

_NO_TASKS = "--tasks is missing: name at least one, `lm-eval ls tasks` lists them"


def parse_harness_arguments(arguments: Sequence[str]) -> EvaluatorConfig:
    """Reads `lm_eval`'s own arguments, with dashes or underscores.

    Raises:
        ValueError: If an argument makes no sense in a sweep.
        SystemExit: If an argument is malformed, as from `lm_eval`.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    namespace = parse_words(arguments)
    namespace.log_samples = False  # a sweep always logs them, and into its own folder
    config = EvaluatorConfig.from_cli(namespace)
    _refuse(config)
    if not config.tasks:
        raise ValueError(_NO_TASKS)
    return config


def check_words(arguments: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses what the words of a command show to be wrong, before the harness is imported.

    Args:
        arguments: The words for `lm_eval`.
        options: Arguments of modulations that were given as options.

    Returns:
        The arguments of modulations: the options, and those among the model's.

    Raises:
        ValueError: If an argument makes no sense in a sweep, is malformed, missing or given twice.
        SystemExit: If an argument is malformed, as from `lm_eval`.
    """
    namespace = parse_words(arguments)
    _refuse(namespace)
    model_args = namespace.model_args or {}
    if not namespace.config:  # the harness's own, which may hold all of these
        if not namespace.tasks:
            raise ValueError(_NO_TASKS)
        _check_model(namespace.model or "hf")
        # The harness passes a device and a batch size whether they are given or not.
        besides = {"device": "", "batch_size": "", "max_batch_size": namespace.max_batch_size}
        check_model_arguments(model_args, besides)
    return _join(split_arguments(model_args)[0], options)


def parse_words(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the words of `lm_eval`'s arguments, without what they stand for.

    Raises:
        SystemExit: If an argument is malformed, as from `lm_eval`.
    """
    from lm_eval._cli.harness import HarnessCLI

    words = ["run"]
    for argument in arguments:
        name, equals, value = argument.partition("=")
        words.append(
            name.replace("-", "_").replace("__", "--", 1) + equals + value
            if argument.startswith("--")
            else argument
        )
    return HarnessCLI()._parser.parse_args(words)


def _refuse(given: argparse.Namespace | EvaluatorConfig) -> None:
    for name, reason in REFUSED.items():
        if getattr(given, name, None):
            raise ValueError(f"--{name} cannot be used in a sweep: {reason}")


def check_model_arguments(given: Mapping[str, Any], besides: Mapping[str, Any]) -> None:
    """Refuses arguments of a model of which Python would only say how it was called.

    Args:
        given: Those in `--model_args`.
        besides: Those that the harness passes from options of its own.

    Raises:
        ValueError: If one is in both, or the model has no name.
    """
    for name, value in besides.items():
        if value is not None and name in given:
            raise ValueError(
                f"{name}={given[name]} stands in --model_args, but comes from an option of its "
                f"own: give --{name} {given[name]} instead"
            )
    if "pretrained" not in given:
        raise ValueError(
            "--model_args names no model: give --model_args pretrained=MODEL, a folder or a name "
            "on the hub"
        )


def _check_model(name: str) -> None:
    if name not in MODELS:
        raise ValueError(
            f"--model {name} does not answer under many strengths: {did_you_mean(name, MODELS)}"
        )


def _join(fixed: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    if twice := sorted(fixed.keys() & options.keys()):
        raise ValueError(
            f"{twice[0]} stands in --model_args and in {_option(twice[0])}: give it once"
        )
    return {**fixed, **options}


def asked_arguments(words: Sequence[str]) -> list[str]:
    """Arguments of the options among the words of a command, whoever reads them."""
    options = [word for word in words if word.startswith("--")]
    return [word[2:].partition("=")[0].replace("-", "_") for word in options]


def add_modulation_options(parser: argparse.ArgumentParser, asked: Iterable[str] = ()) -> None:
    """Adds an option for each argument of each kind of change, and for seed and draws.

    Args:
        parser: Reads the command.
        asked: Arguments that are asked for, some of them under a name such as `strength_praise`.
    """
    for kind in kinds_in(asked):
        group = parser.add_argument_group(kind.name)
        strength, *_ = kind.arguments
        for name, meaning in kind.arguments.items():
            grid = '; "0:3:0.25" (3 included), "0,0.5,1" or a number' if name == strength else ""
            group.add_argument(
                _option(name), metavar="VALUE", help=f"{meaning}{grid}".replace("%", "%%")
            )
    draws = parser.add_argument_group("draws")
    draws.add_argument(
        _option(SEED), metavar="SEED", help="draw d has the seed SEED + d; default 0"
    )
    draws.add_argument("--draws", dest=DRAWS, metavar="N", help="draws per strength; default 1")


def option_names(asked: Iterable[str] = ()) -> set[str]:
    """The options of `add_modulation_options`, whose values may start with a minus."""
    return {_option(name) for name in argument_names(asked)}


def read_modulation(
    name: str,
    model: type,
    model_args: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    sampled: bool = False,
) -> Sweep:
    """Spells out the columns of a sweep.

    Args:
        name: The model's name in `--model`.
        model: Its class.
        model_args: Its arguments, which may hold those of modulations too.
        options: Arguments of modulations that were given as options.
        sampled: Whether texts are sampled, which differ between draws whatever is changed.

    Raises:
        ValueError: If the model takes no columns, an argument is malformed or given twice, nothing
            or too much varies, or draws would repeat each other.
    """
    _check_model(name)
    fixed, rest = split_arguments(model_args)
    given = _join(fixed, options)
    refuse_nothing(given)
    columns = read_columns(given, getattr(model, "required", ()))
    swept = swept_kinds(columns, options)
    draws = len({column.seed for column in columns})
    changes = [change for column in columns for change in column.effective.changes]
    if draws > 1 and not sampled and not any(change.draws for change in changes):
        raise ValueError(
            f"--draws {draws} repeats one result, since nothing is drawn: leave it out, or add "
            "noise with --noise-std"
        )
    return Sweep(columns, swept, cells_of(columns, swept), given, rest)


def refuse_nothing(given: Collection[str]) -> None:
    """Refuses a sweep in which no strength is named."""
    if not set(given) & {next(iter(kind.arguments)) for kind in kinds_in(given)}:
        strengths = [next(iter(kind.arguments)) for kind in kinds()]
        raise ValueError(
            f"none of {', '.join(map(_option, strengths))} is given: name what varies, such as "
            "--noise-std 0:3:0.25"
        )


@dataclass(frozen=True)
class Sweep:
    """The columns of a sweep.

    Attributes:
        columns: The columns, draws innermost.
        kinds: The kinds of change that vary.
        cells: The cell of each column.
        given: The arguments of modulations.
        rest: The model's other arguments.
    """

    columns: tuple[Column, ...]
    kinds: tuple[type[Change], ...]
    cells: list[Cell]
    given: dict[str, Any]
    rest: dict[str, Any]


def check_strengths(options: Mapping[str, Any]) -> None:
    """Refuses malformed strengths before anything heavy is loaded.

    Raises:
        ValueError: If one is.
    """
    for kind in kinds_in(options):
        name = next(iter(kind.arguments))
        if name in options and options[name] not in kind.words:
            kind.axis.parse(options[name], name)


def cells_of(columns: Sequence[Column], kinds: Sequence[type[Change]]) -> list[Cell]:
    """The cell of each column of a table, draws innermost, along the kinds that vary.

    Raises:
        ValueError: If none or more than two vary.
    """
    if not 1 <= len(kinds) <= 2:
        names = ", ".join(next(iter(kind.arguments)) for kind in kinds) or "nothing"
        raise ValueError(f"{names} varies: a picture has one strength or two; fix the others")
    draws = len({column.seed for column in columns})
    return [
        Cell.at([column.strength_of(kind) for kind in kinds], index % draws)
        for index, column in enumerate(columns)
    ]


def _option(name: str) -> str:
    return "--draws" if name == DRAWS else f"--{name.replace('_', '-')}"
