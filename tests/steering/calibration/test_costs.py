"""What changes cost on plain text, against loops over single texts and logits."""

from __future__ import annotations

import json
import math

import pytest
import torch

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration import costs
from aim_plugins.steering.calibration.costs import (
    UNCHANGED,
    Changed,
    encode_texts,
    measure_costs,
    prefix_tokens,
)
from aim_plugins.steering.calibration.search import BudgetSearch
from aim_plugins.transport.change import Transport, read_transport
from benchmarks._architectures import build_small

TEXTS = [
    "the capital of France is Paris",
    "Berlin is the capital of Germany . Answer : Paris",
    "Question : is Berlin the capital",
]
PROMPT = "Answer : Berlin "


@pytest.fixture(scope="module")
def engine(tiny):
    return HuggingFaceEngine(tiny.model, tiny.tokenizer, max_length=128)


@pytest.fixture
def mean_transport(other_transport):
    """Folder of a mean map, and what makes it a change at a strength."""
    learned, _ = read_transport(other_transport)

    def at(strength, prefix=()):
        return Changed(Column((Transport(strength, learned.fingerprint, learned.maps),)), prefix)

    return other_transport, at


def log_probabilities(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)


def divergence_by_hand(plain, moved):
    """KL over a whole vocabulary, a token at a time."""
    return sum(
        math.exp(p) * (p - q)
        for row, other in zip(plain.tolist(), moved.tolist(), strict=True)
        for p, q in zip(row, other, strict=True)
    )


def test_divergence_and_loss_are_those_of_single_texts_and_logits(
    engine, tiny, mean_transport, steered_by_hand
):
    folder, at = mean_transport
    rows = encode_texts(engine, TEXTS)
    found = measure_costs(engine, rows, [at(0.5), at(1.0), UNCHANGED], batch_size=4)
    for place, strength in enumerate((0.5, 1.0, 0.0)):
        for index, text in enumerate(TEXTS):
            tokens = tiny.tokenizer(text).input_ids
            plain = log_probabilities(tiny.model, tokens)[:-1]
            with steered_by_hand(folder, strength) as model:
                moved = log_probabilities(model, tokens)[:-1]
            expected = divergence_by_hand(plain, moved)
            assert found[place].divergences[index] == pytest.approx(expected, abs=1e-4, rel=1e-4)
            loss = -sum(moved[i, token].item() for i, token in enumerate(tokens[1:]))
            assert found[place].losses[index] == pytest.approx(loss, rel=1e-5)
            assert found[place].tokens[index] == len(tokens) - 1
    assert found[2].divergences == (0.0, 0.0, 0.0)


def test_a_prompts_divergence_is_that_of_the_text_behind_it(engine, tiny):
    prefix = prefix_tokens(engine, PROMPT)
    [found] = measure_costs(engine, encode_texts(engine, TEXTS), [Changed(prefix=prefix)])
    for index, text in enumerate(TEXTS):
        tokens = tiny.tokenizer(text).input_ids
        plain = log_probabilities(tiny.model, tokens)[:-1]
        prompted = log_probabilities(tiny.model, [*prefix, *tokens])[len(prefix) : -1]
        expected = divergence_by_hand(plain, prompted)
        assert found.divergences[index] == pytest.approx(expected, rel=1e-4)


def test_a_prompt_takes_the_place_of_a_start_token(engine, tiny, monkeypatch):
    start = tiny.tokenizer.bos_token_id
    rows = [[start, *row] for row in encode_texts(engine, TEXTS[:1])]
    prefix = (start, *prefix_tokens(engine, PROMPT))
    [found] = measure_costs(engine, rows, [Changed(prefix=prefix)])
    plain = log_probabilities(tiny.model, rows[0])[:-1]
    whole = [*prefix, *rows[0][1:]]
    prompted = log_probabilities(tiny.model, whole)[len(prefix) - 1 : -1]
    assert found.divergences[0] == pytest.approx(divergence_by_hand(plain, prompted), rel=1e-4)


def test_a_method_behind_a_prompt_is_held_against_the_prompted_model(
    engine, tiny, mean_transport, steered_by_hand
):
    folder, at = mean_transport
    prefix = prefix_tokens(engine, PROMPT)
    [found] = measure_costs(
        engine, encode_texts(engine, TEXTS[:1]), [at(0.5, prefix)], reference=Changed(prefix=prefix)
    )
    whole = [*prefix, *tiny.tokenizer(TEXTS[0]).input_ids]
    reference = log_probabilities(tiny.model, whole)[len(prefix) : -1]
    with steered_by_hand(folder, 0.5) as model:
        moved = log_probabilities(model, whole)[len(prefix) : -1]
    assert found.divergences[0] == pytest.approx(divergence_by_hand(reference, moved), rel=1e-3)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_prompt_that_is_read_once_gives_the_costs_of_one_before_each_text(
    engine, other_transport, monkeypatch, positions
):
    learned, _ = read_transport(other_transport)
    maps = ActivationMaps(learned.maps.maps, positions)
    prefix = prefix_tokens(engine, PROMPT)
    changed = [
        Changed(Column((Transport(strength, f"of {positions}", maps),)), prefix)
        for strength in (0.5, 1.0)
    ]
    rows, reference = encode_texts(engine, TEXTS), Changed(prefix=prefix)
    once = measure_costs(engine, rows, changed, reference=reference, batch_size=6)
    monkeypatch.setattr(costs, "_read_prefix", lambda *_: None)
    whole = measure_costs(engine, rows, changed, reference=reference, batch_size=6)
    for one, other in zip(once, whole, strict=True):
        assert one.divergences == pytest.approx(other.divergences, rel=1e-3)
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
    assert once[0].divergences != once[1].divergences


