"""Where rows of `model.generate` end: at end tokens and stop strings, each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

_LEAVING_SHARE = 0.2
"""Decoding pauses when this share of the rows has finished: copying the cache of the others costs
about as much as a step, and a finished row costs its share of every further step."""

StoppingFactory = Callable[[int, int], StoppingCriteriaList]
"""Makes stopping criteria from the length of the padded prompts and the number of rows."""


class _StopStrings:
    """Finds stop strings at the end of rows.

    Args:
        tokenizer: Spells tokens out.
        stop: The stop strings; an empty one is found in every row.
        start: Position of the first new token.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.start = start
        # Tokenizers spell a string in more than one way: look back a little further than it takes.
        self.lookback = 2 + max(
            (len(tokenizer.encode(term, add_special_tokens=False)) for term in stop), default=0
        )

    def found(self, input_ids: Tensor) -> Tensor:
        """Whether each row holds one of them, as booleans [rows]."""
        if not self.stop:
            return input_ids.new_zeros(len(input_ids), dtype=torch.bool)
        tails = self.tokenizer.batch_decode(input_ids[:, self.start :][:, -self.lookback :])
        hits = torch.tensor([any(term in tail for term in self.stop) for tail in tails])
        return hits.to(input_ids.device, non_blocking=True)


class RowEnds(StoppingCriteria):
    """Finishes each row at an end token or a stop string.

    Where each ended stays on the device until it is asked for: a host that reads it at every token
    waits as often. Only stop strings have to be looked for on the host.

    Args:
        tokenizer: Spells tokens out.
        stop: The stop strings.
        ends: The end tokens.
        start: Position of the first new token.
        pause: Whether to end the call of `generate` once enough rows have finished.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], ends: set[int], start: int, *, pause: bool
    ) -> None:
        self.pause = pause
        self.strings = _StopStrings(tokenizer, stop, start)
        self.ends = torch.tensor(sorted(ends), dtype=torch.long)
        self._lengths: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._lengths is None:
            self.ends = self.ends.to(input_ids.device)
            self._lengths = input_ids.new_zeros(len(input_ids))  # 0 of rows that go on
        done = torch.isin(input_ids[:, -1], self.ends) | self.strings.found(input_ids)
        self._lengths.masked_fill_(done & (self._lengths == 0), input_ids.shape[1])
        if self.pause:
            return done | ((self._lengths > 0).sum() >= _LEAVING_SHARE * len(input_ids))
        return done

    def ended_at(self) -> dict[int, int]:
        """Length in tokens of each row that has finished; what follows is padding."""
        lengths = [] if self._lengths is None else self._lengths.tolist()
        return {row: length for row, length in enumerate(lengths) if length}


class BeamEnds(StoppingCriteria):
    """Ends the search of each row once its best candidate holds a stop string.

    That is what lm-evaluation-harness does of a lone prompt. In a batch its criterion takes the
    candidates of the first prompt for the prompts.

    Args:
        tokenizer: Spells tokens out.
        stop: The stop strings.
        start: Position of the first new token.
        rows: Rows that are searched.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int, rows: int) -> None:
        self.strings = [_StopStrings(tokenizer, [term], start) for term in stop]
        self.done = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        candidates = len(input_ids) // len(self.done)
        self.done = self.done.to(input_ids.device)
        for strings in self.strings:
            self.done |= strings.found(input_ids[::candidates])
        return self.done.repeat_interleave(candidates)


def end_tokens(model: Any, generation_kwargs: Mapping[str, Any]) -> set[int]:
    """The tokens at which texts end, told to or by the model's own config."""
    ids = generation_kwargs.get("eos_token_id", model.generation_config.eos_token_id)
    return set(ids if isinstance(ids, list) else [ids]) - {None}
