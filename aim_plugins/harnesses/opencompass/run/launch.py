"""The command that starts `run.process`, which imports the tasks that ask for it."""

from __future__ import annotations

import shlex
import sys

_PROCESS = "aim_plugins.harnesses.opencompass.run.process"


def task_command(kind: str, cfg_path: str, template: str) -> str:
    """The command that runs a task, for OpenCompass's runners.

    Args:
        kind: "infer" or "eval".
        cfg_path: The task's dumped configuration.
        template: The runner's command with a place for `{task_cmd}`.
    """
    words = [sys.executable, "-m", _PROCESS, kind, cfg_path]
    return template.format(task_cmd=shlex.join(words))
