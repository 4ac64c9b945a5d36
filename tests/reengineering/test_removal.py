"""Cutting channels out of a model gives what masking them gives, and loads as any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.masks import masked, retained_ratio
from aim_plugins.reengineering.groups import find_removable, masks_of
from aim_plugins.reengineering.removal import channel_counts, narrow_config, smaller_model
from tests.reengineering.conftest import make_model

KINDS = ("llama", "llama, biases", "mistral", "qwen2", "qwen3", "gpt2")
TOKENS = torch.randint(60, (3, 9), generator=torch.Generator().manual_seed(1))


def draw(model, share: float):
    """As many channels as a share keeps, other ones in each block."""
    removable = find_removable(model)
    counts = channel_counts(model.config, removable, share)
    generator = torch.Generator().manual_seed(2)
    kept = {
        one.name: torch.randperm(one.size, generator=generator) < counts[one.name]
        for one in removable.groups
    }
    return removable, kept


def linear_values(model) -> int:
    layers = [one for one in model.modules() if isinstance(one, nn.Linear | Conv1D)]
    return sum(one.numel() for layer in layers for one in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_model_answers_as_the_masked_one(kind, tmp_path) -> None:
    model = make_model(kind)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    removable, kept = draw(model, 0.6)
    smaller_model(model, removable, kept).save_pretrained(tmp_path)
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    masks = masks_of(model, removable.groups, kept)
    with torch.no_grad():
        with masked(model, masks):
            under_mask = model(TOKENS).logits
        torch.testing.assert_close(smaller(TOKENS).logits, under_mask, atol=1e-4, rtol=0)
        assert (model(TOKENS).logits - under_mask).abs().max() > 0.1
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert retained_ratio(model, masks) == linear_values(smaller) / linear_values(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_masked_neuron_is_a_zero_where_its_reader_takes_it_in(kind) -> None:
    model = make_model(kind)
    group = find_removable(model).neurons[1]
    kept = torch.ones(group.size, dtype=torch.bool)
    kept[7] = False
    reader = model.get_submodule(group.inputs[0].layer)

    def silence(layer, given):
        given[0][..., 7] = 0

    with torch.no_grad():
        with masked(model, masks_of(model, [group], {group.name: kept})):
            under_mask = model(TOKENS).logits
        handle = reader.register_forward_pre_hook(silence)
        by_hand = model(TOKENS).logits
        handle.remove()
        assert (model(TOKENS).logits - by_hand).abs().max() > 1e-3
    torch.testing.assert_close(under_mask, by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["llama, biases", "qwen3"])
def test_a_masked_key_value_head_takes_its_query_heads_along(kind) -> None:
    model = make_model(kind)
    group, width = find_removable(model).heads[0], 16 if kind == "qwen3" else 8
    reader = model.get_submodule(group.inputs[0].layer)

    def silence(layer, given):  # the second of three, with two query heads
        given[0][..., 2 * width : 4 * width] = 0

    kept = torch.tensor([True, False, True])
    with torch.no_grad():
        with masked(model, masks_of(model, [group], {group.name: kept})):
            under_mask = model(TOKENS).logits
        reader.register_forward_pre_hook(silence)
        torch.testing.assert_close(under_mask, model(TOKENS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("share", "neurons", "heads"), [(0.9, 18, 3), (0.6, 12, 2), (0.01, 1, 1)])
def test_blocks_have_one_width(share, neurons, heads) -> None:
    model = make_model("llama")
    removable = find_removable(model)
    counts = channel_counts(model.config, removable, share)
    assert {counts[one.name] for one in removable.neurons} == {neurons}
    assert {counts[one.name] for one in removable.heads} == {heads}
    smaller = smaller_model(*_with(model, share))
    assert smaller.config.intermediate_size == neurons
    assert smaller.config.num_key_value_heads == heads
    assert smaller.config.num_attention_heads == 2 * heads


def _with(model, share):
    return model, *draw(model, share)


def test_heads_that_a_configuration_refuses_are_kept() -> None:
    from transformers import LlamaConfig, MistralConfig

    for config_class, heads in ((LlamaConfig, 4), (MistralConfig, 3)):
        config = config_class(
            hidden_size=32, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=1,
            intermediate_size=8, vocab_size=8,
        )  # fmt: skip
        removable = find_removable(AutoModelForCausalLM.from_config(config))
        # Llama's widths are multiples of the number of heads, and 32 is none of 3.
        counts = channel_counts(config, removable, 0.7)
        assert counts[removable.heads[0].name] == heads
        assert config.num_attention_heads == 4
    with pytest.raises(Exception, match="not a multiple of the number of attention heads"):
        narrow_config(LlamaConfig(hidden_size=32, num_attention_heads=4), 8, 3)


def test_unknown_architectures_and_layers_are_refused() -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(ValueError, match="'gpt_neox' is an architecture .*: give one of llama"):
        find_removable(GPTNeoXForCausalLM(config))
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj = nn.utils.skip_init(_Packed, 48, 20)
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj.* is no plain linear layer"):
        find_removable(model)


class _Packed(nn.Linear):
    """Stands for a layer that keeps its weights in a form of its own."""
