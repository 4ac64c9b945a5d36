from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import RMSNorm
from torch import nn

from tests.vision_bench.diffusion.conftest import draw
from vision_bench.diffusion.neurons import as_places, neurons_axis, per_neuron
from vision_bench.diffusion.pipelines import denoiser_of


def own_count(module: nn.Module) -> int | None:
    """How many neurons a module says that it has."""
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    if isinstance(module, RMSNorm):
        return module.dim[-1]
    if isinstance(module, nn.Linear):
        return module.out_features
    return getattr(module, "out_channels", None)


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "sd3", "pixart"])
def test_the_axis_has_as_many_neurons_as_the_module_says(
    name: str, request: pytest.FixtureRequest
) -> None:
    pipe: DiffusionPipeline = request.getfixturevalue(name)
    wrong, seen = [], set()

    def check(module: nn.Module, given: Any, out: Any) -> None:
        count, first = own_count(module), out[0] if isinstance(out, tuple) else out
        if isinstance(count, int) and isinstance(first, torch.Tensor):
            axis = neurons_axis(module, first, "site")
            seen.add(type(module).__name__)
            if first.shape[axis] != count:
                wrong.append((type(module).__name__, axis, tuple(first.shape)))

    _, denoiser = denoiser_of(pipe)
    handles = [one.register_forward_hook(check) for one in denoiser.modules() if one != denoiser]
    try:
        draw(pipe, ["a coat"])
    finally:
        for handle in handles:
            handle.remove()
    assert not wrong
    assert {"Linear", "LayerNorm"} <= seen
    assert ("ResnetBlock2D" in seen) == ("RMSNorm" not in seen and name != "pixart")


@pytest.mark.parametrize("queries", [nn.RMSNorm(8), nn.LayerNorm(8), RMSNorm(8, 1e-6)])
def test_norms_of_queries_are_no_images(queries: nn.Module) -> None:
    """Of four axes, with sizes that would fit an image of 8 channels too."""
    assert neurons_axis(queries, torch.zeros(2, 8, 8, 8), "site") == -1


def test_attention_of_an_image_gives_an_image() -> None:
    attention = Attention(query_dim=8, heads=2, dim_head=4, residual_connection=True)
    image, tokens = torch.zeros(2, 8, 3, 5), torch.zeros(2, 15, 8)
    assert attention(image).shape == image.shape
    assert neurons_axis(attention, image, "site") == 1
    assert neurons_axis(attention, tokens, "site") == -1


def test_unknown_classes_are_refused_where_it_matters() -> None:
    class Odd(nn.Module):
        pass

    assert neurons_axis(Odd(), torch.zeros(2, 3, 4), "site") == -1
    with pytest.raises(ValueError, match=r"'unet.odd'.*\(2, 3, 4, 5\).*of a Odd is not known: cho"):
        neurons_axis(Odd(), torch.zeros(2, 3, 4, 5), "unet.odd")
    with pytest.raises(ValueError, match="not one of rows with neurons: leave it out"):
        neurons_axis(nn.Linear(2, 3), torch.zeros(3), "site")


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("axis", [1, -1])
def test_places_hold_all_neurons_of_a_pixel(shape: tuple[int, ...], axis: int) -> None:
    output = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    places = as_places(output, axis)
    for row, one in enumerate(places):
        vectors = output[row].movedim(axis - 1 if axis == 1 else -1, -1).reshape(-1, shape[axis])
        assert sorted(one.tolist()) == sorted(vectors.tolist())


def test_vectors_of_neurons_broadcast_over_places() -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    image, tokens = torch.zeros(2, 2, 3, 3), torch.zeros(2, 5, 7, 2)
    assert (image + per_neuron(vectors, image, 1))[1, 0].eq(3.0).all()
    assert (tokens + per_neuron(vectors, tokens, -1))[1, :, :, 1].eq(4.0).all()
