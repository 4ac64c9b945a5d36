"""A folded checkpoint computes what hooks compute, or the fold is refused with every name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.hooks import choose_sites, find_module
from aim_plugins.transport.folding import fold
from aim_plugins.transport.folding.fold import FoldError, fold_transport
from aim_plugins.transport.folding.readers import find_readers

VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
OWN_NAMES = {
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY},
    "OPT": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 0},
    "Phi": SIZES,
}


def build(family: str, **options: Any) -> Any:
    """A small model with random weights of every kind, norms and biases included."""
    config = getattr(transformers, f"{family}Config")(**OWN_NAMES.get(family, GROUPED), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def random_maps(model: Any, pattern: str | list[str], *, shift: float = 0.3) -> ActivationMaps:
    """Maps of random scale and shift on the outputs of matching modules."""
    generator = torch.Generator().manual_seed(1)
    maps = {}
    for site in choose_sites(model, pattern):
        weight = find_module(model, site).weight
        # Conv1D keeps its neurons in the second dimension, and only it.
        width = (
            weight.shape[-1] if type(find_module(model, site)).__name__ == "Conv1D" else len(weight)
        )
        scale = 1 + 0.3 * torch.randn(width, generator=generator)
        maps[site] = AffineMap.everywhere(scale, shift * torch.randn(width, generator=generator))
    return ActivationMaps(maps)


def logits(model: Any) -> torch.Tensor:
    tokens = torch.arange(3 * 11).reshape(3, 11) * 7 % VOCABULARY
    with torch.no_grad():
        return model(tokens).logits


def refused(model: Any, maps: ActivationMaps, strength: float = 0.7) -> FoldError:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FoldError) as caught:
        fold_transport(model, maps, strength)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    return caught.value


EXACT = [
    ("Llama", r".*layernorm|.*(down|q)_proj", {"attention_bias": True, "mlp_bias": True}),
    ("Gemma2", r".*\.input_layernorm|.*q_proj", {"attention_bias": True}),
    ("Qwen2", r".*\.input_layernorm|.*[qkv]_proj", {}),
    ("GPT2", r".*ln_.*|.*c_proj|.*c_attn|.*c_fc", {}),
    ("OPT", r".*layer_norm|.*fc\d|.*out_proj", {}),
    ("Phi", r".*layernorm|.*fc2|.*dense", {}),
]


@pytest.mark.parametrize(("family", "pattern", "config_changes"), EXACT)
def test_a_folded_checkpoint_equals_the_hooked_model(
    family: str, pattern: str, config_changes: dict[str, bool], tmp_path: Path
) -> None:
    model = build(family)
    maps = random_maps(model, pattern)
    before = copy.deepcopy(model.state_dict())
    folded = fold_transport(model, maps, 0.7)
    folded.save(tmp_path / "folded", check=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folded").eval()
    with maps.applied(model, 0.7):
        hooked = logits(model)
    torch.testing.assert_close(logits(loaded), hooked, rtol=0, atol=1e-4)
    assert (hooked - logits(model)).abs().max() > 0.5  # the transport does something
    assert folded.config_changes == config_changes
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())


@pytest.mark.parametrize(
    "family", ["Llama", "Gemma2", "Qwen2", "Mistral", "Qwen3", "GPT2", "OPT", "Mixtral"]
)
def test_scales_alone_fold_into_every_norm(family: str, tmp_path: Path) -> None:
    model = build(family)
    maps = random_maps(model, r".*norm|.*ln_.*", shift=0.0)
    folder = fold_transport(model, maps, 1.0).save(tmp_path / "folded", check=False)
    with maps.applied(model, 1.0):
        hooked = logits(model)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(loaded), hooked, rtol=0, atol=1e-4)


def names(layers: int, *ends: str) -> set[str]:
    return {f"model.layers.{layer}.{end}" for layer in range(layers) for end in ends}


def test_shifts_that_an_architecture_cannot_hold_are_all_named() -> None:
    model = build("Mistral")
    error = refused(model, random_maps(model, ".*norm"))
    assert set(error.reasons) == {
        "model.norm",
        *names(2, "input_layernorm", "post_attention_layernorm"),
    }
    assert "bias of q_proj, k_proj, v_proj" in error.reasons["model.layers.1.input_layernorm"]
    assert "bias of gate_proj, up_proj" in error.reasons["model.layers.0.post_attention_layernorm"]
    assert "lm_head" in error.reasons["model.norm"]
    assert all(site in str(error) for site in error.reasons)
    assert "\n" not in str(error)


def test_qwen2_holds_shifts_of_its_attention_but_not_of_its_mlp() -> None:
    model = build("Qwen2")
    error = refused(model, random_maps(model, ".*layernorm"))
    assert set(error.reasons) == names(2, "post_attention_layernorm")
    assert "Qwen2Config cannot express a bias" in str(error)


def test_shifts_into_the_residual_stream_are_refused() -> None:
    model = build("Gemma2")
    error = refused(model, random_maps(model, ".*layernorm"))
    for site in names(2, "post_attention_layernorm", "post_feedforward_layernorm"):
        assert "'add'" in error.reasons[site]
    assert set(error.reasons) == names(
        2, "post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm"
    )


def test_supports_are_refused() -> None:
    model = build("GPT2")
    maps = random_maps(model, ".*ln_1")
    one = maps.maps["transformer.h.1.ln_1"]
    bounded = AffineMap(one.scale, one.shift, -torch.ones(32), torch.ones(32))
    error = refused(model, ActivationMaps({**maps.maps, "transformer.h.1.ln_1": bounded}))
    assert set(error.reasons) == {"transformer.h.1.ln_1"}
    assert "support" in str(error)


def test_the_last_position_is_refused() -> None:
    model = build("GPT2")
    maps = random_maps(model, ".*ln_1")
    error = refused(model, ActivationMaps(maps.maps, positions="last"))
    assert set(error.reasons) == set(maps.maps)
    assert "positions='last'" in str(error)


def test_tied_weights_are_refused() -> None:
    model = build("Llama", tie_word_embeddings=True)
    error = refused(model, random_maps(model, "lm_head", shift=0.0))
    assert "shared with model.embed_tokens" in error.reasons["lm_head"]


def test_modules_without_a_weight_are_refused() -> None:
    model = build("Llama")
    one = AffineMap.everywhere(torch.full((32,), 2.0), torch.ones(32))
    error = refused(model, ActivationMaps({"model.layers.0.mlp": one, "model.layers.1": one}))
    assert "LlamaMLP has no weight" in error.reasons["model.layers.0.mlp"]
    assert "LlamaDecoderLayer" in error.reasons["model.layers.1"]


def test_a_linear_layer_that_reads_two_tensors_keeps_its_bias() -> None:
    class TwiceRead(torch.nn.Module):
        """Applies one linear layer to a norm's output and to the norm's input."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.RMSNorm(8)
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
            return self.linear(self.norm(x)) + self.linear(x)

    found = find_readers(TwiceRead(), ["norm"], torch.randn(2, 8))["norm"]
    assert found.linears == ["linear"] and found.shared == ["linear"]


