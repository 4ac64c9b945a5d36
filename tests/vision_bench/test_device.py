"""Images on an accelerator that is pretended: the CPU's curves, maps and masks."""

from __future__ import annotations

import copy
import csv

import pytest
import torch
import torch.nn.functional as F

from aim_plugins.modulation.masks import WeightMasks
from tests.modulation.test_masks import inputs, small_network
from vision_bench.classification.__main__ import main

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_sweep_takes_the_accelerator_and_gives_the_cpu_s_curves(tmp_path, accelerator):
    words = ("--dataset", "digits", "--model", "resnet20", "--weights", "random", "--limit", "40")
    words += ("--num-perturb-steps", "3", "--perturb-step", "0.1", "--preprocessing", "published")
    tables = {}
    for name, options in {"cpu": ("--device", "cpu"), "default": ()}.items():
        places = ("--output", tmp_path / name, "--logits-cache", tmp_path / f"logits-{name}")
        accelerator.clear()
        assert main([*words, *map(str, places), *options]) == 0
        assert bool(accelerator) == (name == "default")
        with open(tmp_path / name / "sweep.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert len(tables["cpu"]) > 6
    for one, other in zip(tables["default"], tables["cpu"], strict=True):
        assert float(one["value"]) == pytest.approx(float(other["value"]), abs=1e-5)
        assert {**one, **dict.fromkeys(FIGURES)} == {**other, **dict.fromkeys(FIGURES)}


FIGURES = ("value", "stderr", "ci_low", "ci_high")


def test_masks_are_learned_as_on_the_cpu(accelerator):
    def trained(device):
        model, images = small_network().to(device), inputs().to(device)
        masks = WeightMasks(model)
        optimizer = torch.optim.Adam(masks.parameters(), 0.1)
        with masks.training_on(model):
            for _ in range(4):
                loss = F.cross_entropy(model(images), torch.arange(7, device=device) % 5)
                optimizer.zero_grad()
                (loss + 2 * masks.retained_share()).backward()
                optimizer.step()
        return [one.detach().cpu() for one in masks.scores]

    for one, other in zip(trained("pretended"), trained("cpu"), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.fixture
def pipelines(accelerator):
    """A Stable Diffusion on the CPU, and the same on the accelerator."""
    pytest.importorskip("diffusers")
    from tests.vision_bench.diffusion.conftest import made, make_sd

    pipe = made(make_sd)
    there = copy.deepcopy(pipe).to("pretended")
    there.set_progress_bar_config(disable=True)
    return pipe, there


def test_a_pipeline_is_steered_as_on_the_cpu_and_no_step_waits(pipelines, accelerator):
    from tests.vision_bench.diffusion.conftest import draw, random_maps
    from vision_bench.diffusion.steering import ImageMaps

    prompts = ["a red coat", "a blue boot", "striped"]
    maps = {site: {None: one} for site, one in random_maps(pipelines[0]).items()}
    drawn, ours = [], []
    for pipe, steps in ((pipelines[0], 2), (pipelines[1], 2), (pipelines[1], 3)):
        accelerator.clear()
        with ImageMaps(maps).applied(pipe, [0.0, 0.5, 1.0]):
            drawn.append(draw(pipe, prompts, num_inference_steps=steps).cpu())
        ours.append(sum(one.package in ("aim_plugins", "vision_bench") for one in accelerator))
    torch.testing.assert_close(drawn[1], drawn[0], atol=1e-3, rtol=1e-3)
    assert ours[0] == 0 < ours[1] == ours[2]


def test_image_maps_are_those_of_the_cpu(pipelines):
    from tests.vision_bench.diffusion.test_fit import FEW, Layout, fit

    wanted, found = (
        fit(pipe, Layout(FEW), num_inference_steps=1, batch_size=4).maps.maps for pipe in pipelines
    )
    assert set(found) == set(wanted)
    for site, of_steps in wanted.items():
        for step, one in of_steps.items():
            other = found[site][step]
            torch.testing.assert_close(other.scale, one.scale, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(other.shift, one.shift, atol=1e-3, rtol=1e-3)
