"""Angular steering: its plane from single sentences with numpy, and what it does to a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.folding.fold import FoldError, fold_transport
from aim_plugins.transport.vectors import check_map
from tests.transport.test_ablation import difference_of_means
from tests.transport.test_fit import NORMS, fit


def turn(model, numbers, **options):
    return fit(model, numbers, **{"method": "angular", **options})


def plane(model, sites, first=None):
    """The axes of the paper's plane, in the order of the sites."""
    told = np.stack([difference_of_means(model, site) for site in sites])
    told /= np.linalg.norm(told, axis=1, keepdims=True)
    cosines = [np.mean([a @ b for b in told]) for a in told]
    place = int(np.argmax(cosines)) if first is None else sites.index(first)
    values, vectors = np.linalg.eigh(np.cov(told.T))
    component = vectors[:, np.argmax(values)]
    across = component - component @ told[place] * told[place]
    return sites[place], told[place], across / np.linalg.norm(across)


@pytest.mark.parametrize("first", [None, NORMS[2]])
def test_the_plane_is_that_of_a_direction_and_the_first_component_of_all(
    tiny_llama, numbers, first
):
    transport = turn(tiny_llama, numbers, options={"direction_site": first})
    site, towards, across = plane(tiny_llama, list(transport.maps.maps), first)
    assert transport.metadata.options == {"direction_site": site}
    for one in transport.maps.maps.values():
        np.testing.assert_allclose(one.towards, towards, atol=1e-5)
        np.testing.assert_allclose(abs(one.across @ torch.tensor(across).float()), 1, atol=1e-5)


def test_activations_of_a_model_keep_their_length(tiny_llama, numbers):
    transport = turn(tiny_llama, numbers)
    tokens, seen = torch.arange(1, 9)[None], []
    norm = tiny_llama.get_submodule(NORMS[0])

    def run(strength):
        with torch.no_grad(), transport.maps.applied(tiny_llama, strength):
            handle = norm.register_forward_hook(lambda m, i, o: seen.append(o))
            logits = tiny_llama(tokens).logits
            handle.remove()
        return logits

    plain, turned = run(0.0), run(1.0)
    one = transport.maps.maps[NORMS[0]]
    assert not torch.allclose(plain, turned, atol=1e-2)
    torch.testing.assert_close(seen[1].norm(dim=-1), seen[0].norm(dim=-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(seen[1] @ one.across, torch.zeros(1, 8), rtol=0, atol=1e-5)
    assert bool((seen[1] @ one.towards >= 0).all())


def test_it_is_saved_and_not_folded(tiny_llama, numbers, tmp_path):
    transport = turn(tiny_llama, numbers)
    again = LearnedTransport.load(transport.save(tmp_path / "t"))
    assert again.fingerprint == transport.fingerprint
    with pytest.raises(FoldError, match="4 of 4 sites .* rotation maps are not affine"):
        fold_transport(tiny_llama, again, 0.5)


def test_what_spans_no_plane_is_refused(tiny_llama, numbers):
    with pytest.raises(ValueError, match=f"needs several.*{NORMS[0]}' is one: choose more"):
        turn(tiny_llama, numbers, modules=NORMS[0].replace(".", r"\."))
    with pytest.raises(ValueError, match="span no plane: the sides must differ"):
        turn(tiny_llama, numbers, source=["1 2 3"] * 2, target=["1 2 3"] * 2)
    one = next(iter(turn(tiny_llama, numbers).maps.maps.values()))
    with pytest.raises(ValueError, match="axes of 'a' must be unit vectors at a right angle"):
        check_map("a", type(one)(one.towards, 2 * one.across))
