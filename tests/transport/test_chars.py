"""CHaRS against its sum over pairs of clusters, whose coupling SciPy finds, and as mean transport.

The authors' functions (github.com/lazizcodes/CHaRS, act/utils/nonparam.py) on the same samples, up
to 512 a side, 576 neurons and 10 clusters, differ by at most 3e-7 of the largest move, with 3
components by 3e-7 too; at an activation on most of the centroids they give NaN.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import optimize

from aim_plugins.modulation.mixture import MixtureMap
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.exchange.writing import write_vectors
from aim_plugins.transport.folding.fold import FoldError, fold_transport
from aim_plugins.transport.maps import find_method, fit_map
from aim_plugins.transport.statistics import entropic_coupling
from aim_plugins.transport.summary import summarise, summary_text
from aim_plugins.transport.vectors import affine_maps, check_map, read_maps
from tests.transport.test_fit import NORMS, SOURCE, collect, fit
from tests.transport.test_fold import build

NEURONS = 5
PLACES = np.random.default_rng(0).normal(size=(2, 3, NEURONS)) * 20
SHARES = np.array([[5, 3, 8], [4, 7, 3]])


def clustered(side, seed=1):
    """Samples around three places that lie far apart, mixed, and the cluster of each."""
    owners = np.repeat(np.arange(3), SHARES[side])
    generator = np.random.default_rng(seed + side)
    owners = generator.permutation(owners)
    drawn = PLACES[side][owners] + generator.normal(size=(len(owners), NEURONS))
    return torch.from_numpy(drawn.astype(np.float32)), owners


def means(side):
    samples, owners = clustered(side)
    return np.stack([samples.double().numpy()[owners == one].mean(0) for one in range(3)])


def cheapest(costs, source, target):
    """The coupling that minimises Σ P (C + λ log P), from SciPy's maximum of the dual problem."""
    scaled, count = costs / np.median(costs), len(source)

    def coupling(potentials):
        return np.exp(potentials[:count, None] + potentials[None, count:] - scaled)

    marginals = np.concatenate([source, target])
    found = optimize.minimize(
        lambda f: coupling(f).sum() - f @ marginals,
        np.zeros(len(marginals)),
        jac=lambda f: np.concatenate([coupling(f).sum(1), coupling(f).sum(0)]) - marginals,
        options={"gtol": 1e-10},
    )
    return coupling(found.x)


def pairs():
    """Differences of all pairs of means, how much they are coupled, and the source's shares."""
    source, target = means(0), means(1)
    differences = target[None] - source[:, None]
    shares = SHARES / SHARES.sum(1, keepdims=True)
    return source, differences, cheapest((differences**2).sum(-1), *shares), shares[0]


def learned(**options):
    return find_method("chars", {"clusters": 3, **options}).fit(clustered(0)[0], clustered(1)[0])


