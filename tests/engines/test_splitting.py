"""Claims about batches that do not fit into memory: split, remembered, answered as if they had."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import random
import weakref
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aim_plugins.engines.engine import Prompts, ScoreRequest
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.engines.splitting import Block, RowLimit, forward_is_collective, is_out_of_memory
from aim_plugins.modulation.arguments import columns_of

COLUMNS = columns_of(noise_std="0:3:1", noise_seed=5, noise_draws=2)
DISTINCT = 7  # the identity's two draws are one
PROMPTS = 3
END = 2


@pytest.fixture
def make_engine(model, tokenizer):
    """Makes an engine that knows nothing yet of the memory."""
    return lambda journal=None: HuggingFaceEngine(model, tokenizer, max_length=128, journal=journal)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    texts = ["the capital of France is", "Question : Berlin", "Answer : the capital of Germany"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    return Prompts(batch["input_ids"], batch["attention_mask"])


@pytest.fixture(scope="module")
def requests():
    draw = random.Random(0)
    tokens = lambda count: [draw.randrange(3, 300) for _ in range(count)]  # noqa: E731
    shared = tokens(9)
    return [
        *(ScoreRequest(shared, [choice]) for choice in (7, 8, 9)),
        *(ScoreRequest(tokens(draw.randrange(1, 20)), tokens(3)) for _ in range(9)),
    ]


@contextlib.contextmanager
def room_for(model, rows, *, after=0, error=torch.OutOfMemoryError):
    """A model that runs out of memory above some rows, from the pass `after` of such a batch on.

    Yields:
        The rows of each pass, those that failed included.
    """
    passes = []

    def check(module, args, kwargs):
        size = len(args[0] if args else kwargs["input_ids"])
        passes.append(size)
        if size > rows and sum(earlier > rows for earlier in passes) > after:
            raise error(f"CUDA out of memory. Tried to allocate {size} rows.")

    hook = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def until_end(table):
    """What an end token follows is of no meaning."""
    cut = lambda tokens: tokens[: (tokens.index(END) + 1) if END in tokens else None]  # noqa: E731
    return [[cut(tokens) for tokens in row] for row in table]


def decode(engine, prompts, columns=COLUMNS, tokens=20, do_sample=False, **options):
    length = prompts.token_ids.shape[1] + tokens
    return until_end(
        engine.generate(prompts, columns, max_length=length, do_sample=do_sample, **options)
    )


# Generation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, DISTINCT, 15, 20])
def test_a_split_batch_gives_the_answers_of_the_whole(make_engine, model, prompts, rows):
    expected = decode(make_engine(), prompts)
    with room_for(model, rows) as passes:
        assert decode(make_engine(), prompts) == expected
    assert max(passes) > rows  # it did run out of memory


def test_memory_may_run_out_late_in_a_text(make_engine, model, prompts):
    expected = decode(make_engine(), prompts)
    with room_for(model, 10, after=6) as passes:
        assert decode(make_engine(), prompts) == expected
    assert sum(size > 10 for size in passes) == 8  # six tokens, then 21 and 14 rows fail


def test_prompts_are_split_before_columns(make_engine, model, prompts):
    with room_for(model, DISTINCT) as passes:
        decode(make_engine(), prompts, tokens=1)
    # Each attempt reads its prompts first, in a row each. 21 and 14 rows fail, 7 fit.
    assert passes == [3, 21, 2, 14, 1, 7, 1, 7, 1, 7]


def test_later_batches_start_below_a_size_that_failed(make_engine, model, prompts):
    engine = make_engine()
    with room_for(model, 10) as passes:
        decode(engine, prompts)
        first = [size for size in passes if size > 10]
        passes.clear()
        decode(engine, prompts, COLUMNS[1:])
        decode(engine, prompts)
    assert first == [21, 14]
    assert max(passes) <= 10


def test_a_row_that_does_not_fit_alone_raises_the_models_own_error(make_engine, model, prompts):
    raised = []

    class Full(torch.OutOfMemoryError):
        def __init__(self, text):
            super().__init__(text)
            raised.append(self)

    with room_for(model, 0, error=Full), pytest.raises(Full) as caught:
        decode(make_engine(), prompts)
    assert caught.value is raised[-1]


def test_one_warning_names_the_sizes(make_engine, model, prompts, caplog):
    engine = make_engine()
    with room_for(model, 5), caplog.at_level(logging.WARNING):
        decode(engine, prompts)
        decode(engine, prompts)
    [warning] = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert "3 prompts x 7 columns = 21 rows" in warning
    assert "1 prompts x 7 columns = 7 rows: going on with at most 1 prompts x 4" in warning
    assert "batch_size" in warning


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_engine, model, prompts):
    error = lambda text: RuntimeError("shapes differ")  # noqa: E731
    with (
        room_for(model, 0, error=error) as passes,
        pytest.raises(RuntimeError, match="shapes differ"),
    ):
        decode(make_engine(), prompts)
    assert len(passes) == 1


def test_what_a_failed_attempt_held_is_free_before_the_next(make_engine, model, prompts):
    held = []

    def fail(module, args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            activations = torch.zeros(10)
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert all(reference() is None for reference in held)

    hook = model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        decode(make_engine(), prompts, COLUMNS[:1])
    finally:
        hook.remove()
    assert held


# Sampling ---------------------------------------------------------------------------------------


def test_each_occurrence_samples_anew_and_the_same_one_repeats(make_engine, prompts):
    engine = make_engine()
    first, second, again = (
        decode(engine, prompts, do_sample=True, occurrences=[count] * PROMPTS)
        for count in (0, 1, 0)
    )
    assert first == again
    assert first != second
    assert first == decode(engine, prompts, do_sample=True)


def test_greedy_decoding_has_one_answer_whatever_the_occurrence(
    make_engine, model, prompts, journal
):
    engine = make_engine(journal)
    first = decode(engine, prompts)
    with room_for(model, 0):  # the journal has it
        assert decode(engine, prompts, occurrences=[3] * PROMPTS) == first
    decode(engine, prompts, do_sample=True)
    decode(engine, prompts, do_sample=True, occurrences=[3] * PROMPTS)
    assert len(engine.journal) == 3


def test_a_model_that_samples_by_its_own_config_is_known_to(
    make_engine, model, prompts, monkeypatch
):
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    engine, length = make_engine(), prompts.token_ids.shape[1] + 20
    first, second, again = (
        until_end(
            engine.generate(prompts, COLUMNS, max_length=length, occurrences=[count] * PROMPTS)
        )
        for count in (0, 1, 0)
    )
    assert first == again
    assert first != second
    assert first[0][0] != first[0][1]  # two draws of the unmodulated model


@pytest.mark.parametrize("rows", [1, 2, 15])
def test_a_split_batch_samples_as_the_whole(make_engine, model, prompts, rows):
    expected = decode(make_engine(), prompts, do_sample=True)
    with room_for(model, rows, after=6):
        assert decode(make_engine(), prompts, do_sample=True) == expected


# Scoring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9])
def test_split_contexts_score_as_the_whole_batch(make_engine, model, requests, rows):
    expected = make_engine().score(requests, COLUMNS, batch_size=10, progress=False)
    seen = {}
    with room_for(model, rows) as passes:
        found = make_engine().score(
            requests, COLUMNS, batch_size=10, progress=False, on_row=seen.__setitem__
        )
    assert max(passes) == 10
    assert seen == dict(enumerate(found))
    for row, reference in zip(found, expected, strict=True):
        assert row.log_likelihoods == pytest.approx(reference.log_likelihoods, abs=1e-4)
        assert (row.is_greedy, row.context_key, row.tokens) == (
            reference.is_greedy,
            reference.context_key,
            reference.tokens,
        )


def test_scoring_does_not_try_a_size_that_failed_again(make_engine, model, requests):
    engine = make_engine()
    with room_for(model, 4) as passes:
        for _ in range(2):
            engine.score(requests, COLUMNS, batch_size=8, progress=False)
    assert [size for size in passes if size > 4] == [8]


def test_scoring_and_generation_learn_apart(make_engine, model, requests, prompts):
    engine = make_engine()
    with room_for(model, 4):
        decode(engine, prompts)
    with room_for(model, 10) as passes:
        engine.score(requests, COLUMNS, batch_size=10, progress=False)
    assert passes == [10]


def test_a_single_context_that_does_not_fit_raises(make_engine, model, requests):
    with room_for(model, 0), pytest.raises(torch.OutOfMemoryError):
        make_engine().score(requests, COLUMNS, batch_size=4, progress=False)


# Records, automatic batch sizes, processes ------------------------------------------------------


def test_a_resumed_run_finds_what_was_split_before(make_engine, model, requests, prompts, journal):
    with room_for(model, 4):
        engine = make_engine(journal)
        texts = decode(engine, prompts)
        rows = engine.score(requests, COLUMNS, batch_size=10, progress=False)
    with room_for(model, 0) as passes:
        resumed = make_engine(journal)
        assert decode(resumed, prompts) == texts
        assert resumed.score(requests, COLUMNS, batch_size=10, progress=False) == rows
    assert passes == []


@pytest.mark.parametrize("generation", [False, True])
def test_a_probe_sees_the_error(make_engine, model, requests, generation):
    engine = make_engine()
    with room_for(model, 5), pytest.raises(torch.OutOfMemoryError):
        engine.probe(6, 10, columns_of(noise_std=[1, 2, 3]), generation=generation)
    with room_for(model, 10) as passes:
        engine.score(requests, COLUMNS, batch_size=10, progress=False)
    assert passes == [10]  # a probe that failed says nothing of batches of other lengths


def test_a_model_whose_passes_are_collective_is_not_split(model):
    def compute(block):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert not forward_is_collective(model)
    assert forward_is_collective(SimpleNamespace(tp_size=2))
    assert forward_is_collective(SimpleNamespace(_is_fsdp_managed_module=True))
    attempts = []
    with pytest.raises(torch.OutOfMemoryError):
        RowLimit("prompts", divisible=False).run(
            4, 2, lambda block: attempts.append(block) or compute(block)
        )
    assert attempts == [Block(range(4), range(2))]


def _rank(rank: int, folder: Path) -> None:
    from tests.conftest import random_llama

    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    model = random_llama(128, hidden_size=32, layers=2, positions=256, scale=0.3)
    engine = HuggingFaceEngine(model, None, max_length=64)
    tokens = torch.arange(3, 15).reshape(2, 6)
    with room_for(model, 1 if rank == 0 else 100):
        table = engine.generate(
            Prompts(tokens, torch.ones_like(tokens)),
            columns_of(noise_std=[0.0, 1.0, 2.0]),
            max_length=16,
            do_sample=False,
        )
        [row] = engine.score([ScoreRequest([5], [6])], COLUMNS, batch_size=1, progress=False)
    torch.save((until_end(table), row.log_likelihoods), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_rank_splits_while_the_others_do_not(tmp_path):
    # A collective call inside would leave the ranks waiting for calls that never come.
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    split, whole = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert split[0] == whole[0]
    assert split[1] == pytest.approx(whole[1], abs=1e-4)


# What counts as a lack of memory ----------------------------------------------------------------


def test_a_lack_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)  # what PyTorch itself raises on a CPU
    for text in (
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert is_out_of_memory(RuntimeError(text))
        assert not is_out_of_memory(ValueError(text))
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(("prompts", "columns"), [(1, 1), (1, 5), (3, 2), (6, 7)])
def test_halves_cover_a_block_once_each_smaller(prompts, columns):
    block = Block(range(prompts), range(columns))
    cells = {(p, c) for p in block.prompts for c in block.columns}
    assert block.rows == len(cells)
    if block.rows == 1:
        return
    first, second = block.halves()
    halves = [{(p, c) for p in half.prompts for c in half.columns} for half in (first, second)]
    assert halves[0] | halves[1] == cells
    assert not halves[0] & halves[1]
    assert halves[0] and halves[1]
