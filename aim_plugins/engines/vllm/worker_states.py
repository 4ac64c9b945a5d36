"""States of prompts inside vLLM's workers, which conditions are decided by, eager or compiled.

A prompt that is watched has a slot, and a slot has two rows of numbers at every site: the sum of
the states of all its tokens, and the state of the last. Which tokens of a step go where is a matrix
of zeros and ones, so that a step costs each site one small product, whatever its batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aim_plugins.core.signature import check_shared_weights
from aim_plugins.engines.vllm.steps import RunnerSteps, Step, StepListener, to_device
from aim_plugins.engines.vllm.worker_maps import activations_of, is_in_stack
from aim_plugins.modulation.conditions import SUMMARIES, Condition
from aim_plugins.modulation.hooks import find_module
from aim_plugins.modulation.sites import split_site

SLOTS = 32
"""Prompts that can be watched at a time."""

SLOT_ARGUMENT = "_aim_watched"
"""Entry of a request's `extra_args` that has its prompt watched: the slot, and if not all tokens of
the prompt count, how many do."""

_ROWS = len(SUMMARIES)


def attach_after_loading(
    worker: Any, conditions: Iterable[Condition], widths: Mapping[str, int]
) -> None:
    """Lets a worker watch sites once its model is loaded.

    Args:
        worker: The worker.
        conditions: The engine's; those of another model are refused.
        widths: Widths of all sites that are watched.
    """
    load_model = worker.load_model

    @functools.wraps(load_model)
    def load(*arguments: Any, **options: Any) -> None:
        load_model(*arguments, **options)
        runner = worker.model_runner
        if not hasattr(runner, "aim_states"):
            model = runner.get_model()
            for known in (one.metadata for one in conditions if one.metadata is not None):
                known.refuse(check_shared_weights(model, known.model_signature))
            runner.aim_states = WatchedStates(runner, widths)
            RunnerSteps.of(runner).listeners.append(runner.aim_states)
            worker.aim_states = runner.aim_states.states

    worker.load_model = load


class WatchedStates(StepListener):
    """What the model of one worker makes of the prompts that are watched.

    Sums and the matrix of a step keep their addresses and are written in place, so that compiled
    graphs and CUDA graphs work on them when they run. Sums have a column more, which counts their
    tokens: those of a site that did not run, or of a prompt that is not whole, are told by it.

    Args:
        runner: The worker's model runner, after it has loaded its model.
        widths: Widths of the sites.

    Raises:
        ValueError: If the model has not one of them.
    """

    def __init__(self, runner: Any, widths: Mapping[str, int]) -> None:
        config, size = runner.vllm_config, (runner.max_num_tokens, SLOTS * _ROWS)
        # Compiled graphs are kept by a hash of the configuration.
        config.additional_config["aim_watched_sites"] = dict(sorted(widths.items()))
        self._may_skip = bool(config.model_config.enforce_eager)
        self._rows = 0  # that the step before wrote
        self.summed = torch.zeros(size, device=runner.device)
        self._sums: dict[str, Tensor] = {}
        self._slots: dict[str, int] = {}
        self._lengths = [0] * SLOTS
        for site, width in widths.items():
            self._sums[site] = torch.zeros((size[1], width + 1), device=runner.device)
            self._attach(runner.get_model(), site, width)

    def _attach(self, model: Any, site: str, width: int) -> None:
        name, output = split_site(site)
        if output:
            raise ValueError(f"site {site!r}: vLLM modules have one output, name it without ':k'")
        try:
            module = find_module(model, name)
        except ValueError as error:
            raise ValueError(
                f"a condition looks at {site!r}: {error}. vLLM fuses some modules (q, k and v; "
                "gate and up): choose norms, o_proj, down_proj, blocks or whole layers"
            ) from error
        in_stack = is_in_stack(model, next(n for n, one in model.named_modules() if one is module))
        # Buffers of the module, so that a compiled graph writes to them instead of to copies.
        module.register_buffer("aim_summed", self.summed, persistent=False)
        module.register_buffer("aim_sums", self._sums[site], persistent=False)

        def hook(module: Any, inputs: Any, outputs: Any) -> None:
            if self._may_skip and not self._rows:
                return
            states = activations_of(outputs, in_stack=in_stack).float()
            if states.shape[1:] != (width,):
                raise ValueError(
                    f"module {site!r} has {list(states.shape[1:])} neurons on this worker, the "
                    f"direction of its condition {width}: choose norms or whole layers"
                )
            # Zero times what is not finite would spoil the sums of others: of tokens that pad a
            # step, or that a transport has driven beyond float32.
            finite = states.isfinite().all(dim=1, keepdim=True)
            counted = torch.cat([torch.where(finite, states, 0.0), finite.float()], dim=1)
            module.aim_sums.add_(module.aim_summed[: len(states)].T @ counted)

        module.register_forward_hook(hook)

    def add_request(self, name: str, extra_args: Mapping[str, Any], prompt: Sequence[int]) -> None:
        """Takes the prompt of a request that has a slot, from whoever had it."""
        if SLOT_ARGUMENT not in extra_args:
            return
        slot, *count = extra_args[SLOT_ARGUMENT]
        self._slots = {one: other for one, other in self._slots.items() if other != slot}
        self._slots[name] = slot
        self._lengths[slot] = min([len(prompt), *count])
        self._clear(slot)

    def remove_request(self, name: str) -> None:
        """Forgets a request; the states of its prompt stay until another one has its slot."""
        self._slots.pop(name, None)

    def _clear(self, slot: int) -> None:
        for sums in self._sums.values():
            sums[slot * _ROWS : (slot + 1) * _ROWS].zero_()

    def before_forward(self, step: Step) -> None:
        """Writes which tokens of the step that is about to run are summed where."""
        if not self._slots and not self._rows:
            return
        own = [
            (row, self._slots[name]) for row, name in enumerate(step.names) if name in self._slots
        ]
        # What the step before wrote is cleared.
        rows, self._rows = self._rows, int(step.rows[-1]) if own else 0
        if not (rows := max(rows, self._rows)):
            return
        summed = np.zeros((rows, self.summed.shape[1]), dtype=np.float32)
        for row, slot in own:
            first, (start, stop) = step.positions[row], step.rows[row : row + 2]
            if first == 0:  # also again, after a preemption
                self._clear(slot)
            place, length = slot * _ROWS, self._lengths[slot]
            summed[start : min(stop, start + max(0, length - first)), place] = 1
            if start <= (last := start + length - 1 - first) < stop:
                summed[last, place + 1] = 1
        self.summed[:rows].copy_(to_device(summed, self.summed.device), non_blocking=True)

    def states(self, slots: Sequence[int], watched: Sequence[tuple[str, str]]) -> list[Any]:
        """The states of prompts.

        Args:
            slots: Their slots.
            watched: Sites, and which summary of the states there.

        Returns:
            For each slot its states, or why it has none, since an error would end the engine.
        """
        sums = {
            site: self._sums[site].view(SLOTS, _ROWS, -1)[list(slots)].cpu() for site, _ in watched
        }
        return [
            self._states_of(slot, {site: one[place] for site, one in sums.items()}, watched)
            for place, slot in enumerate(slots)
        ]

    def _states_of(
        self, slot: int, sums: Mapping[str, Tensor], watched: Sequence[tuple[str, str]]
    ) -> list[list[float]] | str:
        states = []
        for site, summary in watched:
            row = SUMMARIES.index(summary)
            seen, wanted = float(sums[site][row, -1]), (self._lengths[slot], 1)[row]
            if seen != wanted:
                return (
                    f"of the {wanted} tokens of a prompt that count, {seen:.0f} had finite states "
                    f"at {site!r}"
                )
            states.append((sums[site][row, :-1] / seen).tolist())
        return states