def test_an_activation_moves_by_the_papers_sum_over_pairs_of_clusters():
    """arXiv 2603.02237, definition 3.1."""
    source, differences, coupling, _ = pairs()
    x = np.random.default_rng(3).normal(size=(6, NEURONS)) * 20
    expected = []
    for one in x:
        distances = ((one - source) ** 2).sum(1)
        kernel = np.exp(-distances / np.median(distances))
        weights = coupling * kernel[:, None]
        expected.append((weights[..., None] * differences).sum((0, 1)) / weights.sum())
    found = learned().to("cpu", torch.float64).displacement(torch.from_numpy(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_shifts_by_their_masses_are_the_difference_of_means():
    one = learned()
    expected = clustered(1)[0].double().mean(0) - clustered(0)[0].double().mean(0)
    torch.testing.assert_close((one.masses @ one.shifts).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("components", [0, 1, 2, 4, 9])
def test_components_are_those_of_the_coupled_differences(components):
    """arXiv 2603.02237, section 3.3: eigenvectors of their covariance, 2 K - 2 at most."""
    _, differences, coupling, masses = pairs()
    mean = (coupling[..., None] * differences).sum((0, 1))
    apart = (differences - mean).reshape(-1, NEURONS)
    values, vectors = np.linalg.eigh((apart.T * coupling.ravel()) @ apart)
    assert (values[:-4] < 1e-9).all()
    kept = vectors[:, ::-1][:, : min(components, 4)]
    shifts = (coupling[..., None] * differences).sum(1) / masses[:, None]
    expected = mean + (shifts - mean) @ kept @ kept.T
    found = learned(components=components)
    order = [int(np.abs(found.masses.numpy() - mass).argmin()) for mass in masses]
    np.testing.assert_allclose(found.shifts[order], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_two_points_a_side_are_coupled_by_the_closed_form(share):
    """P₁₁ P₂₂ / P₁₂ P₂₁ = exp((C₁₂ + C₂₁ - C₁₁ - C₂₂) / λ), with P's marginals: a quadratic."""
    costs = torch.tensor([[1.0, 7.0], [4.0, 2.0]]).double()
    ratio, rows, columns = np.exp((7 + 4 - 1 - 2) / 3.0), [share, 1 - share], [0.4, 0.6]
    roots = np.roots(
        [1 - ratio, columns[1] - rows[0] + ratio * (rows[0] + columns[0]), -ratio * rows[0] * 0.4]
    )
    (first,) = [root for root in roots if 0 <= root <= min(rows[0], columns[0])]
    found = entropic_coupling(costs, *torch.tensor([rows, columns], dtype=torch.double))
    assert float(found[0, 0]) == pytest.approx(first, rel=1e-9)
    np.testing.assert_allclose(found.sum(1), rows, atol=1e-12)
    np.testing.assert_allclose(found.sum(0), columns, atol=1e-12)


def test_a_far_point_is_coupled_too():
    """exp(-C / λ) is 0 in all its row."""
    costs = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).double()
    costs[2] += 1e4
    quarter = torch.full((4,), 0.25).double()
    found = entropic_coupling(costs, quarter, quarter)
    np.testing.assert_allclose(found.sum(1), quarter, atol=1e-12)
    np.testing.assert_allclose(found.sum(0), quarter, atol=1e-12)


@pytest.mark.parametrize("far", [3.0, 100.0, 1e4])
def test_mass_goes_to_a_far_cluster_where_its_own_is_too_little(far):
    """The least P has these marginals, and log P + C / λ is a sum of two potentials."""
    places = torch.tensor([0.0, 1.0, 2.5, far]).double()
    costs = (places[:, None] - places - 0.3).square()
    masses, shares = torch.tensor([[0.3, 0.3, 0.3, 0.1], [0.25, 0.25, 0.3, 0.2]]).double()
    found = entropic_coupling(costs, masses, shares)
    np.testing.assert_allclose(found.sum(1), masses, atol=1e-9)
    np.testing.assert_allclose(found.sum(0), shares, atol=1e-9)
    level = (found.log() + costs / np.median(costs))[(found > 0).all(1)].numpy()
    level = level - level[:, :1] - level[:1] + level[0, 0]
    np.testing.assert_allclose(level, 0, atol=1e-6)


def test_a_far_cluster_moves_no_less_than_the_means_do():
    generator = np.random.default_rng(0)
    places = np.array([0.0, 1.0, 2.5, 100.0])
    sides = [
        np.repeat(places, sizes)[:, None] + generator.normal(size=(100, NEURONS)) / 100
        for sizes in ([30, 30, 30, 10], [25, 25, 30, 20])
    ]
    one = find_method("chars").fit(*(torch.from_numpy(side.astype(np.float32)) for side in sides))
    expected = sides[1].mean(0) - sides[0].mean(0)
    np.testing.assert_allclose(one.masses @ one.shifts, expected, rtol=1e-4)


def test_costs_beyond_rounding_are_refused():
    costs = torch.tensor([[0.0, 1.0, 1e18], [1.0, 0.0, 1e18], [1e18, 1e18, 0.0]]).double()
    masses, shares = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2]]).double()
    with pytest.raises(ValueError, match=r"masses are off by .* give clusters=1"):
        entropic_coupling(costs, masses, shares)


