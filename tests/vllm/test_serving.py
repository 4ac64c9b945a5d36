"""`vllm serve` with aim-plugins installed, and an OpenAI client that turns the knob per request."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
import torch

from aim_plugins.engines.engine import Prompts
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.logits import GaussianNoiseLogitsProcessor
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import Transport
from tests.vllm.servers import NAME, NEW_TOKENS, ask_for_transports, complete


@pytest.fixture(scope="module")
def client(clients: SimpleNamespace) -> openai.OpenAI:
    """A client of the server without a transport."""
    return clients.plain


def offline(
    engine: HuggingFaceEngine, prompt: list[int], columns: Sequence[Column]
) -> list[list[int]]:
    """The engine's new token ids of a prompt for each column."""
    token_ids = torch.tensor([prompt])
    return engine.generate(
        Prompts(token_ids, torch.ones_like(token_ids)),
        columns,
        max_length=len(prompt) + NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )[0]


def test_every_request_is_answered_at_its_own_strength(
    client: openai.OpenAI, reference_engine, small_model
) -> None:
    prompt = small_model.tokenizer("the capital of France").input_ids
    columns = columns_of(
        noise_std=(0.0, 0.5, 2.0, 4.0), noise_mean=0.0, noise_seed=1, noise_draws=2
    )
    expected = offline(reference_engine, prompt, columns)
    with ThreadPoolExecutor(len(columns)) as pool:
        given = list(
            pool.map(
                lambda column: complete(
                    client,
                    prompt,
                    aim_std=column.strength_of(GaussianNoise),
                    aim_seed=column.seed,
                ),
                columns,
            )
        )
    assert [tokens for tokens in given] == [
        tokens[: len(answer)] for tokens, answer in zip(expected, given, strict=True)
    ]
    assert given[0] == given[1]
    assert len({tuple(tokens) for tokens in given}) > 3


@pytest.mark.second_runner
def test_every_request_is_answered_at_its_own_strength_of_the_transport(
    clients: SimpleNamespace, small_model, small_transport: Path
) -> None:
    prompt = small_model.tokenizer("the capital of France").input_ids
    transport = LearnedTransport.load(small_transport)
    engine = HuggingFaceEngine(small_model.model, small_model.tokenizer, max_length=127)
    columns = columns_of(
        noise_std=(0.0, 1.0),
        noise_seed=3,
        strength=(0.0, 0.25, 0.5, 1.0),
        transport=transport,
    )
    expected = offline(engine, prompt, columns)

    def ask(column: Column) -> list[int]:
        # Both names are of the same maps, whose strengths thus add up to the column's.
        strength = column.strength_of(Transport)
        return complete(
            clients.transport,
            prompt,
            aim_strength_praise=strength / 4,
            aim_strength_sea=3 * strength / 4,
            aim_std=column.strength_of(GaussianNoise),
            aim_seed=column.seed,
        )

    with ThreadPoolExecutor(len(columns)) as pool:
        given = list(pool.map(ask, columns))
    assert given == [tokens[: len(answer)] for tokens, answer in zip(expected, given, strict=True)]
    assert len({tuple(tokens) for tokens in given}) > 6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"aim_std": -1.0}, "aim_std=-1.0 is negative"),
        ({"aim_std": "much"}, "aim_std='much' is a str"),
        ({"aim_stdd": 1.0}, "aim_stdd=1.0 is no argument of aim-plugins"),
    ],
)
def test_bad_value_is_refused_and_disturbs_nobody(
    client: openai.OpenAI, arguments: dict, reason: str
) -> None:
    assert_refused_alone(client, arguments, reason, {"aim_std": 1.0})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"aim_strength_sea": "much"}, "aim_strength_sea='much' is a str"),
        ({"aim_strength_prase": 0.5}, "did you mean 'aim_strength_praise'"),
        ({"aim_strength": 0.5}, "no transport of that name"),
        ({"aim_strength_sea": 0.5, "aim_window_sea": "some"}, "aim_window_sea='some' is no window"),
        ({"aim_window_sea": "prompt"}, "has no strength: give aim_strength_sea"),
        ({"aim_strength_sea": 0.5, "aim_prompt_length": 0}, "aim_prompt_length=0 is no number"),
        ({"aim_strength_sea": 0.5, "aim_condition_sea": "harmfull"}, "did you mean 'harmful'"),
        ({"aim_strength_sea": 0.5, "aim_condition_sea": "harmful>2"}, "is no cosine"),
        ({"aim_strength_prase": 0.5, "aim_condition_prase": "harmful"}, "'aim_strength_praise'"),
        ({"aim_condition_sea": "harmful"}, "has no strength: give aim_strength_sea"),
        ({"_aim_watched": 0}, "_aim_watched=0 is no argument of a request"),
    ],
)
def test_bad_strength_of_the_transport_is_refused_and_disturbs_nobody(
    clients: SimpleNamespace, arguments: dict, reason: str
) -> None:
    assert_refused_alone(clients.transport, arguments, reason, {"aim_strength_sea": 0.5})


