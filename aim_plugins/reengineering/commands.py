"""`aim-plugins reengineer`: a smaller causal model for one task."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

from aim_plugins.core.commands import say
from aim_plugins.core.settings import PositionalsFirst, add_config, add_options, read_settings
from aim_plugins.reengineering.settings import TaskModuleSettings
from aim_plugins.sweep.manifest import redact


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Raises:
        ValueError: If a setting is missing, unknown or not usable, or whatever else it finds.
        ImportError: If lm-eval is missing.
    """
    parser = argparse.ArgumentParser(
        prog="aim-plugins reengineer",
        description="Keeps the feed-forward neurons and attention heads of a causal model that one "
        "task of multiple choice needs: accuracy on held-out documents against the share that is "
        "kept, beside the whole model and removal at random, and a smaller checkpoint that "
        "transformers loads. A killed run goes on when it is started again.",
        formatter_class=PositionalsFirst,
        allow_abbrev=False,
    )
    add_config(parser, "--config")
    add_options(parser, TaskModuleSettings, required=False)
    options = vars(parser.parse_args(list(arguments)))
    settings = read_settings(TaskModuleSettings, options["config"], options["cfg_options"], options)
    settings.check_files()
    if find_spec("lm_eval") is None:
        raise ImportError("lm_eval is not installed: pip install 'aim-plugins[lm-eval]'")
    say("reengineer: loading libraries")
    from aim_plugins.reengineering.study import ReengineeringStudy

    command = redact(["aim-plugins", "reengineer", *arguments])  # words go into results
    ReengineeringStudy(settings, command).run()
    return 0
