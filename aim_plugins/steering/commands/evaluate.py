"""`aim-plugins transport evaluate`: the effect of a transport and its cost, against strength."""

from __future__ import annotations

import argparse
from typing import Any

from aim_plugins.core.settings import add_config, add_options
from aim_plugins.steering.settings import EvaluationSettings, read_sections


def add_parser(subparsers: Any) -> None:
    """Adds the command to `aim-plugins transport`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure the effect of a transport and what it costs, against strength",
        description="Measures a steered model at every strength: perplexity on plain text, and, "
        "of the texts it writes, perplexity under the plain model, repetition, concept presence, "
        "toxicity or sentiment; and zero-shot tasks.",
        allow_abbrev=False,
    )
    add_config(parser, "--config")
    add_options(parser, EvaluationSettings, required=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        ValueError: If an option is not usable, no metric is asked for, the transport belongs to
            another model, or the folder holds another run.
        ImportError: If a package is missing.
    """
    settings = read(options)
    from aim_plugins.steering.study import evaluate
    from aim_plugins.sweep.table import pool_draws, read_table
    from aim_plugins.sweep.trackers import log_points, require_trackers

    require_trackers(settings.wandb, settings.tensorboard)
    evaluate(settings, options.command)
    log_points(
        pool_draws(read_table(settings.output / "sweep.csv")),
        run_name=settings.output.resolve().name,
        wandb=settings.wandb,
        tensorboard=settings.tensorboard,
    )
    return 0


def read(options: argparse.Namespace) -> EvaluationSettings:
    """The settings of an evaluation.

    Raises:
        ValueError: If an option is not usable, or no metric is asked for.
    """
    if "generations" in options and "prompts" not in options:
        options.prompts = None  # texts that are there need not be written, as a config has it
    return read_sections(EvaluationSettings, options, "generate", "evaluate")
