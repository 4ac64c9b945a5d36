"""Columns with an activation transport: an engine's table against runs of one strength each."""

from __future__ import annotations

import itertools

import pytest
import torch

from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.modulation.named_kinds import named_kind
from aim_plugins.modulation.noise import prefix_keys, standard_normal
from aim_plugins.transport.change import Transport

STRENGTHS = (0.0, 0.3, 1.0)


def random_maps(model, pattern=r".*(layernorm|layer_norm|ln_\d)", positions="all", seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = {}
    for site in choose_sites(model, pattern):
        width = next(iter(model.get_submodule(site).parameters())).shape[-1]
        scale = 1 + 0.3 * torch.randn(width, generator=generator)
        maps[site] = AffineMap.everywhere(scale, 0.3 * torch.randn(width, generator=generator))
    return ActivationMaps(maps, positions)


def engine_of(model):
    return HuggingFaceEngine(model, None, max_length=64, softmax_dtype=torch.float32)


def by_hand(model, maps, tokens, strength, start=0, stop=None):
    """Log-probabilities of the next tokens, with the maps written out as plain hooks."""

    def hook(module, inputs, output, one):
        moved = (1 - strength) * output + strength * (output * one.scale + one.shift)
        kept = output.clone()
        kept[:, start:stop] = moved[:, start:stop]
        return kept

    handles = [
        model.get_submodule(site).register_forward_hook(
            lambda module, inputs, output, one=one: hook(module, inputs, output, one)
        )
        for site, one in maps.maps.items()
    ]
    try:
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


REQUESTS = [
    ScoreRequest([1, 5, 9, 20], [7, 8]),
    ScoreRequest([1, 5, 9, 20, 7], [9]),
    ScoreRequest([1, 44], [30, 31, 32, 33, 34, 35]),
]


@pytest.mark.parametrize("positions", ["all", "last"])
def test_scores_at_every_strength_are_those_of_hooks_written_by_hand(tiny_llama, positions):
    maps = random_maps(tiny_llama, positions=positions)
    columns = columns_of(strength=STRENGTHS, transport=maps)
    rows = engine_of(tiny_llama).score(REQUESTS, columns, batch_size=2, progress=False)
    for request, row in zip(REQUESTS, rows, strict=True):
        tokens = [*request.context, *request.continuation]
        first = len(request.context)
        for strength, value in zip(STRENGTHS, row.log_likelihoods, strict=True):
            start = first - 1 if positions == "last" else 0
            law = by_hand(tiny_llama, maps, tokens[:-1], strength, start)
            wanted = sum(law[p - 1, tokens[p]] for p in range(first, len(tokens)))
            assert value == pytest.approx(float(wanted), abs=2e-4)


def both(tiny_llama):
    """Two transports that share some sites, one of all positions and one of the last."""
    praise = random_maps(tiny_llama)
    sea = random_maps(tiny_llama, r".*(post_attention_layernorm|layers\.1)", "last", seed=1)
    return praise, sea


def by_hand_of_two(model, two, tokens, strengths, starts):
    """Log-probabilities with x + Σ λ (scale x + shift - x) written out in plain hooks."""

    def hook(site):
        def add(module, inputs, output):
            x = output[0] if isinstance(output, tuple) else output
            moved = x.clone()
            for maps, strength, start in zip(two, strengths, starts, strict=True):
                if site in maps.maps:
                    one = maps.maps[site]
                    moved[:, start:] += strength * (x * one.scale + one.shift - x)[:, start:]
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return add

    sites = dict.fromkeys(site for maps in two for site in maps.maps)
    handles = [model.get_submodule(site).register_forward_hook(hook(site)) for site in sites]
    try:
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


def test_two_transports_add_what_each_does_to_the_plain_output(tiny_llama):
    two, kinds = both(tiny_llama), (Transport, named_kind(Transport, "sea"))
    columns = columns_of(
        transport=two[0], strength=[0.3, 0.0], transport_sea=two[1], strength_sea=[0.0, -0.5, 0.7]
    )
    rows = engine_of(tiny_llama).score(REQUESTS, columns, batch_size=2, progress=False)
    for request, row in zip(REQUESTS, rows, strict=True):
        tokens, first = [*request.context, *request.continuation], len(request.context)
        for column, value in zip(columns, row.log_likelihoods, strict=True):
            strengths = [column.strength_of(kind) for kind in kinds]
            law = by_hand_of_two(tiny_llama, two, tokens[:-1], strengths, (0, first - 1))
            wanted = sum(law[p - 1, tokens[p]] for p in range(first, len(tokens)))
            assert value == pytest.approx(float(wanted), abs=2e-4)


WINDOWS = {
    "prompt": lambda prompt: (0, prompt),
    "generation": lambda prompt: (prompt, None),
    "last": lambda prompt: (prompt - 1, None),
    "1-2": lambda prompt: (1, 3),
    "3-": lambda prompt: (3, None),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_scores_within_a_window_are_those_of_hooks_written_by_hand(tiny_llama, window):
    maps = random_maps(tiny_llama)
    columns = columns_of(strength=[0.0, 0.4], transport=maps, window=window)
    rows = engine_of(tiny_llama).score(REQUESTS, columns, batch_size=3, progress=False)
    for request, row in zip(REQUESTS, rows, strict=True):
        tokens, prompt = [*request.context, *request.continuation], len(request.context)
        start, stop = WINDOWS[window](prompt)
        law = by_hand(tiny_llama, maps, tokens[:-1], 0.4, start, stop)
        wanted = sum(law[p - 1, tokens[p]] for p in range(prompt, len(tokens)))
        assert row.log_likelihoods[1] == pytest.approx(float(wanted), abs=2e-4)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}], ids=str)
