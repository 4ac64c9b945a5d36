"""A saved transport is read back whole or refused in one line, and knows its model."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aim_plugins.core import artifact, files
from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.transport.artifact import (
    LearnedTransport,
    TransportMetadata,
    tokenizer_sha256,
)

METADATA_FILE, TENSORS_FILE = "transport.json", "transport.safetensors"

NORM, MLP = "model.layers.0.input_layernorm", "model.layers.1.mlp.down_proj"
WIDTH = 32


def make_transport(model: Any, seed: int = 0, **fields: Any) -> LearnedTransport:
    """A transport with one map without and one with a support, of random values."""
    generator = torch.Generator().manual_seed(seed)

    def vector() -> torch.Tensor:
        return torch.randn(WIDTH, generator=generator)

    low = vector()
    low[3] = -torch.inf
    maps = ActivationMaps(
        {
            NORM: AffineMap.everywhere(vector(), vector()),
            MLP: AffineMap(vector(), vector(), low, low.abs() + 1, clip=True),
        }
    )
    metadata = TransportMetadata.describe(model, None, method="linear", sites=maps.maps, **fields)
    return LearnedTransport(maps, metadata)


@pytest.fixture
def saved(tiny_llama: Any, tmp_path: Path) -> Path:
    return make_transport(tiny_llama, n_source=7).save(tmp_path / "transport")


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        LearnedTransport.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rewrite(folder: Path, *, seal: bool = True, **changes: Any) -> None:
    """Changes the metadata, and the checksum that guards them unless told otherwise."""
    path = folder / METADATA_FILE
    payload = {**json.loads(path.read_text()), **changes}
    if seal:
        payload["sha256"] = fingerprint({one: payload[one] for one in payload if one != "sha256"})
    path.write_text(json.dumps(payload))


def rewrite_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replaces the tensors and the checksum that guards them."""
    safetensors.torch.save_file(tensors, folder / TENSORS_FILE)
    rewrite(folder, tensors_sha256=files.sha256_of(folder / TENSORS_FILE))


def test_a_transport_reads_back_bit_for_bit(tiny_llama: Any, tmp_path: Path) -> None:
    transport = make_transport(tiny_llama, n_source=7, support="clip", constant_neurons={NORM: 2})
    loaded = LearnedTransport.load(transport.save(tmp_path / "new" / "folder"))
    assert loaded.metadata == transport.metadata
    assert list(loaded.maps.maps) == [NORM, MLP]
    for site, one in transport.maps.maps.items():
        other = loaded.maps.maps[site]
        assert one.clip == other.clip
        for name in ("scale", "shift", "support_min", "support_max"):
            assert torch.equal(getattr(one, name), getattr(other, name)), (site, name)


def test_the_tensors_are_float32_under_documented_keys(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved / "transport.safetensors")
    names = ("scale", "shift", "support_min", "support_max")
    assert set(tensors) == {f"{site}.{name}" for site in (NORM, MLP) for name in names}
    assert {one.dtype for one in tensors.values()} == {torch.float32}
    assert json.loads((saved / "transport.json").read_text())["n_source"] == 7


@pytest.mark.parametrize("name", [METADATA_FILE, TENSORS_FILE])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert name in refusal(saved)


@pytest.mark.parametrize("name", [METADATA_FILE, TENSORS_FILE])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    assert "cut short" in refusal(saved)


def test_a_single_flipped_bit_is_refused(saved: Path) -> None:
    path = saved / TENSORS_FILE
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "SHA-256" in refusal(saved)


def test_another_version_of_the_format_is_refused(saved: Path) -> None:
    rewrite(saved, schema_version=1)
    assert "schema_version=1" in refusal(saved)


def test_sites_that_do_not_match_the_tensors_are_refused(saved: Path) -> None:
    rewrite(saved, sites=["model.layers.1.input_layernorm", MLP])
    assert "different sites" in refusal(saved)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["scale", "shift"])
def test_maps_that_are_not_finite_are_refused(saved: Path, name: str, value: float) -> None:
    tensors = safetensors.torch.load_file(saved / TENSORS_FILE)
    tensors[f"{NORM}.{name}"][0] = value
    rewrite_tensors(saved, tensors)
    message = refusal(saved)
    assert name in message and NORM in message and "not finite" in message


