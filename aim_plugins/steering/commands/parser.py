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
from collections.abc import Sequence

from aim_plugins.core.commands import join_negative_values
from aim_plugins.steering.commands import artifact, compare, evaluate, fit, generate
from aim_plugins.sweep.manifest import redact


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit status.

    Args:
        arguments: The words behind `aim-plugins transport`.

    Raises:
        ValueError: If the config is malformed, or whatever else the command finds.
    """
    parser = argparse.ArgumentParser(
        prog="aim-plugins transport",
        description="Learn, look at, apply and evaluate activation transports.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (fit, artifact, generate, evaluate, compare):
        module.add_parser(subparsers)
    options = parser.parse_args(join_negative_values(arguments, {"--strength"}))
    options.command = redact(["aim-plugins", "transport", *arguments])  # it goes into results
    return options.run(options)
