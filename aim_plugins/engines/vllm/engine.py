"""Runs a model of vLLM under many modulations at once.

Generation puts every prompt under every column into one continuous batch: requests of different
strengths decode side by side and leave as they finish. Scoring makes one forward pass for each
distinct context and derives all columns from it in the worker.

    llm = LLM(model, **llm_arguments())
    VLLMEngine(llm).generate(prompts, columns, max_length=256)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from vllm import LLM
from vllm.v1.engine.input_processor import InputProcessor

from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.answers import Answer, answers_from_json, answers_to_json
from aim_plugins.engines.conditions import generate_decided, score_decided
from aim_plugins.engines.contexts import (
    check_requests,
    context_batches,
    recalled_scores,
    shared_context,
)
from aim_plugins.engines.engine import (
    BatchSize,
    Journal,
    Prompts,
    ScoreRequest,
    ScoreRow,
)
from aim_plugins.engines.vllm.arguments import WORKER_EXTENSION, keyed_sampling_settings
from aim_plugins.engines.vllm.checkpoint import checkpoint_sample
from aim_plugins.engines.vllm.conditions import (
    check_watched,
    configured_conditions,
    watched_widths,
)
from aim_plugins.engines.vllm.parameters import RequestModulation, extra_args
from aim_plugins.engines.vllm.plugin import why_not
from aim_plugins.engines.vllm.probes import prompt_states
from aim_plugins.engines.vllm.runs import Runs
from aim_plugins.engines.vllm.scores import score_batch
from aim_plugins.engines.vllm.texts import generate_batch
from aim_plugins.engines.vllm.transports import check_maps, configured_maps
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.conditions import Summary
from aim_plugins.modulation.sampling import SAMPLING_VERSION

logger = logging.getLogger(__name__)

_SUBMISSION = 512
"""Contexts, or rows of generation, submitted at a time where finished batches are kept."""


class VLLMEngine:
    """Scores and generates with a model of vLLM.

    Args:
        llm: Made with `llm_arguments`.
        max_length: Longest sequence in tokens; longer contexts lose their start. vLLM always
            decodes a token, so it is at most one less than the engine's `max_model_len`.
        journal: Keeps finished batches, so that an interrupted run goes on where it was.
        lora_request: Adapter that all requests use.

    Attributes:
        transports: Maps of the transports that the engine was made with, by name.
        watched: Sites at which conditions can look at prompts, with their widths.

    Raises:
        ValueError: If the engine cannot modulate, or `max_length` is out of range.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        max_length: int | None = None,
        journal: Journal | None = None,
        lora_request: Any = None,
    ) -> None:
        config = llm.llm_engine.vllm_config
        if reason := why_not(config):
            raise ValueError(reason)
        if not getattr(InputProcessor.__init__, "checks_modulation", False):
            raise ValueError(
                "vLLM has not loaded the plugin of aim-plugins, so that requests of different "
                "strengths would share cached keys and values: leave VLLM_PLUGINS unset, or name "
                "aim_plugins there"
            )
        if config.parallel_config.worker_extension_cls != WORKER_EXTENSION:
            raise ValueError(
                "this vLLM engine was made without the worker extension of aim-plugins: make it "
                "with LLM(model, **llm_arguments())"
            )
        window = config.model_config.max_model_len - 1
        if max_length is not None and not 1 <= max_length <= window:
            raise ValueError(
                f"max_length={max_length!r} is outside 1 to {window}, one less than the engine's "
                f"max_model_len={window + 1}: raise max_model_len, or lower max_length"
            )
        _warn_of_penalties(config.model_config)
        self.llm = llm
        self.max_length = max_length or window
        self.journal = journal
        self.lora_request = lora_request
        self.transports = configured_maps(config)
        self.watched = watched_widths(config, configured_conditions(config))
        self._runs = Runs(llm, self.transports, lora_request)
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model and of the numeric options that shape its answers."""
        if self._fingerprint is None:
            config = self.llm.llm_engine.vllm_config
            self._fingerprint = fingerprint(
                [
                    "vllm",
                    checkpoint_sample(config.model_config, config.load_config),
                    self.max_length,
                    str(config.model_config.dtype),
                    str(config.model_config.quantization),
                    str(config.cache_config.cache_dtype),
                    getattr(self.lora_request, "lora_path", None),
                ]
            )
        return self._fingerprint

    # Scoring ------------------------------------------------------------------------------------

    def score(
        self,
        requests: Sequence[ScoreRequest],
        columns: Sequence[Column],
        *,
        batch_size: BatchSize = 0,
        progress: bool = True,
        on_row: Callable[[int, ScoreRow], None] | None = None,
    ) -> list[ScoreRow]:
        """Scores continuations, from one forward per distinct context and change of activations.

        Args:
            requests: What to score.
            columns: The columns, S of them.
            batch_size: Contexts submitted at a time, 0 for all; vLLM itself decides how many of
                them make a forward pass.
            progress: Whether to show vLLM's progress bars.
            on_row: Called with the index and the row of each request as soon as it is known.

        Returns:
            One row for each request, in their order.

        Raises:
            ValueError: If a context or a continuation is empty, a continuation is longer than the
                model's window, or the model returns NaN; each names the request.
        """
        self._check_columns(columns)
        check_requests(requests, self.max_length)
        score = functools.partial(self._score, batch_size=batch_size, progress=progress)
        return score_decided(self, requests, columns, score, on_row)

    def _score(
        self,
        requests: Sequence[ScoreRequest],
        columns: Sequence[Column],
        on_row: Callable[[int, ScoreRow], None] | None,
        *,
        batch_size: BatchSize,
        progress: bool,
    ) -> list[ScoreRow]:
        """As `score`, of columns without conditions."""
        if batch_size == 0 and self.journal is not None:
            batch_size = _SUBMISSION
        rows: dict[int, ScoreRow] = {}
        for batch in context_batches(requests, batch_size, shared_context(columns)):
            answers = recalled_scores(
                self,
                requests,
                batch,
                columns,
                lambda batch=batch: score_batch(  # type: ignore[misc]
                    self._runs,
                    requests,
                    batch,
                    columns,
                    max_length=self.max_length,
                    progress=progress,
                ),
            )
            for index, row in answers.items():
                rows[index] = row
                if on_row:
                    on_row(index, row)
        return [rows[index] for index in range(len(requests))]

    def _check_columns(self, columns: Sequence[Column]) -> None:
        """Refuses columns that this engine or its requests cannot carry out."""
        for column in columns:
            check_watched(column.conditions, self.watched)
            column = column.decided(dict.fromkeys(column.conditions, True))
            asked, wanted = RequestModulation.read(extra_args(column)), RequestModulation(column)
            check_maps(column.acting_on("activations"), self.transports)
            if asked.logits != wanted.logits or _movements(asked) != _movements(wanted):
                raise ValueError(
                    f"a request asks for {asked.column.changes} where a column has "
                    f"{column.changes}: take one change of a kind, in the order of their "
                    "registration, and let the kind's `request` name all of its arguments"
                )

    # Generation ---------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        columns: Sequence[Column],
        *,
        max_length: int,
        stop: Sequence[str] = (),
        occurrences: Sequence[int] | None = None,
        progress: bool = False,
        stopping_factory: Any = None,
        **options: Any,
    ) -> list[list[Answer]]:
        """Continues every prompt under every column in one continuous batch.

        Args:
            prompts: Left-padded token ids and their mask.
            columns: The columns, S of them.
            max_length: Tokens of the padded prompt and the continuation together.
            stop: Strings after which a continuation is complete; after an empty one it is at once.
            occurrences: How often each prompt was asked before; none was if left out. Sampling
                answers it anew each time; greedy decoding has one answer.
            progress: Whether to show vLLM's progress bar.
            stopping_factory: Of the Hugging Face engine; without effect.
            **options: Of `model.generate` those that are carried out alike: `do_sample` and what
                shapes its distribution, as `temperature` and `top_p`.

        Returns:
            New token ids for each prompt and column, with their receipts; what follows an end token
            or a stop string is of no meaning.

        Raises:
            ReceiptError: If something was not changed as it was asked to be.
            ValueError: If an option is not among those, or out of range.
        """
        self._check_columns(columns)
        model_config = self.llm.llm_engine.vllm_config.model_config
        sampling = keyed_sampling_settings(options, model_config.try_get_generation_config())
        rows = [tokens.tolist() for tokens in prompts.unpadded()]
        room = max_length - prompts.token_ids.shape[1]
        counts = list(occurrences or [0] * len(rows))
        ends = [term for term in stop if term]
        if len(ends) < len(stop):  # an empty string ends every text, which vLLM would refuse
            room = min(room, 1)

        def generate(members: list[int], left: Sequence[Column]) -> list[list[Answer]]:
            step = len(members) if self.journal is None else max(1, _SUBMISSION // len(left))
            answers: list[list[Answer]] = []
            for start in range(0, len(members), max(1, step)):
                part = members[start : start + step]
                own, times = [rows[index] for index in part], [counts[index] for index in part]
                how = {"room": room, "stop": ends, "occurrences": times, "sampling": sampling}
                answers += self._recalled_texts(
                    own,
                    left,
                    how,
                    lambda own=own, how=how: generate_batch(  # type: ignore[misc]
                        self._runs, own, left, progress=progress, **how
                    ),
                )
            return answers

        return generate_decided(self, prompts, columns, generate)

    def _recalled_texts(
        self,
        prompts: Sequence[list[int]],
        columns: Sequence[Column],
        how: Mapping[str, Any],
        generate: Callable[[], list[list[Answer]]],
    ) -> list[list[Answer]]:
        """The texts of a batch that the journal has kept, or else generates and keeps them."""
        if self.journal is None:
            return generate()
        asked: dict[str, Any] = {
            "kind": "generate with receipts",
            "model": self.fingerprint,
            "columns": [column.fingerprint for column in columns],
            "prompts": prompts,
            "options": [how["room"], how["stop"], how["sampling"]],
        }
        if how["sampling"] is not None:
            seeds = [column.seed for column in columns]
            asked["sampling"] = ["keyed", SAMPLING_VERSION, seeds, how["occurrences"]]
        key = fingerprint(asked)
        if (record := self.journal.read_batch(key)) is not None:
            return answers_from_json(record)
        table = generate()
        self.journal.write_batch(key, answers_to_json(table))
        return table

    # Conditions ---------------------------------------------------------------------------------

    def states(
        self, prompts: Sequence[Sequence[int]], watched: Sequence[tuple[str, Summary]]
    ) -> list[list[Tensor]]:
        """The plain model's states of prompts; see `Engine.states` and `probes`.

        Raises:
            ReceiptError: If workers have not seen a whole prompt.
        """
        return prompt_states(self.llm, prompts, watched, self.lora_request)

    def probe(
        self, batch_size: int, length: int, columns: Sequence[Column], *, generation: bool
    ) -> None:
        """Nothing to do: vLLM has taken all its memory at its start and queues what is beyond."""


def _movements(modulation: RequestModulation) -> dict[str, tuple[float, str]]:
    """Strengths and windows of transports, without their maps."""
    return {name: (one.strength, one.window) for name, one in modulation.transports.items()}


def _warn_of_penalties(model_config: Any) -> None:
    """Warns of what transformers would change of the logits before the noise."""
    penalty = model_config.try_get_generation_config().get("repetition_penalty")
    if penalty not in (None, 1.0):
        logger.warning(
            "generation_config.json of %s has repetition_penalty=%s, which is left out here, since "
            "vLLM would apply it after the noise; the Hugging Face engine applies it before",
            model_config.model,
            penalty,
        )
