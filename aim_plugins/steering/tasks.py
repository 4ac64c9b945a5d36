"""Zero-shot tasks of a steered model, by lm-evaluation-harness in a process of its own.

The harness stands on a floor above this one, so its command is run rather than imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.loading import local_name
from aim_plugins.steering.settings.evaluation import EvaluationSettings
from aim_plugins.sweep.front import TABLE
from aim_plugins.sweep.table import Row, read_table

_INTERRUPTED = 130


def task_command(
    settings: EvaluationSettings, strengths: Sequence[float], folder: Path
) -> list[str]:
    """The words of the command.

    Args:
        settings: Names model, transport and tasks.
        strengths: Strengths of the transport.
        folder: Where the harness's results go.
    """
    model: dict[str, Any] = {
        "pretrained": local_name(settings.pretrained),
        "transport": str(settings.transport.resolve()),
        "dtype": settings.dtype,
    }
    if settings.max_length is not None:
        model["max_length"] = settings.max_length
    if settings.trust_remote_code:
        model["trust_remote_code"] = True
    if settings.force:
        model["force_transport"] = True
    words = [sys.executable, "-m", "aim_plugins.cli", "sweep", "lm-eval", "--model", "act_hf"]
    words += ["--model-args", json.dumps(model), "--tasks", ",".join(settings.tasks)]
    # With the equals sign: a list that starts with a minus would be taken for an option.
    words += [f"--strength={','.join(map(format_strength, strengths))}"]
    words += ["--batch-size", str(settings.batch_size), "--output", str(folder)]
    for name in ("num_fewshot", "limit", "include_path"):
        if (value := getattr(settings, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if settings.device is not None:
        words += ["--device", settings.device]
    return words


def run_tasks(settings: EvaluationSettings, strengths: Sequence[float], folder: Path) -> list[Row]:
    """Runs the tasks at every strength that no finished sweep in the folder has.

    A sweep of strengths that were added is one of its own; one that was interrupted goes on.

    Returns:
        The rows of the harness's tables.

    Raises:
        ValueError: If the command fails; it has said why.
        KeyboardInterrupt: If it was interrupted.
    """
    rows = [row for table in sorted(folder.glob(f"*/{TABLE}")) for row in read_table(table)]
    measured = {row.strength for row in rows}
    if missing := [one for one in strengths if one not in measured]:
        own = folder / f"strengths-{fingerprint(missing)[:12]}"
        rows += run_sweep(task_command(settings, missing, own), own)
    return sorted(rows, key=lambda row: (row.task, row.metric, row.strength))


def run_sweep(words: Sequence[str], folder: Path) -> list[Row]:
    """Runs a sweep's command and reads its table.

    Raises:
        ValueError: If the command fails; it has said why.
        KeyboardInterrupt: If it was interrupted.
    """
    status = subprocess.run(list(words), check=False).returncode
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise ValueError(
            f"tasks: the sweep with lm-eval ended with status {status}, and its message stands "
            "above: mend what it names and run the same command again"
        )
    return read_table(folder / TABLE)
