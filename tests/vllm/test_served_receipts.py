"""Receipts in a server's responses, and the faults by which its clients are refused an answer.

Each test `test_caught_…` stands in the table of `docs/receipts.md` by its name. Faults are put into
the worker of a server that runs, see `tests.vllm.faults`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.receipts import Receipt, check_receipt
from aim_plugins.transport.artifact import LearnedTransport
from tests.vllm.servers import NAME, ask_for_transports, call_workers

BOTH_RUNNERS = pytest.mark.second_runner
PROMPT = [5, 6, 7, 8, 9]
NEW = 4
SITES = 5
"""Norms of the small model's two layers, and its last layer."""
BOTH = {"aim_strength_sea": 0.7, "aim_std": 0.5, "aim_seed": 3}


def ask(clients: SimpleNamespace, *, stream: bool = False, **options: Any) -> Any:
    """Completions of a prompt, of exactly `NEW` tokens."""
    body = {"ignore_eos": True, "return_token_ids": True, **options.pop("body", {})}
    return clients.transport.completions.create(
        model=NAME,
        prompt=options.pop("prompt", PROMPT),
        max_tokens=options.pop("max_tokens", NEW),
        temperature=options.pop("temperature", 0.0),
        stream=stream,
        extra_body=body | {"vllm_xargs": options.pop("arguments", BOTH)},
        **options,
    )


def chat(clients: SimpleNamespace, **options: Any) -> Any:
    """A chat's answers, of exactly `NEW` tokens."""
    return clients.transport.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "the sea"}],
        max_tokens=NEW,
        temperature=1.0,
        extra_body={"ignore_eos": True, "vllm_xargs": options.pop("arguments", BOTH)},
        **options,
    )


def receipt(prompt: int = len(PROMPT), new: int = NEW) -> list[dict[str, Any]]:
    """The changes of `BOTH`, of a prompt and an answer of so many tokens."""
    return [
        {"kind": "noise", "strength": 0.5, "sites": 1, "tokens": new},
        {"kind": "transport_sea", "strength": 0.7, "sites": SITES, "tokens": prompt + new - 1},
    ]


@BOTH_RUNNERS
def test_an_answer_has_the_receipt_of_its_column(clients, small_transport: Path) -> None:
    learned = LearnedTransport.load(small_transport)
    (column,) = columns_of(noise_std=0.5, noise_seed=3, strength_sea=0.7, transport_sea=learned)
    (choice,) = ask(clients).choices
    assert choice.aim_receipt == {"modulation": column.fingerprint, "changes": receipt()}


@BOTH_RUNNERS
def test_every_choice_of_every_prompt_has_its_receipt(clients) -> None:
    prompts = [PROMPT, [5, 6]]
    answer = ask(clients, prompt=prompts, n=2, temperature=1.0)
    found = {choice.index: choice.aim_receipt["changes"] for choice in answer.choices}
    assert found == {
        2 * place + index: receipt(len(prompt))
        for place, prompt in enumerate(prompts)
        for index in range(2)
    }


def streamed(chunks: Any) -> tuple[dict[int, list[Any]], list[Any]]:
    """The receipts of each choice of a stream, and of those chunks the reasons to end."""
    found: dict[int, list[Any]] = {}
    ends = []
    for chunk in chunks:
        for choice in chunk.choices:
            if (own := getattr(choice, "aim_receipt", None)) is not None:
                found.setdefault(choice.index, []).append(own["changes"])
                ends.append(choice.finish_reason)
    return found, ends


@BOTH_RUNNERS
def test_a_stream_has_its_receipts_in_the_last_chunks(clients) -> None:
    prompts = [PROMPT, [5, 6]]
    usage = {"include_usage": True}
    chunks = ask(clients, prompt=prompts, n=2, temperature=1.0, stream=True, stream_options=usage)
    found, ends = streamed(chunks)
    assert found == {
        2 * place + index: [receipt(len(prompt))]
        for place, prompt in enumerate(prompts)
        for index in range(2)
    }
    assert ends == ["length"] * 4


