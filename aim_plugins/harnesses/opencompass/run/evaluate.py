"""OpenCompass's evaluation of a whole sweep in one process.

The stock task is one process for each model entry and data set, which spends its time importing.
This one builds every data set once, scores each entry with the stock code, and keeps the score of
each document beside the result: OpenCompass has no standard errors of its own.
"""

from __future__ import annotations

import copy
import functools
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from opencompass.registry import ICL_EVALUATORS, TASKS
from opencompass.tasks.openicl_eval import OpenICLEvalTask
from opencompass.utils import dataset_abbr_from_cfg, get_infer_output_path

from aim_plugins.core.errors import first_few
from aim_plugins.harnesses.opencompass.cells import Cell
from aim_plugins.harnesses.opencompass.config.entries import entry_abbr, sweep_groups
from aim_plugins.harnesses.opencompass.results.scores import (
    average_by,
    compare_texts,
    explain_metrics,
    read_correctness,
    read_named_scores,
)
from aim_plugins.harnesses.opencompass.results.unnoted import (
    UNVERIFIED,
    has_unnoted_prediction,
    has_verified_result,
)
from aim_plugins.harnesses.opencompass.run.expected import explain_expected
from aim_plugins.harnesses.opencompass.run.launch import task_command

_SHOWN = 5


