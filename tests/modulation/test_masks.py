"""Masks on weights: their gate, what they retain, and the model they leave behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.masks import (
    WeightMasks,
    binarize,
    magnitude_masks,
    maskable_parameters,
    masked,
    random_masks,
    retained_ratio,
)


def small_network(seed: int = 0) -> nn.Sequential:
    """A convolution, its normalisation, and a linear layer, with statistics of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
        )
        model(torch.randn(8, 3, 6, 6))
    return model.eval()


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in model.state_dict().items()}


def assert_same_to_the_bit(model: nn.Module, before: dict[str, Tensor]) -> None:
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.fixture
def random_binary() -> Callable[[nn.Module], dict[str, Tensor]]:
    def draw(model: nn.Module) -> dict[str, Tensor]:
        return random_masks(model, maskable_parameters(model), 0.6, seed=0)

    return draw


def test_the_gate_is_open_above_zero_and_hands_on_the_clipped_gradient() -> None:
    scores = torch.tensor([-2.0, 0.0, 1e-30, 3.0], requires_grad=True)
    gate = binarize(scores)
    assert gate.tolist() == [0, 0, 1, 1]
    # d(sum c_i b_i)/db = c, clipped to [-1, 1] whatever the scores are.
    (gate * torch.tensor([0.5, -7.0, 2.0, -0.25])).sum().backward()
    assert scores.grad is not None and scores.grad.tolist() == [0.5, -1.0, 1.0, -0.25]


def test_the_gradient_of_the_scores_is_that_of_the_gates_clipped() -> None:
    # By hand, with gates as plain leaves of the graph. MaskConv and MaskLinear of SeaM's code, run
    # side by side, give the same to the bit.
    model, images = small_network(), inputs()
    labels = torch.arange(7) % 5
    masks = WeightMasks(model)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for one in masks.scores:
            one.copy_(torch.randn(one.shape, generator=generator))
    gates = {name: one.float().requires_grad_() for name, one in masks.binary().items()}
    held = {name: one.detach() for name, one in model.named_parameters()}
    held |= {name: held[name] * gates[name] for name in gates}
    # Large logits, so that some gradients are clipped.
    loss = F.cross_entropy(500 * torch.func.functional_call(model, held, images), labels)
    by_hand = torch.autograd.grad(loss, list(gates.values()))
    with masks.training_on(model):
        F.cross_entropy(500 * model(images), labels).backward()
    clipped = 0
    for name, expected in zip(gates, by_hand, strict=True):
        gradient = masks.scores_of(name).grad
        torch.testing.assert_close(gradient, expected.clamp(-1, 1))
        clipped += int((expected.abs() > 1).sum())
    assert clipped > 10
    assert all(one.grad is None for one in model.parameters())


def test_the_penalty_presses_on_every_score_alike() -> None:
    masks = WeightMasks(small_network())
    masks.retained_share().backward()
    total = 3 * 4 * 9 + 4 + 64 * 5 + 5
    for one in masks.scores:
        torch.testing.assert_close(one.grad, torch.full_like(one, 1 / total))


def test_the_retained_ratio_counts_open_gates_of_convolutions_and_linear_layers() -> None:
    model, masks = small_network(), WeightMasks(small_network())
    assert masks.names == ["0.weight", "0.bias", "4.weight", "4.bias"]
    assert masks.retained_ratio() == 1
    with torch.no_grad():
        masks.scores_of("0.weight")[1] = -1  # 27 weights of one filter
        masks.scores_of("4.bias")[:2] = 0
    expected = 1 - 29 / (108 + 4 + 320 + 5)
    assert masks.retained_ratio() == pytest.approx(expected)
    assert retained_ratio(model, masks.binary()) == pytest.approx(expected, abs=1e-12)


def test_a_parameter_without_a_mask_and_a_mask_that_spreads_are_counted_whole() -> None:
    model = small_network()
    columns = torch.ones(1, 64, dtype=torch.bool)
    columns[0, :16] = False
    assert retained_ratio(model, {"4.weight": columns}) == pytest.approx(1 - 16 * 5 / 437)


def test_transposed_linear_layers_of_transformers_are_masked_and_norms_never() -> None:
    model = nn.Sequential(Conv1D(3, 2), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.Conv1d(3, 2, 1))
    assert maskable_parameters(model) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    with pytest.raises(ValueError, match="LayerNorm has neither convolutions nor linear layers"):
        maskable_parameters(nn.LayerNorm(3))


