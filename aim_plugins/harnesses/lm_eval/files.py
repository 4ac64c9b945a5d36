"""The harness's own files for one column: its results and its samples."""

from __future__ import annotations

import copy
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.loggers import EvaluationTracker
from lm_eval.loggers import utils as logger_utils
from lm_eval.loggers.utils import add_env_info, add_tokenizer_info, get_git_commit_hash


class _QuietGit:
    """The `subprocess` with which lm-eval asks git for a commit, without git's own messages."""

    check_output = staticmethod(partial(subprocess.check_output, stderr=subprocess.DEVNULL))

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def hush_git() -> None:
    """Keeps "fatal: not a git repository" off the terminal, which lm-eval provokes elsewhere."""
    logger_utils.subprocess = _QuietGit()


def execution_record(config: EvaluatorConfig, lm: Any) -> dict[str, Any]:
    """What `simple_evaluate` adds to the results of an evaluation.

    Args:
        config: The harness's configuration.
        lm: The model, after its first requests.
    """
    seeds = config.seed if isinstance(config.seed, list) else [None] * 4
    results: dict[str, Any] = {
        "config": {
            "model": config.model,
            **lm.get_model_info(),
            "batch_size": config.batch_size,
            "batch_sizes": list(lm.batch_sizes.values()),
            "device": config.device,
            "use_cache": None,
            "limit": config.limit,
            "gen_kwargs": config.gen_kwargs,
            "random_seed": seeds[0],
            "numpy_seed": seeds[1],
            "torch_seed": seeds[2],
            "fewshot_seed": seeds[3],
        },
        "git_hash": get_git_commit_hash(),
        "date": time.time(),
    }
    add_env_info(results)
    add_tokenizer_info(results, lm)
    return results


def write_harness_files(
    folder: Path,
    tracker: EvaluationTracker,
    results: dict[str, Any],
    samples: dict[str, Any],
    created: str,
) -> None:
    """Lets the harness write a column's results and samples.

    Args:
        folder: Where they go.
        tracker: The tracker that the harness filled in.
        results: The column's results, without samples.
        samples: The column's samples, by task.
        created: When the sweep began. Names the files, so that a resumed run has the same ones.

    Raises:
        OSError: If the harness could not write them, which it only logs.
    """
    tracker = copy.deepcopy(tracker)
    tracker.output_path = str(folder)
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    date = getattr(tracker, "date_id", "")
    written = [path for path in folder.rglob("*") if path.is_file() and date and date in path.name]
    if len(written) != len(results["configs"]) + 1:
        raise OSError(
            f"lm-eval wrote {len(written)} of {len(results['configs']) + 1} files into {folder}: "
            "is the disk full? Finished cells are kept; run the same command again to go on"
        )
    for path in written:
        path.rename(path.with_name(path.name.replace(date, created.replace(":", "-"))))
