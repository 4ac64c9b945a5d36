"""What the screen promises, against finite differences of steered models."""

from __future__ import annotations

import re

import pytest
import torch

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.steering.calibration.screen import Screen, ScreenTexts, text_slopes
from aim_plugins.steering.calibration.sites import joint_choice, site_choices

SITES = [f"model.layers.{layer}.input_layernorm" for layer in range(3)] + ["model.layers.1"]
SOURCE = ["the capital of France is Paris", "is the capital Paris"]
TARGET = ["Berlin is the capital of Germany . Answer : Paris", "Question : Berlin"]
PLAIN = ["the capital of Germany is Berlin and", "Question : is Berlin the capital", "and Paris"]


@pytest.fixture(scope="module")
def engine(tiny):
    return HuggingFaceEngine(tiny.model, tiny.tokenizer, max_length=128)


@pytest.fixture(scope="module")
def maps():
    generator = torch.Generator().manual_seed(3)

    def draw(size):
        scale = 1 + size * torch.randn(48, generator=generator)
        return AffineMap.everywhere(scale, size * torch.randn(48, generator=generator))

    clipped = draw(0.3)
    low, high = torch.full((48,), -0.2), torch.full((48,), 0.2)
    return {
        "first": {site: draw(0.2) for site in SITES},
        "other": {SITES[1]: AffineMap(clipped.scale, clipped.shift, low, high, clip=True)},
    }


def log_likelihood(tiny, text, maps, strength):
    tokens = tiny.tokenizer(text).input_ids
    with torch.no_grad(), ActivationMaps(maps).applied(tiny.model.double(), strength):
        logits = tiny.model(torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1)
    tiny.model.float()
    return logits.gather(1, torch.tensor(tokens[1:])[:, None]).sum().item()


def slope_by_differences(tiny, text, maps, step=1e-3):
    ends = [log_likelihood(tiny, text, maps, sign * step) for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


def encode(tiny, texts):
    return [tiny.tokenizer(text).input_ids for text in texts]


def test_slopes_are_those_of_finite_differences(engine, tiny, maps):
    found = text_slopes(engine, encode(tiny, TARGET), maps, batch_size=2)
    for name, own in maps.items():
        for site, one in own.items():
            for place, text in enumerate(TARGET):
                expected = slope_by_differences(tiny, text, {site: one})
                assert found[name][site][place].item() == pytest.approx(
                    expected, rel=2e-2, abs=2e-3
                )


def test_a_choice_of_sites_has_the_slope_of_one_strength_for_all(engine, tiny, maps):
    texts = ScreenTexts(*(encode(tiny, side) for side in (SOURCE, TARGET, PLAIN)))
    promise = Screen(engine, texts, maps).promise("first", SITES[:3])
    own = {site: maps["first"][site] for site in SITES[:3]}

    def per_token(side):
        counts = sum(len(row) - 1 for row in encode(tiny, side))
        return sum(slope_by_differences(tiny, text, own) for text in side) / counts

    assert promise.slope == pytest.approx(per_token(TARGET) - per_token(SOURCE), rel=2e-2)


def test_the_information_is_the_curvature_of_the_divergence(engine, tiny, maps):
    """In the mean over draws; KL(λ) = I λ² / 2 of a small λ, by logits."""
    own = {SITES[0]: maps["first"][SITES[0]]}
    rows = encode(tiny, PLAIN) * 100
    texts = ScreenTexts(rows[:1], rows[:1], rows)
    found = Screen(engine, texts, {"first": own}, batch_size=100).promise("first", SITES[:1])
    strength, divergence, tokens = 0.01, 0.0, 0
    for row in encode(tiny, PLAIN):
        ids = torch.tensor([row])
        tiny.model.double()
        with torch.no_grad():
            plain = tiny.model(ids).logits[0, :-1].log_softmax(-1)
            with ActivationMaps(own).applied(tiny.model, strength):
                moved = tiny.model(ids).logits[0, :-1].log_softmax(-1)
        tiny.model.float()
        divergence += (plain.exp() * (plain - moved)).sum().item()
        tokens += len(row) - 1
    expected = 2 * divergence / tokens / strength**2
    assert found.information == pytest.approx(expected, rel=0.25)
    assert found.gain(0.08) == pytest.approx(found.slope * (0.16 / found.information) ** 0.5)


def test_a_screen_leaves_the_model_as_it_was(engine, tiny, maps):
    asked = [one.requires_grad for one in tiny.model.parameters()]
    # transformers keeps hooks of its own once hidden states were asked for
    hooks = [list(module._forward_hooks) for module in tiny.model.modules()]
    text_slopes(engine, encode(tiny, TARGET), maps)
    assert [one.requires_grad for one in tiny.model.parameters()] == asked
    assert all(one.grad is None for one in tiny.model.parameters())
    assert [list(module._forward_hooks) for module in tiny.model.modules()] == hooks


def test_thirds_share_out_the_layers_and_leave_the_last_norm_to_all():
    grouped = [f"h.{layer}.ln_{k}" for layer in range(7) for k in (1, 2)] + ["ln_f"]
    choices = site_choices(grouped, ["h.3"])
    assert [one.name for one in choices] == ["all", "early", "middle", "late", "h.3"]
    parts = [set(one.sites) for one in choices[1:4]]
    assert set.union(*parts) == set(grouped[:-1])
    assert sum(map(len, parts)) == len(grouped) - 1
    assert {len(part) // 2 for part in parts} == {2, 3}


def test_a_model_of_two_layers_has_no_thirds():
    assert [one.name for one in site_choices(["h.0.ln", "h.1.ln"], [])] == ["all"]


def test_the_patterns_of_a_choice_match_its_sites_alone():
    [one] = site_choices([], ["h.1"])
    assert one.patterns == [r"h\.1"] and not re.fullmatch(one.patterns[0], "hx1")
    [other] = site_choices([], ["h.1:2"])
    assert other.patterns == [r"h\.1:2"]


def test_methods_that_join_sites_take_all_modules_or_the_stream():
    norms, blocks = ["h.0.ln", "h.1.ln"], ["h.0", "h.1"]
    both = site_choices(norms, blocks)
    assert joint_choice(both, stream=False).sites == tuple(norms)
    assert joint_choice(both, stream=True).sites == tuple(blocks)
    assert joint_choice(site_choices(norms, []), stream=True).sites == tuple(norms)
    assert joint_choice(site_choices([], blocks), stream=False).sites == tuple(blocks)
