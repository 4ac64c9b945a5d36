"""Fitting in one pass, against fitting layer by layer with passes over single sentences.

The slow way is definition 3.2 of arXiv 2410.23054, and what the authors' code does
(github.com/apple/ml-act, `learn_intervention_all_incremental`: the data loader of both sides runs
behind all the hooks learned so far): C and D are refreshed through the same maps.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.fit import fit_transport

# Lengths differ within and between sides, and so do the sides' sizes.
SOURCE = ["1 5 9 20 7", "1 44 3", "1 8 8 8 60 61 62 63 64", "1 30", "1 12 13 14 15 90", "1 77 3 2"]
TARGET = ["1 100 99 98", "1 101", "1 99 97 95 93 91 89", "1 120 121 3 5"]


@pytest.fixture()
def llama(tiny_llama):
    return copy.deepcopy(tiny_llama)


NORMS = [f"model.layers.{i}.{n}_layernorm" for i in (0, 1) for n in ("input", "post_attention")]
BLOCKS = [
    f"model.layers.{i}.{n}"
    for i in (0, 1)
    for n in ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
]


def fit(model, tokenizer, source=SOURCE, target=TARGET, **options):
    options = {"modules": r".*layernorm", "progress": False, "support": "none", **options}
    return fit_transport(model, tokenizer, source, target, **options)


def collect(model, site, texts, earlier=None, strength=1.0, last_only=False):
    """Outputs of a site for each sentence alone, with earlier sites' (ω, β) as plain hooks."""
    seen = []

    def transport(module, inputs, output, scale, shift):
        hidden = output[0] if isinstance(output, tuple) else output
        moved = (1 - strength) * hidden + strength * (hidden * scale + shift)
        if last_only:
            moved = torch.cat([hidden[:, :-1], moved[:, -1:]], dim=1)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    def note(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        seen.append(hidden.reshape(-1, hidden.shape[-1]).double().numpy())

    handles = [model.get_submodule(site).register_forward_hook(note)]
    for name, (scale, shift) in (earlier or {}).items():
        scale, shift = torch.tensor(scale), torch.tensor(shift)
        handles.append(
            model.get_submodule(name).register_forward_hook(
                lambda m, i, o, a=scale, b=shift: transport(m, i, o, a, b)
            )
        )
    try:
        with torch.no_grad():
            for text in texts:
                model(torch.tensor([[int(word) for word in text.split()]]))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def line(source, target):
    """Least squares through equal quantiles, each sample as often as makes both sides alike."""
    count = math.lcm(len(source), len(target))
    a = np.sort(np.repeat(source, count // len(source), axis=0), axis=0)
    b = np.sort(np.repeat(target, count // len(target), axis=0), axis=0)
    centred = a - a.mean(0)
    scale = (centred * (b - b.mean(0))).sum(0) / (centred**2).sum(0)
    return scale, b.mean(0) - scale * a.mean(0)


def layer_by_layer(model, sites, *, transported=(SOURCE, TARGET), **options):
    """The slow way: fit a site, attach it, run all sentences again, fit the next.

    Sentences of the sides in `transported` run behind what is attached; by default both.
    """
    fitted = {}
    for site in sites:
        responses = [
            collect(model, site, side, fitted if side in transported else {}, **options)
            for side in (SOURCE, TARGET)
        ]
        fitted[site] = line(*(np.stack([x.mean(0) for x in side]) for side in responses))
    return fitted


def assert_maps(transport, wanted, tolerance=1e-5):
    assert list(transport.maps.maps) == list(wanted)
    for site, (scale, shift) in wanted.items():
        one = transport.maps.maps[site]
        for found, expected in ((one.scale, scale), (one.shift, shift)):
            bound = tolerance * max(1.0, float(np.abs(expected).max()))
            assert float(np.abs(np.asarray(found) - np.asarray(expected)).max()) < bound, site


def as_pairs(transport):
    return {site: (one.scale, one.shift) for site, one in transport.maps.maps.items()}


TRANSPORTED = {"causal": (SOURCE, TARGET), "source": (SOURCE,), "atonce": ()}


@pytest.mark.parametrize("batch_size", [64, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strength": 0.4},
        {"positions": "last"},
        {"incremental": "source"},
        {"incremental": "source", "strength": 0.4, "positions": "last"},
        {"incremental": "atonce"},
    ],
    ids=["published", "at strength 0.4", "last position", "source", "source at 0.4", "at once"],
)
def test_one_pass_gives_what_refitting_layer_by_layer_does(llama, numbers, options, batch_size):
    llama.double()
    found = fit(llama, numbers, batch_size=batch_size, **options)
    slow = {
        "transported": TRANSPORTED[options.get("incremental", "causal")],
        "strength": options.get("strength", 1.0),
        "last_only": options.get("positions") == "last",
    }
    assert_maps(found, layer_by_layer(llama, NORMS, **slow))


@pytest.mark.parametrize("one, other", [("causal", "source"), ("causal", "atonce")])
def test_rules_differ_behind_the_first_site(llama, numbers, one, other):
    maps = [fit(llama, numbers, incremental=rule).maps.maps for rule in (one, other)]
    differences = [float((maps[0][site].shift - maps[1][site].shift).abs().max()) for site in NORMS]
    assert differences[0] < 1e-5 < 1e-2 < min(differences[1:])


def test_sites_are_fitted_in_the_order_in_which_they_run(llama, numbers):
    llama.double()
    pattern = r"model\.layers\.\d\.(self_attn|mlp|.*layernorm)"
    registered = [name for name, _ in llama.named_modules() if name in BLOCKS]
    assert registered != BLOCKS, "the model has to tell the two orders apart"
    found = fit(llama, numbers, modules=pattern, batch_size=4)
    assert list(found.metadata.sites) == BLOCKS
    assert_maps(found, layer_by_layer(llama, BLOCKS))


def test_a_site_at_the_head_is_reached_too(llama, numbers):
    llama.double()
    found = fit(llama, numbers, modules="lm_head")
    assert_maps(found, layer_by_layer(llama, ["lm_head"]))


def test_aura_dampens_by_the_auroc_of_maxima_without_transport(llama, numbers):
    llama.double()
    found = fit(llama, numbers, method="aura", support=None, batch_size=3)
    for site in NORMS:
        sides = [
            np.stack([one.max(0) for one in collect(llama, site, x)]) for x in (SOURCE, TARGET)
        ]
        labels = [1] * len(SOURCE) + [0] * len(TARGET)
        areas = [roc_auc_score(labels, column) for column in np.concatenate(sides).T]
        wanted = [1 - 2 * max(area - 0.5, 0) for area in areas]
        np.testing.assert_allclose(found.maps.maps[site].scale, wanted, atol=1e-6)


@pytest.mark.parametrize("batch_size", [64, 3])
@pytest.mark.parametrize("incremental", ["causal", "source"])
def test_applied_mean_transport_meets_the_target_at_every_site(
    family, numbers, incremental, batch_size
):
    """The target as it is, or, as published, behind the maps of all sites before."""
    pattern = r".*(layernorm|layer_norm|ln_\d|mlp|fc2)"
    options = {"method": "mean", "incremental": incremental, "batch_size": batch_size}
    maps = fit(family, numbers, modules=pattern, **options).maps.maps
    assert len(maps) >= 4
    for number, site in enumerate(maps):
        earlier = ActivationMaps(dict(list(maps.items())[:number]))
        with earlier.applied(family, 1.0 if incremental == "causal" else 0.0):
            target = np.mean([one.mean(0) for one in collect(family, site, TARGET)], 0)
        with ActivationMaps(maps).applied(family, 1.0):
            source = np.mean([one.mean(0) for one in collect(family, site, SOURCE)], 0)
        bound = 2e-4 * max(1.0, np.abs(target).max())
        np.testing.assert_allclose(source, target, atol=bound, err_msg=site)


@pytest.mark.parametrize("support", ["none", "clip"])
@pytest.mark.parametrize("pooling", ["mean", "last", "all", "median"])
def test_batches_in_lockstep_give_the_maps_of_one_batch(llama, numbers, pooling, support):
    llama.double()
    whole = fit(llama, numbers, pooling=pooling, support=support, batch_size=64)
    for batch_size in (1, 3, 5):
        parts = fit(llama, numbers, pooling=pooling, support=support, batch_size=batch_size)
        assert_maps(parts, as_pairs(whole))


def test_padding_does_not_change_the_maps_in_single_precision(llama, numbers):
    """A batch of one has no padding, a batch of all has the most."""
    assert_maps(
        fit(llama, numbers, batch_size=1), as_pairs(fit(llama, numbers, batch_size=64)), 1e-4
    )


def test_the_order_of_sentences_does_not_matter(llama, numbers):
    llama.double()
    turned = fit(llama, numbers, SOURCE[::-1], TARGET[2:] + TARGET[:2], batch_size=3)
    assert_maps(turned, as_pairs(fit(llama, numbers, batch_size=3)))


@pytest.mark.parametrize("support", ["minmax", "q10_90"])
def test_hard_supports_have_the_same_bits_at_the_same_batch_size(llama, numbers, support):
    first, second = (fit(llama, numbers, support=support, batch_size=3) for _ in range(2))
    assert first.fingerprint == second.fingerprint


def test_the_process_and_its_hash_seed_do_not_matter(tiny_checkpoint):
    code = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
from aim_plugins.transport.fit import fit_transport
folder = {str(tiny_checkpoint)!r}
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
texts = ["the capital of France", "Paris is", "Answer : Berlin . Question", "of of the the"]
transport = fit_transport(model, tokenizer, texts[:3], texts[1:], modules=".*layernorm",
                          batch_size=2, support="minmax", progress=False)
"""
    here: dict[str, object] = {}
    exec(code, here)
    there = subprocess.run(
        [sys.executable, "-c", code + "print(transport.fingerprint)"],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here["transport"].fingerprint


def test_all_threads_compute_in_the_caller_s_precision_without_gradients(llama, numbers):
    seen = set()
    handle = llama.model.norm.register_forward_hook(
        lambda module, inputs, output: seen.add(
            (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), threading.get_ident())
        )
    )
    with handle, torch.autocast("cpu", dtype=torch.bfloat16):
        parts = fit(llama, numbers, batch_size=4)
        whole = fit(llama, numbers, batch_size=64)
    assert {state[:2] for state in seen} == {(False, True)}
    assert len({state[2] for state in seen}) == 4
    assert_maps(parts, as_pairs(whole), 0.1)
    exact = fit(llama, numbers).maps.maps[NORMS[-1]].shift
    assert not torch.allclose(exact, parts.maps.maps[NORMS[-1]].shift, atol=1e-4)


def test_neither_model_nor_tokenizer_keep_a_trace(llama, numbers):
    ids = torch.tensor([[1, 5, 9]])
    before = llama(ids).logits
    backend = numbers.backend_tokenizer
    backend.enable_padding(length=7)
    state = backend.to_str()
    threads = threading.active_count()
    fit(llama, numbers, max_length=4, batch_size=3)
    assert backend.to_str() == state
    backend.no_padding()
    assert torch.equal(llama(ids).logits, before)
    assert not any(module._forward_hooks for module in llama.modules())
    assert threading.active_count() == threads


def test_a_compiled_model_is_fitted_as_the_model_it_was_made_from(llama, numbers):
    wanted = fit(llama, numbers)
    assert fit(torch.compile(llama), numbers).fingerprint == wanted.fingerprint


@pytest.mark.parametrize("batch_size", [64, 3])
def test_a_wrapper_that_hands_arguments_on_is_fitted_like_its_model(llama, numbers, batch_size):
    peft = pytest.importorskip("peft")
    wanted = fit(llama, numbers)
    wrapped = peft.get_peft_model(llama, peft.LoraConfig(target_modules=["q_proj"])).eval()
    found = fit(wrapped, numbers, batch_size=batch_size)
    assert [site.removeprefix("base_model.model.") for site in found.metadata.sites] == NORMS
    pairs = zip(found.maps.maps.values(), wanted.maps.maps.values(), strict=True)
    assert all(torch.allclose(one.scale, other.scale, atol=1e-3) for one, other in pairs)


def test_offloaded_weights_are_fitted_in_one_batch_and_refused_in_several(llama, numbers):
    from accelerate import cpu_offload

    wanted = as_pairs(fit(llama, numbers, batch_size=64))
    cpu_offload(llama, execution_device=torch.device("cpu"))
    assert any(parameter.device.type == "meta" for parameter in llama.parameters())
    assert_maps(fit(llama, numbers, batch_size=64), wanted)
    with pytest.raises(NotImplementedError, match="batch_size: 4 passes .* weights are offloaded"):
        fit(llama, numbers, batch_size=3)


def test_the_metadata_tells_how_the_maps_were_fitted(llama, numbers, tmp_path):
    found = fit(
        llama, numbers, support=None, strength=0.5, max_length=8, batch_size=3, seed=7
    ).metadata
    assert (found.method, found.pooling, found.support) == ("linear", "mean", "clip")
    assert (found.positions, found.incremental, found.strength) == ("all", "causal", 0.5)
    assert (found.n_source, found.n_target, found.max_length) == (len(SOURCE), len(TARGET), 8)
    assert (found.batch_size, found.seed, list(found.sites)) == (3, 7, NORMS)
    assert found.data_sha256 != fit(llama, numbers, SOURCE[1:]).metadata.data_sha256


def test_a_saved_fit_reads_back_and_knows_its_model(llama, numbers, tmp_path):
    found = fit(llama, numbers)
    loaded = LearnedTransport.load(found.save(tmp_path / "transport"))
    assert loaded.fingerprint == found.fingerprint
    loaded.check_model(llama, numbers)


def test_each_site_reports_how_far_its_map_moves_the_responses(llama, numbers):
    reports = []
    found = fit(llama, numbers, method="mean", on_site=reports.append).metadata
    assert [report.site for report in reports] == NORMS
    source, target = (
        np.stack([one.mean(0) for one in collect(llama, NORMS[0], texts)])
        for texts in (SOURCE, TARGET)
    )
    spread = np.sqrt((source.var(0, ddof=1) + target.var(0, ddof=1)) / 2)
    moved = np.abs(target.mean(0) - source.mean(0)) / spread
    assert reports[0].moved == pytest.approx(moved.mean(), rel=1e-4)
    assert found.moved == pytest.approx(np.mean([report.moved for report in reports]))
    assert found.held == pytest.approx(np.mean([report.held for report in reports]))


def test_maps_that_follow_chance_are_warned_of_until_there_are_enough_sentences(
    llama, numbers, caplog
):
    """Both sides draw their words at random, the target's from a part of the vocabulary."""
    generator = np.random.default_rng(0)

    def sentences(count, low):
        words = generator.integers(low, 128, (count, 6))
        return [" ".join(map(str, row)) for row in words]

    held = {}
    for count in (8, 160):
        caplog.clear()
        sides = sentences(count, 1), sentences(count, 96)
        held[count] = fit(llama, numbers, *sides).metadata.held
        assert ("give more sentences" in caplog.text) == (count == 8)
    assert held[8] < 0.5 < held[160]


def test_a_pattern_that_matches_nothing_names_the_nearest_modules(llama, numbers):
    with pytest.raises(ValueError, match="modules='.*layer_norm' matches none .* nearest: .*norm'"):
        fit(llama, numbers, modules=".*layer_norm")


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("count", [0, 1])
def test_a_side_with_too_few_sentences_is_named(llama, numbers, side, count):
    with pytest.raises(ValueError, match=rf"{side} has {count} sentence\(s\), and method='linear'"):
        fit(llama, numbers, **{side: SOURCE[:count]})


def test_a_single_pair_is_enough_for_actadd(llama, numbers):
    llama.double()
    found = fit(llama, numbers, SOURCE[:1], TARGET[:1], method="actadd", support=None)
    source, target = (collect(llama, NORMS[3], texts)[0] for texts in (SOURCE[:1], TARGET[:1]))
    np.testing.assert_allclose(found.maps.maps[NORMS[3]].shift, target[-1] - source[-1], atol=1e-5)
    assert not found.metadata.constant_neurons


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_sentence_without_tokens_is_named(llama, numbers, text):
    with pytest.raises(ValueError, match=r"target sentence 1 \(.*\) has no tokens"):
        fit(llama, numbers, target=["1 2", text, "1 3"])


def test_a_sentence_beyond_the_model_s_window_is_named_with_the_mend(llama, numbers):
    long = "1 " + "7 " * 300
    with pytest.raises(ValueError, match="source sentence 1 .* 301 tokens.* max_length=256"):
        fit(llama, numbers, [SOURCE[0], long])
    cut = fit(llama, numbers, [SOURCE[0], long], max_length=6)
    short = fit(
        llama, numbers, [SOURCE[0], "1 7 7 7 7 7"], [*TARGET[:2], "1 99 97 95 93 91", TARGET[3]]
    )
    assert_maps(cut, as_pairs(short))


@pytest.mark.parametrize("batch_size", [64, 3])
def test_nan_activations_name_the_site(llama, numbers, batch_size):
    llama.model.layers[1].input_layernorm.weight.data[5] = math.nan
    before = threading.active_count()
    with pytest.raises(ValueError, match=rf"module '{NORMS[2]}': .* NaN or infinite"):
        fit(llama, numbers, batch_size=batch_size)
    assert threading.active_count() == before


def test_constant_neurons_are_counted_and_warned_of(llama, numbers, caplog):
    llama.model.layers[1].input_layernorm.weight.data[[5, 9]] = 0.0
    with caplog.at_level(logging.WARNING):
        found = fit(llama, numbers, method="mean", incremental="atonce")
    assert found.metadata.constant_neurons == {NORMS[2]: 2}
    assert "2 neurons at 1 sites never change over the source sentences, most of them (2) at " in (
        caplog.text
    )


def test_a_module_that_runs_several_times_is_named(llama, numbers):
    llama.model.layers[1].input_layernorm = llama.model.layers[0].input_layernorm
    with pytest.raises(ValueError, match=f"{NORMS[0]} .* run several times in one forward pass"):
        fit(llama, numbers)


@pytest.mark.parametrize("batch_size", [64, 3])
def test_a_module_that_only_some_sentences_reach_is_refused(llama, numbers, batch_size):
    """As experts of a mixture: sentences of another length go elsewhere."""

    class Choosy(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.short = inner, torch.nn.Identity()

        def forward(self, hidden):
            hidden = self.inner(hidden)
            return self.short(hidden) if hidden.shape[1] < 5 else hidden

    llama.model.layers[1].mlp = Choosy(llama.model.layers[1].mlp)
    with pytest.raises(ValueError, match="modules: .*(sentences|inputs)"):
        fit(llama, numbers, modules=r".*(layernorm|short)", batch_size=batch_size)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "liner"}, "method='liner' is unknown; did you mean 'linear'"),
        ({"pooling": "average"}, "pooling='average' is unknown"),
        ({"support": "q90_10"}, "support='q90_10'"),
        ({"incremental": "incr"}, "incremental='incr' is unknown: choose one of causal, source, "),
        ({"positions": "first"}, "positions='first' is unknown: write 'all' or 'last'"),
        ({"strength": math.nan}, "strength=nan must be a finite number"),
        ({"batch_size": 0}, "batch_size=0: give a whole number from 1"),
        ({"max_length": 0}, "max_length=0: give a whole number from 1"),
    ],
)
def test_an_argument_out_of_range_is_named(llama, numbers, options, message):
    with pytest.raises(ValueError, match=message):
        fit(llama, numbers, **options)


def test_a_model_in_training_mode_is_refused(llama, numbers):
    with pytest.raises(ValueError, match=r"training mode.*call model.eval\(\)"):
        fit(llama.train(), numbers)


def test_a_single_text_is_no_list_of_sentences(llama, numbers):
    with pytest.raises(TypeError, match="source must be a list of texts"):
        fit(llama, numbers, source="1 2 3")
