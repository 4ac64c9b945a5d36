"""Requests of an engine in this process, each held against what its workers saw of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from vllm import LLM, SamplingParams, TokensPrompt

from aim_plugins.engines.vllm.receipts import check_maps_intact, map_sums, settle, together
from aim_plugins.engines.vllm.watching import NUMBER_ARGUMENT
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column


class Runs:
    """Runs batches of requests.

    Args:
        llm: The engine.
        transports: Maps of its transports, by name.
        lora_request: Adapter that all requests use.
    """

    _numbers = itertools.count()
    """Numbers of requests, none of which comes twice, as engines may keep some of a failed run."""

    def __init__(
        self, llm: LLM, transports: Mapping[str, ActivationMaps], lora_request: Any = None
    ) -> None:
        self.llm = llm
        self._lora_request = lora_request
        self._sums = map_sums(transports)

    def run(
        self,
        prompts: Sequence[list[int]],
        parameters: Sequence[SamplingParams],
        columns: Sequence[Column],
        *,
        contexts: Sequence[int] | None = None,
        progress: bool = False,
    ) -> list[tuple[list[int], dict[Change, int]]]:
        """Runs one request for each prompt.

        Args:
            prompts: Their token ids.
            parameters: Those of each; they are told its number.
            columns: What each asks for.
            contexts: Of what is scored, the tokens of each prompt that count as such for windows.
            progress: Whether to show vLLM's progress bar.

        Returns:
            New token ids of each, and the sites at which its changes of activations acted.

        Raises:
            ReceiptError: If something was not changed as it was asked to be.
        """
        numbers = list(itertools.islice(self._numbers, len(prompts)))
        for number, one in zip(numbers, parameters, strict=True):
            one.extra_args = {**(one.extra_args or {}), NUMBER_ARGUMENT: number}
        try:
            outputs = self.llm.generate(
                [TokensPrompt(prompt_token_ids=tokens) for tokens in prompts],
                parameters,
                use_tqdm=progress,
                lora_request=self._lora_request,
            )
        finally:
            asked: Any = (numbers, [], list(self._sums))
            workers = self.llm.collective_rpc("aim_take_answers", args=asked)
        answers, names = together(workers)
        texts = [list(output.outputs[0].token_ids) for output in outputs]
        found = [
            (
                tokens,
                settle(
                    columns[row],
                    answers[row],
                    transports=names,
                    prompt=len(prompts[row]),
                    new=len(tokens) if contexts is None else 0,
                    place=f"row {row + 1} of {len(prompts)}",
                    context=contexts[row] if contexts else None,
                ),
            )
            for row, tokens in enumerate(texts)
        ]
        check_maps_intact(workers, self._sums)
        return found