@pytest.mark.parametrize("shape", [(WIDTH - 1,), (1, WIDTH)])
def test_vectors_of_another_shape_are_refused(saved: Path, shape: tuple[int, ...]) -> None:
    tensors = safetensors.torch.load_file(saved / TENSORS_FILE)
    tensors[f"{NORM}.shift"] = torch.zeros(shape)
    rewrite_tensors(saved, tensors)
    assert str(list(shape)) in refusal(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "last"},
        {"clipped": [NORM]},
        {"sites": [NORM]},
        {"sites": "everything"},
        {"sites": [{"site": NORM}]},
        {"strength": "half"},
        {"model_signature": None},
    ],
)
def test_edited_metadata_is_refused(saved: Path, changes: dict[str, Any]) -> None:
    rewrite(saved, seal=False, **changes)
    refusal(saved)


@pytest.mark.parametrize(
    "signature",
    [
        "x",
        {"architecture": 3},
        {"weights": "x"},
        {"weights": ["model.norm.weight"]},
        {"weights": {"model.norm.weight": {}}},
        {"weights": {"model.norm.weight": {"shape": [32], "values": 1.0}}},
        {"weights": {"model.norm.weight": {"shape": 32, "values": [1.0]}}},
        {"weights": {"model.norm.weight": {"shape": [32], "values": ["1"]}}},
    ],
)
def test_a_malformed_signature_is_refused(saved: Path, signature: object) -> None:
    rewrite(saved, model_signature=signature)
    assert "values of other types" in refusal(saved)


@pytest.mark.parametrize("signature", [{}, {"weights": None}, {"architecture": "A", "weights": {}}])
def test_an_unknown_model_is_read_and_warned_of(
    saved: Path, tiny_llama: Any, caplog: pytest.LogCaptureFixture, signature: dict[str, Any]
) -> None:
    rewrite(saved, model_signature=signature)
    transport = LearnedTransport.load(saved)
    transport.check_model(tiny_llama, force=True)
    assert len(caplog.records) == 1


def test_a_swapped_order_of_execution_is_refused(saved: Path) -> None:
    sites = json.loads((saved / METADATA_FILE).read_text())["sites"]
    rewrite(saved, seal=False, sites=sites[::-1])
    assert "altered" in refusal(saved)