def test_windows_reach_the_same_tokens_where_they_are_decoded_and_scored(tiny_llama, options):
    prompts = [[1, 7, 8, 9, 30], [1, 40]]
    columns = [
        column
        for window in WINDOWS
        for column in columns_of(strength=0.6, transport=random_maps(tiny_llama), window=window)
    ]
    engine = engine_of(tiny_llama)
    ask = dict(max_length=5 + 8, do_sample=False, pad_token_id=0)
    table = engine.generate(left_padded(prompts), columns, **ask, **options)
    assert len({tuple(tokens) for tokens in table[0]}) > 3
    for prompt, row in zip(prompts, table, strict=True):
        for column, tokens in zip(columns, row, strict=True):
            if "num_beams" in options:
                own = ask | options | {"max_length": len(prompt) + 8}
                ((alone,),) = engine.generate(left_padded([prompt]), [column], **own)
                assert _text(tokens) == _text(alone)
            elif own := _text(tokens):
                request = ScoreRequest(prompt, own)
                (scored,) = engine.score([request], [column], batch_size=1, progress=False)
                assert scored.is_greedy == [True]


def test_rows_of_two_transports_decode_as_separate_runs(tiny_llama):
    praise, sea = both(tiny_llama)
    columns = columns_of(
        transport=praise, strength=[0.0, 0.5], transport_sea=sea, strength_sea=[0.0, 0.6]
    )
    engine, prompts = engine_of(tiny_llama), left_padded([[1, 7, 8, 9, 30], [1, 40]])
    ask = dict(max_length=5 + 12, do_sample=False, pad_token_id=0)
    table = engine.generate(prompts, columns, **ask)
    for index, column in enumerate(columns):
        alone = engine.generate(prompts, [column], **ask)
        assert [_text(row[index]) for row in table] == [_text(row[0]) for row in alone]
    assert len({tuple(_text(tokens)) for tokens in table[0]}) == 4


def test_strength_zero_has_the_bits_of_the_plain_model(tiny_llama):
    maps = random_maps(tiny_llama)
    columns = columns_of(strength=STRENGTHS, transport=maps)
    steered = engine_of(tiny_llama).score(REQUESTS, columns, batch_size=3, progress=False)
    plain = engine_of(tiny_llama).score(REQUESTS, [Column()], batch_size=3, progress=False)
    for row, wanted in zip(steered, plain, strict=True):
        assert row.log_likelihoods[0] == wanted.log_likelihoods[0]


