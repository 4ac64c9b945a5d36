from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from tests.vision_bench.diffusion.conftest import draw
from vision_bench.diffusion.pipelines import denoiser_of
from vision_bench.diffusion.timesteps import RunningCall

PROMPTS = ["a red coat", "a blue boot"]


@pytest.mark.parametrize(
    ("name", "scale", "rows"),
    [("sd", 1.0, 4), ("sdxl", 1.0, 4), ("sd3", 1.0, 4), ("pixart", 1.0, 4), ("flux", 1e-3, 2)],
)
def test_timesteps_are_those_of_the_scheduler(
    name: str, scale: float, rows: int, request: pytest.FixtureRequest
) -> None:
    pipe: DiffusionPipeline = request.getfixturevalue(name)
    found = watched(pipe, num_inference_steps=3)
    steps = [float(one) * scale for one in pipe.scheduler.timesteps]
    assert [one for one, _ in found] == pytest.approx(steps, abs=1e-6)
    assert {count for _, count in found} == {rows}


def test_both_calls_of_a_step_are_at_its_timestep(flux: DiffusionPipeline) -> None:
    guided = {"true_cfg_scale": 3.0, "negative_prompt": ["a"] * 2}
    assert [one for one, _ in watched(flux, **guided)] == [1.0, 1.0, 0.5, 0.5]


def watched(pipe: DiffusionPipeline, **more: object) -> list[tuple[float, int]]:
    """Timestep and rows of each call of a denoiser."""
    call, found = RunningCall(), []
    _, denoiser = denoiser_of(pipe)
    with call.watching(denoiser):
        handle = denoiser.register_forward_hook(lambda *_: found.append((call.timestep, call.rows)))
        draw(pipe, PROMPTS, **more)
        handle.remove()
    return found


class Denoiser(nn.Module):
    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | float | None = None
    ) -> torch.Tensor:
        return sample


@pytest.mark.parametrize("timestep", [7, 7.0, torch.tensor(7), torch.full((3,), 7.0)])
@pytest.mark.parametrize("by_name", [False, True])
def test_timesteps_are_given_in_several_ways(timestep: torch.Tensor | float, by_name: bool) -> None:
    call, denoiser = RunningCall(), Denoiser()
    with call.watching(denoiser):
        if by_name:
            denoiser(timestep=timestep, sample=torch.zeros(3, 1))
        else:
            denoiser(torch.zeros(3, 1), timestep)
    assert (call.timestep, call.rows) == (7.0, 3)


def test_rows_at_several_timesteps_have_no_map() -> None:
    call, denoiser = RunningCall(), Denoiser()
    with call.watching(denoiser):
        denoiser(torch.zeros(2, 1), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="with 2 timesteps at once"):
        _ = call.timestep


def test_calls_without_a_timestep_are_refused() -> None:
    with (
        RunningCall().watching(denoiser := Denoiser()),
        pytest.raises(ValueError, match="its denoiser Denoiser is called without a tensor"),
    ):
        denoiser(torch.zeros(2, 1))
