"""Components multiplied by factors equal weights that are scaled, row by row, and come back."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageClassification
from transformers.pytorch_utils import Conv1D

from aim_plugins.modulation.ablation import ablation_mask, multiplied, uniforms
from aim_plugins.modulation.attention import replaced_attention
from aim_plugins.modulation.baking import scale_weights
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.components import Components, Site


def randomised(model: nn.Module) -> nn.Module:
    """Biases, norms and running statistics at random too, and no weight near zero, which hides."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for layer in model.modules():
            for name, one in layer.named_parameters(recurse=False):
                if one.ndim == 1:
                    one.copy_(torch.randn_like(one) * 0.2 + (name == "weight"))
                elif one.ndim == 2 and float(one.std()) < 0.1:
                    one.normal_(0, 0.2)
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
    return model.eval().requires_grad_(False)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(make())


def causal(name: str, **settings: Any) -> nn.Module:
    shared = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(name, **shared, **settings)
    return AutoModelForCausalLM.from_config(config)


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5)


def resnet() -> nn.Module:
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, [2, 2, 1, 1], num_classes=5)


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(16, 4, 2, 4, 16, 24, num_classes=5)


def timm_vit() -> nn.Module:
    return timm.models.VisionTransformer(
        16, 4, num_classes=5, embed_dim=16, depth=2, num_heads=4, mlp_ratio=1.5
    )


def transformers_vit() -> nn.Module:
    config = AutoConfig.for_model(
        *("vit",),
        image_size=16,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
    )
    return AutoModelForImageClassification.from_config(config)


def gpt2() -> nn.Module:
    return causal("gpt2", n_embd=16, n_layer=2, n_head=4, n_positions=32)


def llama() -> nn.Module:
    return causal(
        *("llama",),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=True,
    )


def opt() -> nn.Module:
    return causal(
        *("opt",),
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    )


def encoder(batch_first: bool = True) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def small_images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def tokens(rows: int = 4) -> Tensor:
    return torch.randint(50, (rows, 7), generator=torch.Generator().manual_seed(2))


def vectors(rows: int = 4) -> Tensor:
    return torch.randn(rows, 6, 16, generator=torch.Generator().manual_seed(2))


def outputs(model: nn.Module, given: Tensor) -> Tensor:
    found = model(given)
    return found if isinstance(found, Tensor) else found.logits


def zeroed(model: nn.Module, components: Components, kept: Tensor) -> nn.Module:
    """A copy in which the weights of those that are not kept are zeroed, one by one."""
    other = copy.deepcopy(model)
    for number in (~kept).nonzero().flatten().tolist():
        site, place = components.site_of(number)
        layer: Any = other.get_submodule(site.layer)
        features = slice(place * site.width, (place + 1) * site.width)
        weight = layer.in_proj_weight if site.part == "in_proj" else None
        if weight is None:
            weight = (layer.out_proj if site.part else layer).weight
        rows = (site.side == "outputs") != isinstance(layer, Conv1D)
        weight.data[features if rows else (slice(None), features)] = 0
    return other


CASES = [
    (resnet, "conv_filters", images),
    (densenet, "conv_filters", images),
    (torchvision_vit, "linear_rows", small_images),
    (torchvision_vit, "linear_inputs", small_images),
    (torchvision_vit, "attention_heads", small_images),
    (torchvision_vit, "mlp_neurons", small_images),
    (timm_vit, "conv_filters", small_images),
    (timm_vit, "linear_rows", small_images),
    (timm_vit, "attention_heads", small_images),
    (timm_vit, "mlp_neurons", small_images),
    (transformers_vit, "attention_heads", small_images),
    (transformers_vit, "mlp_neurons", small_images),
    (gpt2, "linear_inputs", tokens),
    (gpt2, "linear_rows", tokens),
    (gpt2, "attention_heads", tokens),
    (gpt2, "mlp_neurons", tokens),
    (llama, "linear_rows", tokens),
    (llama, "attention_heads", tokens),
    (llama, "mlp_neurons", tokens),
    (opt, "mlp_neurons", tokens),
    (encoder, "attention_heads", vectors),
    (encoder, "linear_rows", vectors),
    (encoder, "mlp_neurons", vectors),
]
cases = pytest.mark.parametrize(
    ("make", "kind", "given"), CASES, ids=[f"{one[0].__name__}-{one[1]}" for one in CASES]
)


