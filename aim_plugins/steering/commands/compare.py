"""`aim-plugins transport compare`: several evaluated transports in one report."""

from __future__ import annotations

import argparse
from typing import Any

from aim_plugins.core.settings import add_options, read_settings
from aim_plugins.steering.settings import CompareSettings


def add_parser(subparsers: Any) -> None:
    """Adds the command to `aim-plugins transport`."""
    parser = subparsers.add_parser(
        "compare",
        help="several evaluated transports in one report",
        description="Draws the effect of several transports against strength and against "
        "perplexity, and finds the best strength of each within a bound on the perplexity. "
        "Evaluations of other models, prompts or settings are refused.",
        allow_abbrev=False,
    )
    add_options(parser, CompareSettings)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        ValueError: If a folder holds no evaluation, or they have no metric in common or were
            measured otherwise.
    """
    from aim_plugins.steering.compare.compare import compare, read_evaluated

    settings = read_settings(CompareSettings, given=vars(options))
    compare(
        read_evaluated(settings.folders, settings.labels),
        settings.output,
        effect=settings.effect,
        cost=settings.cost,
        bound=settings.bound,
        lower_is_better=settings.lower_is_better,
        command=options.command,
    )
    return 0
