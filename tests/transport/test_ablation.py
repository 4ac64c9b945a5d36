"""Directional ablation against its formula, and against the paper's orthogonalised weights."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.hooks import choose_sites, find_module
from aim_plugins.modulation.low_rank import LowRankMap
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.exchange.writing import write_vectors
from aim_plugins.transport.folding.fold import FoldError, fold_transport
from aim_plugins.transport.statistics import separation
from aim_plugins.transport.summary import summarise, summary_text
from aim_plugins.transport.vectors import affine_maps
from tests.transport.test_fit import SOURCE, TARGET, collect, fit
from tests.transport.test_fold import build, logits

BLOCKS = [r"model\.layers\.\d+"]
WRITERS = [r"model\.embed_tokens", ".*o_proj", ".*down_proj"]
"""What writes to the residual stream of a Llama."""


def ablate(model, numbers, **options):
    return fit(model, numbers, **{"method": "ablation", "modules": BLOCKS, **options})


def difference_of_means(model, site):
    """Of last tokens, target less source, from sentences alone."""
    source, target = (
        np.stack([rows[-1] for rows in collect(model, site, texts)]) for texts in (SOURCE, TARGET)
    )
    return target.mean(0) - source.mean(0)


@pytest.mark.parametrize("site", ["model.layers.0", "model.layers.1"])
def test_the_direction_is_the_difference_of_means_of_one_site(tiny_llama, numbers, site):
    transport = ablate(tiny_llama, numbers, options={"direction_site": site})
    direction = difference_of_means(tiny_llama, site)
    direction /= np.linalg.norm(direction)
    assert list(transport.maps.maps) == ["model.layers.0", "model.layers.1"]
    for one in transport.maps.maps.values():
        np.testing.assert_allclose(one.up[:, 0] * one.down[0], -(direction**2), atol=1e-6)
        np.testing.assert_allclose(np.abs(one.down[0]), np.abs(direction), atol=1e-6)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_what_is_left_along_the_direction_is_1_less_the_strength(tiny_llama, numbers, strength):
    transport = ablate(tiny_llama, numbers)
    unit = next(iter(transport.maps.maps.values())).down[0]
    tokens = torch.arange(1, 9)[None]
    first = {}
    hook = tiny_llama.model.layers[0].register_forward_hook
    with torch.no_grad():
        handle = hook(lambda m, i, o: first.update(plain=o))
        tiny_llama(tokens)
        handle.remove()
        with transport.maps.applied(tiny_llama, strength):
            handle = hook(lambda m, i, o: first.update(moved=o))
            tiny_llama(tokens)
            handle.remove()
    plain, moved = first["plain"], first["moved"]
    torch.testing.assert_close(moved @ unit, (1 - strength) * (plain @ unit), rtol=1e-4, atol=1e-5)
    rest = plain - (plain @ unit)[..., None] * unit
    torch.testing.assert_close(moved - (moved @ unit)[..., None] * unit, rest, rtol=1e-4, atol=1e-5)


def test_ablating_all_that_is_written_is_the_papers_orthogonalised_model(tiny_llama, numbers):
    """arXiv 2406.11717, eq. 5: W - r rᵀ W of every matrix that writes to the stream."""
    transport = ablate(tiny_llama, numbers, modules=WRITERS)
    unit = next(iter(transport.maps.maps.values())).down[0]
    model = copy.deepcopy(tiny_llama)
    taken = torch.eye(len(unit)) - torch.outer(unit, unit)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding.copy_(embedding @ taken)
        for block in model.model.layers:
            for layer in (block.self_attn.o_proj, block.mlp.down_proj):
                layer.weight.copy_(taken @ layer.weight)
        tokens = torch.arange(1, 9)[None]
        expected = model(tokens).logits
        with transport.maps.applied(tiny_llama, 1.0):
            found = tiny_llama(tokens).logits
        folded = fold_transport(tiny_llama, transport, 1.0).model(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4)


def test_held_out_separation_is_the_distance_in_deviations():
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 4000, 3, generator=generator)
    sides = torch.arange(4000), torch.arange(4000)
    apart = torch.tensor([3.0, 0, 4.0])
    assert separation(source, target + apart, sides) == pytest.approx(5, rel=0.05)
    assert abs(separation(source, target, sides)) < 0.1


def test_separation_does_not_take_chance_for_a_difference():
    """With more neurons than sentences every direction parts those that it was learned from."""
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randn(2, 12, 500, generator=generator)
    own = target.mean(0) - source.mean(0)
    first, second = source @ own, target @ own
    naive = (second.mean() - first.mean()) / ((first.var() + second.var()) / 2).sqrt()
    assert naive > 5
    assert abs(separation(source, target, (torch.arange(12), torch.arange(12)))) < 2


def test_the_site_that_parts_the_sides_best_is_chosen_and_noted(tiny_llama, numbers, monkeypatch):
    from aim_plugins.transport import learning

    told = iter([1.0, 3.0, 2.0, 9.0, 8.0])
    monkeypatch.setattr(learning, "separation", lambda *given: next(told))
    transport = ablate(tiny_llama, numbers, modules=WRITERS)
    # Of five, the last is beyond the first 80 %.
    assert transport.metadata.options == {"direction_site": list(transport.maps.maps)[3]}


def test_it_is_saved_and_shown(tiny_llama, numbers, tmp_path):
    transport = ablate(tiny_llama, numbers)
    again = LearnedTransport.load(transport.save(tmp_path / "t"))
    assert again.fingerprint == transport.fingerprint
    assert again.metadata == transport.metadata
    summary = summarise(again.metadata, again.maps.maps, again.fingerprint)
    text = summary_text(summary, again.metadata)
    assert "model.layers.1       32  low-rank (up 32 x 1, down 1 x 32, bias 1)" in text
    assert f"strength 1, direction_site {again.metadata.options['direction_site']}" in text
    json.dumps(summary)
    named = json.loads((tmp_path / "t" / "transport.json").read_text())
    assert named["options"]["direction_site"] in again.maps.maps


@pytest.mark.parametrize(
    ("family", "pattern"),
    [("Llama", WRITERS), ("GPT2", [r".*attn\.c_proj", r".*mlp\.c_proj"]), ("OPT", [".*fc2"])],
)
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_low_rank_maps_fold_into_linear_layers_and_embeddings(family, pattern, strength):
    model = build(family)
    generator = torch.Generator().manual_seed(2)
    maps = {}
    for site in choose_sites(model, pattern):
        up, down = 0.3 * torch.randn(2, 2, 32, generator=generator)
        bias = torch.randn(2, generator=generator)
        if family == "Llama":  # whose layers have no bias
            bias *= isinstance(find_module(model, site), torch.nn.Embedding)
        maps[site] = LowRankMap(up.T.contiguous(), down, bias)
    transport = ActivationMaps(maps)
    folded = fold_transport(model, transport, strength)
    with transport.applied(model, strength):
        expected = logits(model)
    assert not torch.allclose(expected, logits(model), atol=1e-2)
    torch.testing.assert_close(logits(folded.model), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_folded_is_named():
    direction = LowRankMap.without(torch.ones(32))
    tied = build("GPT2")
    with pytest.raises(FoldError, match="its weights are shared with lm_head: transformer.wte"):
        fold_transport(tied, ActivationMaps({"transformer.wte": direction}), 1.0)
    llama = build("Llama")
    with pytest.raises(FoldError, match="LlamaRMSNorm has no weight that mixes its neurons"):
        fold_transport(llama, ActivationMaps({"model.norm": direction}), 1.0)


def test_what_takes_maps_of_single_neurons_refuses_it(tiny_llama, numbers, tmp_path):
    transport = ablate(tiny_llama, numbers)
    with pytest.raises(ValueError, match=r"low-rank map of 'model.layers.0' moves neurons by what"):
        write_vectors(transport, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match="and vLLM takes maps of each neuron alone"):
        affine_maps(transport.maps.maps, "vLLM")


def test_what_it_does_not_take_is_refused(tiny_llama, numbers):
    with pytest.raises(
        ValueError, match="direction_site='model.layers.7' is none of the 2 modules"
    ):
        ablate(tiny_llama, numbers, options={"direction_site": "model.layers.7"})
    with pytest.raises(
        ValueError, match="has 64 neurons and .* has 32|has 32 neurons and .* has 64"
    ):
        ablate(tiny_llama, numbers, modules=[r".*layers\.0", r".*layers\.0\.mlp\.up_proj"])
    with pytest.raises(ValueError, match="incremental='causal': Directional ablation learns"):
        ablate(tiny_llama, numbers, incremental="causal")
