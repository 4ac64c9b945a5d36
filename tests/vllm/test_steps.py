"""What listeners are told of the steps of either model runner, by runners that only pretend."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from aim_plugins.engines.vllm.steps import RunnerSteps, StepListener

HIDDEN = torch.zeros(5, 2)


class FirstRunner:
    """Names of `vllm.v1.worker.gpu_model_runner.GPUModelRunner`."""

    vllm_config = SimpleNamespace(use_v2_model_runner=False)

    def execute_model(self, scheduled: Any) -> str:
        self.input_batch = SimpleNamespace(
            req_ids=["b", "a", "left"], num_reqs=2, num_computed_tokens_cpu=np.array([7, 0, 3])
        )
        self.query_start_loc = SimpleNamespace(np=np.array([0, 1, 5, 9]))
        self._model_forward(1, positions=2)
        self._get_prompt_logprobs_dict(HIDDEN, {"a": 4, "b": 1})
        return "output"

    def _model_forward(self, input_ids: int, positions: int) -> None: ...

    def _get_prompt_logprobs_dict(self, hidden_states: torch.Tensor, scheduled: dict) -> None: ...


class SecondRunner:
    """Names of `vllm.v1.worker.gpu.model_runner.GPUModelRunner`."""

    vllm_config = SimpleNamespace(use_v2_model_runner=True)

    def __init__(self) -> None:
        self.prompt_logprobs_worker: Any = PromptLogprobsWorker()

    def execute_model(self, scheduled: Any) -> str:
        batch = self.prepare_inputs(scheduled)
        self.prompt_logprobs_worker.compute_prompt_logprobs(None, HIDDEN, batch, 1, 2, 3)
        return "output"

    def prepare_inputs(self, scheduled: Any) -> SimpleNamespace:
        return SimpleNamespace(
            req_ids=["b", "a"],
            num_reqs=2,
            query_start_loc_np=np.array([0, 1, 5, 5, 5]),  # padded for a CUDA graph
            num_computed_tokens_np=np.array([7, 0]),
        )


class PromptLogprobsWorker:
    def compute_prompt_logprobs(self, *arguments: Any) -> None: ...


class Notes(StepListener):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def add_request(self, name: str, extra_args: Any, prompt: Any) -> None:
        self.told.append(("added", name, extra_args, prompt))

    def remove_request(self, name: str) -> None:
        self.told.append(("removed", name))

    def before_forward(self, step: Any) -> None:
        self.told.append(("before", list(step.names), step.rows.tolist(), step.positions.tolist()))

    def after_forward(self, step: Any, hidden_states: torch.Tensor) -> None:
        assert hidden_states is HIDDEN
        self.told.append(("after", list(step.names), step.rows.tolist(), step.positions.tolist()))


def new_request(name: str, extra_args: dict | None) -> SimpleNamespace:
    parameters = SimpleNamespace(extra_args=extra_args)
    return SimpleNamespace(req_id=name, sampling_params=parameters, prompt_token_ids=[1, 2])


@pytest.mark.parametrize("runner_class", [FirstRunner, SecondRunner])
def test_both_runners_tell_the_same_of_a_step(runner_class: type) -> None:
    runner, notes = runner_class(), Notes()
    RunnerSteps.of(runner).listeners.append(notes)
    assert RunnerSteps.of(runner) is runner.aim_steps
    pooled = SimpleNamespace(req_id="b", sampling_params=None, prompt_token_ids=None)
    scheduled = SimpleNamespace(
        finished_req_ids={"a"}, scheduled_new_reqs=[new_request("a", {"aim_std": 1.0}), pooled]
    )
    assert runner.execute_model(scheduled) == "output"
    # A name that is used anew is a new request.
    assert notes.told == [
        ("removed", "a"),
        ("added", "a", {"aim_std": 1.0}, [1, 2]),
        ("added", "b", {}, ()),
        ("before", ["b", "a"], [0, 1, 5], [7, 0]),
        ("after", ["b", "a"], [0, 1, 5], [7, 0]),
    ]


@pytest.mark.parametrize(
    ("runner_class", "missing"),
    [
        (FirstRunner, "_model_forward"),
        (FirstRunner, "_get_prompt_logprobs_dict"),
        (SecondRunner, "prepare_inputs"),
    ],
)
def test_a_function_that_vllm_has_renamed_is_named(
    runner_class: type, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(runner_class, missing)
    with pytest.raises(ImportError, match=f"has no {runner_class.__name__}.{missing}"):
        RunnerSteps(runner_class())


def test_a_rank_without_logits_is_followed_until_the_forward_pass() -> None:
    runner, notes = SecondRunner(), Notes()
    runner.prompt_logprobs_worker = None
    RunnerSteps.of(runner).listeners.append(notes)
    runner.prepare_inputs(None)
    assert [told[0] for told in notes.told] == ["before"]
