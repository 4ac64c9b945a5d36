"""Steering vectors against the packages that make them, where they are installed.

Nothing else needs them: repeng 0.4.0, steering-vectors 0.12.2, pyvene 0.1.8, pyreft 0.1.0 and
xllamacpp 2026.10.11549, each by `pip install --no-deps`. `pytest -s` prints the differences.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
from aim_plugins.transport.exchange.reading import read_vectors
from aim_plugins.transport.exchange.writing import write_vectors

TOKENS = torch.tensor([[1, 7, 9, 30, 5, 4, 90, 2, 77]])
LAST = "model.layers.1"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def logits(model: Any, maps: ActivationMaps | None = None, strength: float = 1.0) -> Tensor:
    with torch.no_grad():
        if maps is None:
            return model(TOKENS).logits
        with maps.applied(model, strength):
            return model(TOKENS).logits


def check(name: str, found: Tensor, expected: Tensor, plain: Tensor, atol: float) -> None:
    off, moved = ((one - expected).abs().max().item() for one in (found, plain))
    print(f"{name}: off by {off:.2g}, steering moves by {moved:.2g}")
    assert off <= atol and moved > 100 * atol


def test_repeng_steers_as_its_file_does_here(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kind in (("int_", np.int64), ("float_", np.float64)):  # gone from numpy 2
        monkeypatch.setattr(np, name, kind, raising=False)
    repeng = pytest.importorskip("repeng")
    vector = repeng.ControlVector("llama", {1: torch.randn(32).numpy()})
    vector.export_gguf(tmp_path / "theirs.gguf")
    transport = read_vectors(tmp_path / "theirs.gguf", tiny_llama)
    controlled = repeng.ControlModel(tiny_llama, [1])
    try:
        controlled.set_control(vector, 0.8)
        expected = logits(controlled)
    finally:
        controlled.unwrap()
    found = logits(tiny_llama, transport.maps, 0.8)
    check("repeng", found, expected, logits(tiny_llama), 1e-5)
    write_vectors(transport, tmp_path / "ours.gguf")
    assert repeng.ControlVector.import_gguf(tmp_path / "ours.gguf") == vector


def test_steering_vectors_steer_as_their_fields_do_here(tiny_llama: Any, tmp_path: Path) -> None:
    package = pytest.importorskip("steering_vectors")
    vector = package.SteeringVector({0: torch.randn(32), 1: torch.randn(32)})
    torch.save(dataclasses.asdict(vector), tmp_path / "v.pt")
    found = logits(tiny_llama, read_vectors(tmp_path / "v.pt", tiny_llama).maps, 1.5)
    with vector.apply(tiny_llama, multiplier=1.5):
        expected = logits(tiny_llama)
    check("steering-vectors", found, expected, logits(tiny_llama), 1e-5)


def test_pyreft_intervenes_as_its_state_does_here(tiny_llama: Any, tmp_path: Path) -> None:
    package = pytest.importorskip("pyreft.interventions")
    one = package.LobireftIntervention(embed_dim=32, low_rank_dimension=4)
    with torch.no_grad():
        # Below the diagonal, which training leaves alone: torch reads signs from it.
        noise = 0.2 * torch.randn(32, 4).tril(-1)
        one.rotate_layer.parametrizations.weight.original.add_(noise)
    key = "intkey_layer_1_comp_block_output_unit_pos_nunit_1#0.bin"
    torch.save(one.state_dict(), tmp_path / key)
    (tmp_path / "config.json").write_text(json.dumps({"intervention_types": [str(type(one))]}))
    x = torch.randn(20, 32)
    found = read_vectors(tmp_path, tiny_llama).maps.maps[LAST](x)
    check("pyreft", found, one(x).detach(), x, 1e-5)


# llama.cpp, by the C interface that xllamacpp's library exports -----------------------------------

XLLAMACPP = "2026.10.11549"
"""Version whose parameters lie where they are set here."""

TYPE_K, TYPE_V, FLASH_ATTENTION, THREADS = 26, 27, 13, (7, 8)
"""Places of int32 parameters of a context: the cache's types (0 is float32) and the others."""

LOADER = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"
POINTER = ctypes.c_void_p


class Parameters(ctypes.Structure):
    """As many bytes as any version takes; C passes structures of this size by copy."""

    _fields_ = (("values", ctypes.c_int32 * 256),)


class Batch(ctypes.Structure):
    _fields_ = (("n_tokens", ctypes.c_int32), ("arrays", POINTER * 6))


class LoadInfo(ctypes.Structure):
    """`common_control_vector_load_info`; a text is one pointer in the library's C++."""

    _fields_ = (("strength", ctypes.c_float), ("fname", POINTER))


