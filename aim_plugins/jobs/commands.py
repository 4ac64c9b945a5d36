"""`aim-plugins jobs`: many commands as batch jobs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from aim_plugins.core.commands import CommandParser, say
from aim_plugins.core.settings import PositionalsFirst, add_config, add_options, read_settings
from aim_plugins.jobs.settings import JobsSettings, as_jobs
from aim_plugins.sweep.manifest import redact

_NEEDS = {"slurm": "submitit", "local": "submitit", "ray": "ray"}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns 0, or 1 if a job has not finished."""
    parser = CommandParser(
        prog="aim-plugins jobs",
        description="Runs the commands that a config lists as batch jobs: by Slurm, by Ray, or on "
        "this machine. What has finished is not run again, and what all found stands in one "
        "table and on one page, with the log of what failed.",
        formatter_class=PositionalsFirst,
        allow_abbrev=False,
    )
    add_config(parser, "config")
    add_options(parser, JobsSettings, required=False)
    options = vars(parser.parse_args(list(arguments)))
    settings = read_settings(
        JobsSettings, options["config"], options["cfg_options"], options, resolve=as_jobs
    )
    if find_spec(needed := _NEEDS[settings.on]) is None:
        raise ImportError(f"{needed} is not installed: pip install 'aim-plugins[jobs]'")
    say("jobs: loading libraries")
    command = redact(["aim-plugins", "jobs", *arguments])
    study = import_module("aim_plugins.jobs.study").JobsStudy(settings, command)
    study.run()
    return 1 if study.failed else 0