def test_the_projections_inside_of_pytorchs_attention_are_masked_like_linear_layers() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    before, masks = state(model), WeightMasks(model)
    assert masks.names == ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    with torch.no_grad():
        masks.scores_of("in_proj_weight")[8:] = -1  # values become 0, whatever is attended to
    rows = torch.ones(1, 3, 4)
    by_hand = before["out_proj.bias"].expand(1, 3, 4)
    with masks.training_on(model):
        torch.testing.assert_close(model(rows, rows, rows)[0], by_hand)
        model(rows, rows, rows)[0].sum().backward()
    assert masks.scores_of("in_proj_weight").grad[8:].abs().sum() > 0
    with torch.no_grad(), masked(model, masks.binary()):
        torch.testing.assert_close(model(rows, rows, rows)[0], by_hand)
    assert_same_to_the_bit(model, before)
    assert masks.retained_ratio() == pytest.approx(1 - 16 / 80)


def test_masks_act_alike_while_they_are_trained_and_once_they_are_learned(random_binary) -> None:
    model, images = small_network(), inputs()
    binary = random_binary(model)
    masks = WeightMasks(model)
    with torch.no_grad():
        for name in masks.names:
            masks.scores_of(name).copy_(binary[name].float() - 0.5)
        expected = torch.func.functional_call(
            model, {n: p * binary[n] if n in binary else p for n, p in model.named_parameters()},
            images,
        )  # fmt: skip
        with masks.training_on(model):
            torch.testing.assert_close(model(images), expected)
        with masked(model, binary):
            torch.testing.assert_close(model(images), expected)


class Interruption(Exception):
    """Something that happens while masks act."""


def test_masked_restores_the_model_to_the_bit_even_when_the_block_fails(random_binary) -> None:
    model = small_network()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("inf")
        model[0].weight[0, 0, 0, 1] = -0.0
    before = state(model)
    with pytest.raises(Interruption), masked(model, random_binary(model)):
        raise Interruption
    assert_same_to_the_bit(model, before)
    wrong = {"0.weight": torch.zeros(4, 3, 3, 3).bool(), "4.weight": torch.ones(5, 63).bool()}
    with pytest.raises(ValueError, match=r"\(5, 63\), the parameter \(5, 64\)"):
        masked(model, wrong).__enter__()
    assert_same_to_the_bit(model, before)


@pytest.mark.parametrize("fails", [False, True])
def test_training_leaves_the_model_as_it_was(fails: bool) -> None:
    model = small_network().train()
    model[3].eval()
    model[4].bias.requires_grad_(False)
    before, identities = state(model), list(map(id, model.parameters()))
    types = [type(one) for one in model.modules()]
    masks = WeightMasks(model)
    try:
        with masks.training_on(model):
            assert not model[1].training
            model(inputs()).sum().backward()
            if fails:
                raise Interruption
    except Interruption:
        assert fails
    assert_same_to_the_bit(model, before)
    # Optimisers know parameters by identity and order.
    assert list(map(id, model.parameters())) == identities
    assert [type(one) for one in model.modules()] == types
    assert [one.training for one in model] == [True, True, True, False, True]
    flags = [one.requires_grad for one in model.parameters()]
    assert flags == [True, True, True, True, True, False]


def test_a_shared_parameter_has_one_mask_that_acts_wherever_it_stands() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6))
    model[2].weight, model[3].weight = model[1].weight, model[0].weight
    before, masks = state(model), WeightMasks(model)
    assert masks.names == ["1.weight", "1.bias", "2.bias", "3.weight", "3.bias"]
    with torch.no_grad():
        masks.scores_of("1.weight")[0] = -1
        masks.scores_of("3.weight")[:, 1] = -1
    rows = torch.tensor([0, 3, 5])
    square, table = before["1.weight"].clone(), before["0.weight"].clone()
    square[0], table[:, 1] = 0, 0
    hidden = F.linear(table[rows], square, before["1.bias"])
    hidden = F.linear(hidden, square, before["2.bias"])
    expected = F.linear(hidden, table, before["3.bias"])
    with masks.training_on(model):
        torch.testing.assert_close(model(rows), expected)
    with masked(model, masks.binary()):
        torch.testing.assert_close(model(rows), expected)
    assert model[1].weight is model[2].weight and model[0].weight is model[3].weight
    assert_same_to_the_bit(model, before)
    assert retained_ratio(model, masks.binary()) == pytest.approx(1 - (4 + 6) / (16 + 8 + 24 + 6))


