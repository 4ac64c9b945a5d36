"""Affine maps on activations: the kernel against float64, and attaching to a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.token_weights import Layout

NEURONS = 7


def random_map(seed=0, *, support=False, clip=False):
    generator = torch.Generator().manual_seed(seed)
    scale, shift = 1 + torch.randn(2, NEURONS, generator=generator)
    if not support:
        return AffineMap.everywhere(scale, shift)
    low, high = -torch.rand(2, NEURONS, generator=generator) * torch.tensor([[1.0], [-1.0]])
    return AffineMap(scale, shift, low, high, clip)


def by_hand(one, x, strength):
    """Neuron by neuron in float64, as the paper writes it: (1 - λ) x + λ T(x)."""
    out = np.array(x, dtype=np.float64)
    for index, value in np.ndenumerate(out):
        k = index[-1]
        omega, beta, low, high = (
            float(v[k]) for v in (one.scale, one.shift, one.support_min, one.support_max)
        )
        if one.clip:
            inside = min(max(value, low), high)
            out[index] = value + strength * (omega * inside + beta - inside)
        elif low < value < high:
            out[index] = (1 - strength) * value + strength * (omega * value + beta)
    return out


KINDS = {
    "everywhere": dict(),
    "hard support": dict(support=True),
    "clip": dict(support=True, clip=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.0, 0.35, 1.0, -2.0])
def test_a_map_is_the_formula_of_the_paper(kind, strength):
    one = random_map(**KINDS[kind])
    x = 2 * torch.randn(5, 3, NEURONS, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(one(x, strength), by_hand(one, x, strength), atol=1e-6)


def test_the_ends_of_a_hard_support_stay_where_they_are():
    one = random_map(support=True)
    for end in (one.support_min, one.support_max):
        assert torch.equal(one(end, 1.0), end)
    inside = (one.support_min + one.support_max) / 2
    assert not torch.isclose(one(inside, 1.0), inside).any()


def test_clip_is_continuous_and_a_hard_support_is_not():
    hard, soft = random_map(support=True), random_map(support=True, clip=True)
    step = 1e-4
    jumps = [
        (one(one.support_max + step) - one(one.support_max - step)).abs().max()
        for one in (hard, soft)
    ]
    assert jumps[0] > 100 * step > 10 * jumps[1]


class Stack(nn.Module):
    """Two layers and an embedding, as much of a language model as the maps need."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, NEURONS)
        self.layer = nn.Linear(NEURONS, NEURONS)
        self.flat = nn.Linear(NEURONS, NEURONS)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, tokens):
        hidden = self.layer(self.embed(tokens))
        rows = self.flat(hidden.reshape(-1, NEURONS))
        return rows.reshape(hidden.shape)


