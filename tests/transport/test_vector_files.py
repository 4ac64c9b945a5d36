"""Steering vectors in the files of other tools do here what they do there.

The files are written as the tools write them, by their own package where it is installed (gguf,
lm-eval, torch) and else by the lines of their sources that are named; what they do is computed from
the definition of each.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
from aim_plugins.transport.exchange.reading import read_vectors
from aim_plugins.transport.exchange.writing import write_vectors

WIDTH = 32
FIRST, LAST = "model.layers.0", "model.layers.1"
TOKENS = torch.tensor([[1, 7, 9, 30, 5], [4, 4, 90, 2, 77]])


def vector(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (WIDTH,)), generator=torch.Generator().manual_seed(seed))


def write_gguf(path: Path, directions: dict[str, Any], **others: Any) -> Path:
    """As `ControlVector.export_gguf` of repeng 0.4.0 does."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for name, value in (directions | others).items():
        writer.add_tensor(name, np.asarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: Any, maps: ActivationMaps | None = None, strength: float = 1.0) -> Tensor:
    with torch.no_grad():
        if maps is None:
            return model(TOKENS).logits
        with maps.applied(model, strength):
            return model(TOKENS).logits


def behind_the_last_block(model: Any, added: Tensor) -> Tensor:
    """Logits where a vector is added to the residual stream behind the last block."""
    kept = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model(TOKENS)
        handle.remove()
        return model.lm_head(model.model.norm(kept[0] + added))


def test_a_control_vector_is_added_behind_the_block_of_its_number(
    tiny_llama: Any, tmp_path: Path
) -> None:
    """repeng's `ControlModule` and llama.cpp's `build_cvec` add to what a block hands on."""
    path = write_gguf(tmp_path / "v.gguf", {"direction.1": vector(0).numpy()})
    transport = read_vectors(path, tiny_llama)
    assert list(transport.maps.maps) == [LAST]
    assert (transport.metadata.method, transport.maps.positions) == ("imported", "all")
    for strength in (1.0, -0.7):  # repeng's coeff, and llama.cpp's scale
        found = logits(tiny_llama, transport.maps, strength)
        expected = behind_the_last_block(tiny_llama, strength * vector(0))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (found - logits(tiny_llama)).abs().max() > 0.01


def test_block_0_is_read_as_repeng_writes_it(tiny_llama: Any, tmp_path: Path) -> None:
    both = {f"direction.{number}": vector(number).numpy() for number in (1, 0)}
    transport = read_vectors(write_gguf(tmp_path / "v.gguf", both), tiny_llama)
    assert list(transport.maps.maps) == [FIRST, LAST]
    assert torch.equal(transport.maps.maps[FIRST].shift, vector(0))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"direction.2": np.zeros(WIDTH, "f")}, "names block 2, and LlamaForCausalLM has those"),
        ({"direction.1": np.zeros(WIDTH, "e")}, "direction.1 is F16"),
        ({"direction.1": np.zeros((2, WIDTH), "f")}, r"the shape \[2, 32\]"),
        ({"direction.1": np.zeros(5, "f")}, "has 32 neurons, its map 5"),
        ({"blk.1.attn_q.weight": np.zeros(WIDTH, "f")}, "a file of something else"),
        ({}, "holds no vectors"),
    ],
)
def test_other_gguf_files_are_refused(
    tiny_llama: Any, tmp_path: Path, held: dict[str, Any], message: str
) -> None:
    path = write_gguf(tmp_path / "v.gguf", held)
    with pytest.raises(ValueError, match=message):
        read_vectors(path, tiny_llama)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_gguf_file_cut_short_is_refused(tiny_llama: Any, tmp_path: Path, share: float) -> None:
    path = write_gguf(tmp_path / "v.gguf", {"direction.1": vector(0).numpy()})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="no whole GGUF file"):
        read_vectors(path, tiny_llama)


