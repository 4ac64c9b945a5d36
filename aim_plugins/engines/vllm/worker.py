"""Scoring inside vLLM's workers: log-likelihoods of prompts under every column, from one forward.

Changes of logits leave the forward pass as it is, and vLLM hands the hidden states of all tokens
of a step to the function that computes log-probabilities of prompts. `Scoring` listens there: it
takes the positions that are scored, computes their logits some rows at a time, and keeps nothing
but sums for each request and column. vLLM's own log-probabilities of prompts would send the
values of one strength, or with `prompt_logprobs=-1` the whole vocabulary, from the worker for every
token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aim_plugins.engines.scoring import NotFiniteLogitsError, token_log_probabilities
from aim_plugins.engines.vllm.parameters import RequestModulation
from aim_plugins.engines.vllm.steps import RunnerSteps, Step, StepListener
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.noise import prefix_keys

INDEX_ARGUMENT = "_aim_context"
"""Entry of a request's `extra_args` that says which context of the table it is."""

_LOGITS_AT_A_TIME = 2**25
"""Logits computed in one go, some 128 MiB in float32; vLLM itself takes all positions at once."""

ContextScore = tuple[list[float], list[bool], float, int, list[int]]
"""Log-likelihoods, greediness, clean log-likelihood, key of the first scored position, and how many
targets of each column had logits that came out otherwise."""

ContextScores = list[ContextScore] | None
"""Those of each member of a context; None if the model returned NaN."""


@dataclass
class ScoredContext:
    """A prompt whose last tokens predict the continuations of one or more requests.

    Attributes:
        continuations: Token ids of each member's continuation. All of them end one token after the
            prompt.
        columns: Number of columns.
        keys: Prefix keys of the prompt, once it is known.
        length: Tokens of the prompt.
        done: Positions before this one have been scored.
        broken: Whether the model returned NaN.
    """

    continuations: list[list[int]]
    columns: int
    keys: Tensor | None = None
    length: int = 0
    done: int = 0
    broken: bool = False
    sums: Tensor = field(init=False)
    greedy: Tensor = field(init=False)
    clean: Tensor = field(init=False)
    moved: Tensor = field(init=False)

    def __post_init__(self) -> None:
        members = len(self.continuations)
        self.sums = torch.zeros(members, self.columns, dtype=torch.float64)
        self.greedy = torch.ones(members, self.columns, dtype=torch.bool)
        self.clean = torch.zeros(members, dtype=torch.float64)
        self.moved = torch.zeros(members, self.columns, dtype=torch.int64)

    def begin(self, prompt: Sequence[int]) -> None:
        """Takes the prompt; again after a preemption, which changes nothing."""
        if self.keys is None:
            self.keys = prefix_keys(torch.tensor([prompt]))[0]
            self.length = len(prompt)
            self.done = len(prompt) - max(map(len, self.continuations))

    def positions(self, first: int, stop: int) -> range:
        """Positions from `first` up to `stop` that have to be scored now.

        Raises:
            RuntimeError: If positions before `first` have been left out.
        """
        if first > self.done:
            raise RuntimeError(
                f"vLLM computed from position {first} of a prompt that is scored from {self.done}: "
                "the rest came from its prefix cache, which scoring has to do without"
            )
        # After a preemption vLLM computes positions anew that have been scored.
        return range(self.done, min(stop, self.length))

    def targets(self, position: int) -> Iterator[tuple[int, int]]:
        """Members with a token after a position of the prompt, and that token."""
        for member, tokens in enumerate(self.continuations):
            index = position - (self.length - len(tokens))
            if index >= 0:
                yield member, tokens[index]

    def result(self) -> ContextScores:
        """What the driver is told."""
        if self.broken or self.keys is None:
            return None
        first_keys = [int(self.keys[-len(tokens)]) for tokens in self.continuations]
        found = (self.sums.tolist(), self.greedy.tolist(), self.clean.tolist(), first_keys)
        return list(zip(*found, self.moved.tolist(), strict=True))


@dataclass
class _Position:
    """A position to score: its context, its hidden state and the tokens that follow."""

    context: ScoredContext
    row: int
    key: int
    targets: list[tuple[int, int]]