def test_chats_have_receipts(clients) -> None:
    answer = chat(clients, n=2)
    wanted = receipt(answer.usage.prompt_tokens)
    assert [one.aim_receipt["changes"] for one in answer.choices] == [wanted] * 2
    found, ends = streamed(chat(clients, n=2, stream=True))
    assert found == {0: [wanted], 1: [wanted]} and ends == ["length"] * 2


def test_windows_and_prompts_are_counted(clients) -> None:
    def tokens(**arguments: Any) -> int:
        (choice,) = ask(clients, arguments={"aim_strength_sea": 0.7, **arguments}).choices
        (change,) = choice.aim_receipt["changes"]
        return change["tokens"]

    assert tokens(aim_window_sea="generation") == NEW - 1
    assert tokens(aim_window_sea="prompt", aim_prompt_length=2) == 2
    assert tokens(aim_window_sea="4-5") == 2


@BOTH_RUNNERS
def test_a_receipt_says_what_its_condition_decided(
    clients,
    small_prompts: list[list[int]],
    small_transport: Path,
    small_condition: SimpleNamespace,
) -> None:
    (column,) = columns_of(
        noise_std=0.5,
        strength_sea=0.7,
        transport_sea=str(small_transport),
        condition_sea=str(small_condition.folder),
        strength_praise=0.3,
        transport_praise=str(small_transport),
    )
    asked = {"aim_std": 0.5, "aim_strength_sea": 0.7, "aim_strength_praise": 0.3}
    for prompt, met, similarity in zip(
        small_prompts, small_condition.met, small_condition.similarities, strict=True
    ):
        arguments = {"aim_condition_sea": "harmful", **asked}
        (choice,) = ask(clients, prompt=prompt, arguments=arguments).choices
        assert choice.aim_receipt["modulation"] == column.fingerprint
        noise, praise, sea = choice.aim_receipt["changes"]
        moved = {"sites": SITES, "tokens": len(prompt) + NEW - 1}
        assert noise == {"kind": "noise", "strength": 0.5, "sites": 1, "tokens": NEW}
        assert praise == {"kind": "transport_praise", "strength": 0.3, **moved}
        assert sea.pop("similarity") == pytest.approx(similarity, abs=1e-4)
        where = moved if met else dict.fromkeys(moved, 0)
        assert sea == {"kind": "transport_sea", "strength": 0.7, "held": met, **where}
        found = Receipt.from_json(choice.aim_receipt)
        check_receipt(found, column, "a served answer")


def test_what_a_stop_string_cuts_short_has_its_receipt(clients) -> None:
    text = ask(clients, max_tokens=12).choices[0].text
    (choice,) = ask(clients, max_tokens=12, stop=text.split()[0]).choices
    assert choice.finish_reason == "stop"
    read = len(PROMPT) + len(choice.token_ids)
    assert choice.aim_receipt["changes"] == receipt(new=read - len(PROMPT))


@BOTH_RUNNERS
def test_logits_of_which_most_are_masked_have_a_receipt(clients) -> None:
    (choice,) = ask(clients, body={"allowed_token_ids": [5]}).choices
    assert choice.token_ids == [5] * NEW
    assert choice.aim_receipt["changes"] == receipt()


def test_strength_0_has_the_receipt_of_the_plain_model(clients) -> None:
    (choice,) = ask(clients, arguments={"aim_std": 0.0, "aim_strength_sea": 0.0}).choices
    assert choice.aim_receipt["changes"] == []


@BOTH_RUNNERS
def test_a_plain_request_has_nothing_of_it(clients) -> None:
    answer = ask(clients, arguments={})
    assert "aim" not in answer.model_dump_json()
    assert all(
        "aim" not in chunk.model_dump_json() for chunk in ask(clients, arguments={}, stream=True)
    )


def test_many_answers_at_once_have_their_own_receipts(clients) -> None:
    strengths = [round(0.1 * number, 1) for number in range(1, 13)]

    def strength(asked: float) -> float:
        (choice,) = ask(clients, arguments={"aim_strength_praise": asked}).choices
        return choice.aim_receipt["changes"][0]["strength"]

    with ThreadPoolExecutor(len(strengths)) as pool:
        assert list(pool.map(strength, strengths)) == strengths


