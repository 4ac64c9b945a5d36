"""Receipts of the transformers engine: what they say, and the faults by which they are refused.

Each test `test_caught_…` puts one fault between what is asked for and what runs, and stands in the
table of `docs/receipts.md` by its name.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from aim_plugins.core.errors import ReceiptError
from aim_plugins.core.strengths import Axis
from aim_plugins.engines import generation
from aim_plugins.engines.decoding_rows import DecodingRows
from aim_plugins.engines.engine import ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation import activations, gaussian, noise, token_weights
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.edits import ComponentEdit
from aim_plugins.modulation.hooks import change_outputs
from aim_plugins.modulation.logits import ChangedLogits
from aim_plugins.modulation.named_kinds import named_kind
from aim_plugins.modulation.receipts import Changed, Receipt, check_receipt
from aim_plugins.transport.change import Transport
from tests.engines.test_conditions import CONTEXTS, conditional, median_condition
from tests.engines.test_transport_columns import left_padded, random_maps

REQUESTS = [ScoreRequest([1, 5, 9, 20], [7, 8]), ScoreRequest([1, 44], [30, 31, 32])]
PROMPTS = left_padded([[1, 7, 8, 9, 30], [1, 40]])
SITES = 4
"""Norms of the tiny model's two layers."""


def engine_of(model):
    return HuggingFaceEngine(model, None, max_length=64, softmax_dtype=torch.float32)


def score(model, columns, requests=REQUESTS):
    return engine_of(model).score(requests, columns, batch_size=2, progress=False)


def decode(model, columns, prompts=PROMPTS, *, new=6, **options):
    options = {"do_sample": False, "pad_token_id": 0, **options}
    length = prompts.token_ids.shape[1] + new
    return engine_of(model).generate(prompts, columns, max_length=length, **options)


@pytest.fixture
def model(tiny_llama):
    """A model of one's own to break, without an end token."""
    own = copy.deepcopy(tiny_llama)
    own.generation_config.eos_token_id = None
    return own


@pytest.fixture
def maps(model):
    return random_maps(model)


def steered(maps, *strengths):
    return columns_of(transport=maps, strength=list(strengths or (0.7,)))


def projection_maps():
    """Maps of what the layers' second projections add to the tiny model's hidden states."""
    one = AffineMap.everywhere(torch.full((32,), 1.5), torch.full((32,), 0.1))
    return ActivationMaps({f"model.layers.{layer}.mlp.down_proj": one for layer in (0, 1)})


def refused(reason):
    return pytest.raises(ReceiptError, match=reason)


@contextlib.contextmanager
def at_pass(model, number, sabotage):
    """Breaks something right before one of the model's passes, while changes are attached."""
    passes = []

    def before(*_):
        passes.append(1)
        if len(passes) == number:
            sabotage()

    handle = model.model.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def norms(model):
    return [one for name, one in model.named_modules() if name.endswith("layernorm")]


# What receipts say --------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_scored_row_says_what_was_changed_of_it(model, positions):
    maps = random_maps(model, positions=positions)
    columns = columns_of(noise_std=[0, 0.5], strength=[0, 0.7], transport=maps)
    for row, request in zip(score(model, columns), REQUESTS, strict=True):
        read = len(request.context) + len(request.continuation) - 1
        tokens = read if positions == "all" else len(request.continuation)
        noisy = Changed("noise", 0.5, 1, len(request.continuation))
        moved = Changed("transport", 0.7, SITES, tokens)
        assert [one.changes for one in row.receipts] == [(), (noisy,), (moved,), (noisy, moved)]
        assert [one.modulation for one in row.receipts] == [one.fingerprint for one in columns]


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 2}, {"use_cache": False}, {"do_sample": True, "temperature": 0.9}],
    ids=["greedy", "beams", "no cache", "sampling"],
)
@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_decoded_text_says_what_was_changed_of_it(model, positions, options):
    maps = random_maps(model, positions=positions)
    columns = columns_of(noise_std=0.5, strength=[0.3, 0.7], transport=maps)
    for row, prompt in zip(decode(model, columns, **options), (5, 2), strict=True):
        for answer, strength in zip(row, (0.3, 0.7), strict=True):
            tokens = prompt + len(answer) - 1 if positions == "all" else len(answer)
            assert answer.receipt.changes == (
                Changed("noise", 0.5, 1, len(answer)),
                Changed("transport", strength, SITES, tokens),
            )


