"""`aim-plugins sweep lm-eval`: a modulation curve from one model load and one pass.

Takes the arguments of `lm_eval` and the strengths, and writes a folder: the harness's own results
and samples files for every strength and draw, `sweep.csv`, pictures, `report.html`, and records
from which a killed run goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.registry import get_model
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.loggers import EvaluationTracker

from aim_plugins.core.devices import is_main_process
from aim_plugins.core.identity import fingerprint
from aim_plugins.harnesses.lm_eval.arguments import (
    REFUSED,
    Sweep,
    parse_harness_arguments,
    read_modulation,
)
from aim_plugins.harnesses.lm_eval.documents import read_documents, scores_record
from aim_plugins.harnesses.lm_eval.expected import METRIC, choice_documents
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
from aim_plugins.modulation.arguments import describe_columns
from aim_plugins.modulation.changes import DRAWS
from aim_plugins.modulation.choices import chance_level, expected_rewards
from aim_plugins.sweep.estimates import mean
from aim_plugins.sweep.front import Front
from aim_plugins.sweep.manifest import redact
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import Study
from aim_plugins.sweep.table import Row

logger = logging.getLogger(__name__)

_INDIFFERENT = frozenset(
    {"config", "device", "batch_size", "max_batch_size", "verbosity", "show_config", "write_out"}
    | {"log_samples", "check_integrity", "cache_requests", "include_path", "metadata"}
    | REFUSED.keys()
    | {"wandb_config_args"}
)
"""Arguments that do not change the results, so that a run may be resumed with others."""


class LmEvalStudy(Study):
    """One sweep with lm-evaluation-harness.

    Args:
        config: The harness's configuration.
        sweep: The columns, and what varies.
        output: The folder to write.
        command: The words that repeat the sweep, for the report.

    Raises:
        ValueError: If a task does not exist.
    """

    packages = ("aim-plugins", "lm-eval", "transformers", "torch")

    def __init__(
        self, config: EvaluatorConfig, sweep: Sweep, output: Path, command: Sequence[str] = ()
    ) -> None:
        self.command = list(command)
        self.config = config
        self.output = output
        self.columns = sweep.columns
        self.cells = sweep.cells
        self.axes = tuple(kind.axis for kind in sweep.kinds)
        self._rest, self._model_args = sweep.rest, {**sweep.rest, **sweep.given}
        try:
            self.task_manager = config.process_tasks(config.metadata)
        except ValueError as error:
            raise ValueError(
                f"{error}: `lm-eval ls tasks` lists the harness's tasks; name the folder of your "
                "own with --include-path"
            ) from error

    @property
    def arguments(self) -> dict[str, Any]:
        """What determines the results, for the manifest."""
        settings = {
            name: value for name, value in asdict(self.config).items() if name not in _INDIFFERENT
        }
        settings["model_args"] = self._rest
        return {
            "harness": "lm_eval",
            **json.loads(json.dumps(settings, default=str)),
            **describe_columns(self.columns),
        }

    def load(self) -> None:
        """Computes the missing cells: the harness loads the model, and calls back with it."""
        if self._pending_before_load():
            with consume_columns(self._consume):
                self._evaluate()

    def measure(self, store: SweepStore) -> None:
        store.update_manifest(model=self._model_name())

    def front(self, store: SweepStore) -> Front:
        records = self.finished(store)
        rows = [row for record in records for row in record.rows]
        rows.sort(
            key=lambda row: (
                *(row.task, row.metric, row.second_strength or 0.0, row.strength),
                row.draw or 0,
            )
        )
        chance = {
            (task, METRIC): level
            for record in records
            for task, level in record.metadata["chance"].items()
        }
        texts, documents = sample_texts(records), read_documents(records)
        return Front(rows, self.axes, chance=chance, texts=texts, documents=documents)

    # Running ------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        config = self.config
        self._tracker = EvaluationTracker()
        simple_evaluate(
            model=config.model,
            model_args=self._model_args,
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
                "what the modulation reads, such as a transport, was changed while the sweep "
                "started: run the same command again"
            )
        tasks = task_dict["tasks"]
        pending = list(self.cells)
        with contextlib.ExitStack() as stack:
            stores: list[SweepStore] = []

            def open_store(request_type: str, requests: list[Any]) -> None:
                lm.check(request_type, requests)  # before anything is written
                if not stores:
                    stores.append(self._join_store(lm, tasks, stack))
                    lm.engine.journal = stores[0]

            if _broadcast(lm, (self.output / "manifest.json").exists()):
                open_store("", [])
                pending = _broadcast(lm, self.pending(stores[0]))
            replay = ColumnReplay(lm, before_table=open_store)
            environment: dict[str, Any] = {}
            wanted = [index for index, cell in enumerate(self.cells) if cell in pending]
            for index, results in replay_columns(replay, tasks, evaluate, wanted):
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
            store = stack.enter_context(self.open())
            store.pin_manifest(
                model_fingerprint=lm.engine.fingerprint, task_fingerprints=_fingerprints(tasks)
            )
        lm.barrier()
        return store if lm.rank == 0 else SweepStore.join(self.output)

    def _pending_before_load(self) -> bool:
        """Whether cells are missing, for which the model has to be loaded."""
        if not (self.output / "manifest.json").exists():
            return True
        if not is_main_process():
            return bool(self.pending(SweepStore.join(self.output)))
        with self.open() as store:
            pending = self.pending(store)
            if not pending:  # the only look at the tasks that a finished sweep takes
                tasks = self.task_manager.load(self.config.tasks)["tasks"]
                store.pin_manifest(task_fingerprints=_fingerprints(tasks))
        self.say_finished(pending)
        return bool(pending)

    def _model_name(self) -> str:
        name = str(self.config.model_args.get("pretrained", self.config.model))
        return Path(name).name if Path(name).exists() else name

    # Cells --------------------------------------------------------------------------------------

    def _expected(
        self, replay: ColumnReplay, tasks: dict[str, Any], index: int
    ) -> tuple[list[Row], dict[str, float]]:
        """The exact law's rows of a column, and each task's chance level."""
        cell, column = self.cells[index], self.columns[index]
        if cell.draw != 0 or "loglikelihood" not in replay.tables:
            return [], {}
        requests, table = replay.requests["loglikelihood"], replay.tables["loglikelihood"]
        rows_by_id = {id(request): row for request, row in zip(requests, table, strict=True)}
        # Without a change of logits the law would be the accuracy itself.
        changed = any(change.acts_on == "logits" for change in column.changes)
        lawful = changed and all(column.has_argmax_law for column in self.columns)
        rows, chance = [], {}
        for name, task in tasks.items():
            documents = choice_documents(task, task.instances, rows_by_id, index)
            gathered = replay.gather_object(documents)
            if gathered is None or any(part is None for part in gathered):
                continue
            documents = [document for part in gathered for document in part]
            chance[name] = chance_level(documents)
            if lawful and (rewards := expected_rewards(documents, column)) is not None:
                rows.append(mean(rewards).row(name, f"{METRIC}_expected", *cell.strengths))
        return rows, chance

    def _write_cell(
        self,
        store: SweepStore,
        index: int,
        results: dict[str, Any],
        extra: list[Row],
        chance: dict[str, float],
    ) -> None:
        cell, column = self.cells[index], self.columns[index]
        arguments = {**self._model_args, **column.settings}
        arguments.pop(DRAWS, None)
        results["config"] = results["config"] | {"model_args": redact(arguments)}
        samples = results.pop("samples")
        rows = [*table_rows(results, cell), *extra]
        with store.cell(cell) as staged:
            write_harness_files(
                staged.folder, self._tracker, results, samples, store.manifest["created"]
            )
            metadata = {"chance": chance, "documents": scores_record(samples)}
            staged.record(rows, seed=column.seed, metadata=metadata)
        logger.info("%s: written", cell.name(self.axes))


def run_sweep(
    harness_arguments: Sequence[str],
    *,
    output: Path,
    command: Sequence[str] = (),
    modulation: Mapping[str, Any],
) -> Path | None:
    """Runs `aim-plugins sweep lm-eval`.

    Args:
        harness_arguments: Arguments of `lm_eval`.
        output: The folder to write.
        command: The words that repeat the sweep, for the report.
        modulation: Arguments of modulations that were given as options.

    Returns:
        The report's path; None in processes other than the first.
    """
    config = parse_harness_arguments(harness_arguments)
    register()
    sweep = read_modulation(
        *(config.model, get_model(config.model), config.model_args, modulation),
        sampled=bool((config.gen_kwargs or {}).get("do_sample")),
    )
    return LmEvalStudy(config, sweep, output, command).run()


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
