"""`aim-plugins coverage`: what tasks exercise of a causal model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

from aim_plugins.core.commands import say
from aim_plugins.core.settings import PositionalsFirst, add_config, add_options, read_settings
from aim_plugins.sweep.manifest import redact
from aim_plugins.task_coverage.settings import TaskCoverageSettings


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Raises:
        ValueError: If a setting is missing, unknown or not usable, or whatever else it finds.
        ImportError: If lm-eval is missing.
    """
    parser = argparse.ArgumentParser(
        prog="aim-plugins coverage",
        description="Measures what the documents of lm-eval tasks exercise of a causal model: "
        "coverage criteria of its neurons, and along learned directions, from one pass; against "
        "their ceilings, other documents and random tokens, with what one task adds to another. A "
        "killed run goes on when it is started again.",
        formatter_class=PositionalsFirst,
        allow_abbrev=False,
    )
    add_config(parser, "--config")
    add_options(parser, TaskCoverageSettings, required=False)
    options = vars(parser.parse_args(list(arguments)))
    settings = read_settings(
        TaskCoverageSettings, options["config"], options["cfg_options"], options
    )
    settings.check_files()
    if find_spec("lm_eval") is None:
        raise ImportError("lm_eval is not installed: pip install 'aim-plugins[lm-eval]'")
    say("coverage: loading libraries")
    from aim_plugins.task_coverage.study import TaskCoverageStudy

    command = redact(["aim-plugins", "coverage", *arguments])  # words go into results
    TaskCoverageStudy(settings, command).run()
    return 0
