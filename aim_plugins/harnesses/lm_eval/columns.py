"""What every backend with a table of columns does alike for lm-evaluation-harness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lm_eval import utils
from lm_eval.models.utils import (
    Collator,
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from aim_plugins.core.files import check_model_name
from aim_plugins.core.identity import fingerprint
from aim_plugins.engines.answers import Answer
from aim_plugins.engines.engine import (
    BatchSize,
    Engine,
    ScoreRequest,
    ScoreRow,
)
from aim_plugins.harnesses.lm_eval.arguments import check_model_arguments
from aim_plugins.harnesses.lm_eval.files import hush_git
from aim_plugins.harnesses.lm_eval.receipts import carrying
from aim_plugins.modulation.arguments import (
    argument_names,
    describe_columns,
    read_columns,
    split_arguments,
)
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.receipts import Receipt, check_receipts

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""Texts of a request, token ids of its context and of its continuation."""


@dataclass(frozen=True)
class Decoding:
    """How a request is answered with a text.

    Attributes:
        options: Arguments for the engine as `hf` passes them.
        stop: Strings at which the answer is cut.
        ends: Strings at which decoding ends. Of a model that reasons first the end token alone:
            stop strings, which may stand in the reasoning, apply to what follows it.
        new_tokens: How many tokens may be decoded.
    """

    options: dict[str, Any]
    stop: list[str]
    ends: list[str]
    new_tokens: int