def test_a_model_that_keeps_positions_reads_the_prompt_before_every_text(tiny):
    model = build_small("qwen2_vl")
    prompt = torch.randint(3, 90, (3, 4), generator=torch.Generator().manual_seed(0))
    model.generate(prompt, max_new_tokens=2, do_sample=False)  # keeps positions of three rows
    engine = HuggingFaceEngine(model, tiny.tokenizer, max_length=64)
    texts = [[5, 6, 7], [8, 9, 10, 11]]
    behind = Changed(prefix=(20, 21, 22))
    found = costs.log_probabilities(engine, texts, [behind])[0]
    wanted = [log_probabilities(model, [20, 21, 22, *text])[3:-1] for text in texts]
    torch.testing.assert_close(found.double(), torch.cat(wanted), atol=1e-4, rtol=0)


def test_per_token_values_and_errors_are_those_of_ratios(engine, mean_transport):
    _, at = mean_transport
    [found] = measure_costs(engine, encode_texts(engine, TEXTS), [at(1.0)])
    total = sum(found.tokens)
    assert found.divergence.value == pytest.approx(sum(found.divergences) / total)
    # The jackknife, another estimate of the same error, agrees for so few texts within a half.
    left_out = [
        (sum(found.divergences) - one) / (total - count)
        for one, count in zip(found.divergences, found.tokens, strict=True)
    ]
    middle = sum(left_out) / 3
    jackknife = math.sqrt(2 / 3 * sum((one - middle) ** 2 for one in left_out))
    assert found.divergence.stderr == pytest.approx(jackknife, rel=0.5)


def test_a_broken_model_costs_without_bound(engine, mean_transport):
    _, at = mean_transport
    [found] = measure_costs(engine, encode_texts(engine, TEXTS), [at(1e38)])
    assert math.isinf(found.divergence.value)


def test_finished_batches_are_not_computed_again(tiny, mean_transport, monkeypatch):
    _, at = mean_transport
    records: dict[str, str] = {}

    class Journal:
        def read_batch(self, key):
            return json.loads(records[key]) if key in records else None

        def write_batch(self, key, payload):
            records[key] = json.dumps(payload)

    engine = HuggingFaceEngine(tiny.model, tiny.tokenizer, max_length=128, journal=Journal())
    rows = encode_texts(engine, TEXTS)
    first = measure_costs(engine, rows, [at(0.5)], batch_size=2)
    monkeypatch.setattr(engine, "model", None)
    monkeypatch.setattr(type(engine), "fingerprint", engine.fingerprint)
    assert measure_costs(engine, rows, [at(0.5)], batch_size=2) == first


@pytest.mark.parametrize("budget", [0.01, 0.1, 0.5])
def test_equal_budgets_spend_equal_divergence(
    engine, tiny, tiny_transport, other_transport, steered_by_hand, budget
):
    """Of two transports, by logits of the strengths that the search found."""
    rows = encode_texts(engine, TEXTS)
    for folder in (tiny_transport, other_transport):
        learned, _ = read_transport(folder)
        search = BudgetSearch(budget, 32.0)
        while asked := search.next:
            [strength] = asked
            one = Changed(Column((Transport(strength, learned.fingerprint, learned.maps),)))
            [spending] = measure_costs(engine, rows, [one])
            search.record(strength, spending.divergence.value)
        found = search.found
        assert found.reached
        spent = 0.0
        for tokens in rows:
            plain = log_probabilities(tiny.model, tokens)[:-1]
            with steered_by_hand(folder, found.strength) as model:
                spent += divergence_by_hand(plain, log_probabilities(model, tokens)[:-1])
        spent /= sum(len(tokens) - 1 for tokens in rows)
        assert spent == pytest.approx(budget, rel=0.012)


def test_a_text_that_does_not_fit_behind_its_prompt_is_refused(engine):
    long = tuple([5] * 126)
    with pytest.raises(ValueError, match="longer than the model's window of 128"):
        measure_costs(engine, encode_texts(engine, TEXTS), [Changed(prefix=long)])


def test_a_text_of_one_token_is_refused(engine):
    with pytest.raises(ValueError, match="has 1 tokens: give texts of 2 to 128"):
        encode_texts(engine, ["the"])
