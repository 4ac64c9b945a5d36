"""`aim-plugins transport compare`: several evaluated transports in one report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the command to `aim-plugins transport`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "compare",
        help="several evaluated transports in one report",
        description="Draws the effect of several transports against strength and against "
        "perplexity, and finds the best strength of each within a bound on the perplexity. "
        "Evaluations of other models, prompts or settings are refused.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="OUT", help="folders of `transport evaluate`"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--labels", metavar="NAMES", help="a name for each, separated by commas")
    parser.add_argument(
        "--effect", metavar="METRIC", help="what steering is for, as METRIC or TASK/METRIC"
    )
    parser.add_argument("--cost", metavar="METRIC", help="the perplexity; default perplexity")
    parser.add_argument(
        "--bound", type=float, default=0.2, help="how much it may grow; default 0.2, 20 %%"
    )
    parser.add_argument(
        "--lower-is-better", action="store_true", help="the effect should fall, as toxicity"
    )
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        ValueError: If a folder holds no evaluation, or they have no metric in common or were
            measured otherwise.
    """
    from aim_plugins.steering.compare.compare import compare, read_evaluated

    labels = options.labels.split(",") if options.labels else ()
    compare(
        read_evaluated(options.folders, [label.strip() for label in labels]),
        options.output,
        effect=options.effect,
        cost=options.cost,
        bound=options.bound,
        lower_is_better=options.lower_is_better,
        command=list(getattr(options, "command", [])),
    )
    return 0
