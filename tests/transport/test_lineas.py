"""LinEAS against closed forms, finite differences, and descent over single sentences by hand.

The slow way runs every sentence alone, without padding, with plain hooks; it takes its step and its
proximal step from the formulas of arXiv 2503.10679 (algorithm 1), and the learning rate from the
formula of the cosine.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.optimize
import torch

from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.folding.fold import fold_transport
from aim_plugins.transport.maps import find_method
from aim_plugins.transport.methods.linear import LinearTransport
from aim_plugins.transport.methods.lineas import LinEAS, distance, shrink
from tests.transport.test_fit import SOURCE, TARGET, fit

SITES = [f"model.layers.{i}.{n}_layernorm" for i in (0, 1) for n in ("input", "post_attention")]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def squared_wasserstein(source, target):
    """Of each neuron, with every sample repeated until both sides have as many."""
    count = math.lcm(len(source), len(target))
    a, b = (
        np.sort(one.repeat_interleave(count // len(one), 0).numpy(), 0) for one in (source, target)
    )
    return ((a - b) ** 2).mean(0)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 6), (7, 3), (1, 1)])
def test_the_loss_is_the_mean_of_squared_wasserstein_distances(n, m):
    source, target = draws(n, 3, seed=1), 2 + draws(m, 3, seed=2)
    found = distance(source, target.T.sort(dim=-1).values)
    assert float(found) == pytest.approx(squared_wasserstein(source, target).mean(), rel=1e-12)


def test_gradients_through_a_network_are_finite_differences():
    source, targets = draws(6, 3), [draws(4, 3, seed=3).T.sort(-1).values for _ in range(2)]
    mixing = draws(3, 3, seed=4)

    def loss(*vectors):
        first = source * vectors[0] + vectors[1]
        second = torch.tanh(first @ mixing) * vectors[2] + vectors[3]
        return distance(first, targets[0]) + distance(second, targets[1])

    vectors = [(1 + 0.1 * draws(3, seed=seed)).requires_grad_() for seed in range(5, 9)]
    assert torch.autograd.gradcheck(loss, vectors)


def test_one_site_ends_at_linear_transport_which_is_its_optimum():
    source, target = draws(9, 4), 3 + 2 * draws(6, 4, seed=1)
    found = LinEAS(steps=200, learning_rate=1.0).fit(source, target)
    best = LinearTransport().fit(source, target)
    torch.testing.assert_close(found.scale, best.scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.shift, best.shift, rtol=1e-4, atol=1e-4)


def test_a_site_behind_an_exact_map_ends_at_the_identity():
    """The target is an affine image of the source, so the first site can reach it alone."""
    source, gain = draws(8, 3), torch.tensor([1.0, -1.0, 0.8])
    source = (source - source.mean(0)) / source.std(0)
    scale, shift = torch.tensor([0.7, 1.5, 1.2]), torch.tensor([1.0, -1.0, 0.0])

    def push(maps):
        first = source * maps["first"][0] + maps["first"][1]
        return {"first": first, "second": gain * first * maps["second"][0] + maps["second"][1]}

    target = source * scale + shift
    losses = []
    maps = LinEAS(steps=600, learning_rate=0.8).descend(
        push, {"first": target, "second": gain * target}, losses.append
    )
    assert losses[-1] < 1e-8 < 1e-2 < losses[0]
    for found, expected in zip(maps["first"], (scale, shift), strict=True):
        torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-3)
    for found, expected in zip(maps["second"], (1.0, 0.0), strict=True):
        torch.testing.assert_close(found, torch.full((3,), expected).double(), rtol=0, atol=1e-3)


def test_the_proximal_step_minimises_what_it_is_said_to():
    scale, shift, threshold = 1 + draws(4), 0.5 * draws(4, seed=1), 0.2
    expected = []
    for away in (scale - 1, shift):

        def cost(x, away=away):
            penalty = np.abs(x).sum() + math.sqrt(len(x)) * np.sqrt((x**2).sum())
            return 0.5 * ((x - away.numpy()) ** 2).sum() + threshold * penalty

        best = scipy.optimize.minimize(
            cost,
            0.1 * away.numpy(),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 9000},
        )
        expected.append(best.x)
    shrink({"site": (scale, shift)}, threshold)
    np.testing.assert_allclose(scale.numpy() - 1, expected[0], atol=1e-5)
    np.testing.assert_allclose(shift.numpy(), expected[1], atol=1e-5)
    assert (scale == 1).any() or (shift == 0).any()


def by_hand(model, *, steps, rate, sparsity):
    """Maps of all sites, from single sentences under hooks of our own."""
    maps = {}

    def responses(texts, transported):
        seen = {site: [] for site in SITES}

        def hook(site):
            def act(module, inputs, output):
                if transported:
                    output = output * maps[site][0] + maps[site][1]
                seen[site].append(output[0].mean(0))
                return output

            return act

        handles = [model.get_submodule(site).register_forward_hook(hook(site)) for site in SITES]
        for text in texts:
            model(torch.tensor([[int(word) for word in text.split()]]))
        for handle in handles:
            handle.remove()
        return {site: torch.stack(rows) for site, rows in seen.items()}

    def repeated(rows, count):
        return rows.repeat_interleave(count // len(rows), 0).sort(0).values

    with torch.no_grad():
        wanted = responses(TARGET, False)
    width = model.config.hidden_size
    for site in SITES:
        maps[site] = [torch.ones(width, requires_grad=True), torch.zeros(width, requires_grad=True)]
    for step in range(steps):
        count = math.lcm(len(SOURCE), len(TARGET))
        found = responses(SOURCE, True)
        gaps = [(repeated(found[s], count) - repeated(wanted[s], count)) for s in SITES]
        vectors = [one for site in SITES for one in maps[site]]
        slopes = torch.autograd.grad(sum((gap**2).mean() for gap in gaps), vectors)
        now = rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        for place, (vector, slope) in enumerate(zip(vectors, slopes, strict=True)):
            neutral = 1 - place % 2
            away = (vector - now * slope - neutral).detach().numpy()
            away = np.sign(away) * np.maximum(np.abs(away) - now * sparsity, 0)
            length = max(np.linalg.norm(away), 1e-30)
            away = max(1 - now * sparsity * math.sqrt(width) / length, 0) * away
            vector.data = neutral + torch.from_numpy(away)
    return maps


@pytest.mark.parametrize("sparsity", [0.0, 0.01])
def test_descent_through_a_model_is_that_over_single_sentences(tiny_llama, numbers, sparsity):
    options = {"steps": 5, "learning_rate": 2.0, "sparsity": sparsity}
    transport = fit(tiny_llama, numbers, method="lineas", options=options)
    expected = by_hand(copy.deepcopy(tiny_llama), steps=5, rate=2.0, sparsity=sparsity)
    assert transport.metadata.options == options
    for site, one in transport.maps.maps.items():
        for found, wanted in zip((one.scale, one.shift), expected[site], strict=True):
            torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)
    away = torch.stack(
        [(one.scale - 1).abs() + one.shift.abs() for one in transport.maps.maps.values()]
    )
    assert bool((away == 0).any()) is (sparsity > 0)


def test_the_loss_falls_and_the_model_stays_as_it_was(tiny_llama, numbers):
    before = {name: one.clone() for name, one in tiny_llama.state_dict().items()}
    asked = [one.requires_grad for one in tiny_llama.parameters()]
    few, more = (
        fit(tiny_llama, numbers, method="lineas", options={"steps": steps, "learning_rate": 2.0})
        for steps in (1, 20)
    )
    moved = [
        sum(
            float((one.scale - 1).abs().sum() + one.shift.abs().sum())
            for one in each.maps.maps.values()
        )
        for each in (few, more)
    ]
    assert 0 < moved[0] < moved[1]
    assert all(torch.equal(before[name], one) for name, one in tiny_llama.state_dict().items())
    assert [one.requires_grad for one in tiny_llama.parameters()] == asked


def test_maps_depend_on_neither_the_batch_size_nor_the_seed_where_one_step_takes_all(
    tiny_llama, numbers
):
    options = {"steps": 3, "learning_rate": 2.0}
    one, other = (
        fit(tiny_llama, numbers, method="lineas", options=options, batch_size=size, seed=size)
        for size in (2, 10)
    )
    for site in SITES:
        torch.testing.assert_close(one.maps.maps[site].shift, other.maps.maps[site].shift)


def test_the_seed_deals_the_source_into_batches(tiny_llama, numbers, monkeypatch):
    monkeypatch.setattr(LinEAS, "BATCH", 2)
    prints = [
        fit(tiny_llama, numbers, method="lineas", options={"steps": 2}, seed=seed).fingerprint
        for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_heavy_penalty_leaves_the_model_alone(tiny_llama, numbers):
    transport = fit(tiny_llama, numbers, method="lineas", options={"steps": 2, "sparsity": 10.0})
    tokens = torch.arange(1, 7)[None]
    with torch.no_grad():
        plain = tiny_llama(tokens).logits
        with transport.maps.applied(tiny_llama, 1.0):
            assert torch.equal(tiny_llama(tokens).logits, plain)


def test_its_maps_are_saved_and_folded_as_all_are(tiny_llama, numbers, tmp_path):
    options = {"steps": 2, "learning_rate": 2.0}
    transport = fit(tiny_llama, numbers, method="lineas", options=options, modules=".*o_proj")
    again = LearnedTransport.load(transport.save(tmp_path / "t"))
    assert again.fingerprint == transport.fingerprint
    assert again.metadata.options == options | {"sparsity": 0.0}
    tokens = torch.arange(1, 7)[None]
    folded = fold_transport(tiny_llama, again, 0.7)
    with torch.no_grad(), again.maps.applied(tiny_llama, 0.7):
        expected = tiny_llama(tokens).logits
    torch.testing.assert_close(folded.model(tokens).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_descent_that_diverges_names_the_learning_rate():
    with pytest.raises(ValueError, match=r"learning_rate=1e\+30: .* at step \d+: give a smaller"):
        LinEAS(steps=50, learning_rate=1e30).fit(draws(5, 2), 3 + draws(5, 2, seed=1))


def test_what_it_does_not_take_is_refused(tiny_llama, numbers):
    with pytest.raises(ValueError, match="incremental='causal': LinEAS learns its sites with"):
        fit(tiny_llama, numbers, method="lineas", incremental="causal")
    with pytest.raises(ValueError, match="support='clip': LinEAS .*leave its support at 'none'"):
        fit(tiny_llama, numbers, method="lineas", support="clip")
    with pytest.raises(ValueError, match="steps is of method=lineas alone: leave it out"):
        find_method("linear", {"steps": 5})