def test_noise_beside_a_transport_is_noise_on_the_transported_logits(tiny_llama):
    maps = random_maps(tiny_llama)
    request = ScoreRequest([1, 5, 9], [7])
    columns = columns_of(noise_std=0.8, strength=0.5, noise_seed=3, transport=maps)
    (row,) = engine_of(tiny_llama).score([request], columns, batch_size=1, progress=False)
    law = by_hand(tiny_llama, maps, [1, 5, 9], 0.5)[-1]
    noise = standard_normal(prefix_keys(torch.tensor([[1, 5, 9]]))[0, -1:], 128, seed=3)[0]
    wanted = (law + 0.8 * noise).log_softmax(-1)[7]
    assert row.log_likelihoods[0] == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_noise_and_transport_together_do_not_depend_on_the_batch(tiny_llama, positions):
    # The second request shares prefixes with the first, but its transport begins earlier.
    requests = [ScoreRequest([1, 5, 9], [7]), ScoreRequest([1, 5], [9, 7])]
    maps = random_maps(tiny_llama, positions=positions)
    columns = columns_of(noise_std=[0.0, 0.8], strength=[0.5, 1.0], noise_seed=3, transport=maps)
    together = engine_of(tiny_llama).score(requests, columns, batch_size=2, progress=False)
    keys = prefix_keys(torch.tensor([[1, 5, 9]]))[0]
    noise = standard_normal(keys, 128, seed=3)
    for request, row in zip(requests, together, strict=True):
        (alone,) = engine_of(tiny_llama).score([request], columns, batch_size=1, progress=False)
        assert row.log_likelihoods == pytest.approx(alone.log_likelihoods, abs=1e-4)
        tokens, first = [*request.context, *request.continuation], len(request.context)
        start = first - 1 if positions == "last" else 0
        for column, value in zip(columns, row.log_likelihoods, strict=True):
            law = by_hand(tiny_llama, maps, tokens[:-1], column.strength_of(Transport), start)
            law = (law + column.strength_of(GaussianNoise) * noise).log_softmax(-1)
            wanted = sum(law[place - 1, tokens[place]] for place in range(first, len(tokens)))
            assert value == pytest.approx(float(wanted), abs=2e-4)


def left_padded(rows):
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return Prompts(tokens, mask)


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_batch_of_strengths_decodes_as_separate_runs(family, positions, options):
    maps = random_maps(family, positions=positions)
    prompts = left_padded([[1, 7, 8, 9, 30], [1, 40]])
    columns = columns_of(strength=STRENGTHS, transport=maps)
    engine = engine_of(family)
    ask = dict(max_length=5 + 12, do_sample=False, pad_token_id=0, **options)
    table = engine.generate(prompts, columns, **ask)
    for index, column in enumerate(columns):
        alone = engine.generate(prompts, [column], **ask)
        for row, wanted in zip(table, alone, strict=True):
            assert _text(row[index]) == _text(wanted[0])
    assert len({tuple(_text(tokens)) for tokens in table[0]}) > 1  # the maps do something


def test_decoding_agrees_with_the_scores_of_what_it_decoded(family):
    maps = random_maps(family, positions="last")
    columns = columns_of(strength=STRENGTHS, transport=maps)
    engine = engine_of(family)
    prompt = [1, 7, 8, 9, 30]
    (row,) = engine.generate(
        left_padded([prompt]), columns, max_length=15, do_sample=False, pad_token_id=0
    )
    for column, tokens in zip(columns, row, strict=True):
        (scored,) = engine.score(
            [ScoreRequest(prompt, _text(tokens))], [column], batch_size=1, progress=False
        )
        assert scored.is_greedy == [True]


@pytest.mark.parametrize("positions", ["all", "last"])
def test_decoding_without_a_cache_is_decoding_with_one(family, positions):
    maps = random_maps(family, positions=positions)
    columns = columns_of(strength=STRENGTHS, transport=maps)
    ask = dict(max_length=5 + 8, do_sample=False, pad_token_id=0)
    prompts = left_padded([[1, 7, 8, 9, 30], [1, 40]])
    cached, uncached = (
        engine_of(family).generate(prompts, columns, use_cache=use_cache, **ask)
        for use_cache in (True, False)
    )
    for row, wanted in zip(uncached, cached, strict=True):
        assert [_text(tokens) for tokens in row] == [_text(tokens) for tokens in wanted]


def test_a_transport_that_breaks_the_model_is_refused(tiny_llama):
    maps = random_maps(tiny_llama)
    columns = columns_of(strength=[0.0, 1e30], transport=maps)
    with pytest.raises(ValueError, match="the transport breaks the model.*smaller strengths"):
        engine_of(tiny_llama).generate(
            left_padded([[1, 2]]), columns, max_length=6, do_sample=False
        )


def test_a_strength_without_a_transport_is_refused():
    with pytest.raises(ValueError, match="strength=0.5 has no transport"):
        columns_of(strength=0.5)


def test_strengths_of_two_kinds_make_a_grid_and_noise_is_drawn_in_order(tiny_llama):
    maps = random_maps(tiny_llama)
    columns = columns_of(noise_std=[0, 2], noise_draws=2, strength="-1:1:1", transport=maps)
    found = [
        (column.strength_of(Transport), column.strength_of(GaussianNoise), column.seed)
        for column in columns
    ]
    assert found == list(itertools.product((-1, 0, 1), (0, 2), (0, 1)))


def _text(tokens):
    """What comes before the end token."""
    return tokens[: tokens.index(2)] if 2 in tokens else tokens