def test_one_cluster_a_side_is_mean_transport(tiny_llama, numbers):
    shifted = fit(tiny_llama, numbers, method="mean")
    mixed = fit(tiny_llama, numbers, method="chars", options={"clusters": 1})
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad():
        with shifted.maps.applied(tiny_llama, 0.7):
            expected = tiny_llama(tokens).logits
        with mixed.maps.applied(tiny_llama, 0.7):
            found = tiny_llama(tokens).logits
        plain = tiny_llama(tokens).logits
    assert not torch.allclose(expected, plain, atol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_side_of_few_different_samples_has_as_many_clusters():
    source, target = clustered(0)[0][:2], clustered(1)[0][:1].repeat(5, 1)
    one = fit_map("chars", None, source, target, "site")
    assert len(one.masses) == 2
    torch.testing.assert_close(one.shifts, target[:2] - one.centroids)


def test_causal_fits_learn_behind_the_maps_of_earlier_sites(tiny_llama, numbers):
    """Sentence by sentence, with hooks written by hand."""
    transport = fit(tiny_llama, numbers, method="chars", options={"clusters": 2}, batch_size=3)
    first, second = (transport.maps.maps[site] for site in NORMS[:2])
    handle = tiny_llama.get_submodule(NORMS[0]).register_forward_hook(
        lambda m, i, o: o + first.displacement(o)
    )
    rows = [seen.mean(0) for seen in collect(tiny_llama, NORMS[1], SOURCE)]
    handle.remove()
    np.testing.assert_allclose(
        second.masses @ second.centroids, np.mean(rows, 0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("family", "pattern"), [("GPT2", r".*ln_\d"), ("OPT", r".*fc2"), ("Mixtral", r".*layers\.\d")]
)
def test_it_is_fitted_and_runs_on_other_architectures(family, pattern, numbers):
    model = build(family)
    found = fit(
        model,
        numbers,
        ["1 2 3", "4 5", "6 7 8"],
        ["9 10", "11 12 13"],
        method="chars",
        modules=pattern,
        options={"clusters": 2},
    )
    tokens, seen = torch.arange(1, 9)[None], []
    site = list(found.maps.maps)[-1]

    def note(module, inputs, output):
        seen.append((output[0] if isinstance(output, tuple) else output).detach())

    last = LearnedTransport(
        type(found.maps)({site: found.maps.maps[site]}),
        type(found.metadata)(method="chars", sites=[site]),
    )
    with torch.no_grad():
        for strength in (0.0, 0.5):
            with last.maps.applied(model, strength):
                handle = model.get_submodule(site).register_forward_hook(note)
                model(tokens)
                handle.remove()
    plain, moved = seen
    expected = plain + 0.5 * found.maps.maps[site].displacement(plain)
    torch.testing.assert_close(moved, expected)


def test_it_is_saved_and_shown(tiny_llama, numbers, tmp_path):
    transport = fit(tiny_llama, numbers, method="chars", options={"components": 1})
    again = LearnedTransport.load(transport.save(tmp_path / "t"))
    assert again.fingerprint == transport.fingerprint
    assert again.metadata == transport.metadata
    assert again.metadata.options == {"clusters": 4, "components": 1}
    summary = summarise(again.metadata, again.maps.maps, again.fingerprint)
    text = summary_text(summary, again.metadata)
    assert "32  mixture (centroids 4 x 32, shifts 4 x 32, masses 4)" in text
    json.dumps(summary)


def test_what_takes_maps_of_single_neurons_refuses_it(tiny_llama, numbers, tmp_path):
    transport = fit(tiny_llama, numbers, method="chars")
    with pytest.raises(FoldError, match="4 of 4 sites .* mixture maps are not affine"):
        fold_transport(tiny_llama, transport, 0.5)
    with pytest.raises(ValueError, match=f"mixture map of '{NORMS[0]}' moves neurons by what"):
        write_vectors(transport, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="and vLLM takes maps of each neuron alone"):
        affine_maps(transport.maps.maps, "vLLM")


def test_what_is_no_mixture_is_refused():
    one = learned()
    parts = one.parts | {"centroids": one.centroids[:1]}
    with pytest.raises(ValueError, match="map of 'a' needs a shift and a mass a cluster"):
        read_maps({f"a.{part}": values for part, values in parts.items()}, ["a"], [])
    with pytest.raises(ValueError, match="masses of 'a' must be above 0 and sum to 1"):
        check_map("a", MixtureMap(one.centroids, one.shifts, 2 * one.masses))
    with pytest.raises(ValueError, match="shifts of 'a' is not finite"):
        check_map("a", MixtureMap(one.centroids, one.shifts * torch.inf, one.masses))
    with pytest.raises(ValueError, match="support='clip': CHaRS .*leave its support at 'none'"):
        fit_map("chars", "clip", clustered(0)[0], clustered(1)[0], "site")