@pytest.mark.second_runner
def test_a_condition_decides_which_prompts_are_moved(
    clients: SimpleNamespace, small_prompts: list[list[int]], small_condition: SimpleNamespace
) -> None:
    low, high = min(small_condition.similarities), max(small_condition.similarities)
    always, never = f"harmful>{low - 0.01}", f"harmful>{high + 0.01}"
    texts = ("harmful", "not harmful", always, never)

    def ask(prompt: list[int], **condition: str) -> list[int]:
        moved = {"aim_strength_sea": 1.0, "aim_strength_praise": 0.25}
        return complete(clients.transport, prompt, **moved, **condition)

    plain = [complete(clients.transport, one, aim_strength_praise=0.25) for one in small_prompts]
    moved = [ask(one) for one in small_prompts]
    assert all(one != other for one, other in zip(plain, moved, strict=True))
    asked = [(index, text) for index in range(len(small_prompts)) for text in texts]
    with ThreadPoolExecutor(len(asked)) as pool:  # more at once than are watched at a time
        given = pool.map(lambda one: ask(small_prompts[one[0]], aim_condition_sea=one[1]), asked)
        for (index, text), tokens in zip(asked, given, strict=True):
            met = small_condition.met[index]
            held = {"harmful": met, "not harmful": not met, always: True, never: False}[text]
            assert tokens == (moved if held else plain)[index], (index, text)
    assert {*small_condition.met} == {True, False}


def test_prompts_of_one_body_are_decided_one_by_one(
    clients: SimpleNamespace, small_prompts: list[list[int]], small_condition: SimpleNamespace
) -> None:
    moved = {"aim_strength_sea": 1.0}
    answer = clients.transport.completions.create(
        model=NAME,
        prompt=small_prompts,
        temperature=0.0,
        max_tokens=NEW_TOKENS,
        extra_body={
            "return_token_ids": True,
            "vllm_xargs": moved | {"aim_condition_sea": "harmful"},
        },
    )
    given = [choice.token_ids for choice in answer.choices]
    assert given == [
        complete(clients.transport, prompt, **(moved if met else {}))
        for prompt, met in zip(small_prompts, small_condition.met, strict=True)
    ]


def test_a_condition_without_one_in_the_server_is_refused(client: openai.OpenAI) -> None:
    asked = {"aim_strength": 0.5, "aim_condition": "harmful"}
    assert_refused_alone(client, asked, "aim_conditions", {"aim_std": 1.0})


def test_a_transport_is_loaded_and_unloaded_while_the_server_runs(
    clients: SimpleNamespace, small_transport: Path
) -> None:
    client, folder = clients.transport, small_transport.name
    plain = complete(client, [5, 6, 7])
    expected = complete(client, [5, 6, 7], aim_strength_praise=0.6)
    with pytest.raises(openai.BadRequestError, match="no transport of that name"):
        complete(client, [5, 6, 7], aim_strength_storm=0.6)
    status, loaded = ask_for_transports(clients, "/load", name="storm", folder=folder)
    assert status == 200
    assert loaded["fingerprint"] == LearnedTransport.load(small_transport).fingerprint
    assert set(ask_for_transports(clients)[1]["transports"]) == {"praise", "sea", "storm"}
    given = [complete(client, [5, 6, 7], aim_strength_storm=0.6) for _ in range(2)]
    assert given == [expected] * 2 and expected != plain
    status, refused = ask_for_transports(clients, "/load", name="calm", folder=folder)
    assert status == 400 and "all slots are taken" in refused["error"]["message"]
    status, refused = ask_for_transports(clients, "/load", name="calm", folder="../..")
    assert status == 400 and "no folder within" in refused["error"]["message"]
    assert ask_for_transports(clients, "/unload", name="storm") == (200, {"name": "storm"})
    assert ask_for_transports(clients, "/unload", name="praise")[0] == 400
    with pytest.raises(openai.BadRequestError, match="no transport of that name"):
        complete(client, [5, 6, 7], aim_strength_storm=0.6)
    assert complete(client, [5, 6, 7]) == plain


def test_a_server_loads_nothing_that_was_not_told_from_where(clients: SimpleNamespace) -> None:
    status, refused = ask_for_transports(clients, "/load", server="plain", name="sea")
    assert status == 400 and "--additional-config" in refused["error"]["message"]