@pytest.mark.parametrize(
    ("use", "operation"),
    [
        (lambda y, x: y + x, "add"),
        (lambda y, x: y.view(2, 4, 2), "view"),
        (lambda y, x: y[torch.tensor([0])], "__getitem__"),
        (lambda y, x: y.mul_(2), "mul_"),
    ],
)
def test_operations_beside_linear_layers_are_seen(
    use: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], operation: str
) -> None:
    class Used(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.RMSNorm(8)
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, use_cache: bool = False) -> Any:
            y = self.norm(x)
            return self.linear(y.view(2, 1, 8)), use(y[..., :], x)

    found = find_readers(Used(), ["norm"], torch.randn(2, 8))["norm"]
    assert found.linears == ["linear"]
    assert len(found.operations) == 1 and operation in found.operations[0]


def test_a_map_behind_a_folded_norm_acts_on_the_shifted_layer() -> None:
    """Both sites meet in one bias: scale of the layer x (W shift + bias) + its own shift."""
    model = build("Qwen2")
    norm, layer = "model.layers.0.input_layernorm", "model.layers.0.self_attn.q_proj"
    maps = random_maps(model, [norm, layer])
    # Named against the order of execution.
    folded = fold_transport(model, ActivationMaps(dict(reversed(maps.maps.items()))), 1.0)
    q = find_module(model, layer)
    expected = (
        maps.maps[layer].scale.double()
        * (q.weight.double() @ maps.maps[norm].shift.double() + q.bias.double())
        + maps.maps[layer].shift.double()
    )
    found = find_module(folded.model, layer).bias
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_gemma_weights_are_folded_around_one() -> None:
    model = build("Gemma2")
    maps = random_maps(model, ".*post_feedforward_layernorm", shift=0.0)
    folded = fold_transport(model, maps, 0.5)
    for site, one in maps.maps.items():
        before, after = find_module(model, site).weight, find_module(folded.model, site).weight
        expected = (1 + before.double()) * (1 + 0.5 * (one.scale.double() - 1)) - 1
        torch.testing.assert_close(after.double(), expected, rtol=1e-6, atol=1e-6)