class Vector(ctypes.Structure):
    """`std::vector`."""

    _fields_ = (("begin", POINTER), ("end", POINTER), ("capacity", POINTER))


class ControlVectorData(ctypes.Structure):
    _fields_ = (("n_embd", ctypes.c_int32), ("data", Vector))


def write_llama(path: Path, model: Any) -> None:
    """A Llama as a GGUF file in float32; rotary halves are interleaved, as llama.cpp has them."""
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in state.items():
        values = tensor.detach().numpy()
        if count := heads.get(name.split(".")[-2]):
            halves = values.reshape(count, 2, -1, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp() -> Any:
    package = pytest.importorskip("xllamacpp")
    if package.__version__ != XLLAMACPP:
        pytest.skip(f"parameters are known of xllamacpp {XLLAMACPP} alone")
    library = ctypes.CDLL(str(Path(package.__file__).with_name("xllamacpp.abi3.so")))
    library.llama_model_default_params.restype = Parameters
    library.llama_context_default_params.restype = Parameters
    library.llama_model_load_from_file.restype = POINTER
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Parameters]
    library.llama_init_from_model.restype = POINTER
    library.llama_init_from_model.argtypes = [POINTER, Parameters]
    library.llama_batch_get_one.restype = Batch
    library.llama_batch_get_one.argtypes = [POINTER, ctypes.c_int32]
    library.llama_decode.argtypes = [POINTER, Batch]
    library.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    library.llama_get_logits_ith.argtypes = [POINTER, ctypes.c_int32]
    library.llama_set_adapter_cvec.argtypes = [POINTER, POINTER, ctypes.c_size_t] + 3 * [
        ctypes.c_int32
    ]
    getattr(library, LOADER).argtypes = [POINTER, POINTER]
    library.llama_backend_init()
    return library


def load_control_vector(library: Any, path: Path, strength: float) -> ControlVectorData:
    """What the library's own loader of `--control-vector-scaled` makes of a file."""
    name = ctypes.create_string_buffer(str(path).encode())
    info = LoadInfo(strength, ctypes.cast(name, POINTER))
    start = ctypes.addressof(info)
    end = start + ctypes.sizeof(info)
    infos, loaded = Vector(start, end, end), ControlVectorData()
    getattr(library, LOADER)(ctypes.addressof(loaded), ctypes.addressof(infos))
    return loaded


def last_logits(library: Any, model: Any, loaded: ControlVectorData | None) -> Tensor:
    parameters = library.llama_context_default_params()
    for place in (TYPE_K, TYPE_V, FLASH_ATTENTION):
        parameters.values[place] = 0
    for place in THREADS:
        parameters.values[place] = 1
    context = library.llama_init_from_model(model, parameters)
    assert context
    if loaded is not None:
        count = (loaded.data.end - loaded.data.begin) // 4
        given = loaded.data.begin, count, loaded.n_embd, 1, 99
        assert library.llama_set_adapter_cvec(context, *given) == 0
    tokens = (ctypes.c_int32 * TOKENS.numel())(*TOKENS[0].tolist())
    batch = library.llama_batch_get_one(ctypes.cast(tokens, POINTER), len(tokens))
    assert library.llama_decode(context, batch) == 0
    found = library.llama_get_logits_ith(context, -1)
    return torch.tensor(np.ctypeslib.as_array(found, (128,)).copy())


def test_llama_cpp_steers_as_the_transport_that_was_written(
    tiny_llama: Any, tmp_path: Path
) -> None:
    library = llama_cpp()
    write_llama(tmp_path / "model.gguf", tiny_llama)
    model = library.llama_model_load_from_file(
        str(tmp_path / "model.gguf").encode(), library.llama_model_default_params()
    )
    maps = {LAST: AffineMap.everywhere(torch.ones(32), torch.randn(32))}
    metadata = TransportMetadata.describe(tiny_llama, None, method="mean", sites=maps)
    transport = LearnedTransport(ActivationMaps(maps), metadata)
    path = write_vectors(transport, tmp_path / "v.gguf")
    plain = logits(tiny_llama)[0, -1]
    torch.testing.assert_close(last_logits(library, model, None), plain, rtol=0, atol=1e-4)
    for strength in (0.5, 1.0, -0.7):
        loaded = load_control_vector(library, path, strength)
        expected = last_logits(library, model, loaded)
        found = logits(tiny_llama, transport.maps, strength)[0, -1]
        check(f"llama.cpp at {strength}", found, expected, plain, 1e-4)
