from __future__ import annotations

import itertools

import pytest
import torch

from aim_plugins.modulation.activations import AffineMap
from vision_bench.diffusion.placement import RowStrengths, check_pooling, place

STRENGTHS = torch.tensor([0.0, 0.5, -1.0])
INFINITE = float("inf")


def make_map(*, low: float = -INFINITE, high: float = INFINITE, clip: bool = False) -> AffineMap:
    return AffineMap(
        torch.tensor([0.5, 2.0]),
        torch.tensor([0.25, -1.0]),
        torch.full((2,), low),
        torch.full((2,), high),
        clip,
    )


def transport_output(
    output: torch.Tensor, one: AffineMap, strengths: torch.Tensor, axis: int, pooling: str
) -> torch.Tensor:
    return place(one, RowStrengths(strengths, output.device), pooling, output, axis)(output)


def expected(
    output: torch.Tensor, one: AffineMap, axis: int, pooling: str, strengths: torch.Tensor
) -> torch.Tensor:
    """T(x) - x, number by number in Python, of what the pooling transports."""
    moved = output.double().clone()
    for row, neuron in itertools.product(range(len(output)), range(2)):
        values = output.double()[row].select(axis - 1 if axis == 1 else -1, neuron)
        place = moved[row].select(axis - 1 if axis == 1 else -1, neuron)
        whole = pooling == "mean" and axis == 1 and output.dim() > 2
        for index in itertools.product(*map(range, values.shape)):
            x = float(values.mean() if whole else values[index])
            low, high = float(one.support_min[neuron]), float(one.support_max[neuron])
            inside = low < x < high
            source = min(max(x, low), high) if one.clip else x
            target = float(one.scale[neuron]) * source + float(one.shift[neuron])
            step = target - source if inside or one.clip else 0.0
            place[index] += float(strengths[row]) * step
    return moved


@pytest.mark.parametrize("pooling", ["mean", "all"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 2, 4, 3), 1), ((3, 2, 5), 1), ((3, 5, 2), -1), ((3, 4, 3, 2), -1), ((3, 2), -1)],
)
@pytest.mark.parametrize(
    "one",
    [make_map(), make_map(low=-0.5, high=0.5), make_map(low=-0.5, high=0.5, clip=True)],
    ids=["everywhere", "support", "clip"],
)
def test_outputs_move_as_their_maps_were_fitted(
    shape: tuple[int, ...], axis: int, pooling: str, one: AffineMap
) -> None:
    output = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = transport_output(output, one, STRENGTHS, axis, pooling)
    torch.testing.assert_close(
        found.double(), expected(output, one, axis, pooling, STRENGTHS), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("pooling", ["mean", "all"])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "one",
    [make_map(), make_map(low=-1.0), make_map(low=-1.0, clip=True)],
    ids=["everywhere", "support", "clip"],
)
@pytest.mark.parametrize("strengths", [torch.zeros(1), STRENGTHS], ids=["alone", "mixed"])
def test_rows_of_strength_0_keep_every_bit(
    pooling: str, axis: int, dtype: torch.dtype, one: AffineMap, strengths: torch.Tensor
) -> None:
    special = torch.tensor([-0.0, 0.0, 1e-30, INFINITE, -INFINITE, float("nan"), 3.0, -3.0])
    output = special.repeat(len(strengths), 2, 4, 1).movedim(1, axis).to(dtype)
    found = transport_output(output, one, strengths, axis, pooling)[strengths == 0]
    output = output[strengths == 0]
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    numbers = ~output.isnan()  # what is no number has no bits to keep
    assert torch.equal(found[numbers].view(integers), output[numbers].view(integers))
    assert torch.equal(found.isnan(), output.isnan())


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("pooling", ["mean", "all"])
def test_half_precision_is_rounded_once(axis: int, pooling: str) -> None:
    output = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = transport_output(output, make_map(), STRENGTHS, axis, pooling)
    exact = expected(output, make_map(), axis, pooling, STRENGTHS)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


def test_gradients_pass() -> None:
    output = torch.ones(1, 3, 2, requires_grad=True)
    transport_output(output, make_map(), torch.ones(1), -1, "all").sum().backward()
    assert output.grad is not None
    assert output.grad[0, 0].tolist() == [0.5, 2.0]


def test_unknown_poolings_are_refused() -> None:
    with pytest.raises(ValueError, match="pooling='last' is unknown: write 'mean' or 'all'"):
        check_pooling("last")