def test_strength_without_a_transport_is_refused_and_disturbs_nobody(
    client: openai.OpenAI,
) -> None:
    assert_refused_alone(client, {"aim_strength": 0.5}, "--additional-config", {"aim_std": 1.0})


def assert_refused_alone(
    client: openai.OpenAI, arguments: dict, reason: str, modulation: dict
) -> None:
    """Asserts that arguments are answered with 400 and a reason, and requests beside them well."""
    prompt = [5, 6, 7]
    before = complete(client, prompt, **modulation)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(complete, client, prompt, **modulation) for _ in range(3)]
        refused = pool.submit(complete, client, prompt, **arguments)
        with pytest.raises(openai.BadRequestError) as caught:
            refused.result()
        assert [other.result() for other in others] == [before] * 3
    assert caught.value.status_code == 400
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"aim_std": 2.0}, 'move it into vllm_xargs, {"vllm_xargs": {"aim_std": 2.0}}'),
        ({"aim_strength": 0.5, "vllm_xargs": {"aim_std": 1.0}}, "aim_strength=0.5 stands at"),
        ({"aim_sampling": {"seed": 1}}, "sample with temperature and seed"),
        ({"vllm_xargs": {"aim_sampling": "{}"}}, "aim_sampling='{}' is no mapping"),
        ({"use_beam_search": True, "n": 2, "vllm_xargs": {"aim_std": 2.0}}, "leaves aim_std=2.0"),
        ({"logprobs": 1, "vllm_xargs": {"aim_std": 2.0}}, "--logprobs-mode processed_logprobs"),
        ({"n": 2, "temperature": 1.0, "vllm_xargs": {"aim_std": 1e39}}, "is beyond 10000"),
        ({"vllm_xargs": {"aim_std": 1.0, "aim_mean": 1e300}}, "is beyond 10000"),
        ({"vllm_xargs": {"aim_strength": 1e39}}, "is beyond 100"),
    ],
)
def test_modulation_that_would_be_lost_or_run_over_is_refused(
    client: openai.OpenAI, body: dict, reason: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=NAME, prompt=[5, 6, 7], max_tokens=2, extra_body=body)
    assert reason in caught.value.body["message"]  # type: ignore[index]
    assert len(complete(client, [5, 6, 7])) > 0


@pytest.mark.parametrize(
    "body", [{"aim_std": 2.0}, {"use_beam_search": True, "vllm_xargs": {"aim_std": 2.0}}]
)
def test_chat_whose_modulation_would_be_lost_is_refused(client: openai.OpenAI, body: dict) -> None:
    with pytest.raises(openai.BadRequestError, match="aim_std=2.0"):
        client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "a"}], extra_body=body
        )


def test_beams_without_modulation_are_served(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=NAME, prompt=[5, 6, 7], max_tokens=2, n=2, extra_body={"use_beam_search": True}
    )
    assert len(answer.choices) == 2


@pytest.mark.second_runner
def test_processed_log_probabilities_are_those_of_the_noisy_logits(
    clients: SimpleNamespace, small_model
) -> None:
    prompt = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = small_model.model(prompt).logits[:, -1]
    expected = GaussianNoiseLogitsProcessor(2.0, 0.0, 1)(prompt, logits).log_softmax(-1).max()
    answer = clients.transport.completions.create(
        model=NAME,
        prompt=prompt[0].tolist(),
        temperature=0.0,
        max_tokens=1,
        logprobs=0,
        extra_body={"vllm_xargs": {"aim_std": 2.0, "aim_seed": 1}},
    )
    assert answer.choices[0].logprobs.token_logprobs == pytest.approx([expected.item()], abs=1e-4)


def test_every_answer_of_a_request_is_modulated(client: openai.OpenAI) -> None:
    # Noise so strong that sampling has one choice left.
    arguments = {"aim_std": 1e4, "aim_seed": 1}
    answer = client.completions.create(
        model=NAME,
        prompt=[5, 6, 7],
        temperature=1.0,
        max_tokens=NEW_TOKENS,
        n=3,
        extra_body={"return_token_ids": True, "vllm_xargs": arguments},
    )
    given = [choice.token_ids for choice in answer.choices]  # type: ignore[attr-defined]
    assert given == [complete(client, [5, 6, 7], **arguments)] * 3


def test_request_without_arguments_gets_the_plain_model(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=NAME,
        prompt=[5, 6, 7],
        temperature=0.0,
        max_tokens=NEW_TOKENS,
        extra_body={"return_token_ids": True},
    )
    plain = answer.choices[0].token_ids  # type: ignore[attr-defined]
    assert plain == complete(client, [5, 6, 7], aim_std=0.0)
    assert plain != complete(client, [5, 6, 7], aim_std=5.0)