class ColumnAnswers:
    """Answers requests under one column, or hands out the table of them all.

    Attributes:
        required: Arguments of modulations without which the model makes no sense.
        columns: The columns that requests are answered under.
        engine: Runs the model.
    """

    required: ClassVar[tuple[str, ...]] = ()
    columns: Sequence[Column]
    engine: Engine

    if TYPE_CHECKING:  # of the harness's class beside which this one stands
        cache_hook: Any
        max_gen_toks: int
        prefix_token_id: int
        tokenizer: Any

        @property
        def max_length(self) -> int: ...

        def tok_encode(self, string: str) -> list[int]: ...

    # Arguments ----------------------------------------------------------------------------------

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> Any:
        """Makes the model that the harness's command asks for; see `check_model_arguments`."""
        check_model_arguments(arg_dict, additional_config or {})
        # Not before: a finished sweep is drawn again without its model.
        check_model_name(str(arg_dict["pretrained"]), "pretrained")
        hush_git()
        return super().create_from_arg_obj(arg_dict, additional_config)  # type: ignore[misc]

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> Any:
        """The same, of arguments in a string."""
        return cls.create_from_arg_obj(
            utils.simple_parse_args_string(arg_string), additional_config
        )

    def take_arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Reads the columns, before the model is loaded.

        Args:
            given: Arguments of the model.

        Returns:
            What is left for the harness's class, and in the end for transformers or vLLM.

        Raises:
            ValueError: If an argument of a modulation is misspelt, malformed or missing.
        """
        ours, rest = split_arguments(given)
        self.columns = read_columns(ours, self.required)
        return rest

    def check_model(self, model: Any, tokenizer: Any) -> None:
        """Refuses a loaded model that a change was not made for."""
        for change in dict.fromkeys(change for column in self.columns for change in column.changes):
            change.check_model(model, tokenizer)

    # What the backends' tables have in common ----------------------------------------------------

    def _score_tokens(
        self, requests: Sequence[TokenRequest], batch_size: BatchSize, progress: bool
    ) -> list[ScoreRow]:
        """Log-likelihoods of continuations; the first column's go to the harness's own cache.

        Raises:
            ReceiptError: If the engine has no receipt of a row.
        """

        def keep(index: int, row: ScoreRow) -> None:
            check_receipts(row.receipts, self.columns, _describe(requests[index][0]))
            if (cache_key := requests[index][0]) is not None:
                self.cache_hook.add_partial(
                    "loglikelihood", cache_key, self.answer("loglikelihood", row, 0)
                )

        return self.engine.score(
            [
                ScoreRequest(context, continuation, _describe(key))
                for key, context, continuation in requests
            ],
            self.columns,
            batch_size=batch_size,
            progress=progress,
            on_row=keep,
        )

    def _rolling_windows(
        self, requests: Sequence[Instance]
    ) -> tuple[list[TokenRequest], list[int]]:
        """Windows that score every token of the requests' texts once, and whose each window is."""
        windows: list[TokenRequest] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            pairs = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, continuation in map(utils.make_disjoint_window, pairs):
                windows.append((None, context, continuation))
                owners.append(index)
        return windows, owners

    def _rolling_totals(
        self, requests: Sequence[Instance], owners: Sequence[int], rows: Iterable[ScoreRow]
    ) -> list[list[float]]:
        """Sums of the windows' log-likelihoods, [N] rows of [S], with the windows' receipts."""
        # From the integer, so that a text without tokens has the harness's 0, not 0.0.
        totals: list[list[float]] = [[0] * len(self.columns) for _ in requests]
        parts: list[list[Sequence[Any]]] = [[] for _ in requests]
        for owner, row in zip(owners, rows, strict=True):
            parts[owner].append(row.receipts)
            for column, value in enumerate(row.log_likelihoods):
                totals[owner][column] += value
        for total, own in zip(totals, parts, strict=True):
            receipts = list(map(Receipt.together, zip(*own, strict=True)))
            receipts = receipts or list(map(Receipt.of_nothing, self.columns))
            total[:] = map(carrying, total, receipts)
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total[0])
        return totals

    def _order_to_generate(self, requests: Sequence[Instance]) -> Collator:
        """Batches of (context, arguments, occurrence) of one kind, the longest contexts first.

        The harness repeats a request for every sample it wants of it: these are its occurrences.
        """
        asked: Counter[tuple[Any, ...]] = Counter()
        entries = []
        for request in requests:
            identity = (request.task_name, request.doc_id, request.idx, request.args[0])
            entries.append((*request.args, asked[identity]))
            asked[identity] += 1
        return Collator(
            entries,
            sort_fn=lambda entry: (-len(self.tok_encode(entry[0])), entry[0]),
            group_by="gen_kwargs",
            group_fn=lambda entry: entry[1],
        )

    def _read_generation_arguments(self, given: Mapping[str, Any], end: str) -> Decoding:
        """Takes apart the arguments of a generation.

        Args:
            given: The arguments of a request.
            end: The end token's text.

        Raises:
            ValueError: If an argument belongs to the model, a stop string is no text, or the new
                tokens leave no room.
        """
        options: dict[str, Any] = normalize_gen_kwargs(dict(given), self.max_gen_toks)
        _settle_sampling(options)
        if wrong := sorted(set(options) & set(argument_names(options))):
            raise ValueError(f"{wrong[0]} is an argument of the model: give it in --model_args")
        until = options.pop("until", None)
        if wrong := [term for term in until or () if not isinstance(term, str)]:
            raise ValueError(
                f"until={until!r} holds {wrong[0]!r}, which is no text: "
                f"""give --gen_kwargs '{{"until": ["{wrong[0]}"]}}'"""
            )
        stop = handle_stop_sequences(until, eos=end)
        new_tokens = options.pop("max_gen_toks")
        if new_tokens >= self.max_length:
            raise ValueError(
                f"max_gen_toks={new_tokens} leaves no room for a prompt in a window of "
                f"{self.max_length} tokens: lower it with --gen_kwargs max_gen_toks=…"
            )
        thinks = self._think_end() is not None
        return Decoding(options, stop, [end] if thinks else stop, new_tokens)

    def _think_end(self) -> str | int | None:
        """What ends the reasoning: a token if it is one that texts leave out, else a string."""
        given = getattr(self, "think_end_token", None)
        if isinstance(given, str) and given.isdigit():
            return int(given)
        if given in self.tokenizer.all_special_tokens:
            return self.tokenizer.convert_tokens_to_ids(given)
        return given if given or isinstance(given, int) else None

    def _finish_batch(
        self,
        batch: Sequence[tuple[str, dict[str, Any], int]],
        table: Sequence[Sequence[Answer]],
        stop: list[str],
    ) -> list[list[str]]:
        """Texts of a table's answers with their receipts; the first column's go to the cache.

        Raises:
            ReceiptError: If the engine has no receipt of an answer.
        """
        rows = []
        for (context, options, _), answers in zip(batch, table, strict=True):
            receipts = [one.receipt for one in answers]
            check_receipts(receipts, self.columns, f"the request {context[-60:]!r}")
            texts = [self._finish_text(tokens, stop) for tokens in answers]
            rows.append(list(map(carrying, texts, receipts)))
            self.cache_hook.add_partial("generate_until", (context, options), rows[-1][0])
        return rows

    def _finish_text(self, tokens: list[int], stop: list[str]) -> str:
        """What `hf` makes of generated tokens: no reasoning, nothing from a stop string on."""
        think_end = self._think_end()
        if isinstance(think_end, int) and think_end in tokens:
            tokens = tokens[len(tokens) - tokens[::-1].index(think_end) :]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        if isinstance(think_end, int):
            text, think_end = text.lstrip(), None
        return postprocess_generated_text(text, stop, think_end)

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
        """One entry of a table in the form that the harness expects, carrying its receipt."""
        if request_type == "loglikelihood":
            answer = row.log_likelihoods[column], row.is_greedy[column]
            return carrying(answer, row.receipts[column])
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
                    "answers": "with receipts",
                    "columns": [[column.fingerprint, column.seed] for column in self.columns],
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
            "modulation": describe_columns(self.columns),
        }


def _describe(pair: tuple[str, str] | None) -> str:
    if pair is None:
        return "a rolling window"
    context, continuation = pair
    return f"the request {context[-60:]!r} + {continuation!r}"


def _settle_sampling(options: dict[str, Any]) -> None:
    """Makes decoding greedy unless sampling is asked for, as `hf` does."""
    options.setdefault("temperature", 0.0)
    if options["temperature"] == 0.0 and options.get("do_sample") is None:
        options["do_sample"] = False
    if options["temperature"] == 0.0 and options["do_sample"] is False:
        del options["temperature"]