def test_unchanged_weights_are_shared_with_the_original() -> None:
    model = build("Llama")
    folded = fold_transport(model, random_maps(model, ".*input_layernorm", shift=0.0), 0.5)
    kept = dict(folded.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert (kept[name] is parameter) == ("input_layernorm" not in name)


def test_strength_zero_changes_no_weight() -> None:
    model = build("Mistral")
    folded = fold_transport(model, random_maps(model, ".*norm"), 0.0)
    assert torch.equal(logits(folded.model), logits(model))


def test_half_precision_folds_to_rounding(tmp_path: Path) -> None:
    model = build("Llama").to(torch.bfloat16)
    maps = random_maps(model, ".*layernorm")
    folder = fold_transport(model, maps, 0.5).save(tmp_path / "folded")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    with maps.applied(model, 0.5):
        hooked = logits(model).float()
    assert (logits(loaded.eval()).float() - hooked).abs().max() < 0.05 * hooked.abs().max()


def test_a_checkpoint_says_where_it_comes_from(tmp_path: Path) -> None:
    model = build("GPT2")
    maps = random_maps(model, ".*ln_1")
    folder = fold_transport(model, maps, -0.25).save(tmp_path / "folded")
    note = json.loads((folder / fold.NOTE_FILE).read_text())
    assert (note["transport"], note["strength"]) == (maps.fingerprint, -0.25)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    folded = fold_transport(build("GPT2"), random_maps(build("GPT2"), ".*ln_1"), 0.5)
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(ValueError, match="holds files"):
        folded.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_checkpoint_that_disagrees_is_not_left_behind(tmp_path: Path) -> None:
    model = build("GPT2")
    folded = fold_transport(model, random_maps(model, ".*ln_1"), 0.5)
    folded.model.transformer.h[0].ln_1.bias.data += 0.1
    with pytest.raises(ValueError, match="differ from the hooked model's"):
        folded.save(tmp_path / "folded")
    assert not list(tmp_path.iterdir())


def test_wrapped_and_infinite_input_is_refused() -> None:
    peft = pytest.importorskip("peft")
    model = build("Llama")
    maps = random_maps(model, ".*input_layernorm")
    with pytest.raises(ValueError, match="strength=nan"):
        fold_transport(model, maps, float("nan"))
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge its adapter"):
        fold_transport(adapted, maps, 0.5)
