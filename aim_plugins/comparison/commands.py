"""`aim-plugins compare`: two sweeps over the same documents, or two strengths of one."""

from __future__ import annotations

from collections.abc import Sequence

from aim_plugins.comparison.settings import CompareSettings
from aim_plugins.core.commands import CommandParser
from aim_plugins.core.settings import PositionalsFirst, add_options, read_settings


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = CommandParser(
        prog="aim-plugins compare",
        description="Holds two finished sweeps over the same documents against each other, or two "
        "strengths of one, document by document: differences with paired intervals, their p and "
        "Holm's, how much tighter pairs are than two samples, and how many documents would tell "
        "what cannot be told. Works on the folders of `aim-plugins sweep lm-eval`, of OpenCompass "
        "sweeps (summary/sweep/NAME), of `aim-plugins transport evaluate` and of `vision-bench "
        "classify`; runs no model.",
        formatter_class=PositionalsFirst,
        allow_abbrev=False,
    )
    add_options(parser, CompareSettings)
    settings = read_settings(CompareSettings, given=vars(parser.parse_args(list(arguments))))
    settings.check_files()
    from aim_plugins.comparison.front import publish_comparison

    publish_comparison(settings, ["aim-plugins", "compare", *arguments])
    return 0