def test_a_save_killed_between_its_files_leaves_a_refused_pair(
    saved: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_atomic

    def write_tensors_only(path: Path, content: bytes | str) -> Path:
        if Path(path).name == METADATA_FILE:
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(artifact, "write_atomic", write_tensors_only)
    with pytest.raises(KeyboardInterrupt):
        make_transport(tiny_llama, seed=1).save(saved)
    assert "saving was interrupted" in refusal(saved)


def test_saving_again_replaces_the_transport(saved: Path, tiny_llama: Any) -> None:
    other = make_transport(tiny_llama, seed=1)
    other.save(saved)
    assert LearnedTransport.load(saved).fingerprint == other.fingerprint
    assert sorted(path.name for path in saved.iterdir()) == [
        "transport.json",
        "transport.safetensors",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fitted", [torch.float32, torch.bfloat16, torch.float16])
def test_precision_does_not_change_the_model(
    tiny_llama: Any, fitted: torch.dtype, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    transport = make_transport(copy.deepcopy(tiny_llama).to(fitted))
    transport.check_model(copy.deepcopy(tiny_llama).to(dtype))
    assert not caplog.records


def test_a_fine_tune_is_refused_unless_forced(
    tiny_llama: Any, caplog: pytest.LogCaptureFixture
) -> None:
    transport = make_transport(tiny_llama)
    tuned = copy.deepcopy(tiny_llama)
    tuned.model.layers[-1].mlp.up_proj.weight.data.mul_(1.05)
    with pytest.raises(ValueError, match=r"other weights .*layers\.1\.mlp\.up_proj"):
        transport.check_model(tuned)
    transport.check_model(tuned, force=True)
    assert "other weights" in caplog.text


def test_another_architecture_is_refused(tiny_llama: Any) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    other = MistralForCausalLM(MistralConfig(**sizes, **heads))
    with pytest.raises(ValueError, match="LlamaForCausalLM.*this model is a MistralForCausalLM"):
        make_transport(tiny_llama).check_model(other)


@pytest.mark.parametrize("force", [False, True])
def test_a_model_without_the_sites_is_refused_even_by_force(tiny_llama: Any, force: bool) -> None:
    shallow = LlamaForCausalLM(
        LlamaConfig(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    )
    with pytest.raises(ValueError, match="has no module"):
        make_transport(tiny_llama).check_model(shallow, force=force)


@pytest.mark.parametrize("force", [False, True])
def test_a_model_of_another_width_is_refused_even_by_force(tiny_llama: Any, force: bool) -> None:
    wide = LlamaForCausalLM(
        LlamaConfig(vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2)
    )
    with pytest.raises(ValueError, match="64 neurons, its map 32"):
        make_transport(tiny_llama).check_model(wide, force=force)


def test_wrappers_are_looked_through_and_adapters_are_not(tiny_llama: Any) -> None:
    peft = pytest.importorskip("peft")
    transport = make_transport(tiny_llama)
    adapted = peft.get_peft_model(
        copy.deepcopy(tiny_llama), peft.LoraConfig(target_modules=["q_proj"])
    )
    with pytest.raises(ValueError, match="lora_A"):
        transport.check_model(adapted)
    make_transport(adapted).check_model(adapted)
    transport.check_model(torch.compile(tiny_llama))


def test_offloaded_weights_are_warned_of(tiny_llama: Any, caplog: pytest.LogCaptureFixture) -> None:
    transport = make_transport(tiny_llama)
    offloaded = copy.deepcopy(tiny_llama)
    offloaded.model.layers[1].mlp.to("meta")
    transport.check_model(offloaded)
    assert "3 of 12 sampled weights are quantised or offloaded" in caplog.text


def test_quantised_weights_are_warned_of(tiny_llama: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Packed into integers under another name, as bitsandbytes and GPTQ do."""
    transport = make_transport(tiny_llama)
    quantised = copy.deepcopy(tiny_llama)
    quantised.config.quantization_config = {"quant_method": "gptq"}
    for layer in quantised.model.layers:
        del layer.mlp.up_proj.weight
        layer.mlp.up_proj.register_buffer("qweight", torch.zeros(4, 32, dtype=torch.int32))
        packed = layer.mlp.gate_proj.weight.to(torch.uint8)
        layer.mlp.gate_proj.weight = torch.nn.Parameter(packed, requires_grad=False)
    transport.check_model(quantised)
    assert "2 of 12 sampled weights are quantised or offloaded" in caplog.text
    quantised.model.norm.weight.data += 1
    with pytest.raises(ValueError, match=r"other weights .*model\.norm"):
        transport.check_model(quantised)


def test_the_tokenizer_is_told_by_its_rules_not_its_padding(
    tiny_checkpoint: Path, tiny_llama: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    known = make_transport(tiny_llama).metadata
    fields = {name: getattr(known, name) for name in ("method", "sites", "model_signature")}
    digest = tokenizer_sha256(tokenizer)
    transport = LearnedTransport(
        make_transport(tiny_llama).maps, TransportMetadata(**fields, tokenizer_sha256=digest)
    )
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    with caplog.at_level(logging.WARNING):
        transport.check_model(tiny_llama, tokenizer)
    assert not caplog.records
    tokenizer.add_tokens(["<new>"])
    transport.check_model(tiny_llama, tokenizer)
    assert "another tokenizer" in caplog.text


def test_metadata_of_other_sites_or_positions_is_refused(tiny_llama: Any) -> None:
    transport = make_transport(tiny_llama)
    metadata = TransportMetadata(method="linear", sites=[NORM])
    with pytest.raises(ValueError, match="sites"):
        LearnedTransport(transport.maps, metadata)
    metadata = TransportMetadata(method="linear", sites=[NORM, MLP], positions="last")
    with pytest.raises(ValueError, match="positions"):
        LearnedTransport(transport.maps, metadata)


@pytest.mark.parametrize(
    "incremental, fitted, low, high",
    [
        ("causal", 2.0, 0, 2),
        ("source", -0.5, -0.5, 1),
        ("causal", 0.5, 0, 1),
        ("atonce", 2.0, 0, 1),
    ],
)
def test_a_transport_is_learned_for_the_strength_of_its_incremental_fit(
    incremental, fitted, low, high
):
    known = TransportMetadata(
        method="linear", sites=["norm"], incremental=incremental, strength=fitted
    )
    assert known.warning_of([low, 0.0, 1.0, high]) == ""
    below, above = low - 0.25, high + 0.25
    text = f"strength={below:g}, {above:g} lies outside {low:g} to {high:g},"
    assert known.warning_of([below, 0.0, above, above]).startswith(text)
