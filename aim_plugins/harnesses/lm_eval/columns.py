"""What every backend with a table of columns does alike for lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aim_plugins.engines.engine import (
    Engine,
    Modulation,
    ScoreRow,
    fingerprint,
    modulation_columns,
)

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TRANSPORT_OPTIONS = ("transport", "strength", "force_transport")
OPTIONS = ("noise_std", "noise_mean", "noise_seed", "noise_draws", *TRANSPORT_OPTIONS)


class ColumnAnswers:
    """Answers requests under one column, or hands out the table of them all.

    Attributes:
        takes_transport: Whether the model transports activations, see
            `transport.TransportArguments`.
        columns: The modulations that requests are answered under.
        engine: Runs the model.
    """

    takes_transport = False
    columns: Sequence[Modulation]
    engine: Engine

    # Arguments ----------------------------------------------------------------------------------

    def _modulations(self, *noise: Any) -> tuple[Modulation, ...]:
        """The columns of arguments of the noise, before the model is loaded."""
        return modulation_columns(*noise)

    @staticmethod
    def refuse_transport(given: Mapping[str, Any], instead: str) -> None:
        """Refuses arguments of a transport for a model that has none.

        Args:
            given: What is left of the model's arguments.
            instead: Name of the model that takes them.

        Raises:
            ValueError: If one is among them.
        """
        if wrong := [name for name in TRANSPORT_OPTIONS if name in given]:
            raise ValueError(
                f"{wrong[0]}={given[wrong[0]]!r} belongs to an activation transport, which this "
                f"model has not: use --model {instead}"
            )

    @staticmethod
    def refuse_model_options(given: Mapping[str, Any]) -> None:
        """Refuses arguments of the model among those of a generation.

        Raises:
            ValueError: If one is among them.
        """
        if wrong := sorted(set(given) & set(OPTIONS)):
            raise ValueError(f"{wrong[0]} is an argument of the model: give it in --model_args")

    # Each backend computes its tables.

    def score(self, requests: list[Instance], disable_tqdm: bool = False) -> list[ScoreRow]:
        """Log-likelihoods of the requests' continuations, [N] rows of [S]."""
        raise NotImplementedError

    def score_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[list[float]]:
        """Log-likelihoods of whole texts, [N] rows of [S], in nats."""
        raise NotImplementedError

    def generate(self, requests: list[Instance], disable_tqdm: bool = False) -> list[list[str]]:
        """Texts that continue the requests' contexts, [N] rows of [S]."""
        raise NotImplementedError

    # What the harness calls ---------------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        self._require_one_column()
        return [self.answer("loglikelihood", row, 0) for row in self.score(requests, disable_tqdm)]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        self._require_one_column()
        return [row[0] for row in self.score_rolling(requests, disable_tqdm)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._require_one_column()
        return [row[0] for row in self.generate(requests, disable_tqdm)]

    def table(self, request_type: str, requests: list[Instance]) -> list[Any]:
        """Answers requests under every column: one row for each request, see `answer`."""
        methods: dict[str, Callable[[list[Instance]], list[Any]]] = {
            "loglikelihood": self.score,
            "loglikelihood_rolling": self.score_rolling,
            "generate_until": self.generate,
        }
        return methods[request_type](requests)

    @staticmethod
    def answer(request_type: str, row: Any, column: int) -> Any:
        """One entry of a table in the form that the harness expects."""
        if request_type == "loglikelihood":
            return row.log_likelihoods[column], row.is_greedy[column]
        return row[column]

    @staticmethod
    def check(request_type: str, requests: list[Instance]) -> None:
        """Refuses requests that have no answer, before anything is computed.

        Raises:
            ValueError: If a continuation is empty, naming its document.
        """
        for request in requests if request_type == "loglikelihood" else ():
            if request.args[1] == "":
                raise ValueError(
                    f"document {request.doc_id} of task {request.task_name!r} has an empty "
                    "continuation, which has no log-likelihood: drop the choice, or give it at "
                    "least one token"
                )

    def _require_one_column(self) -> None:
        if len(self.columns) > 1:
            raise RuntimeError(
                f"this model answers under {len(self.columns)} columns at once: evaluate it with "
                "lm_eval.simple_evaluate, the lm_eval command, or `aim-plugins sweep lm-eval`"
            )

    # Caches -------------------------------------------------------------------------------------

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Puts the model and its modulation into the keys of `--use_cache`.

        The harness keys a cached answer by the request alone, so one file would hand answers of
        one modulation to another.

        Raises:
            ValueError: If the model has several columns: a sweep keeps its own records.
        """
        if cache_hook.dbdict is not None:
            if len(self.columns) > 1:
                raise ValueError(
                    "--use_cache holds one answer for a request and this model gives "
                    f"{len(self.columns)}: `aim-plugins sweep lm-eval` keeps and resumes them all"
                )
            prefix = fingerprint(
                {
                    "model": self.engine.fingerprint,
                    "columns": [column.fingerprint for column in self.columns],
                    "text": self._text_settings(),
                }
            )
            cache_hook.dbdict.encode_key = lambda key: f"{prefix}:{key}"
            cache_hook.dbdict.decode_key = lambda key: key.split(":", 1)[-1]
        super().set_cache_hook(cache_hook)  # type: ignore[misc]

    def _text_settings(self) -> dict[str, Any]:
        """How text becomes tokens and tokens become text, as far as the harness can be told."""
        raise NotImplementedError

    def get_model_info(self) -> dict[str, Any]:
        """The harness's record of the model, with the modulation."""
        known = getattr(super(), "get_model_info", dict)
        return known() | {
            "model_fingerprint": self.engine.fingerprint,
            "modulation_fingerprints": [column.fingerprint for column in self.columns],
        }