def test_a_text_that_ends_early_counts_its_own_tokens(tiny_llama):
    columns = columns_of(noise_std=[0.5, 4.0], noise_draws=4)
    lengths = set()
    for row in decode(tiny_llama, columns, new=40):
        for answer in row:
            lengths.add(len(answer))
            assert answer.receipt.changes[0].tokens == len(answer)
    assert len(lengths) > 1


def test_ablated_components_and_edits_have_receipts(model):
    heads = find_components(model, "attention_heads").take((0, 5, 6))
    edit = ComponentEdit.of_model(model, heads, method="by hand")
    columns = columns_of(edit=edit, edit_strength=[0, 0.5])
    assert decode(model, columns)[0][1].receipt.changes == (Changed("edit", 0.5, 2, 10),)
    assert score(model, columns)[0].receipts[1].changes == (Changed("edit", 0.5, 2, 5),)
    columns = columns_of(ablated_components="attention_heads", ablated_share=[0, 0.5])
    (found,) = score(model, columns)[0].receipts[1].changes
    assert (found.kind, found.tokens) == ("ablation", 5)


def test_finished_batches_keep_their_receipts(model, maps, journal):
    engine = engine_of(model)
    engine.journal = journal
    columns = steered(maps, 0.0, 0.7)
    ask = dict(max_length=11, do_sample=False, pad_token_id=0)
    first, again = (engine.generate(PROMPTS, columns, **ask) for _ in range(2))
    assert [[one.receipt for one in row] for row in first] == [
        [one.receipt for one in row] for row in again
    ]
    first, again = (engine.score(REQUESTS, columns, batch_size=2, progress=False) for _ in range(2))
    assert first == again
    assert len(journal) == 2


# Faults of activations ----------------------------------------------------------------------------


@pytest.mark.parametrize("run", [score, decode])
def test_caught_hooks_removed(model, maps, run):
    sabotage = lambda: [one._forward_hooks.clear() for one in norms(model)]  # noqa: E731
    with at_pass(model, 1, sabotage), refused("row 1 of .: asked for transport 0.7, changed at 0"):
        run(model, steered(maps))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_hook_of_one_site_removed(model, maps, run):
    reason = "changed at 3 of 4 sites: model.layers.1.input_layernorm had it in 0 of"
    with at_pass(model, 1, norms(model)[2]._forward_hooks.clear), refused(reason):
        run(model, steered(maps))


def test_caught_hook_removed_while_decoding(model, maps):
    reason = "3 of 4 sites: model.layers.0.input_layernorm had it in 3 of 6 passes"
    with at_pass(model, 4, norms(model)[0]._forward_hooks.clear), refused(reason):
        decode(model, steered(maps))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_maps_zeroed_on_the_device(model, maps, run):
    run(model, steered(maps))
    for placed in maps._placed.values():
        for name in ("slope", "shift"):
            placed.keywords["displacement"].keywords[name].zero_()
    with refused("maps of .* were overwritten where they lie"):
        run(model, steered(maps))


def test_caught_map_of_one_site_replaced(model, maps):
    score(model, steered(maps))
    first, second, *_ = maps._placed
    maps._placed[first] = maps._placed[second]
    with refused("maps of model.layers.0.input_layernorm were overwritten"):
        score(model, steered(maps))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_displacement_without_effect(model, maps, run, monkeypatch):
    monkeypatch.setattr(activations, "displace", lambda x, *_, **__: torch.zeros_like(x))
    maps._placed.clear()
    with refused("what its 4 sites handed on is what they got"):
        run(model, steered(maps))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_strengths_zeroed_on_the_device(model, maps, run, monkeypatch):
    spread = token_weights.TokenWeights._spread
    monkeypatch.setattr(token_weights.TokenWeights, "_spread", lambda *given: 0 * spread(*given))
    with refused("asked for transport 0.7, changed so 0 of"):
        run(model, steered(maps))