@pytest.fixture
def stack():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Stack().eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("site", ["layer", "flat"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_of_a_batch_has_its_own_strength(stack, tokens, site, kind):
    maps = ActivationMaps({site: random_map(**KINDS[kind])})
    strengths = [0.0, 0.5, 1.0, -0.25]
    with torch.no_grad(), maps.applied(stack, strengths):
        batch = stack(tokens)
    for row, strength in enumerate(strengths):
        with torch.no_grad(), maps.applied(stack, strength):
            alone = stack(tokens[row : row + 1])
        torch.testing.assert_close(batch[row : row + 1], alone, atol=1e-6, rtol=0)


def test_a_multiple_of_the_rows_shares_strengths_in_turn(stack, tokens):
    maps = ActivationMaps({"layer": random_map()})
    with torch.no_grad(), maps.applied(stack, [0.0, 1.0]):  # as two beams for each of two prompts
        beams = stack(tokens)
    with torch.no_grad(), maps.applied(stack, [0.0, 0.0, 1.0, 1.0]):
        assert torch.equal(beams, stack(tokens))
    with pytest.raises(ValueError, match="3 rows.*output 4"), maps.applied(stack, [0.0, 0.5, 1.0]):
        stack(tokens)


@pytest.mark.parametrize("site", ["layer", "flat"])
def test_last_positions_begin_where_each_row_says(stack, tokens, site):
    one = random_map()
    everywhere, last = ActivationMaps({site: one}), ActivationMaps({site: one}, "last")
    starts = torch.tensor([0, 2, 5, 6])
    with torch.no_grad():
        plain = stack(tokens)
        with everywhere.applied(stack, 0.7):
            full = stack(tokens)
        with last.applied(stack, 0.7, Layout(starts + 1)):
            partial = stack(tokens)
        with last.applied(stack, 0.7):
            default = stack(tokens)
    for row, start in enumerate(starts.tolist()):
        torch.testing.assert_close(partial[row, :start], plain[row, :start])
        torch.testing.assert_close(partial[row, start:], full[row, start:])
    torch.testing.assert_close(default[:, :-1], plain[:, :-1])
    torch.testing.assert_close(default[:, -1], full[:, -1])


def test_strength_zero_attaches_nothing(stack, tokens):
    maps = ActivationMaps({"layer": random_map()})
    with torch.no_grad(), maps.applied(stack, [0.0, 0.0, 0.0, 0.0]):
        assert not stack.layer._forward_hooks
        assert torch.equal(stack(tokens), stack(tokens))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_at_strength_zero_keeps_its_bits_beside_others(stack, tokens, dtype):
    one = random_map()
    one.scale[0] = torch.finfo(torch.float32).max  # of a displacement that overflows
    stack.to(dtype).embed.weight.data.mul_(1e3)
    with torch.no_grad():
        plain = stack(tokens)
        with ActivationMaps({"layer": one}).applied(stack, [0.0, 1.0, 0.0, 1.0]):
            mixed = stack(tokens)
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
    assert not torch.equal(mixed[[1, 3]], plain[[1, 3]])


def test_double_precision_is_kept(stack, tokens):
    maps, exact = ActivationMaps({"flat": random_map()}), stack.double()
    with torch.no_grad():
        plain = exact(tokens)
        with maps.applied(exact, 0.5):
            moved = exact(tokens)
    np.testing.assert_allclose(moved, by_hand(maps.maps["flat"], plain, 0.5), atol=1e-12)


def test_half_precision_is_rounded_once(stack, tokens):
    maps = ActivationMaps({"layer": random_map()})
    half = stack.to(torch.bfloat16)
    seen = {}
    handle = half.layer.register_forward_hook(lambda m, i, o: seen.update(x=o))
    with torch.no_grad(), maps.applied(half, 0.5):
        after = {}
        late = half.layer.register_forward_hook(lambda m, i, o: after.update(y=o))
        half(tokens)
    handle.remove(), late.remove()
    exact = by_hand(maps.maps["layer"], seen["x"].float(), 0.5)
    assert after["y"].dtype == torch.bfloat16
    assert torch.equal(after["y"], torch.tensor(exact, dtype=torch.float32).bfloat16())


def test_another_width_is_refused(stack, tokens):
    wide = AffineMap.everywhere(torch.ones(9), torch.zeros(9))
    with (
        pytest.raises(ValueError, match="has 7 neurons, its map 9"),
        ActivationMaps({"layer": wide}).applied(stack, 1.0),
    ):
        stack(tokens)


def test_bad_arguments_are_named(stack):
    maps = ActivationMaps({"layer": random_map()})
    with pytest.raises(ValueError, match="positions='first'"):
        ActivationMaps({}, "first")
    with pytest.raises(ValueError, match="finite"), maps.applied(stack, float("nan")):
        pass


def test_the_fingerprint_sees_every_part():
    one = random_map(support=True)
    plain = ActivationMaps({"layer": one})
    changed = one.shift.clone()
    changed[0] += 1e-3
    others = [
        ActivationMaps({"layer": one}, "last"),
        ActivationMaps({"flat": one}),
        ActivationMaps(
            {"layer": AffineMap(one.scale, one.shift, one.support_min, one.support_max, True)}
        ),
        ActivationMaps({"layer": AffineMap(one.scale, changed, one.support_min, one.support_max)}),
    ]
    prints = [maps.fingerprint for maps in (plain, *others)]
    assert len(set(prints)) == 5
    assert plain.fingerprint == ActivationMaps({"layer": random_map(support=True)}).fingerprint