def masks(count: int, rows: int, share: float = 0.2) -> Tensor:
    return torch.from_numpy(np.stack([~ablation_mask(count, share, 3, row) for row in range(rows)]))


@cases
@torch.no_grad()
def test_ablation_equals_zeroed_weights_and_every_row_its_own_mask(make, kind, given) -> None:
    model = built(make)
    components = find_components(model, kind)
    kept, inputs = masks(len(components), 3), given(3)
    expected = torch.cat(
        [
            outputs(zeroed(model, components, mask), inputs[row : row + 1])
            for row, mask in enumerate(kept)
        ]
    )
    assert (expected - outputs(model, inputs)).abs().max() > 1e-3
    with multiplied(model, components, kept.float()):
        found = outputs(model, inputs)
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@cases
@torch.no_grad()
def test_a_factor_of_one_is_the_model_to_the_bit(make, kind, given) -> None:
    model = built(make)
    components = find_components(model, kind)
    inputs = given(3)
    plain = outputs(model, inputs)
    with multiplied(model, components, torch.ones(1, len(components))):
        assert torch.equal(outputs(model, inputs), plain)
    # Beside a row that is changed, too; PyTorch's own attention is then computed in steps.
    factors = torch.ones(3, len(components))
    factors[1] = 0.5
    with multiplied(model, components, factors):
        beside = outputs(model, inputs)
    if any(site.part for site in components.sites):
        assert torch.allclose(beside[[0, 2]], plain[[0, 2]], atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(beside[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(beside[1], plain[1], atol=1e-4)


@cases
@torch.no_grad()
def test_factors_are_those_of_scaled_weights(make, kind, given) -> None:
    model, inputs = built(make), given(2)
    components = find_components(model, kind)
    components = components.take(range(0, len(components), 3))
    factors = torch.linspace(-0.5, 1.5, len(components))
    scaled = copy.deepcopy(model)
    scale_weights(scaled, components, factors)
    expected = outputs(scaled, inputs)
    with multiplied(model, components, factors[None]):
        found = outputs(model, inputs)
    assert not torch.equal(expected, outputs(model, inputs))
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_ablation_in_half_precision_equals_zeroed_weights(make, kind, given, dtype) -> None:
    model, inputs = built(make).to(dtype), given(3)
    inputs = inputs if given is tokens else inputs.to(dtype)
    components = find_components(model, kind)
    kept = masks(len(components), 3)
    with multiplied(model, components, kept.float()):
        found = outputs(model, inputs)
    assert found.dtype == dtype
    expected = torch.cat(
        [
            outputs(zeroed(model, components, mask), inputs[row : row + 1])
            for row, mask in enumerate(kept)
        ]
    )
    scale = float(expected.abs().max())
    assert (expected - outputs(model, inputs)).abs().max() > 0.05 * scale
    assert (found - expected).abs().max() <= 4 * torch.finfo(dtype).eps * scale


@torch.no_grad()
def test_weights_in_double_precision_are_scaled_without_rounding() -> None:
    model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    before = model.weight.clone()
    scale_weights(nn.Sequential(model), Components((Site("0", "0", 2),)), torch.tensor([1.0, 0.5]))
    assert torch.equal(model.weight, before * torch.tensor([[1.0], [0.5]], dtype=torch.float64))


# Blocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "ends", "given"),
    [
        (resnet, ["bn2.weight", "bn2.bias"], images),
        (timm_vit, ["attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"], None),
        (
            torchvision_vit,
            [*(f"self_attention.out_proj.{one}" for one in ("weight", "bias"))]
            + [*(f"mlp.3.{one}" for one in ("weight", "bias"))],
            None,
        ),
        (llama, [f"{one}.weight" for one in ("self_attn.o_proj", "mlp.down_proj")], tokens),
        (
            gpt2,
            ["attn.c_proj.weight", "attn.c_proj.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"],
            tokens,
        ),
    ],
)
@torch.no_grad()
def test_a_block_without_what_it_adds_equals_zeroed_ends(make, ends, given) -> None:
    model = built(make)
    if make is llama:  # biases of these ends are added too
        ends = [*ends, "self_attn.o_proj.bias", "mlp.down_proj.bias"]
    blocks = find_components(model, "blocks")
    inputs = (given or small_images)(len(blocks))
    expected = []
    for row, site in enumerate(blocks.sites):
        other = copy.deepcopy(model)
        for end in ends:
            other.get_parameter(f"{site.layer}.{end}").zero_()
        expected.append(outputs(other, inputs[row : row + 1]))
    with multiplied(model, blocks, 1 - torch.eye(len(blocks))):
        found = outputs(model, inputs)
    assert torch.allclose(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_no_residual_block_is_refused() -> None:
    model = built(densenet)
    blocks = find_components(model, "blocks")
    with (
        pytest.raises(ValueError, match="components='features.denseblock1' is no residual block"),
        multiplied(model, blocks, torch.zeros(1, len(blocks))),
    ):
        model(images())


# Rows ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_of_a_batch_go_by_the_factors_of_their_owners() -> None:
    model = built(gpt2)
    components = find_components(model, "attention_heads")
    factors = masks(len(components), 2, 0.5).float()
    owners = torch.tensor([1, 0, 0, 1])
    with multiplied(model, components, factors, owners):
        together = outputs(model, tokens(4))
    for row, owner in enumerate(owners):
        with multiplied(model, components, factors[owner][None]):
            alone = outputs(model, tokens(4)[row : row + 1])
        assert torch.allclose(together[row], alone[0], atol=1e-5)


@torch.no_grad()
def test_consecutive_rows_of_a_multiple_are_multiplied_alike() -> None:
    model = built(llama)
    components = find_components(model, "mlp_neurons")
    factors = masks(len(components), 2).float()
    with multiplied(model, components, factors):
        found = outputs(model, tokens(4))
    with multiplied(model, components, factors, torch.tensor([0, 0, 1, 1])):
        assert torch.equal(found, outputs(model, tokens(4)))
    with (
        pytest.raises(ValueError, match="factors of 3 rows, and the layer runs on 4"),
        multiplied(model, components, factors[[0, 1, 0]]),
    ):
        outputs(model, tokens(4))


@torch.no_grad()
def test_tokens_before_rows_are_told_apart() -> None:
    model = built(lambda: encoder(batch_first=False))
    same = built(encoder)
    same.load_state_dict(model.state_dict())
    inputs = vectors(6)  # as many rows as tokens
    for kind in ("attention_heads", "linear_rows", "mlp_neurons", "blocks"):
        components = find_components(model, kind)
        factors = masks(len(components), 6, 0.3).float()
        with multiplied(same, components, factors):
            expected = same(inputs)
        with multiplied(model, components, factors):
            found = model(inputs.transpose(0, 1)).transpose(0, 1)
        assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_a_convolution_beside_an_attention_to_tokens_first_has_rows_first() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.attention = nn.Conv1d(2, 8, 3), nn.MultiheadAttention(8, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            values = self.conv(inputs).movedim(2, 0)
            return self.attention(values, values, values)[0].transpose(0, 1)

    model = built(Mixed)
    components = find_components(model, "conv_filters")
    inputs = torch.randn(3, 2, 9, generator=torch.Generator().manual_seed(2))
    kept = masks(len(components), 3, 0.4)
    with multiplied(model, components, kept.float()):
        found = model(inputs)
    for row, mask in enumerate(kept):
        expected = zeroed(model, components, mask)(inputs[row : row + 1])
        assert torch.allclose(found[row], expected[0], atol=1e-5)


# Gradients ----------------------------------------------------------------------------------------


def in_double(model: nn.Module) -> nn.Module:
    """The model in float64 throughout; transformers' own RMSNorm computes in float32."""
    for layer in list(model.modules()):
        for name, one in layer.named_children():
            if type(one).__name__ == "LlamaRMSNorm":
                norm = nn.RMSNorm(len(one.weight), one.variance_epsilon)  # type: ignore[arg-type]
                norm.weight = one.weight  # type: ignore[assignment]
                setattr(layer, name, norm)
    return model.double()


@pytest.mark.parametrize(
    ("make", "kind", "given"),
    [
        (resnet, "conv_filters", images),
        (torchvision_vit, "attention_heads", small_images),
        (torchvision_vit, "linear_rows", small_images),
        (gpt2, "linear_inputs", tokens),
        (llama, "attention_heads", tokens),
        (llama, "blocks", tokens),
    ],
)
def test_gradients_by_factors_are_finite_differences(make, kind, given) -> None:
    model = in_double(built(make))
    inputs = given(2).double() if given is not tokens else given(2)
    components = find_components(model, kind)
    components = components.take([*range(0, len(components), max(1, len(components) // 6))])
    factors = torch.full((2, len(components)), 0.7, dtype=torch.float64, requires_grad=True)
    with multiplied(model, components, factors):
        for _ in range(2):  # each pass has a graph of its own
            [gradient] = torch.autograd.grad(outputs(model, inputs).pow(2).sum(), factors)

    def value(moved: Tensor) -> Tensor:
        with torch.no_grad(), multiplied(model, components, moved):
            return outputs(model, inputs).pow(2).flatten(1).sum(1)

    for number in range(len(components)):
        step = torch.zeros_like(factors).detach()
        step[:, number] = 1e-5
        expected = (value(factors.detach() + step) - value(factors.detach() - step)) / 2e-5
        assert torch.allclose(gradient[:, number], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chosen", [None, [1, 4]])
def test_a_pass_without_gradients_takes_none_from_the_next(chosen) -> None:
    model = built(resnet)
    components = find_components(model, "conv_filters")
    components = components.take(chosen) if chosen else components

    def gradient(first: bool) -> Tensor:
        factors = torch.full((1, len(components)), 0.7, requires_grad=True)
        with multiplied(model, components, factors):
            if first:
                with torch.no_grad():
                    model(images(2))
            return torch.autograd.grad(model(images(2)).sum(), factors)[0]

    assert gradient(first=False).count_nonzero() > 0
    assert torch.equal(gradient(first=True), gradient(first=False))


# PyTorch's attention ------------------------------------------------------------------------------


def attention(**settings: Any) -> nn.MultiheadAttention:
    found = built(lambda: nn.MultiheadAttention(16, 4, **settings))
    assert isinstance(found, nn.MultiheadAttention)
    return found


CAUSAL = nn.Transformer.generate_square_subsequent_mask(6)
PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2, [False] * 5 + [True]])


@pytest.mark.parametrize(
    "masked",
    [
        {},
        {"attn_mask": CAUSAL},
        {"attn_mask": CAUSAL.isinf()},
        {"attn_mask": CAUSAL, "is_causal": True},
        {"attn_mask": CAUSAL.expand(12, 6, 6)},
        {"key_padding_mask": PADDING},
        {"key_padding_mask": PADDING, "attn_mask": CAUSAL.isinf()},
        {"key_padding_mask": torch.zeros(3, 6).masked_fill(PADDING, -torch.inf)},
    ],
    ids=["none", "float", "bool", "causal", "rows", "padding", "both", "float padding"],
)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_an_attention_taken_apart_is_pytorchs_own(masked, batch_first, bias) -> None:
    module = attention(batch_first=batch_first, bias=bias)
    inputs = vectors(3) if batch_first else vectors(3).transpose(0, 1)
    expected, _ = module(inputs, inputs, inputs, need_weights=False, **masked)
    with replaced_attention(module, {"heads": lambda one: one}):
        found, _ = module(inputs, inputs, inputs, need_weights=False, **masked)
    assert torch.allclose(found, expected, atol=1e-6)


def test_attentions_that_cannot_be_taken_apart_are_refused() -> None:
    for settings in ({"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 8}):
        with pytest.raises(ValueError, match="choose components of other layers"):
            replaced_attention(attention(**settings), {}).__enter__()
    module = attention(batch_first=True)
    with replaced_attention(module, {}):
        with pytest.raises(ValueError, match="another input than its own"):
            module(vectors(), vectors(), vectors())
        with pytest.raises(ValueError, match="give that one too"):
            one = vectors()
            module(one, one, one, is_causal=True)


@torch.no_grad()
def test_factors_of_two_blocks_multiply() -> None:
    for make, kind, given in (
        (torchvision_vit, "attention_heads", small_images),
        (resnet, "conv_filters", images),
        (llama, "blocks", tokens),
    ):
        model = built(make)
        components = find_components(model, kind)
        one, other = masks(len(components), 2, 0.5).float() * 0.5 + 0.25
        with multiplied(model, components, (one * other)[None]):
            expected = outputs(model, given(2))
        with multiplied(model, components, one[None]), multiplied(model, components, other[None]):
            found = outputs(model, given(2))
        assert torch.allclose(found, expected, atol=1e-5)


# Coming back --------------------------------------------------------------------------------------


def state(model: nn.Module) -> list[str]:
    """All that modules hold, hooks and replaced methods too, and the values of parameters."""
    held = [
        repr({name: own for name, own in vars(layer).items() if name != "_modules"})
        for layer in model.modules()
    ]
    return [*held, *(repr(one.sum().item()) for one in model.parameters())]


@pytest.mark.parametrize("error", [None, KeyError])
@pytest.mark.parametrize(
    ("make", "kind", "given"),
    [(torchvision_vit, "linear_rows", small_images), (llama, "attention_heads", tokens)]
    + [(resnet, "blocks", images)],
)
@torch.no_grad()
def test_the_model_comes_back_exactly(make, kind, given, error) -> None:
    model = built(make)
    components = find_components(model, kind)
    before, plain = state(model), outputs(model, given())
    with (
        contextlib.nullcontext() if error is None else pytest.raises(error),
        multiplied(model, components, torch.zeros(1, len(components))),
    ):
        assert not torch.equal(outputs(model, given()), plain)
        if error:
            raise error
    assert state(model) == before
    assert torch.equal(outputs(model, given()), plain)


def test_a_forward_of_somebody_elses_comes_back() -> None:
    module = attention(batch_first=True)
    own = module.forward
    module.forward = lambda *given, **named: own(*given, **named)  # type: ignore[method-assign]
    wrapped = module.forward
    with replaced_attention(module, {}):
        assert module.forward is not wrapped
    assert module.forward is wrapped


# Refused ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_factors_of_another_number_are_refused() -> None:
    model = built(resnet)
    components = find_components(model, "conv_filters")
    message = f"factors has 3 columns for {len(components)} components: give one for each"
    with pytest.raises(ValueError, match=message):
        multiplied(model, components, torch.ones(1, 3)).__enter__()
    with pytest.raises(ValueError, match="factors has 3 values"):
        scale_weights(model, components, torch.ones(3))


@torch.no_grad()
def test_components_of_another_model_are_refused() -> None:
    model = built(gpt2)
    of_llama = find_components(built(llama), "attention_heads")
    message = r"components='model.layers.0.self_attn': GPT2LMHeadModel has no module.*another model"
    with pytest.raises(ValueError, match=message):
        multiplied(model, of_llama, torch.zeros(1, len(of_llama))).__enter__()
    wider = Components((Site("wide", "transformer.h.0.mlp.c_proj", 100, side="inputs"),))
    with (
        pytest.raises(ValueError, match="100 features of a layer that has 64.*another model"),
        multiplied(model, wider, torch.zeros(1, 100)),
    ):
        model(tokens())


@torch.no_grad()
def test_layers_that_are_computed_without_being_called_are_refused() -> None:
    # torchvision's Swin hands the weights of its attention to a function.
    model = built(
        lambda: torchvision.models.SwinTransformer(
            [4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=5
        )
    )
    heads = find_components(model, "attention_heads")
    with (
        pytest.raises(ValueError, match=r"features\.1\.0\.attn, .* did not run with the model"),
        multiplied(model, heads, torch.zeros(1, len(heads))),
    ):
        model(images())
    neurons = find_components(model, "mlp_neurons")
    with multiplied(model, neurons, torch.zeros(1, len(neurons))):
        model(images())


@torch.no_grad()
def test_whether_layers_ran_can_be_asked_after_parts_of_the_model() -> None:
    model = built(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)))
    components = find_components(model, "linear_rows")
    with multiplied(model, components, torch.zeros(1, 8)) as check:
        model[0](torch.ones(1, 4))
        with pytest.raises(ValueError, match="components: 1 did not run with the model"):
            check()
        model[1](torch.ones(1, 4))
        check()


@torch.no_grad()
def test_offloaded_layers_are_refused_where_they_are_needed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to("meta")
    rows, inputs = (Components((Site("0", "0", 4, side=side),)) for side in ("outputs", "inputs"))
    with pytest.raises(ValueError, match="components='0': .* of '0' .* offloaded: load the model"):
        multiplied(model, rows, torch.zeros(1, 4)).__enter__()
    with multiplied(model, inputs, torch.zeros(1, 4)):
        pass  # their values are those that a layer is given
    heads = Components((Site("", "", 4, 4, "inputs", "heads"),))
    with pytest.raises(ValueError, match="offloaded"):
        multiplied(attention().to("meta"), heads, torch.zeros(1, 4)).__enter__()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    model = built(lambda: nn.TransformerEncoder(layer, 1))
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    for kind in ("attention_heads", "mlp_neurons"):
        components = find_components(model, kind)
        with (
            pytest.raises(ValueError, match="enable_nested_tensor=False"),
            multiplied(model, components, torch.zeros(1, len(components))),
        ):
            model(vectors(2), src_key_padding_mask=padding)


@torch.no_grad()
def test_weights_that_cannot_be_scaled_alone_are_refused() -> None:
    model = built(llama)
    blocks = find_components(model, "blocks")
    with pytest.raises(ValueError, match=r"components='model.layers.0' is a whole block"):
        scale_weights(model, blocks, torch.zeros(len(blocks)))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="shared with another layer"):
        scale_weights(tied, Components((Site("0", "0", 4),)), torch.zeros(4))
    with torch.device("meta"):
        offloaded = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="is not at hand"):
        scale_weights(offloaded, Components((Site("0", "0", 4),)), torch.zeros(4))


@pytest.mark.parametrize("count", [1, 3, 5])
@torch.no_grad()
def test_where_a_layer_has_another_size_no_weight_is_scaled(count: int) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = copy.deepcopy(model.state_dict())
    for side in ("outputs", "inputs"):
        sites = (Site("0", "0", 4), Site("1", "1", count, side=side))
        message = f"components='1' are {count} features of a layer that has 4"
        with pytest.raises(ValueError, match=message):
            scale_weights(model, Components(sites), torch.zeros(4 + count))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@torch.no_grad()
def test_filters_of_a_transposed_convolution_are_its_outputs() -> None:
    model = built(lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 1)))
    components = find_components(model, "conv_filters", ["0"])
    inputs = torch.randn(2, 4, 5, 5)
    factors = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 0.0])
    hidden = model[0](inputs) - model[0].bias.view(-1, 1, 1)
    expected = model[1](hidden * factors.view(-1, 1, 1) + model[0].bias.view(-1, 1, 1))
    with multiplied(model, components, factors[None]):
        assert torch.allclose(model(inputs), expected, atol=1e-6)
    scale_weights(model, components, factors)
    assert torch.allclose(model(inputs), expected, atol=1e-6)


# Masks --------------------------------------------------------------------------------------------


def test_a_mask_ablates_its_share_and_is_nested_over_shares() -> None:
    small, large = ablation_mask(100_000, 0.05, 7), ablation_mask(100_000, 0.2, 7)
    assert not (small & ~large).any()
    # Five standard deviations of a binomial share.
    assert abs(small.mean() - 0.05) < 5 * (0.05 * 0.95 / 1e5) ** 0.5
    assert abs(large.mean() - 0.2) < 5 * (0.2 * 0.8 / 1e5) ** 0.5
    assert not ablation_mask(1000, 0.0, 7).any() and ablation_mask(1000, 1.0, 7).all()


def test_masks_are_independent_of_each_other_and_the_same_on_every_machine() -> None:
    drawn = np.stack([uniforms(2_000, 7, number) for number in range(30)])
    assert np.abs(np.corrcoef(drawn) - np.eye(30)).max() < 5 / 2_000**0.5
    assert (uniforms(5, 8) != uniforms(5, 7)).all()
    assert (uniforms(5, -8) != uniforms(5, 8)).all()
    for seed, number in ((0, 0), (7, 3), (2**63, 12)):
        assert uniforms(4, seed, number).tolist() == philox(seed, number)


def philox(*key: int) -> list[float]:
    """Four draws in [0, 1) of Philox 4 x 64 of ten rounds (Salmon et al. 2011, section 3.3)."""
    ones = 2**64 - 1
    counter = [1, 0, 0, 0]
    for place in range(10):
        first = (key[0] + place * 0x9E3779B97F4A7C15) & ones
        second = (key[1] + place * 0xBB67AE8584CAA73B) & ones
        left, right = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [
            (right >> 64) ^ counter[1] ^ first,
            right & ones,
            (left >> 64) ^ counter[3] ^ second,
            left & ones,
        ]
    return [(one >> 11) * 2.0**-53 for one in counter]
