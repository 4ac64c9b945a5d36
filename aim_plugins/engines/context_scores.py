"""Scores batches of contexts: one pass for each change of it, and every column from its logits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aim_plugins.engines.answers import scored_receipts
from aim_plugins.engines.contexts import Context, ScoredTokens
from aim_plugins.engines.engine import ScoreRequest, ScoreRow
from aim_plugins.engines.scoring import (
    BrokenModelError,
    NotFiniteLogitsError,
    TokenScores,
    token_log_probabilities,
)
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column, applied, by_forward
from aim_plugins.modulation.noise import prefix_keys
from aim_plugins.modulation.settlement import Settlement
from aim_plugins.modulation.token_weights import Layout
from aim_plugins.modulation.windows import knows_prompt
from aim_plugins.modulation.witness import watched


class ContextScorer:
    """Scores batches of contexts with a transformers model.

    Args:
        model: The model.
        device: Where inputs go.
        softmax_dtype: As in `HuggingFaceEngine`.
        autocast: Makes the context of mixed precision for a pass.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        softmax_dtype: torch.dtype | None,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        self._model, self._device = model, device
        self._softmax_dtype, self._autocast = softmax_dtype, autocast

    def score(
        self,
        requests: Sequence[ScoreRequest],
        batch: Sequence[Context],
        columns: Sequence[Column],
        max_length: int,
    ) -> dict[int, ScoreRow]:
        """The rows of a batch by request.

        Args:
            requests: All requests.
            batch: Contexts of some of them.
            columns: The columns.
            max_length: Longest input in tokens; longer contexts lose their start.

        Raises:
            ValueError: If the model returns NaN, naming the request.
            ReceiptError: If something was not changed as it was asked to be.
        """
        inputs = [
            torch.tensor(context.tokens[-(max_length + 1) :][:-1], dtype=torch.long)
            for context in batch
        ]
        token_ids = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True).to(self._device)
        lengths = [len(tokens) for tokens in inputs]
        targets = ScoredTokens.of(requests, batch, lengths)
        keys = prefix_keys(token_ids).reshape(-1)[targets.scored]
        layout = Layout(
            torch.tensor(
                [
                    length - len(context.continuation) + 1
                    for length, context in zip(lengths, batch, strict=True)
                ]
            )
        )
        found: list[tuple[Tensor, ...]] = [()] * len(columns)
        sites: list[list[dict[Change, int]]] = [[]] * len(columns)
        for changes, members in by_forward(columns).items():
            logits, acted = self.forward(token_ids, changes, layout)
            try:
                scores = self._token_scores(
                    logits, keys, targets, [columns[index] for index in members]
                )
            except NotFiniteLogitsError as error:
                raise self._explain(error, requests, targets, changes) from error
            for place, index in enumerate(members):
                sites[index] = acted
                found[index] = scores.of(place)
        first_keys = keys.cpu()[targets.position].tolist()
        row_of = {index: row for row, context in enumerate(batch) for index in context.members}
        return {
            index: ScoreRow(
                log_likelihoods=[float(scores[span].sum()) for scores, *_ in found],
                is_greedy=[bool(hits[span].all()) for _, hits, *_ in found],
                clean=[float(clean[span].double().sum()) for _, _, clean, _ in found],
                context_key=first_keys[span.start],
                tokens=list(requests[index].continuation),
                receipts=scored_receipts(
                    columns,
                    [acted[row_of[index]] for acted in sites],
                    [int(moved[span].sum()) for *_, moved in found],
                    read=lengths[row_of[index]],
                    scored=span.stop - span.start,
                    label=requests[index].label,
                ),
            )
            for index, span in targets.spans.items()
        }

    def _token_scores(
        self,
        logits: Tensor,
        keys: Tensor,
        targets: ScoredTokens,
        columns: Sequence[Column],
    ) -> TokenScores:
        device = logits.device
        return token_log_probabilities(
            logits.reshape(-1, logits.shape[-1]),
            targets.scored.to(device),
            keys.to(device),
            targets.position.to(device),
            targets.token.to(device),
            columns,
            self._softmax_dtype,
            by_prefix=not any(knows_prompt(change.positions) for change in columns[0].forward),
        )

    def _explain(
        self,
        error: NotFiniteLogitsError,
        requests: Sequence[ScoreRequest],
        targets: ScoredTokens,
        changes: Sequence[Change],
    ) -> ValueError:
        label = next(
            requests[index].label
            for index, span in targets.spans.items()
            if span.start <= error.target < span.stop
        )
        if not changes:
            mend = "try dtype=float32 or another attention implementation"
            return ValueError(f"{error} for {label}: {mend}")
        asked = " and ".join(f"the {one.name} at strength={one.strength}" for one in changes)
        return BrokenModelError(
            f"{error} for {label}: {asked} breaks the model: take a smaller one"
        )

    def forward(
        self, token_ids: Tensor, changes: Sequence[Change] = (), layout: Layout | None = None
    ) -> tuple[Tensor, list[dict[Change, int]]]:
        """Logits of a batch, and for each row the sites at which changes acted."""
        # Right padding needs no mask under causal attention, and the call stays the harness's own.
        with (
            torch.no_grad(),
            self._autocast(),
            watched(self._model) as witness,
            applied(self._model, [changes], layout),
        ):
            logits = self._model(token_ids).logits
        width = token_ids.shape[1]
        sites = Settlement(witness).rows([changes], token_ids, passes=1, layout=layout)
        # Prompt tuning prepends virtual tokens, which have logits but no token ids.
        return logits[:, -width:], sites
