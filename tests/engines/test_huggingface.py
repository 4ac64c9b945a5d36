"""The engine's tables: against brute force, against single runs, and against themselves."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.noise import prefix_keys, standard_normal


def noisy(std, mean=0.0, seed=0):
    return Column((GaussianNoise(float(std), float(mean), seed),), seed)


COLUMNS = columns_of(noise_std="0:3:1", noise_seed=5, noise_draws=2)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    return HuggingFaceEngine(model, tokenizer, max_length=128)


@pytest.fixture(scope="module")
def requests():
    draw = random.Random(0)
    tokens = lambda count: [draw.randrange(3, 300) for _ in range(count)]  # noqa: E731
    shared = tokens(9)
    return [
        *(ScoreRequest(shared, [choice], f"choice {choice}") for choice in (7, 8, 9, 10)),
        *(
            ScoreRequest(tokens(draw.randrange(1, 20)), tokens(draw.randrange(1, 6)))
            for _ in range(9)
        ),
    ]


def brute_force(engine, request, column):
    """One forward without padding, float64, the textbook formula."""
    tokens = torch.tensor([[*request.context, *request.continuation]])
    with torch.no_grad():
        logits = engine.model(tokens[:, :-1]).logits[0].double()
    noise = standard_normal(
        prefix_keys(tokens)[0, :-1], logits.shape[1], seed=column.seed, dtype=torch.float64
    )
    noisy = logits + column.settings.get("noise_std", 0) * noise
    start = len(request.context) - 1
    scored = F.log_softmax(noisy, dim=-1)[start:]
    target = torch.tensor(request.continuation)
    greedy = noisy[start:].argmax(-1).tolist() == list(request.continuation)
    return float(scored.gather(1, target[:, None]).sum()), greedy


def test_every_entry_equals_an_unbatched_float64_computation(engine, requests):
    rows = engine.score(requests, COLUMNS, batch_size=4, progress=False)
    for request, row in zip(requests, rows, strict=True):
        for column, value, greedy in zip(COLUMNS, row.log_likelihoods, row.is_greedy, strict=True):
            expected, expected_greedy = brute_force(engine, request, column)
            assert value == pytest.approx(expected, abs=2e-4)
            assert greedy == expected_greedy
        assert row.clean == pytest.approx(
            [brute_force(engine, request, Column())[0]] * len(COLUMNS), abs=1e-4
        )


@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_the_table_does_not_depend_on_batch_size_or_order(engine, requests, batch_size):
    reference = engine.score(requests, COLUMNS, batch_size=4, progress=False)
    shuffled = list(enumerate(requests))
    random.Random(batch_size).shuffle(shuffled)
    rows = engine.score(
        [request for _, request in shuffled], COLUMNS, batch_size=batch_size, progress=False
    )
    for (index, _), row in zip(shuffled, rows, strict=True):
        assert row.log_likelihoods == pytest.approx(reference[index].log_likelihoods, abs=1e-4)
        assert row.is_greedy == reference[index].is_greedy


def test_a_column_of_a_sweep_is_the_single_run_to_the_bit(engine, requests):
    rows = engine.score(requests, COLUMNS, batch_size=4, progress=False)
    for index, column in enumerate(COLUMNS):
        alone = engine.score(requests, [column], batch_size=4, progress=False)
        assert [row.log_likelihoods[index] for row in rows] == [r.log_likelihoods[0] for r in alone]
        assert [row.is_greedy[index] for row in rows] == [r.is_greedy[0] for r in alone]


def test_the_modulated_model_obeys_the_chain_rule(engine):
    context, first, second = [5, 60, 70], [81, 82], [90, 91, 92]
    column = noisy(2.0, seed=1)
    whole, head, tail = engine.score(
        [
            ScoreRequest(context, first + second),
            ScoreRequest(context, first),
            ScoreRequest(context + first, second),
        ],
        [column],
        batch_size=3,
        progress=False,
    )
    total = head.log_likelihoods[0] + tail.log_likelihoods[0]
    assert whole.log_likelihoods[0] == pytest.approx(total, abs=1e-4)


def test_requests_that_split_one_text_differently_are_not_confused(engine):
    tokens = [5, 60, 70, 81, 82, 90, 91]
    requests = [ScoreRequest(tokens[:cut], tokens[cut:]) for cut in (2, 5)]
    together = engine.score(requests, [Column()], batch_size=8, progress=False)
    for request, row in zip(requests, together, strict=True):
        alone = brute_force(engine, request, Column())[0]
        assert row.log_likelihoods[0] == pytest.approx(alone, abs=1e-4)


def test_choices_of_one_context_take_one_forward_pass(engine, requests):
    shapes = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, args: shapes.append(args[0].shape), with_kwargs=False
    )
    engine.score(requests, COLUMNS, batch_size=100, progress=False)
    hook.remove()
    distinct = {(*request.context, *request.continuation[:-1]) for request in requests}
    assert [shape[0] for shape in shapes] == [len(distinct)]


def test_the_noise_mean_changes_nothing(engine, requests):
    plain, shifted = (
        engine.score(requests, [noisy(1.5, mean, 3)], batch_size=4, progress=False)
        for mean in (0.0, 40.0)
    )
    assert [r.log_likelihoods for r in plain] == [r.log_likelihoods for r in shifted]


def test_nan_logits_name_the_request(engine):
    weight = engine.model.lm_head.weight
    saved = weight.detach().clone()
    weight.data[3] = float("nan")
    try:
        with pytest.raises(ValueError, match="NaN.*the broken one"):
            engine.score(
                [ScoreRequest([5], [6], "the broken one")],
                [Column()],
                batch_size=1,
                progress=False,
            )
    finally:
        weight.data.copy_(saved)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (ScoreRequest([5], [], "choice 3"), "choice 3 has an empty continuation"),
        (ScoreRequest([], [5], "choice 4"), "choice 4 has an empty context"),
        (ScoreRequest([5], [6] * 129, "choice 5"), "129 tokens, more than max_length=128"),
    ],
)
def test_a_request_that_cannot_be_scored_is_named(engine, request_, problem):
    with pytest.raises(ValueError, match=problem):
        engine.score([request_], [Column()], batch_size=1, progress=False)


def test_a_journalled_batch_is_not_computed_again(engine, requests, journal, monkeypatch):
    monkeypatch.setattr(engine, "journal", journal)
    first = engine.score(requests, COLUMNS, batch_size=3, progress=False)
    monkeypatch.setattr(engine.model, "forward", lambda *_, **__: pytest.fail("computed again"))
    again = engine.score(requests, COLUMNS, batch_size=3, progress=False)
    assert [row.log_likelihoods for row in again] == [row.log_likelihoods for row in first]


def test_the_journal_keeps_modulations_apart(engine, requests, journal, monkeypatch):
    monkeypatch.setattr(engine, "journal", journal)
    plain = engine.score(requests, [noisy(1.0)], batch_size=3, progress=False)
    other = engine.score(requests, [noisy(2.0)], batch_size=3, progress=False)
    assert [row.log_likelihoods for row in plain] != [row.log_likelihoods for row in other]


# Generation -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(engine):
    engine.tokenizer.padding_side = "left"
    texts = ["the capital of France is", "Question : Berlin", "Answer : the capital of Germany"]
    batch = engine.tokenizer(texts, return_tensors="pt", padding=True)
    return Prompts(batch["input_ids"], batch["attention_mask"])


def single(prompts: Prompts, row: int) -> Prompts:
    tokens = prompts.unpadded()[row][None]
    return Prompts(tokens, torch.ones_like(tokens))


def test_every_column_decodes_as_it_would_alone(engine, prompts):
    length = prompts.token_ids.shape[1] + 40
    table = engine.generate(prompts, COLUMNS, max_length=length, do_sample=False)
    for row in range(3):
        alone = single(prompts, row)
        limit = alone.token_ids.shape[1] + 40
        for index, column in enumerate(COLUMNS):
            [[tokens]] = engine.generate(alone, [column], max_length=limit, do_sample=False)
            assert table[row][index] == tokens


def test_without_noise_the_text_is_that_of_plain_generate(engine, prompts):
    length = prompts.token_ids.shape[1] + 30
    [[ours], *_] = engine.generate(prompts, [Column()], max_length=length, do_sample=False)
    plain = engine.model.generate(
        input_ids=prompts.token_ids,
        attention_mask=prompts.mask,
        max_length=length,
        do_sample=False,
        pad_token_id=0,
    )[0, prompts.token_ids.shape[1] :].tolist()
    assert ours == plain[: len(ours)]
    assert set(plain[len(ours) :]) <= {0}


def test_scoring_calls_greedy_what_generation_decodes(engine, prompts):
    columns = columns_of(noise_std="0:4:1", noise_seed=11)
    table = engine.generate(
        prompts, columns, max_length=prompts.token_ids.shape[1] + 25, do_sample=False
    )
    contexts = [tokens.tolist() for tokens in prompts.unpadded()]
    for context, answers in zip(contexts, table, strict=True):
        for index, tokens in enumerate(answers):
            [row] = engine.score(
                [ScoreRequest(context, tokens)], columns, batch_size=1, progress=False
            )
            assert row.is_greedy[index]


def test_rows_that_have_finished_leave_the_batch(engine, prompts):
    sizes = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    columns = columns_of(noise_std=[0.0, 3.0, 6.0])
    length = prompts.token_ids.shape[1] + 80
    free = engine.generate(prompts, columns, max_length=length, do_sample=False)
    texts = [engine.tokenizer.decode(tokens) for row in free for tokens in row]
    stop = next(text[20] for text in texts if len(text) > 30)
    sizes.clear()
    stopped = engine.generate(prompts, columns, max_length=length, stop=[stop], do_sample=False)
    hook.remove()
    assert sizes[0] == 3  # the prompts are read once, not once for each column
    assert max(sizes) == 9
    assert len(set(sizes[1:])) > 1  # some rows stop while others go on
    for before, after in zip(free, stopped, strict=True):
        for long, short in zip(before, after, strict=True):
            assert long[: len(short)] == short
            assert stop in engine.tokenizer.decode(short) or short == long


def test_equal_columns_of_greedy_decoding_share_a_row(engine, prompts):
    sizes = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    table = engine.generate(
        prompts,
        columns_of(noise_std=[0.0, 1.0], noise_draws=3),
        max_length=prompts.token_ids.shape[1] + 3,
        do_sample=False,
    )
    hook.remove()
    assert max(sizes) == 3 * 4
    assert table[0][0] == table[0][1] == table[0][2]


def test_beam_search_runs_under_every_column(engine, prompts):
    length = prompts.token_ids.shape[1] + 6
    columns = columns_of(noise_std=[0.0, 1.0])
    table = engine.generate(prompts, columns, max_length=length, num_beams=3, do_sample=False)
    for index, column in enumerate(columns):
        alone = engine.generate(prompts, [column], max_length=length, num_beams=3, do_sample=False)
        assert [row[index] for row in table] == [row[0] for row in alone]


def test_several_sequences_per_prompt_are_refused(engine, prompts):
    with pytest.raises(ValueError, match="num_return_sequences=2"):
        engine.generate(prompts, COLUMNS, max_length=40, do_sample=True, num_return_sequences=2)


# Columns ----------------------------------------------------------------------------------------


def test_columns_run_over_strengths_outside_and_draws_inside():
    columns = columns_of(noise_std="0,1", noise_seed=4, noise_draws=2)
    assert [(c.strength_of(GaussianNoise), c.seed) for c in columns] == [
        (0, 4),
        (0, 5),
        (1, 4),
        (1, 5),
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"noise_std": -1}, "noise_std"),
        ({"noise_std": float("nan")}, "noise_std"),
        ({"noise_std": "inf"}, "noise_std"),
        ({"noise_std": []}, "noise_std"),
        ({"noise_std": [1, 1]}, "twice"),
        ({"noise_std": "0:3"}, "noise_std"),
        ({"noise_std": 1, "noise_draws": 0}, "noise_draws=0"),
        ({"noise_std": 1, "noise_draws": 1.5}, "noise_draws=1.5"),
        ({"noise_std": 1, "noise_seed": 2**63}, "noise_seed"),
        ({"noise_std": 1, "noise_mean": float("inf")}, "noise_mean"),
    ],
)
def test_impossible_columns_are_refused_by_name(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        columns_of(**arguments)


def test_fingerprints_tell_modulations_apart_and_the_identity_is_one():
    assert noisy(0, 1, 2).fingerprint == Column().fingerprint
    prints = {noisy(s, m, d).fingerprint for s in (1, 2) for m in (0, 1) for d in (0, 1)}
    assert len(prints) == 8
