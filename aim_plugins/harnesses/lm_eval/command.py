"""`aim-plugins lm-eval` and `aim-plugins sweep lm-eval`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from aim_plugins.core.commands import join_negative_values, say
from aim_plugins.harnesses.lm_eval.arguments import (
    add_modulation_options,
    asked_arguments,
    check_strengths,
    check_words,
    option_names,
    refuse_nothing,
)
from aim_plugins.harnesses.lm_eval.register import register
from aim_plugins.modulation.arguments import argument_names, read_columns
from aim_plugins.sweep.manifest import redact


def lm_eval(arguments: Sequence[str]) -> int:
    """Runs the harness's own command with our models registered."""
    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Runs a sweep; arguments that are not ours are the harness's."""
    asked = asked_arguments(arguments)
    words = join_negative_values(arguments, option_names(asked))
    options, rest = _parser(asked).parse_known_args(words)
    given = {name: getattr(options, name) for name in argument_names(asked)}
    given = {name: value for name, value in given.items() if value is not None}
    check_strengths(given)
    if find_spec("lm_eval") is None:
        raise ImportError("lm_eval is not installed: pip install 'aim-plugins[lm-eval]'")
    modulation = check_words(rest, given)
    refuse_nothing(modulation)
    say("sweep lm-eval: loading libraries")
    read_columns(modulation)
    from aim_plugins.harnesses.lm_eval.study import run_sweep

    # It goes into the results.
    command = redact(["aim-plugins", "sweep", "lm-eval", *arguments])
    run_sweep(rest, output=options.output, command=command, modulation=given)
    return 0


def _parser(asked: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aim-plugins sweep lm-eval",
        description="Evaluates a model under many strengths from one load. What is changed may "
        "stand in --model-args as well, as in lm_eval itself; two strengths that vary make a "
        "grid. Takes every argument of `lm_eval` besides those below, such as --model, "
        "--model-args, --tasks, --num-fewshot, --limit, --batch-size, --include-path.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for results; a killed run goes on when it is started again",
    )
    add_modulation_options(parser, asked)
    return parser