class Scoring(StepListener):
    """Scores contexts while a model runner computes them.

    Args:
        runner: The runner.
        columns: The columns.
        contexts: What is scored; a request names its context by `INDEX_ARGUMENT`.
        by_prefix: Whether logits depend on the tokens before alone, not on where a prompt ends.
    """

    def __init__(
        self,
        runner: Any,
        columns: list[Column],
        contexts: list[list[list[int]]],
        *,
        by_prefix: bool = True,
    ) -> None:
        self._runner = runner
        self._columns = columns
        self._by_prefix = by_prefix
        self.contexts = [ScoredContext(members, len(columns)) for members in contexts]
        self._by_name: dict[str, ScoredContext] = {}

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """Takes the prompt of a context."""
        number = extra_args.get(INDEX_ARGUMENT)
        if number is not None:
            self._by_name[name] = self.contexts[number]
            self._by_name[name].begin(prompt)

    def remove_request(self, name: str) -> None:
        """Forgets a request; its context keeps what was scored."""
        self._by_name.pop(name, None)

    def after_forward(self, step: Step, hidden_states: Tensor) -> None:
        """Scores what one step has computed of the contexts."""
        waiting = list(self._positions(step))
        if not waiting:
            return
        size = max(1, _LOGITS_AT_A_TIME // self._runner.model_config.get_vocab_size())
        for start in range(0, len(waiting), size):
            block = waiting[start : start + size]
            rows = torch.tensor([position.row for position in block], device=hidden_states.device)
            # Where the vocabulary is spread over devices every worker has to take part.
            logits = self._runner.model.compute_logits(hidden_states[rows])
            if logits is not None:
                _add_scores(block, logits, self._columns, by_prefix=self._by_prefix)

    def _positions(self, step: Step) -> Iterator[_Position]:
        firsts, rows = step.positions.tolist(), step.rows.tolist()
        for index, name in enumerate(step.names):
            if (context := self._by_name.get(name)) is None:
                continue
            first, row = firsts[index], rows[index]
            stop = first + rows[index + 1] - row
            for position in context.positions(first, stop):
                key = int(context.keys[position])  # type: ignore[index]
                yield _Position(
                    context, row + position - first, key, list(context.targets(position))
                )
            context.done = max(context.done, min(stop, context.length))


class ScoringExtension:
    """Methods that vLLM adds to its workers (`worker_extension_cls`), for `collective_rpc`."""

    model_runner: Any

    def aim_begin_scoring(
        self,
        columns: list[dict[str, Any]],
        contexts: list[list[list[int]]],
        by_prefix: bool,
    ) -> None:
        """Scores the requests that follow.

        Args:
            columns: What a request would ask for each column with, as vLLM's messages carry it.
            contexts: The continuations of each context, see `ScoredContext`.
            by_prefix: As in `Scoring`.

        Raises:
            ImportError: If this release of vLLM computes log-probabilities of prompts elsewhere.
        """
        listeners = RunnerSteps.of(self.model_runner).listeners
        # What an earlier call left behind, had it been interrupted.
        listeners[:] = [one for one in listeners if not isinstance(one, Scoring)]
        asked = [RequestModulation.read(column).column for column in columns]
        listeners.append(Scoring(self.model_runner, asked, contexts, by_prefix=by_prefix))

    def aim_finish_scoring(self) -> list[ContextScores] | None:
        """Ends scoring.

        Returns:
            The scores of each context; None from workers that have no logits.
        """
        listeners = RunnerSteps.of(self.model_runner).listeners
        scoring = next(one for one in listeners if isinstance(one, Scoring))
        listeners.remove(scoring)
        if any(context.done < context.length for context in scoring.contexts):
            return None
        return [context.result() for context in scoring.contexts]


def _add_scores(
    block: list[_Position], logits: Tensor, columns: list[Column], *, by_prefix: bool
) -> None:
    device = logits.device
    targets = [
        (index, position.context, member, token)
        for index, position in enumerate(block)
        for member, token in position.targets
    ]
    try:
        scores, hits, clean, moved = token_log_probabilities(
            logits,
            torch.arange(len(block), device=device),
            torch.tensor([position.key for position in block], device=device),
            torch.tensor([index for index, *_ in targets], device=device),
            torch.tensor([token for *_, token in targets], device=device),
            columns,
            torch.float32,
            by_prefix=by_prefix,
        )
    except NotFiniteLogitsError:
        # Minus infinity is a logit like another; the rest has no softmax.
        broken = (logits.isnan() | (logits == torch.inf)).any(dim=1).tolist()
        for position, is_broken in zip(block, broken, strict=True):
            position.context.broken |= is_broken
        return
    sums = torch.stack([column.double() for column in scores], dim=1)
    greedy, others = torch.stack(hits, dim=1), torch.stack(moved, dim=1)
    for index, (_, context, member, _) in enumerate(targets):
        context.sums[member] += sums[index]
        context.greedy[member] &= greedy[index]
        context.moved[member] += others[index]
        context.clean[member] += clean[index].double()
