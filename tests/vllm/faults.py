"""Faults that tests put into a running server's worker, and what it keeps of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from aim_plugins.engines.vllm.processor import ChangesVLLMProcessor
from aim_plugins.engines.vllm.steps import RunnerSteps


class Faults:
    """Methods that vLLM adds to its workers (`--worker-extension-cls`), for `/collective_rpc`."""

    model_runner: Any

    def aim_break(self, fault: str) -> None:
        """Puts a fault in."""
        self._mend: Callable[[], Any] = getattr(self, f"_{fault}")()

    def aim_mend(self) -> None:
        """Takes it away."""
        self._mend()

    def aim_kept(self) -> list[int]:
        """How much is kept of answers that are under way or wait to be taken."""
        seen: Any = self.model_runner.aim_answers
        logits: Any = ChangesVLLMProcessor.working(self.model_runner.vllm_config).seen  # type: ignore[union-attr]
        kept = (seen._numbers, seen._strengths, seen._samples, seen._table._rows)
        return [*map(len, kept), *map(len, (logits._steps, logits._unmoved, logits._samples))]

    @property
    def _moving(self) -> nn.Module:
        modules = self.model_runner.get_model().modules()
        return next(one for one in modules if hasattr(one, "aim_slope_0"))

    def _hook_removed(self) -> Callable[[], Any]:
        hooks = dict(self._moving._forward_hooks)
        self._moving._forward_hooks.clear()
        return lambda: self._moving._forward_hooks.update(hooks)

    def _maps_overwritten(self) -> Callable[[], Any]:
        kept = self._moving.aim_slope_1.clone()
        self._moving.aim_slope_1.zero_()
        return lambda: self._moving.aim_slope_1.copy_(kept)

    def _strengths_zeroed(self) -> Callable[[], Any]:
        maps = self.model_runner.aim_maps
        own = maps.before_forward

        def zeroing(step: Any) -> None:
            own(step)
            maps.strengths.zero_()

        def mend() -> None:
            del maps.before_forward
            maps._written[:] = 0  # so that the next step writes

        maps.before_forward = zeroing
        return mend

    def _strengths_swapped(self) -> Callable[[], Any]:
        maps = self.model_runner.aim_maps
        maps._places["praise"], maps._places["sea"] = 1, 0
        names = maps.names
        maps.names = lambda: ["praise", "sea", None]

        def mend() -> None:
            maps._places["praise"], maps._places["sea"] = 0, 1
            maps.names = names

        return mend

    def _listener_gone(self) -> Callable[[], Any]:
        listeners, own = RunnerSteps.of(self.model_runner).listeners, self.model_runner.aim_answers
        listeners.remove(own)
        return lambda: listeners.append(own)

    def _processor_idle(self) -> Callable[[], Any]:
        processor: Any = ChangesVLLMProcessor.working(self.model_runner.vllm_config)
        processor.apply = lambda logits, ctx=None: logits
        return lambda: vars(processor).pop("apply")

    def _transport_gone(self) -> Callable[[], Any]:
        self.model_runner.aim_maps.unload("storm")
        return lambda: None

    def _workers_mute(self) -> Callable[[], Any]:
        self.model_runner.aim_muted = vars(self.model_runner).pop("aim_answers")
        return lambda: setattr(
            self.model_runner, "aim_answers", vars(self.model_runner).pop("aim_muted")
        )