def test_a_shared_parameter_that_masks_name_twice_is_restored_all_the_same() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    before = state(model)
    first, second = torch.eye(4).bool(), torch.ones(4, 4).triu().bool()
    with masked(model, {"0.weight": first, "1.weight": second}):
        assert torch.equal(model[1].weight, before["0.weight"] * first)
    assert_same_to_the_bit(model, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_precision_weights_move_by_small_steps(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 2)).to(dtype)
    before, masks = state(model), WeightMasks(model)
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with masks.training_on(model):
        out = model(rows)
        assert out.dtype == dtype
        (100 * out.float().square().sum()).backward()
        torch.optim.SGD(masks.parameters(), 1e-4).step()
    # In half precision 1 - 1e-4 is 1.
    moved = masks.scores_of("1.weight")
    assert moved.dtype == torch.float32 and (moved != 1).any() and (moved.to(dtype) == 1).all()
    with masked(model, masks.binary()):
        assert torch.equal(model(rows), out)
    assert_same_to_the_bit(model, before)


def test_masks_that_were_learned_elsewhere_or_have_no_values_are_refused() -> None:
    model = small_network()
    message = "'4.wieght': the model has no such parameter; nearest: 4.weight; give the model"
    with pytest.raises(ValueError, match=message):
        masked(model, {"4.wieght": torch.ones(1).bool()}).__enter__()
    offloaded = small_network().to("meta")
    with pytest.raises(ValueError, match="not at hand"):
        masked(offloaded, {"4.bias": torch.ones(5).bool()}).__enter__()


def test_a_masked_model_is_exported_as_it_is(random_binary) -> None:
    model, images = small_network(), inputs()
    masks = WeightMasks(model)
    binary = random_binary(model)
    with torch.no_grad():
        for name in masks.names:
            masks.scores_of(name).copy_(binary[name].float() - 0.5)
    with torch.no_grad(), masked(model, binary):
        expected = model(images)
        exported = torch.export.export(model, (images,))
        torch.testing.assert_close(exported.module()(images), expected)
    with torch.no_grad(), masks.training_on(model):
        exported = torch.export.export(model, (images,))
        torch.testing.assert_close(exported.module()(images), expected)


@pytest.mark.parametrize("ratio", [0.0, 0.13, 0.5, 1.0])
def test_magnitude_keeps_the_largest_weights_and_chance_as_many(ratio: float) -> None:
    model = small_network()
    names = maskable_parameters(model)
    largest = magnitude_masks(model, names, ratio)
    drawn = random_masks(model, names, ratio, seed=0)
    values = sorted(
        (abs(one) for name in names for one in model.get_parameter(name).flatten().tolist()),
        reverse=True,
    )
    kept = [
        abs(one)
        for name in names
        for one in model.get_parameter(name)[largest[name]].flatten().tolist()
    ]
    count = round(ratio * len(values))
    assert sorted(kept, reverse=True) == values[:count]
    assert sum(int(one.sum()) for one in drawn.values()) == count


def test_random_masks_are_those_of_their_seed() -> None:
    model = small_network()
    names = maskable_parameters(model)
    once, again, other = (random_masks(model, names, 0.5, seed) for seed in (0, 0, 1))
    assert all(torch.equal(once[name], again[name]) for name in names)
    assert not all(torch.equal(once[name], other[name]) for name in names)


def test_training_masks_is_the_same_every_time() -> None:
    def trained() -> list[Tensor]:
        model, images = small_network(), inputs()
        masks = WeightMasks(model)
        optimizer = torch.optim.Adam(masks.parameters(), 0.1)
        with masks.training_on(model):
            for _ in range(12):
                loss = F.cross_entropy(model(images), torch.arange(7) % 5)
                optimizer.zero_grad()
                (loss + 2 * masks.retained_share()).backward()
                optimizer.step()
        return [one.detach().clone() for one in masks.scores]

    once, again = trained(), trained()
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
    assert 0 < sum(int((one > 0).sum()) for one in once) < 437