@TASKS.register_module()
class SweepOpenICLEvalTask(OpenICLEvalTask):
    """Evaluates every entry of a sweep on every data set.

    Args:
        cfg: A task of `SweepEvalPartitioner`: OpenCompass sees its first entry, and all of them
            stand in `cfg["sweep"]["models"]`.
    """

    name_prefix = "SweepOpenICLEval"

    def __init__(self, cfg: ConfigDict) -> None:
        super().__init__(cfg)
        self.entries = list(self.cfg["sweep"]["models"])
        self._statistics: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """A name that does not grow with the sweep; Slurm takes it as the job's."""
        return f"{self.name_prefix}[{sweep_groups(self.entries)[0].name} x{len(self.entries)}]"

    def get_command(self, cfg_path: str, template: str) -> str:
        """The command that runs the task, for OpenCompass's runners.

        They start it after a failed inference too; one that left nothing to evaluate is answered
        with a command that says so, and imports nothing.
        """
        rows = Cell.table(self.work_dir, self.entries, self.dataset_cfgs[0])
        pending = [cell for row in rows for cell in row if not has_verified_result(cell)]
        if not pending or any(map(_can_be_evaluated, pending)):
            return task_command("eval", cfg_path, template)
        reason = f"{self.name}: nothing to evaluate: the inference left no predictions"
        self.logger.error(reason)
        failing = shlex.join(["sh", "-c", f"echo {shlex.quote(reason)} >&2; exit 1"])
        return template.format(task_cmd=failing)

    def get_output_paths(self, file_extension: str = "json") -> list[str]:
        """The files of all cells, by which runners tell whether the task succeeded."""
        folder = os.path.join(self.work_dir, self.output_subdir)
        return [
            get_infer_output_path(entry, dataset, folder, file_extension)
            for entry in self.entries
            for dataset in self.dataset_cfgs[0]
        ]

    def run(self) -> None:
        """Evaluates the cells that have no result under these settings.

        Raises:
            RuntimeError: If cells failed, after all others have been evaluated.
        """
        failed: list[str] = []
        rows = Cell.table(self.work_dir, self.entries, self.dataset_cfgs[0])
        for dataset_cfg, *cells in zip(self.dataset_cfgs[0], *rows, strict=True):
            failed += self._run_dataset(dataset_cfg, cells)
        if failed:
            raise RuntimeError(
                f"{len(failed)} evaluations failed: {first_few(failed, _SHOWN)}; "
                "the log above has the reason of each"
            )

    def _run_dataset(self, dataset_cfg: ConfigDict, cells: Sequence[Cell]) -> list[str]:
        """Evaluates the pending entries on a data set; returns the names of the failed cells."""
        dataset = dataset_abbr_from_cfg(dataset_cfg)
        pending = {
            f"{entry_abbr(entry)}/{dataset}": (entry, cell)
            for entry, cell in zip(self.entries, cells, strict=True)
            if not has_verified_result(cell)
        }
        if not pending:
            return []
        self.dataset_cfg = dataset_cfg
        self.eval_cfg = copy.deepcopy(dataset_cfg.get("eval_cfg"))
        self.output_column = dataset_cfg["reader_cfg"]["output_column"]
        try:
            self._test_set = super()._load_and_preprocess_test_data()
        except Exception:  # whatever a reader raises, the other data sets go on
            self.logger.exception(f"{dataset}: it cannot be read")
            return list(pending)
        failed = []
        unknown = [name for name, (_, cell) in pending.items() if has_unnoted_prediction(cell)]
        if unknown:
            self.logger.warning(
                f"{len(unknown)} predictions, {unknown[0]} among them, are not by our inference: "
                "they are scored, but may be of another model, modulation, data or prompt"
            )
        for name, (entry, cell) in pending.items():
            try:
                if not self._evaluate(entry, cell):
                    log = self._infer_log(entry)
                    self.logger.error(f"{name}: there is no prediction to evaluate; see {log}")
                    failed.append(name)
            except Exception:  # whatever an evaluator raises, the other cells go on
                self.logger.exception(f"{name}: the evaluation failed")
                failed.append(name)
        return failed

    def _evaluate(self, entry: ConfigDict, cell: Cell) -> bool:
        """Writes the result of a cell; False where there is nothing to evaluate."""
        cell.discard_result()
        verified = cell.has_prediction() or _merge_finished_slices(cell)
        if not verified and not has_unnoted_prediction(cell):
            return False
        self.model_cfg = entry
        self._score()
        cell.note_result(statistics=self._statistics, **({} if verified else UNVERIFIED))
        return True

    def _load_and_preprocess_test_data(self) -> Any:
        return self._test_set  # built once, for all entries

    def _load_predictions(self) -> Any:
        predictions = super()._load_predictions()
        self._statistics = {"documents": len(predictions[0]), "metrics": {}, "expected": {}}
        return predictions

    def _evaluate_predictions(self, pred_strs: Any, test_set: Any, pred_dicts: Any) -> Any:
        evaluator = self.eval_cfg["evaluator"]["type"]
        if isinstance(evaluator, str):
            evaluator = ICL_EVALUATORS.get(evaluator)
        with _watch(evaluator) as seen:
            result = super()._evaluate_predictions(pred_strs, test_set, pred_dicts)
        if "error" in result:
            raise RuntimeError(f"{evaluator.__name__} answers: {result['error']}")
        runs = self.dataset_cfg.get("n", 1)
        questions = self._repeated_questions(test_set, len(pred_dicts) // runs)
        metrics = explain_metrics(
            result,
            [average_by(questions, seen.get(source)) for source in ("details", "texts")],
            {name: average_by(questions, own) for name, own in seen.get("named", {}).items()},
        )
        self._statistics = {
            "documents": len(set(questions)) if questions else len(pred_dicts) // runs,
            "metrics": metrics,
            "expected": explain_expected(metrics, pred_dicts),
        }
        return result

    def _repeated_questions(self, test_set: Any, size: int) -> list[str] | None:
        """The question of each document where readers repeat them, next to each other or not."""
        if self.dataset_cfg.get("num_repeats", 1) == 1:
            return None
        rows = (test_set[index] for index in range(size))
        return [repr({key: row[key] for key in row if key != "idx"}) for row in rows]

    def _infer_log(self, entry: ConfigDict) -> str:
        """The log of the inference; a task of several cells has that of its first one."""
        folder = os.path.join(self.work_dir, "logs", "infer")
        pairs = [(entry, self.dataset_cfg)]
        pairs += [(other, data) for other in self.entries for data in self.dataset_cfgs[0]]
        logs = [Path(get_infer_output_path(*pair, folder, "out")) for pair in pairs]
        logs += [log.with_stem(f"{log.stem}_0") for log in logs]  # of a part of the data
        return str(next((log for log in logs if log.exists()), folder))


@contextmanager
def _watch(evaluator: type) -> Iterator[dict[str, Any]]:
    """Keeps what an evaluator knows about each document, which OpenCompass drops.

    The class is changed, not the object, because some evaluators pickle themselves.

    Yields:
        The documents' scores: those that the evaluator's `details` hold, those that they hold under
        the names of metrics (`named`), and those from comparing `texts`.
    """
    seen: dict[str, Any] = {}
    own = vars(evaluator).get("evaluate")
    original = evaluator.evaluate  # type: ignore[attr-defined]

    @functools.wraps(original)
    def evaluate(self: Any, k: Any, n: int, original_dataset: Any, **asked: Any) -> Any:
        result = original(self, k, n, original_dataset, **asked)
        seen["details"] = read_correctness(result.get("details"))
        seen["named"] = read_named_scores(result.get("details"), result)
        if seen["details"] is None and "predictions" in asked:
            predictions = self.pred_postprocess(asked["predictions"])
            scores = compare_texts(predictions, asked.get("references"))
            # Of an evaluator without details OpenCompass keeps the last run of n alone.
            seen["texts"] = scores and scores[-(len(scores) // n) :]
        return result

    evaluator.evaluate = evaluate  # type: ignore[attr-defined]
    try:
        yield seen
    finally:
        if own is None:
            del evaluator.evaluate  # type: ignore[attr-defined]
        else:
            evaluator.evaluate = own  # type: ignore[attr-defined]


def _can_be_evaluated(cell: Cell) -> bool:
    """Whether there are predictions, or slices that may be joined to them."""
    return cell.has_prediction() or has_unnoted_prediction(cell) or cell.slice_path(0).exists()


def _merge_finished_slices(cell: Cell) -> bool:
    """Joins slices whose task was killed before it could join them."""
    count = 0
    while cell.slice_path(count).exists():
        count += 1
    # The last may be another data set whose name ends in a number.
    return any(cell.merge_slices(number) for number in range(2, count + 1))