def test_nothing_is_kept_of_answers_that_were_taken_or_given_up(clients) -> None:
    ask(clients, n=2, temperature=1.0)
    chunks = ask(clients, stream=True, n=2, max_tokens=100, temperature=1.0)
    next(iter(chunks))
    chunks.close()
    for _ in range(200):  # until the server has seen that its client is gone
        ask(clients, arguments={}, max_tokens=1)
        if not any(kept := call_workers(clients, "aim_kept")):
            break
    assert not any(kept)


def test_a_client_cannot_name_an_answer(clients) -> None:
    with pytest.raises(openai.BadRequestError, match="_aim_answer='1' is no argument"):
        ask(clients, arguments={"_aim_answer": "1"})


# Faults -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fault(clients: SimpleNamespace, name: str) -> Iterator[None]:
    """A fault in the server's worker while the block runs."""
    call_workers(clients, "aim_break", name)
    try:
        yield
    finally:
        call_workers(clients, "aim_mend")


def assert_refused(clients: SimpleNamespace, reason: str, **arguments: float) -> None:
    """Asserts that no answer is given, at once or as a stream, and requests beside it are."""
    arguments = arguments or {"aim_strength_sea": 0.7}
    with pytest.raises(openai.InternalServerError, match=reason):
        ask(clients, arguments=arguments)
    ends = []
    with pytest.raises(openai.APIError, match=reason):
        for chunk in ask(clients, arguments=arguments, stream=True):
            ends += [choice.finish_reason for choice in chunk.choices]
    assert set(ends) <= {None}  # none where the whole answer comes at once
    assert len(ask(clients, arguments={}).choices[0].token_ids) == NEW


@BOTH_RUNNERS
def test_caught_hook_of_a_server_removed(clients) -> None:
    with fault(clients, "hook_removed"):
        assert_refused(clients, "model.layers.0.input_layernorm of the worker move .* no longer")
    assert ask(clients).choices[0].aim_receipt


def test_caught_maps_of_a_server_overwritten(clients) -> None:
    with fault(clients, "maps_overwritten"):
        assert_refused(clients, "model.layers.0.input_layernorm of the worker move .* no longer")
        # Those of another transport are as they were.
        assert ask(clients, arguments={"aim_strength_praise": 0.7}).choices[0].aim_receipt


@BOTH_RUNNERS
def test_caught_strengths_of_a_server_zeroed(clients) -> None:
    with fault(clients, "strengths_zeroed"):
        assert_refused(clients, "transport_sea 0.7, and that of sea at its token 0 was 0 instead")


def test_caught_strengths_of_a_server_swapped(clients) -> None:
    with fault(clients, "strengths_swapped"):
        assert_refused(clients, "that of praise at its token 0 was 0.7 instead of 0")


@BOTH_RUNNERS
def test_caught_watching_left_out(clients) -> None:
    with fault(clients, "listener_gone"):
        assert_refused(
            clients, "asked for noise 0.5, and a worker has not seen the request", aim_std=0.5
        )


@BOTH_RUNNERS
def test_caught_logits_processor_of_a_server_idle(clients) -> None:
    with fault(clients, "processor_idle"):
        assert_refused(clients, "asked for noise 0.5, changed at 0 of 4 steps", aim_std=0.5)


def test_caught_transport_unloaded_before_the_start(clients, small_transport: Path) -> None:
    """Admitted, and gone from the worker when the request comes there."""
    folder = small_transport.name
    assert ask_for_transports(clients, "/load", name="storm", folder=folder)[0] == 200
    try:
        asked = {"aim_strength_storm": 0.7}
        assert ask(clients, arguments=asked).choices[0].aim_receipt
        with fault(clients, "transport_gone"):
            assert_refused(clients, "its transport storm was not there", **asked)
    finally:
        assert ask_for_transports(clients, "/unload", name="storm")[0] == 200


def test_caught_workers_that_do_not_answer(clients) -> None:
    with fault(clients, "workers_mute"):
        assert_refused(clients, "what workers saw of the answer could not be fetched")