def transport_of(model: Any, maps: dict[str, AffineMap], positions: str = "all") -> Any:
    metadata = TransportMetadata.describe(
        model, None, method="mean", sites=maps, positions=positions
    )
    return LearnedTransport(ActivationMaps(maps, positions), metadata)


def shift(seed: int, **changes: Any) -> AffineMap:
    return dataclasses.replace(AffineMap.everywhere(torch.ones(WIDTH), vector(seed)), **changes)


def test_what_is_written_as_gguf_is_what_llama_cpp_adds_to_that_block(
    tiny_llama: Any, tmp_path: Path
) -> None:
    path = write_vectors(transport_of(tiny_llama, {LAST: shift(3)}), tmp_path / "v.gguf", 0.5)
    reader = gguf.GGUFReader(path)
    # common_control_vector_load_one: direction.N goes to n_embd * (N - 1) of a buffer ...
    buffer = np.zeros(2 * WIDTH, np.float32)
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        number = int(tensor.name.removeprefix("direction."))
        buffer[WIDTH * (number - 1) : WIDTH * number] += tensor.data
    # ... and llama_adapter_cvec::apply: block il takes what lies at n_embd * (il - 1).
    np.testing.assert_allclose(buffer[:WIDTH], 0.5 * vector(3).numpy(), rtol=0, atol=1e-6)
    hint = reader.get_field("controlvector.model_hint")  # repeng wants it
    assert bytes(hint.parts[-1]) == b"llama"
    assert [one.name for one in tmp_path.iterdir()] == ["v.gguf"]


@pytest.mark.parametrize("name", ["v.gguf", "v.safetensors"])
def test_what_is_written_reads_as_it_was(tiny_llama: Any, tmp_path: Path, name: str) -> None:
    bounds = {"support_min": -torch.ones(WIDTH), "support_max": torch.ones(WIDTH), "clip": True}
    maps = {LAST: shift(3, **bounds)}  # clips, which changes nothing of a shift
    again = read_vectors(write_vectors(transport_of(tiny_llama, maps), tmp_path / name), tiny_llama)
    assert torch.equal(again.maps.maps[LAST].shift, vector(3))
    for strength in (1.0, 0.3):
        found = logits(tiny_llama, again.maps, strength)
        expected = logits(tiny_llama, ActivationMaps(maps), strength)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_safetensors_take_every_site_and_keep_the_positions(
    tiny_llama: Any, tmp_path: Path
) -> None:
    maps = {f"{FIRST}.mlp": shift(1), f"{LAST}.input_layernorm": shift(2)}
    path = write_vectors(transport_of(tiny_llama, maps, "last"), tmp_path / "v.safetensors")
    assert set(safetensors.torch.load_file(path)) == set(maps)
    again = read_vectors(path, tiny_llama)
    assert (list(again.maps.maps), again.maps.positions) == (list(maps), "last")
    assert read_vectors(path, tiny_llama, positions="all").maps.positions == "all"


SCALED = AffineMap.everywhere(torch.full((WIDTH,), 0.5), torch.zeros(WIDTH))