def test_caught_strengths_on_the_wrong_rows(model, maps, monkeypatch):
    spread = token_weights.TokenWeights._spread
    monkeypatch.setattr(
        token_weights.TokenWeights, "_spread", lambda *given: spread(*given).flip(0)
    )
    with refused("row 1 of 4: asked for transport 0.3, changed so 0 of"):
        decode(model, steered(maps, 0.3, 0.7))


def test_caught_strengths_on_the_wrong_beams(model, maps, monkeypatch):
    def tiled(values, count):
        return values.repeat(count // len(values))

    monkeypatch.setattr(token_weights.TokenWeights, "_repeat", staticmethod(tiled))
    with refused("row 1 of 4: asked for transport 0.3, changed so .* of"):
        decode(model, steered(maps, 0.3, 0.7), num_beams=2)


def test_caught_stale_compiled_graph(model):
    maps = projection_maps()
    layer = model.model.layers[0].mlp
    layer.compile(backend="eager")
    score(model, [Column()])
    with refused("changed at 1 of 2 sites: model.layers.0.mlp.down_proj had it in 0 of 1"):
        score(model, steered(maps))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_replica_without_hooks(model, maps, run, monkeypatch):
    replica = copy.deepcopy(model)
    monkeypatch.setattr(model, "forward", replica.forward)
    with refused("0 of . forward passes went through the model's own modules"):
        run(model, steered(maps))


def test_caught_cache_of_another_strength(model, maps):
    plain = DynamicCache(config=model.config)
    with torch.no_grad():
        model(PROMPTS.token_ids[:1, :-1], past_key_values=plain)
    with refused("the model read 6 of 10 tokens of each row: others came from a cache"):
        decode(model, steered(maps), PROMPTS[:1], past_key_values=plain)


def test_caught_prompts_read_without_the_change(model, maps, monkeypatch):
    once = []

    def applied(*given):
        once.append(1)
        return contextlib.nullcontext() if len(once) == 2 else own(*given)

    own = generation.applied
    monkeypatch.setattr(generation, "applied", applied)
    with refused("asked for transport 0.3, changed at 0 of 4 sites"):
        decode(model, steered(maps, 0.3, 0.7))


def test_caught_truncated_input(model, maps):
    def cut(module, given, options):
        return (given[0][:, -3:],) if given else given, options

    model.register_forward_pre_hook(cut, with_kwargs=True)
    with refused("the model read 3 of 5 tokens of each row"):
        score(model, steered(maps))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_batch_reordered(model, maps, run):
    def flip(module, given, options):
        options = {
            name: value.flip(0) if name == "input_ids" else value for name, value in options.items()
        }
        return tuple(one.flip(0) for one in given), options

    model.register_forward_pre_hook(flip, with_kwargs=True)
    with refused("the model read other rows than were asked for, or reordered"):
        run(model, steered(maps))


def test_caught_answers_reordered(model, monkeypatch):
    def flipped(**options):
        found = generate(**options)
        found.sequences = found.sequences.flip(0)
        return found

    generate = model.generate
    monkeypatch.setattr(model, "generate", flipped)
    with refused("rows were decoded in another order"):
        decode(model, columns_of(noise_std=0.5))


def test_caught_columns_mixed_up_after_a_pause(tiny_llama, monkeypatch):
    keep = DecodingRows.keep

    def mixed(rows, alive):
        keep(rows, alive)
        rows.columns.reverse()

    monkeypatch.setattr(DecodingRows, "keep", mixed)
    with refused("rows that go on have taken over columns of others"):
        decode(tiny_llama, columns_of(noise_std=[1.0, 2.0, 4.0], noise_draws=4), new=60)


class Adapter(nn.Module):
    """A low-rank adapter around a layer, whose own hooks stay behind on the layer."""

    def __init__(self, layer):
        super().__init__()
        self.weight = layer.weight
        self.low = nn.Linear(layer.in_features, 2, bias=False)
        self.high = nn.Linear(2, layer.out_features, bias=False)

    def forward(self, features):
        return nn.functional.linear(features, self.weight) + self.high(self.low(features))


class Quantised(nn.Module):
    """A layer with its weight in 8 bits."""

    def __init__(self, layer):
        super().__init__()
        self.scale = layer.weight.abs().amax() / 127
        self.weight = nn.Parameter((layer.weight / self.scale).round().char(), requires_grad=False)

    def forward(self, features):
        return nn.functional.linear(features, self.weight.float() * self.scale)


def replaced(model, make):
    mlp = model.model.layers[1].mlp
    return at_pass(model, 1, lambda: setattr(mlp, "down_proj", make(mlp.down_proj)))


def test_caught_adapter_put_on_a_hooked_layer(model):
    maps = projection_maps()
    with replaced(model, Adapter), refused("at 1 of 2 sites: model.layers.1.mlp.down_proj"):
        score(model, steered(maps))


def test_caught_layer_quantised_under_its_hook(model):
    maps = projection_maps()
    with replaced(model, Quantised), refused("at 1 of 2 sites: model.layers.1.mlp.down_proj"):
        decode(model, steered(maps))


@pytest.mark.parametrize("make", [Adapter, Quantised])
def test_hooks_on_adapted_and_quantised_layers_have_receipts(model, make):
    maps = projection_maps()
    for layer in model.model.layers:
        layer.mlp.down_proj = make(layer.mlp.down_proj)
    assert score(model, steered(maps))[0].receipts[0].changes[0].sites == 2


@pytest.mark.parametrize("run", [score, decode])
def test_caught_module_of_two_sites(model, maps, run):
    model.model.layers[1].input_layernorm = model.model.layers[0].input_layernorm
    with refused("had model.layers.0.input_layernorm (2 times in 1|12 times in 6) passes"):
        run(model, steered(maps))


def test_caught_layer_skipped(model, maps):
    model.model.layers[1].forward = lambda hidden, *_, **__: hidden
    with refused("changed at 2 of 4 sites: model.layers.1.input_layernorm, .* had it in 0 of 1"):
        score(model, steered(maps))


def test_caught_early_exit_while_decoding(model, maps):
    layer = model.model.layers[1]
    forward = layer.forward
    counts = []

    def leaving(hidden, *given, **options):
        counts.append(1)
        return hidden if len(counts) > 3 else forward(hidden, *given, **options)

    layer.forward = leaving
    with refused("changed at 2 of 4 sites: .* had it in 3 of 6 passes"):
        decode(model, steered(maps), PROMPTS[:1], use_cache=False)


def test_caught_module_called_past_its_hooks(model, maps):
    layer = model.model.layers[0]
    norm = layer.input_layernorm

    class Fused(nn.Module):
        def forward(self, hidden):
            return norm.forward(hidden)

    sabotage = lambda: setattr(layer, "input_layernorm", Fused())  # noqa: E731
    reason = "3 of 4 sites: model.layers.0.input_layernorm had it in 0 of 1"
    with at_pass(model, 1, sabotage), refused(reason):
        score(model, steered(maps))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_strength_lost_in_rounding(model, maps, run):
    with refused("row 1 of .: asked for transport 1e-07, and what its 4 sites handed on"):
        run(model.bfloat16(), steered(maps, 1e-7))


def test_caught_strength_beyond_the_dtype(model, maps):
    with pytest.raises(ValueError, match="the transport breaks the model"):
        decode(model, steered(maps, 1e30))
    with pytest.raises(ValueError, match="the transport at strength=1e.30 breaks the model"):
        score(model, steered(maps, 1e30))


def test_caught_speculative_decoding(model):
    maps = random_maps(model, positions="last")
    prompts = left_padded([[1, 7, 8, 9, 7, 8, 9, 7, 8, 9, 7]])
    with refused("decodes speculatively"):
        decode(model, steered(maps), prompts, prompt_lookup_num_tokens=3)


@pytest.mark.parametrize("window", ["last", "prompt", "1-3"])
def test_a_prompt_may_be_read_in_chunks_and_a_window_counts_its_tokens(model, window):
    columns = columns_of(transport=random_maps(model), strength=0.7, window=window)
    [[answer]] = decode(model, columns, PROMPTS[:1], prefill_chunk_size=2)
    tokens = {"last": 6, "prompt": 5, "1-3": 3}[window]
    assert answer.receipt.changes == (Changed("transport", 0.7, SITES, tokens),)


def test_caught_model_without_a_cache():
    config = AutoConfig.for_model(
        "openai-gpt", vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=64
    )
    torch.manual_seed(0)
    gpt = AutoModelForCausalLM.from_config(config).eval()
    maps = random_maps(gpt, positions="last")
    with refused("the model read them otherwise: it keeps no cache"):
        decode(gpt, steered(maps), PROMPTS[:1])


def test_caught_map_on_another_device(tiny_llama, accelerator):
    model = copy.deepcopy(tiny_llama).to("pretended")
    maps = random_maps(tiny_llama)
    place = maps._place
    maps._place = lambda site, device: place(site, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="of cpu beside those of pretended"):
        score(model, steered(maps))


def test_caught_ablation_removed(model):
    columns = columns_of(ablated_components="attention_heads", ablated_share=0.9)
    projections = [layer.self_attn.o_proj for layer in model.model.layers]
    sabotage = lambda: [one._forward_pre_hooks.clear() for one in projections]  # noqa: E731
    with at_pass(model, 1, sabotage), pytest.raises(ValueError, match="did not run with the model"):
        score(model, columns)
    with at_pass(model, 4, sabotage), refused("asked for ablation 0.9, changed at 0 of 2 sites"):
        decode(model, columns)


# Faults of weights and of kinds of one's own ------------------------------------------------------


@dataclass(frozen=True)
class HeadScale(Change):
    """The output head, scaled."""

    name = "head"
    axis = Axis("head_scale", "s", "head scale", low=0.01)
    acts_on = "weights"
    arguments = {"head_scale": "factor of the head's weights"}
    neutral = 1.0
    strength: float

    @classmethod
    @contextlib.contextmanager
    def applied(cls, model, changes, starts=None):
        weight, (change,) = model.lm_head.weight.data, changes
        kept = weight.clone()
        weight.mul_(change.strength)
        yield
        weight.copy_(kept)


@dataclass(frozen=True)
class LayerScale(Change):
    """The output of the first layer, scaled by a hook that nobody is told of."""

    name = "layer"
    axis = Axis("layer_scale", "s", "layer scale", low=0.01)
    acts_on = "activations"
    arguments = {"layer_scale": "factor of the layer's output"}
    neutral = 1.0
    strength: float

    @classmethod
    @contextlib.contextmanager
    def applied(cls, model, changes, starts=None):
        factor = next(one.strength for one in changes if one)
        layer = model.model.layers[0]
        handle = layer.register_forward_hook(lambda module, given, output: output * factor)
        yield
        handle.remove()


class TracedLayerScale(LayerScale):
    """The same by the hooks that receipts count."""

    @classmethod
    def applied(cls, model, changes, starts=None):
        factor = next(one.strength for one in changes if one)
        return change_outputs(model, {"model.layers.0": lambda output: output * factor})


@pytest.mark.parametrize("run", [score, decode])
def test_changed_weights_and_kinds_of_ones_own_have_receipts(model, run):
    for kind in (HeadScale, TracedLayerScale):
        table = run(model, [Column((kind(2.0),))])
        receipt = table[0].receipts[0] if run is score else table[0][0].receipt
        (found,) = receipt.changes
        assert (found.kind, found.strength, found.sites) == (kind.name, 2.0, 1)


@pytest.mark.parametrize("run", [score, decode])
def test_caught_kind_without_a_trace(model, run):
    with refused("asked for layer 2, which left no trace: let its `applied` act by"):
        run(model, [Column((LayerScale(2.0),))])


@pytest.mark.parametrize("run", [score, decode])
def test_caught_weights_left_as_they_were(model, run, monkeypatch):
    nothing = lambda *_: contextlib.nullcontext()  # noqa: E731
    monkeypatch.setattr(HeadScale, "applied", nothing)
    with refused("asked for head 2.*, and no parameter has changed"):
        run(model, [Column((HeadScale(2.0),))])


@pytest.mark.parametrize("run", [score, decode])
def test_caught_weights_restored_too_early(model, run):
    kept = model.lm_head.weight.detach().clone()
    sabotage = lambda: model.lm_head.weight.data.copy_(kept)  # noqa: E731
    with at_pass(model, 1, sabotage), refused("lm_head.weight were written to while the model"):
        run(model, [Column((HeadScale(2.0),))])


# Faults of logits ---------------------------------------------------------------------------------


def test_caught_noise_left_out(model, monkeypatch):
    monkeypatch.setattr(DecodingRows, "changed_logits", lambda rows: [])
    with refused("row 1 of 2: asked for noise 0.5, given none"):
        decode(model, columns_of(noise_std=0.5))


def test_caught_noise_of_another_row(model, monkeypatch):
    own = DecodingRows.changed_logits

    def flipped(rows):
        found = own(rows)
        found[0].settings.reverse()
        return found

    monkeypatch.setattr(DecodingRows, "changed_logits", flipped)
    with refused("row 1 of 4: asked for noise 0.5, given .*std=2.0"):
        decode(model, columns_of(noise_std=[0.5, 2.0]))


def test_caught_processors_dropped_by_generate(model, monkeypatch):
    def dropping(logits_processor=None, **options):
        return generate(**options)

    generate = model.generate
    monkeypatch.setattr(model, "generate", dropping)
    with refused("row 1 of 2: asked for noise 0.5, changed 0 of 6 steps"):
        decode(model, columns_of(noise_std=0.5))


def test_caught_noise_of_the_first_steps_alone(model, monkeypatch):
    own = ChangedLogits.__call__
    monkeypatch.setattr(
        ChangedLogits,
        "__call__",
        lambda self, ids, scores: scores if self.calls > 2 else own(self, ids, scores),
    )
    with refused("row 1 of 2: asked for noise 0.5, changed 3 of 6 steps"):
        decode(model, columns_of(noise_std=0.5))


def test_caught_noise_of_zeros(model, monkeypatch):
    def zeros(keys, vocabulary, **_):
        return torch.zeros(len(keys), vocabulary)

    monkeypatch.setattr(noise, "standard_normal", zeros)
    with refused("asked for noise 0.5, and its logits are what they were"):
        decode(model, columns_of(noise_std=0.5))
    with refused("asked for noise 0.5, and its logits are what they were"):
        score(model, columns_of(noise_std=0.5))


@pytest.mark.parametrize("run", [score, decode])
def test_caught_noise_lost_in_rounding(model, run):
    with refused("asked for noise 1e-12, and its logits are what they were"):
        run(model, columns_of(noise_std=1e-12))


def test_caught_noise_scored_without_its_change(model, monkeypatch):
    monkeypatch.setattr(gaussian.GaussianNoise, "modulate", lambda self, logits, *_: logits)
    with refused("asked for noise 0.5, and its logits are what they were"):
        score(model, columns_of(noise_std=0.5))


def test_receipts_round_trip_and_nothing_else_reads_as_one():
    receipt = Receipt("ab", (Changed("noise", 0.5, 1, 8),))
    assert Receipt.from_json(receipt.to_json()) == receipt
    for other in (None, {}, [], "receipt", {"modulation": "ab", "changes": [{}]}):
        assert Receipt.from_json(other) is None


# Answers that are right although little or nothing moves ------------------------------------------


def beyond(low, high):
    """A map of what lies between two numbers."""
    ends = torch.full((32,), float(low)), torch.full((32,), float(high))
    return AffineMap(torch.full((32,), 2.0), torch.ones(32), *ends)


@pytest.mark.parametrize(
    "one",
    [
        AffineMap.everywhere(torch.ones(32), torch.zeros(32)),
        beyond(100, 101),
        AffineMap.everywhere(torch.full((32,), 0.5), torch.zeros(32)),
    ],
    ids=["identity", "outside the support", "zeros scaled"],
)
def test_maps_that_move_nothing_are_no_fault(model, one):
    maps = ActivationMaps({"model.norm": one})
    with torch.no_grad():
        model.model.norm.weight.zero_() if not bool(one.shift.any()) else None
    (row,) = score(model, steered(maps), REQUESTS[:1])
    assert row.receipts[0].changes == (Changed("transport", 0.7, 1, 5),)


def named(maps, *strengths, names=("praise", "sea")):
    """A column of transports under names."""
    kinds = [named_kind(Transport, name) for name in names]
    found = zip(kinds, strengths, maps, strict=True)
    return Column(tuple(kind(strength, one.fingerprint, one) for kind, strength, one in found))


@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_same_maps_under_two_names_may_cancel(model, positions):
    maps = random_maps(model, positions=positions)
    columns = [named([maps] * 2, 1.0, -1.0), named([maps] * 2, 1.0, -0.5)]
    for asked in (columns, columns[:1]):
        (row,) = decode(model, asked, PROMPTS[:1])
        plain = decode(model, [Column()], PROMPTS[:1])[0][0]
        assert row[0] == plain
        for answer in row:
            assert [one.sites for one in answer.receipt.changes] == [SITES, SITES]
    score(model, columns)


@pytest.mark.parametrize("name", ["layers.0.input_layernorm", "model.layers.0.input_layernorm:0"])
@pytest.mark.parametrize("strength", [0.5, -1.0])
def test_two_transports_may_spell_a_site_differently(model, name, strength):
    one = random_maps(model).maps["model.layers.0.input_layernorm"]
    pair = [ActivationMaps({site: one}) for site in ("model.layers.0.input_layernorm", name)]
    column = named(pair, 1.0, strength)
    for receipt in (
        decode(model, [column])[0][0].receipt,
        score(model, [column])[0].receipts[0],
    ):
        assert [one.sites for one in receipt.changes] == [1, 1]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "early_stopping": True}])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_texts_of_one_token_have_receipts(model, positions, options):
    columns = columns_of(
        noise_std=0.5, strength=[0.3, 0.7], transport=random_maps(model, positions=positions)
    )
    for row in decode(model, columns, new=1, **options):
        assert [answer.receipt.changes[0].tokens for answer in row] == [1, 1]


