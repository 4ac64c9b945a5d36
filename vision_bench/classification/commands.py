"""The classification commands of `vision-bench`, and `python -m vision_bench.classification`.

vision-bench classify CONFIG           a model by name on a data set by name
vision-bench classify-logits FILE      logits that any other program cached
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from aim_plugins.core.commands import guarded, join_negative_values
from aim_plugins.core.settings import add_config, add_options, read_settings
from aim_plugins.sweep.manifest import redact
from vision_bench.classification.settings import ClassifySettings, LogitsSettings
from vision_bench.demo import resolve


def add_parser(commands: Any) -> None:
    """Adds `classify` and `classify-logits` to the subparsers of `vision-bench`."""
    classify = commands.add_parser(
        "classify",
        help="accuracy, calibration and entropy against noise strength",
        description="Measures a classifier on a labelled data set at many strengths of logit "
        "noise, exact and sampled, from one pass of the model. A killed run goes on when it is "
        "started again.",
    )
    add_config(classify, "config")
    add_options(classify, ClassifySettings, required=False)
    classify.set_defaults(run=run_classify)

    logits = commands.add_parser(
        "classify-logits",
        help="the same from logits cached elsewhere",
        description="Measures a classifier at many strengths of logit noise: exact, and sampled "
        "with noise that all strengths share. FILE is a .npz or .safetensors file with the arrays "
        "logits [documents, classes] and labels [documents].",
    )
    add_options(logits, LogitsSettings)
    logits.set_defaults(run=run_logits)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m vision_bench.classification`, whose flags are named as in AIM's val.py.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m vision_bench.classification",
        description="Accuracy, calibration and entropy of a classifier against noise strength, "
        "from one pass of the model. Under `accelerate launch` all processes share the pass.",
    )
    add_options(parser, ClassifySettings)
    parser.set_defaults(config=None, cfg_options=[])
    options = parser.parse_args(join_negative_values(arguments, NEGATIVE))
    options.plot = getattr(options, "plot", False)
    options.command = redact(["python", "-m", "vision_bench.classification", *arguments])
    return guarded(lambda: run_classify(options))


NEGATIVE = {"--noise-std", "--perturb-step", "--num-perturb-steps"}
"""Options whose values may start with a minus, to be refused in so many words."""


def run_classify(options: argparse.Namespace) -> int:
    """Measures what a config and options say; returns the exit status."""
    from vision_bench.classification.study import classify

    settings = read_settings(
        ClassifySettings, options.config, options.cfg_options, vars(options), resolve=resolve
    )
    return classify(settings, command=options.command)


def run_logits(options: argparse.Namespace) -> int:
    """Measures logits of a file; returns the exit status."""
    from vision_bench.classification.study import classify_file

    settings = read_settings(LogitsSettings, given=vars(options))
    return classify_file(settings, command=options.command)