@pytest.mark.parametrize(
    ("site", "one", "positions", "message"),
    [
        (LAST, SCALED, "all", f"the map of '{LAST}' scales neurons"),
        (LAST, shift(0, support_min=torch.zeros(WIDTH)), "all", "has a support"),
        (LAST, shift(0), "last", "acts on last tokens, and control vectors on all"),
        (FIRST, shift(0), "all", "the first block, which llama.cpp has no control vector for"),
        (f"{LAST}.mlp", shift(0), "all", "is no decoder block"),
    ],
)
def test_what_a_control_vector_cannot_do_is_refused_by_name(
    tiny_llama: Any, tmp_path: Path, site: str, one: AffineMap, positions: str, message: str
) -> None:
    transport = transport_of(tiny_llama, {site: one}, positions)
    with pytest.raises(ValueError, match=message):
        write_vectors(transport, tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", [1, "1", "direction.1", LAST, "layers.1"])
def test_vectors_go_by_number_or_name(tiny_llama: Any, tmp_path: Path, key: Any) -> None:
    torch.save({key: vector(0)}, tmp_path / "v.pt")
    assert list(read_vectors(tmp_path / "v.pt", tiny_llama).maps.maps) == [LAST]


@dataclasses.dataclass
class SteeringVector:
    """Fields of the class in steering_vectors 0.12.2, steering_vector.py."""

    layer_activations: dict[int, Tensor]
    layer_type: str = "decoder_block"


def test_a_steering_vector_is_read_from_its_fields(tiny_llama: Any, tmp_path: Path) -> None:
    held = SteeringVector({1: vector(0)})
    torch.save(dataclasses.asdict(held), tmp_path / "v.pt")
    transport = read_vectors(tmp_path / "v.pt", tiny_llama, positions="all")
    expected = behind_the_last_block(tiny_llama, 2 * vector(0))  # its multiplier
    found = logits(tiny_llama, transport.maps, 2.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.save(dataclasses.asdict(SteeringVector({1: vector(0)}, "mlp")), tmp_path / "v.pt")
    with pytest.raises(ValueError, match="layer_type='mlp'"):
        read_vectors(tmp_path / "v.pt", tiny_llama)
    torch.save(held, tmp_path / "v.pt")  # the object: its class would have to be run
    with pytest.raises(ValueError, match=r"SteeringVector.*not loaded.*dataclasses\.asdict"):
        read_vectors(tmp_path / "v.pt", tiny_llama)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_file_runs_code(tiny_llama: Any, tmp_path: Path) -> None:
    path, trap = tmp_path / "v.pt", tmp_path / "trap"
    torch.save({"1": vector(0), "2": Payload(trap)}, path)
    with pytest.raises(ValueError, match="more than tensors"):
        read_vectors(path, tiny_llama)
    path.write_bytes(pickle.dumps(Payload(trap)))
    with pytest.raises(ValueError, match=r"v\.pt"):
        read_vectors(path, tiny_llama)
    assert not trap.exists()


def clamped_neuron() -> Tensor:
    return torch.zeros(WIDTH).index_fill(0, torch.tensor([6]), -2.0)


def test_steering_files_do_what_lm_eval_does(tiny_llama: Any, tmp_path: Path) -> None:
    """Against the functions and hooks of lm_eval/models/hf_steered.py themselves."""
    from lm_eval.models.hf_steered import SteeredModel, steer

    added, bias = vector(0), vector(1)
    state: dict[str, dict[str, Any]] = {
        "layers.0.mlp": {"steering_vector": added, "steering_coefficient": 3.0, "action": "add"},
        "layers.1": {
            "steering_vector": clamped_neuron(),
            "steering_coefficient": 1.5,
            "action": "clamp",
            "bias": bias,
            "head_index": None,
        },
    }
    torch.save(state, tmp_path / "v.pt")
    unit = clamped_neuron() / clamped_neuron().norm()
    clamp = functools.partial(
        SteeredModel.clamp, direction=unit, value=1.5, bias=bias, head_index=None
    )
    add = functools.partial(SteeredModel.add, vector=3 * added, head_index=None)
    with torch.no_grad(), steer(tiny_llama, {"layers.0.mlp": add, "layers.1": clamp}):
        expected = tiny_llama(TOKENS).logits
    found = logits(tiny_llama, read_vectors(tmp_path / "v.pt", tiny_llama).maps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": "clamp"}, "clamps a direction over 32 neurons"),
        ({"action": "scale"}, "action='scale'"),
        ({"head_index": 2}, "steers head 2"),
        ({"bias": torch.zeros(WIDTH)}, "has a bias"),
        ({"steering_coefficient": "much"}, "'much' where a number is needed"),
        ({"steering_vector": torch.zeros(2, WIDTH)}, r"the shape \[2, 32\]"),
    ],
)
def test_what_is_no_map_of_each_neuron_is_refused(
    tiny_llama: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    steering = {"steering_vector": vector(0), "steering_coefficient": 1.0, "action": "add"}
    torch.save({"layers.1": steering | change}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=message):
        read_vectors(tmp_path / "v.pt", tiny_llama)


HEADER = "loader,action,sparse_model,hookpoint,feature_index,steering_coefficient,head_index,sae_id"


def write_table(folder: Path, *rows: str) -> Path:
    (folder / "v.csv").write_text("\n".join([HEADER + ",description,", *rows]) + "\n")
    return folder / "v.csv"


def test_a_table_takes_rows_of_sparse_decoders(tiny_llama: Any, tmp_path: Path) -> None:
    """`derive_steer_config` takes W_dec[feature_index] of what lies below the hookpoint."""
    decoder = vector(0, 7, WIDTH)
    decoder[3] = clamped_neuron()
    for folder, name in (("s/layers.0", "sae"), ("l/block_1", "sae_weights")):
        (tmp_path / folder).mkdir(parents=True)
        tensors = {"W_dec": decoder, "b_dec": vector(1), "encoder.weight": vector(2, 7, WIDTH)}
        safetensors.torch.save_file(tensors, tmp_path / folder / f"{name}.safetensors")
    path = write_table(
        tmp_path,
        f"sparsify,add,{tmp_path}/s,layers.0,5,10.0,,,waves,",
        f"sae_lens,clamp,{tmp_path}/l,layers.1,3,2.0,,block_1,,",
    )
    maps = read_vectors(path, tiny_llama).maps.maps
    torch.testing.assert_close(maps[FIRST].shift, 10 * decoder[5], rtol=0, atol=1e-6)
    x = vector(9, 20, WIDTH)
    expected = x.clone()
    expected[:, 6] = vector(1)[6] - 2.0  # b + c d, d = -1
    torch.testing.assert_close(maps[LAST](x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["sparsify,add,EleutherAI/sae,layers.0,5,10.0,,,,"], "fetch the sparse model"),
        (["other,add,s,layers.0,5,10.0,,,,"], "loader='other'"),
        (["sparsify,add,s,,5,10.0,,,,"], "names no hookpoint"),
        (["sparsify,add,s,layers.0,5,10.0,2,,,"], "has a head_index"),
        ([], "has no rows"),
    ],
)
def test_other_tables_are_refused(
    tiny_llama: Any, tmp_path: Path, rows: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_vectors(write_table(tmp_path, *rows), tiny_llama)


def test_a_feature_is_a_row_or_a_column_of_its_decoder(tiny_llama: Any, tmp_path: Path) -> None:
    decoder, path = vector(0, 7, WIDTH), tmp_path / "sae.safetensors"
    for name, held in (("W_dec", decoder), ("decoder.weight", decoder.T.contiguous())):
        safetensors.torch.save_file({name: held, "b_dec": vector(1)}, path)
        one = read_vectors(path, tiny_llama, feature=4, site=LAST, coefficient=3.0)
        torch.testing.assert_close(one.maps.maps[LAST].shift, 3 * decoder[4], rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match="has 7 of them"):
            read_vectors(path, tiny_llama, feature=7, site=LAST)
        with pytest.raises(ValueError, match="is a sparse autoencoder: say which --feature"):
            read_vectors(path, tiny_llama)


def test_vectors_of_another_model_are_refused(tiny_llama: Any, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    for name, message in (("transformer.h.0", "no module"), (f"{LAST}.mlp.up_proj", "64 neurons")):
        safetensors.torch.save_file({name: vector(0)}, path)
        with pytest.raises(ValueError, match=message):
            read_vectors(path, tiny_llama)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        read_vectors(path, tiny_llama)