# Conditions --------------------------------------------------------------------------------------


def broken(model, maps, here, **fields):
    """The receipt of a prompt of which the condition holds or not, with fields that are wrong."""
    condition, held = median_condition(model)
    (column,) = conditional(steered(maps), condition)
    request = ScoreRequest(CONTEXTS[held.index(here)], [8])
    receipt = score(model, [column], [request])[0].receipts[0]
    check_receipt(receipt, column, "here")
    wrong = replace(receipt, changes=(replace(receipt.changes[0], **fields),))
    return lambda: check_receipt(wrong, column, "here")


@pytest.mark.parametrize("here", [True, False])
def test_caught_condition_without_a_decision(model, maps, here):
    with pytest.raises(ReceiptError, match="nothing shows whether its condition holds"):
        broken(model, maps, here, held=None, similarity=None)()


@pytest.mark.parametrize("here", [True, False])
def test_caught_decision_against_the_threshold(model, maps, here):
    similarity = -1.0 if here else 1.0
    with pytest.raises(ReceiptError, match="at the similarity .* against what was asked for"):
        broken(model, maps, here, similarity=similarity)()


def test_caught_change_though_the_condition_did_not_hold(model, maps):
    with pytest.raises(ReceiptError, match="changed 6 tokens though its condition did not hold"):
        broken(model, maps, False, sites=4, tokens=6)()


def test_caught_no_change_though_the_condition_held(model, maps):
    with pytest.raises(ReceiptError, match="changed nothing though its condition held"):
        broken(model, maps, True, sites=0, tokens=0)()
