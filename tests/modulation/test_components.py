"""Which components models have: the published counts, names, patterns, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
)

from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.components import Components, Site


def causal(name: str, **settings: Any) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings))


def other(name: str, kind: Any = AutoModel, **settings: Any) -> nn.Module:
    with torch.device("meta"):
        return kind.from_config(AutoConfig.for_model(name, **settings))


def nine_convolutions() -> nn.Module:
    """The published network for CIFAR-10: a stem and four blocks of 256 filters, 3 x 3."""

    def block() -> nn.Module:
        parts = {}
        for number in (1, 2):
            parts[f"conv{number}"] = nn.Conv2d(256, 256, 3, padding=1, bias=False)
            parts[f"bn{number}"] = nn.BatchNorm2d(256)
        return nn.ModuleDict(parts)

    with torch.device("meta"):
        stem = nn.Conv2d(3, 256, 3, padding=1, bias=False)
        layer = nn.Sequential(*(block() for _ in range(4)))
        head = nn.Linear(256 * 16, 10)
        return nn.ModuleDict(
            {"conv1": stem, "bn1": nn.BatchNorm2d(256), "layer": layer, "fc": head}
        )


# Counts -------------------------------------------------------------------------------------------


def test_a_resnet50_has_the_published_22720_filters() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    assert len(find_components(model, "conv_filters", [r"(.*\.)?conv\d"])) == 22_720
    assert len(find_components(model, "conv_filters")) == 26_560


def test_a_vit_b_16_has_the_published_82944_rows() -> None:
    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
    assert len(find_components(model, "linear_rows")) == 82_944


def test_gpt2_has_the_published_64512_components() -> None:
    assert len(find_components(causal("gpt2"), "linear_inputs")) == 64_512


def test_the_network_of_nine_convolutions_has_the_published_2304_filters() -> None:
    assert len(find_components(nine_convolutions(), "conv_filters")) == 2_304


@pytest.mark.parametrize(
    ("model", "kind", "count", "name"),
    [
        # 12 blocks of 12 heads and 3,072 neurons.
        (lambda: torchvision.models.vit_b_16(), "attention_heads", 144, None),
        (lambda: torchvision.models.vit_b_16(), "mlp_neurons", 36_864, None),
        (lambda: timm.create_model("vit_base_patch16_224"), "attention_heads", 144, None),
        (lambda: timm.create_model("vit_base_patch16_224"), "mlp_neurons", 36_864, None),
        (lambda: timm.create_model("vit_base_patch16_224"), "linear_rows", 82_944, None),
        (lambda: timm.create_model("vit_base_patch16_224"), "blocks", 12, "blocks.0"),
        # Sixteen blocks, of which one in each of the four stages changes the size.
        (lambda: torchvision.models.resnet50(), "blocks", 12, "layer1.1"),
        # Seventeen blocks, of which ten have a shortcut.
        (lambda: torchvision.models.mobilenet_v2(), "blocks", 10, "features.3"),
        (lambda: torchvision.models.efficientnet_b0(), "blocks", 9, "features.2.1"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "blocks", 12, None),
    ],
)
def test_vision_models_have_as_many_as_their_papers_say(model, kind, count, name) -> None:
    with torch.device("meta"):
        found = find_components(model(), kind)
    assert len(found) == count
    assert name is None or found.name(0) == name


@pytest.mark.parametrize(
    ("model", "heads", "neurons"),
    [
        (lambda: causal("gpt2", n_layer=2), 24, 6_144),
        (lambda: causal("llama", num_hidden_layers=2, num_key_value_heads=8), 64, 22_016),
        (lambda: causal("opt", num_hidden_layers=2), 24, 6_144),
        (lambda: causal("gpt_neox", num_hidden_layers=2), 128, 49_152),
        (lambda: causal("gptj", n_layer=2), 32, 32_768),
        (lambda: causal("bloom", n_layer=2, n_head=8), 16, 512),
        (lambda: causal("qwen3", num_hidden_layers=2), 64, 44_032),
        (lambda: other("bert", num_hidden_layers=2), 24, 6_144),
        (lambda: other("distilbert", n_layers=2), 24, 6_144),
        (lambda: other("modernbert", num_hidden_layers=2, intermediate_size=1152), 24, 2_304),
        (
            lambda: other("vit", AutoModelForImageClassification, num_hidden_layers=2),
            *(24, 6_144),
        ),
        (
            lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 4, 40, batch_first=True), 2
            ),
            *(8, 80),
        ),
    ],
)
def test_transformers_have_the_heads_and_neurons_of_their_configuration(
    model, heads, neurons
) -> None:
    built = model()
    assert len(find_components(built, "attention_heads")) == heads
    assert len(find_components(built, "mlp_neurons")) == neurons
    assert len(find_components(built, "blocks")) == 2


class Holder(nn.Module):
    """Layers by name, and numbers."""

    def __init__(self, layers: dict[str, nn.Module], **numbers: int) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        for name, number in numbers.items():
            setattr(self, name, number)


@pytest.mark.parametrize(
    ("before", "heads"),
    [
        (("wq", "wk", "wv"), "n_local_heads"),  # Meta's own Llama
        (("wqkv",), "num_heads"),  # InternLM2
        (("wqkv",), "n_head"),  # gpt-fast
    ],
)
def test_an_attention_of_short_names_has_heads_and_no_neurons(before, heads) -> None:
    attention = Holder({one: nn.Linear(8, 8) for one in (*before, "wo")}, **{heads: 4})
    feed_forward = Holder({"w1": nn.Linear(8, 12), "w2": nn.Linear(12, 8), "w3": nn.Linear(8, 12)})
    layer = Holder({"attention": attention, "feed_forward": feed_forward})
    model = Holder({"layers": nn.ModuleList([layer]), "output": nn.Linear(8, 20)})
    found = find_components(model, "attention_heads")
    assert [site.layer for site in found.sites] == ["layers.0.attention.wo"] and len(found) == 4
    neurons = find_components(model, "mlp_neurons")
    assert [site.layer for site in neurons.sites] == ["layers.0.feed_forward.w2"]


def test_wo_is_a_second_projection_beside_a_first_one() -> None:
    t5 = other("t5", num_layers=2, d_ff=40)
    assert len(find_components(t5, "mlp_neurons")) == 4 * 40  # of encoder and decoder
    alone = Holder({"part": Holder({"gate": nn.Linear(4, 4), "wo": nn.Linear(4, 4)})})
    with pytest.raises(ValueError, match="Holder has none of them"):
        find_components(alone, "mlp_neurons")


def test_a_model_of_experts_has_heads_and_blocks_but_nothing_that_sees_tokens_mixed() -> None:
    mixture = causal("mixtral", num_hidden_layers=2)
    assert len(find_components(mixture, "attention_heads")) == 64
    assert len(find_components(mixture, "blocks")) == 2
    rows = find_components(mixture, "linear_rows", [r".*\.o_proj"])
    assert len(rows) == 2 * 4_096
    with pytest.raises(ValueError, match=r"in experts too, such as 'model.layers.0.mlp.experts'"):
        find_components(mixture, "mlp_neurons")
    with pytest.raises(ValueError, match="or give patterns of the other layers"):
        find_components(mixture, "linear_rows")


def test_the_head_has_no_components() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert [site.layer for site in find_components(model, "linear_rows").sites] == ["0"]
    layers = [site.layer for site in find_components(causal("gpt2"), "linear_inputs").sites]
    assert "lm_head" not in layers


# Names --------------------------------------------------------------------------------------------


CHOSEN = Components(
    (
        Site("stem", "stem", 3),
        Site("block", "block", 1, side="residual"),
        Site("attn", "attn.proj", 4, 8, "inputs"),
    ),
    (None, None, (1, 3)),
)
NAMES = ["stem[0]", "stem[1]", "stem[2]", "block", "attn[1]", "attn[3]"]


def test_names_and_numbers_are_each_others_inverse() -> None:
    assert list(CHOSEN.names()) == NAMES
    assert [CHOSEN.name(number) for number in range(len(CHOSEN))] == NAMES
    assert [CHOSEN.index(name) for name in NAMES] == list(range(6))
    with pytest.raises(IndexError, match="component 6 of 6"):
        CHOSEN.name(6)


def test_json_holds_all_of_them() -> None:
    assert Components.from_json(json.loads(json.dumps(CHOSEN.to_json()))).sites == CHOSEN.sites
    assert list(Components.from_json(CHOSEN.to_json()).names()) == NAMES
    with pytest.raises(TypeError):
        Components.from_json([{"name": "stem"}])


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["stem"], NAMES[:3]),
        ([r"stem\[[02]\]", "attn[3]"], ["stem[0]", "stem[2]", "attn[3]"]),
        (["attn", "block"], NAMES[3:]),
        (["s.*", "stem[1]"], NAMES[:3]),
    ],
)
def test_patterns_match_whole_names_of_sites_or_components(patterns, names) -> None:
    assert list(CHOSEN.choose(patterns).names()) == names


def test_a_name_means_what_is_called_so_and_nothing_else_that_it_matches() -> None:
    layers = Components(tuple(Site(name, name, 3) for name in ("2", "21", "a.b", "axb")))
    assert list(layers.choose(["2[1]"]).names()) == ["2[1]"]  # as an expression: all of 21
    assert list(layers.choose(["a.b"]).names()) == ["a.b[0]", "a.b[1]", "a.b[2]"]
    assert list(layers.choose([r"a.b\[0\]"]).names()) == ["a.b[0]", "axb[0]"]


def test_what_is_taken_keeps_its_place_in_the_model() -> None:
    assert list(CHOSEN.take([5, 0, 3]).names()) == ["stem[0]", "block", "attn[3]"]
    assert CHOSEN.take([0, 1, 2]).members == (None,)
    assert len(CHOSEN.take([])) == 0
    with pytest.raises(IndexError):
        CHOSEN.take([6])


# Refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stam[1]", "stem", "stem[3]", "attn[0]", "block[0]"])
def test_an_unknown_component_is_answered_with_the_nearest(name: str) -> None:
    near = "stem" if name == "stam[1]" else name.partition("[")[0]
    with pytest.raises(ValueError, match=f"none of the 6: did you mean '{near}'"):
        CHOSEN.index(name)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patterns='atn.*' matches none of the 6.*'attn'"):
        CHOSEN.choose(["stem", "atn.*"])
    with pytest.raises(ValueError, match=r"components='\(' is no regular expression"):
        CHOSEN.choose(["("])


def test_a_kind_that_the_model_lacks_is_refused_and_a_misspelt_one_answered() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="components='attention_heads': Sequential has none"):
        find_components(model, "attention_heads")
    with pytest.raises(ValueError, match="did you mean 'conv_filters'"):
        find_components(model, "conv_filter")
