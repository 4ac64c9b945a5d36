"""`aim-plugins sweep lm-eval`: a modulation curve from one model load and one pass.

Takes the arguments of `lm_eval` and the strengths, and writes a folder: the harness's own results
and samples files for every strength and draw, `sweep.csv`, pictures, `report.html`, and records
from which a killed run goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.registry import get_model
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.loggers import EvaluationTracker

from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.engine import Modulation, SweptName, swept_strength
from aim_plugins.harnesses.lm_eval.arguments import (
    REFUSED,
    parse_harness_arguments,
    sweep_columns,
)
from aim_plugins.harnesses.lm_eval.expected import (
    METRIC,
    chance_level,
    choice_documents,
    expected_accuracy_rows,
)
from aim_plugins.harnesses.lm_eval.files import execution_record, write_harness_files
from aim_plugins.harnesses.lm_eval.register import register
from aim_plugins.harnesses.lm_eval.replay import (
    ColumnReplay,
    Evaluate,
    consume_columns,
    replay_columns,
    table_rows,
)
from aim_plugins.harnesses.lm_eval.texts import sample_texts
from aim_plugins.sweep.manifest import redact
from aim_plugins.sweep.plots import STRENGTH_LABEL, TRANSPORT_LABEL, plot_curves
from aim_plugins.sweep.printed import format_points
from aim_plugins.sweep.report import write_report
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.table import Row, pool_draws, write_table

logger = logging.getLogger(__name__)

_NAMES: dict[SweptName, tuple[str, str]] = {
    "std": ("std", STRENGTH_LABEL),
    "transport_strength": ("strength", TRANSPORT_LABEL),
}
"""How cells and axes call the strength that varies."""
_PACKAGES = ("aim-plugins", "lm-eval", "transformers", "torch")
_INDIFFERENT = frozenset(
    {"config", "device", "batch_size", "max_batch_size", "verbosity", "show_config", "write_out"}
    | {"log_samples", "check_integrity", "cache_requests", "include_path", "metadata"}
    | REFUSED.keys()
    | {"wandb_config_args"}
)
"""Arguments that do not change the results, so that a run may be resumed with others."""


class LmEvalSweep:
    """One sweep with lm-evaluation-harness.

    Args:
        config: The harness's configuration.
        columns: The table's columns, strengths outside, draws inside.
        output: The folder to write.
        command: The words that repeat the sweep, for the report.
        swept: Which attribute of the columns is the curve's strength; None takes what varies.

    Raises:
        ValueError: If the model cannot be modulated, a task does not exist, or the folder holds
            something else.
    """

    def __init__(
        self,
        config: EvaluatorConfig,
        columns: Sequence[Modulation],
        output: Path,
        command: Sequence[str] = (),
        swept: SweptName | None = None,
    ) -> None:
        self.command = list(command)
        self.swept = swept or swept_strength(columns)
        self._strength_name, self._strength_label = _NAMES[self.swept]
        self.config = config
        self.columns = tuple(columns)
        self.output = output
        try:
            self.task_manager = config.process_tasks(config.metadata)
        except ValueError as error:
            raise ValueError(
                f"{error}: `lm-eval ls tasks` lists the harness's tasks; name the folder of your "
                "own with --include-path"
            ) from error
        self.strengths = list(dict.fromkeys(getattr(c, self.swept) for c in self.columns))
        self.draws = len(self.columns) // len(self.strengths)
        SweepStore.check(output, self.arguments)

    @property
    def arguments(self) -> dict[str, Any]:
        """What determines the results, for the manifest."""
        settings = {
            name: value for name, value in asdict(self.config).items() if name not in _INDIFFERENT
        }
        transport = self.columns[0].transport
        return {
            "harness": "lm_eval",
            **json.loads(json.dumps(settings, default=str)),
            **self._modulation_arguments(),
            # The folder may agree while the maps in it were fitted anew.
            **({"transport_fingerprint": transport} if transport else {}),
        }

    def _modulation_arguments(self) -> dict[str, Any]:
        """The columns as arguments of the model."""
        first = self.columns[0]
        arguments: dict[str, Any] = {
            "noise_std": list(dict.fromkeys(column.std for column in self.columns)),
            "noise_mean": first.mean,
            "noise_seed": first.seed,
            "noise_draws": self.draws,
        }
        if first.transport:
            strengths = dict.fromkeys(column.transport_strength for column in self.columns)
            arguments["strength"] = list(strengths)
        return arguments

    def run(self) -> Path:
        """Computes what is missing and writes the tables, pictures and the report.

        Returns:
            The report's path.
        """
        if self._pending_before_load():
            with consume_columns(self._consume):
                self._evaluate()
        if _is_main_process():
            with self._open() as store:
                store.update_manifest(command=self.command, model=self._model_name())
                return self._finish(store)
        return self.output / "report.html"

    # Running ------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        config = self.config
        self._tracker = EvaluationTracker()
        simple_evaluate(
            model=config.model,
            model_args={**config.model_args, **self._modulation_arguments()},
            tasks=config.tasks,
            num_fewshot=config.num_fewshot,
            batch_size=config.batch_size,
            max_batch_size=config.max_batch_size,
            device=config.device,
            cache_requests=config.cache_requests.get("cache_requests", False),
            rewrite_requests_cache=config.cache_requests.get("rewrite_requests_cache", False),
            delete_requests_cache=config.cache_requests.get("delete_requests_cache", False),
            limit=config.limit,
            samples=config.samples,
            check_integrity=config.check_integrity,
            write_out=config.write_out,
            log_samples=True,
            evaluation_tracker=self._tracker,
            system_instruction=config.system_instruction,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=bool(config.fewshot_as_multiturn),
            gen_kwargs=config.gen_kwargs,
            task_manager=self.task_manager,
            random_seed=config.seed[0] if config.seed else None,
            numpy_random_seed=config.seed[1] if config.seed else None,
            torch_random_seed=config.seed[2] if config.seed else None,
            fewshot_random_seed=config.seed[3] if config.seed else None,
            confirm_run_unsafe_code=config.confirm_run_unsafe_code,
            metadata=config.metadata,
        )

    def _consume(
        self, lm: Any, task_dict: dict[str, Any], evaluate: Evaluate
    ) -> dict[str, Any] | None:
        """Receives the loaded model and tasks from the harness and writes the missing cells."""
        if tuple(lm.columns) != self.columns:
            raise ValueError(
                f"transport={self.config.model_args.get('transport')!r} was changed while the "
                "sweep started: run the same command again"
            )
        tasks = task_dict["tasks"]
        pending = list(range(len(self.columns)))
        with contextlib.ExitStack() as stack:
            stores: list[SweepStore] = []

            def open_store(request_type: str, requests: list[Any]) -> None:
                lm.check(request_type, requests)  # before anything is written
                if not stores:
                    stores.append(self._join_store(lm, tasks, stack))
                    lm.engine.journal = stores[0]

            if _broadcast(lm, (self.output / "manifest.json").exists()):
                open_store("", [])
                pending = _broadcast(lm, self._pending(stores[0]))
            replay = ColumnReplay(lm, before_table=open_store)
            environment: dict[str, Any] = {}
            for index, results in replay_columns(replay, tasks, evaluate, pending):
                extra, chance = self._expected(replay, tasks, index)
                if results is not None:
                    environment = environment or execution_record(self.config, lm)
                    self._write_cell(stores[0], index, {**results, **environment}, extra, chance)
        return {} if lm.rank == 0 else None

    def _join_store(
        self, lm: Any, tasks: dict[str, Any], stack: contextlib.ExitStack
    ) -> SweepStore:
        """Opens the folder in the first process, and beside it in the others."""
        if lm.rank == 0:
            store = stack.enter_context(self._open())
            store.pin_manifest(
                model_fingerprint=lm.engine.fingerprint, task_fingerprints=_fingerprints(tasks)
            )
        lm.barrier()
        return store if lm.rank == 0 else SweepStore.join(self.output)

    def _open(self) -> SweepStore:
        return SweepStore.open(
            self.output,
            self.arguments,
            versions={name: version(name) for name in _PACKAGES},
            strength_name=self._strength_name,
        )

    def _pending_before_load(self) -> bool:
        """Whether cells are missing, for which the model has to be loaded."""
        if not (self.output / "manifest.json").exists():
            return True
        if not _is_main_process():
            return bool(self._pending(SweepStore.join(self.output)))
        with self._open() as store:
            pending = self._pending(store)
            if not pending:  # the only look at the tasks that a finished sweep takes
                tasks = self.task_manager.load(self.config.tasks)["tasks"]
                store.pin_manifest(task_fingerprints=_fingerprints(tasks))
        done = len(self.columns) - len(pending)
        print(
            f"{self.output}: {done} of {len(self.columns)} cells are finished"
            f"{', and the finished batches of the others are kept' if pending else ''}",
            file=sys.stderr,
        )
        return bool(pending)

    def _pending(self, store: SweepStore) -> list[int]:
        return [
            index
            for index in range(len(self.columns))
            if store.read_cell(*self._cell(index)) is None
        ]

    def _cell(self, index: int) -> tuple[float, int]:
        return getattr(self.columns[index], self.swept), index % self.draws

    def _model_name(self) -> str:
        name = str(self.config.model_args.get("pretrained", self.config.model))
        return Path(name).name if Path(name).exists() else name

    # Cells --------------------------------------------------------------------------------------

    def _expected(
        self, replay: ColumnReplay, tasks: dict[str, Any], index: int
    ) -> tuple[list[Row], dict[str, float]]:
        """The exact law's rows of a strength of the noise, and each task's chance level."""
        strength, draw = self._cell(index)
        if draw != 0 or "loglikelihood" not in replay.tables:
            return [], {}
        requests, table = replay.requests["loglikelihood"], replay.tables["loglikelihood"]
        rows_by_id = {id(request): row for request, row in zip(requests, table, strict=True)}
        rows, chance = [], {}
        for name, task in tasks.items():
            documents = choice_documents(task, task.instances, rows_by_id)
            gathered = replay.gather_object(documents)
            if gathered is None or any(part is None for part in gathered):
                continue
            documents = [document for part in gathered for document in part]
            if self.swept == "std":  # the law needs the logits without noise at this strength
                rows += expected_accuracy_rows(name, documents, [strength])
            chance[name] = chance_level(documents)
        return rows, chance

    def _write_cell(
        self,
        store: SweepStore,
        index: int,
        results: dict[str, Any],
        extra: list[Row],
        chance: dict[str, float],
    ) -> None:
        strength, draw = self._cell(index)
        column = self.columns[index]
        arguments = {
            **self.config.model_args,
            "noise_std": column.std,
            "noise_mean": column.mean,
            "noise_seed": column.seed,
        }
        if column.transport:
            arguments["strength"] = column.transport_strength
        results["config"] = results["config"] | {"model_args": redact(arguments)}
        samples = results.pop("samples")
        rows = [*table_rows(results, strength, draw), *extra]
        with store.cell(strength, draw) as cell:
            write_harness_files(
                cell.folder, self._tracker, results, samples, store.manifest["created"]
            )
            cell.record(rows, seed=column.seed, metadata={"chance": chance})
        logger.info("strength %s, draw %d: written", format_strength(strength), draw)

    # The folder's front --------------------------------------------------------------------------

    def _finish(self, store: SweepStore) -> Path:
        cells = [store.read_cell(*self._cell(index)) for index in range(len(self.columns))]
        records = [cell for cell in cells if cell is not None]
        rows = [row for record in records for row in record.rows]
        rows.sort(key=lambda row: (row.task, row.metric, row.strength, row.draw or 0))
        chance = {
            (task, METRIC): level
            for record in records
            for task, level in record.metadata["chance"].items()
        }
        table = write_table(self.output / "sweep.csv", rows)
        points = pool_draws(rows)
        label = self._strength_label
        pictures = plot_curves(points, self.output / "curves", chance=chance, strength_label=label)
        report = write_report(
            self.output,
            points,
            store.manifest,
            sample_texts(records),
            chance=chance,
            strength_label=label,
        )
        print(format_points(points))
        print("", f"table:    {table}", f"pictures: {pictures[0].parent}", sep="\n")
        print(f"report:   {report}")
        return report


def run_sweep(
    harness_arguments: Sequence[str],
    *,
    output: Path,
    command: Sequence[str] = (),
    **modulation: Any,
) -> Path:
    """Runs `aim-plugins sweep lm-eval`.

    Args:
        harness_arguments: Arguments of `lm_eval`.
        output: The folder to write.
        command: The words that repeat the sweep, for the report.
        **modulation: The strengths and draws, see `arguments.sweep_columns`.

    Returns:
        The report's path.
    """
    config = parse_harness_arguments(harness_arguments)
    register()
    model = get_model(config.model)
    columns, swept = sweep_columns(config.model, model, config.model_args, **modulation)
    return LmEvalSweep(config, columns, output, command, swept).run()


def _is_main_process() -> bool:
    # Asking accelerate would set up the process group before lm-eval can choose its timeout.
    return int(os.environ.get("RANK", "0")) == 0


def _fingerprints(tasks: dict[str, Any]) -> dict[str, str]:
    """Fingerprint of each task's configuration and documents.

    What the command line overrides stands in the manifest already.
    """
    overridden = {"num_fewshot", "generation_kwargs", "metadata"}
    return {
        name: fingerprint(
            [
                {
                    name: re.sub(r" at 0x[0-9a-f]+", "", repr(value))
                    for name, value in task.dump_config().items()
                    if name not in overridden
                },
                [json.dumps(document, default=repr, sort_keys=True) for document in task.eval_docs],
            ]
        )
        for name, task in tasks.items()
    }


def _broadcast(lm: Any, value: Any) -> Any:
    if lm.world_size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]
