"""What vLLM's model runners compute at each step, told to whoever listens.

vLLM has two model runners. The second one (`vllm.v1.worker.gpu.model_runner`) is the default
wherever Triton is active, so on every GPU; the first one runs everywhere else. Both keep the tokens
of a step in one flat batch, but name their requests and the functions around the model's forward
pass differently. Only this module knows their names: maps of activations and scoring listen here,
and are the same on both.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.engines.vllm.versions import changed_interface


@dataclass(frozen=True, slots=True)
class Step:
    """The tokens of one step: its row `rows[i] + j` is token `positions[i] + j` of `names[i]`.

    Attributes:
        names: Names of the requests, in the order of the batch.
        rows: First row of each request, and one past the last row of all.
        positions: Position of each request's first token of this step.
    """

    names: Sequence[str]
    rows: Int[np.ndarray, " requests_and_one"]
    positions: Int[np.ndarray, " requests"]


class StepListener:
    """Whoever is told of requests and steps; what is not overridden is ignored."""

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """A request has come, or comes again after a preemption."""

    def remove_request(self, name: str) -> None:
        """A request has gone."""

    def before_forward(self, step: Step) -> None:
        """The model is about to run, on this very step."""

    def after_forward(self, step: Step, hidden_states: Tensor) -> None:
        """The model has run; on the rank alone that computes logits."""


class RunnerSteps:
    """Tells listeners what one worker's model runner does.

    Args:
        runner: The runner, after it has loaded its model.

    Attributes:
        listeners: Those who are told; requests that came before are unknown to them.

    Raises:
        ImportError: If this release of vLLM has renamed a function that has to be followed.
    """

    def __init__(self, runner: Any) -> None:
        self.listeners: list[StepListener] = []
        _wrap(runner, "execute_model", before=self._follow_requests)
        if runner.vllm_config.use_v2_model_runner:
            self._follow_second(runner)
        else:
            self._follow_first(runner)

    @classmethod
    def of(cls, runner: Any) -> RunnerSteps:
        """Those of a runner, which are made when they are first asked for."""
        if not hasattr(runner, "aim_steps"):
            runner.aim_steps = cls(runner)
        return runner.aim_steps

    def _follow_requests(self, scheduled: Any, *_: Any, **__: Any) -> None:
        for listener in self.listeners:
            for name in scheduled.finished_req_ids:
                listener.remove_request(name)
            for new in scheduled.scheduled_new_reqs:
                parameters = new.sampling_params  # a pooling model's request has none
                extra_args = (parameters and parameters.extra_args) or {}
                listener.add_request(new.req_id, extra_args, new.prompt_token_ids or ())

    def _follow_first(self, runner: Any) -> None:
        def step() -> Step:
            batch, count = runner.input_batch, runner.input_batch.num_reqs
            return Step(
                batch.req_ids[:count],
                runner.query_start_loc.np[: count + 1],
                batch.num_computed_tokens_cpu[:count],
            )

        _wrap(runner, "_model_forward", before=lambda *_, **__: self._before(step()))
        _wrap(
            runner,
            "_get_prompt_logprobs_dict",
            before=lambda hidden_states, _: self._after(step(), hidden_states),
        )

    def _follow_second(self, runner: Any) -> None:
        def step(batch: Any) -> Step:
            return Step(
                batch.req_ids,
                batch.query_start_loc_np[: batch.num_reqs + 1],
                batch.num_computed_tokens_np,
            )

        _wrap(runner, "prepare_inputs", after=lambda batch: self._before(step(batch)))
        if (worker := runner.prompt_logprobs_worker) is not None:
            _wrap(
                worker,
                "compute_prompt_logprobs",
                before=lambda _, hidden, batch, *__: self._after(step(batch), hidden),
            )

    def _before(self, step: Step) -> None:
        for listener in self.listeners:
            listener.before_forward(step)

    def _after(self, step: Step, hidden_states: Tensor) -> None:
        for listener in self.listeners:
            listener.after_forward(step, hidden_states)


def _wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[[Any], None] | None = None,
) -> None:
    """Lets a method of one object tell its arguments beforehand, or its result afterwards."""
    original = getattr(owner, name, None)
    if original is None:
        raise changed_interface(f"{type(owner).__name__}.{name}")

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments, **options)
        result = original(*arguments, **options)
        if after is not None:
            after(result)
        return result

    setattr(owner, name, wrapped)


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Values on a device, without waiting for what it computes at the time."""
    host = torch.from_numpy(values)
    if device.type == "cpu":
        return host
    # The allocator of pinned memory keeps it until the copy is done.
    return host.pin_memory().to(device, non_blocking=True)


class Arriving:
    """Values on their way to the host, without waiting for what their device computes at the time.

    Args:
        values: The values, which nobody writes to any more.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)  # into pinned memory
        self._copied = None if values.device.type == "cpu" else torch.Event(values.device)
        if self._copied is not None:
            self._copied.record()

    def has_come(self) -> bool:
        """Whether the values are there."""
        return self._copied is None or self._copied.query()

    def array(self) -> np.ndarray:
        """The values; waits for them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.numpy()


@contextlib.contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """What is computed in the block, and waited for, waits for nothing else on the device."""
    if device.type == "cpu":
        yield
        return
    with _side_stream(device):
        yield


@functools.cache
def _side_stream(device: torch.device) -> torch.Stream:
    """One for all calls, as blocks of memory are kept for the stream that asked for them."""
    return torch.Stream(device)
