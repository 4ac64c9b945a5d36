"""`vllm serve` with aim-plugins installed, and an OpenAI client that turns the knob per request."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from aim_plugins.engines.engine import Modulation, Prompts

NAME = "small"
NEW_TOKENS = 12
WAIT = 240
"""Seconds that a loaded machine may take to start the server."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lines_of(process: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """What a process says, line by line; None at its end. Read on, or its pipe would fill up."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


@pytest.fixture(scope="module")
def client(small_checkpoint: Path) -> Iterator[openai.OpenAI]:
    """A client of a server on the loopback interface, which runs for the tests of this module."""
    port = free_port()
    command = [
        # What `vllm serve` runs; the command itself asks for the version of a package "vllm", which
        # the CPU build is not called.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(small_checkpoint)),
        *("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "128"),
        *("--max-num-seqs", "16", "--kv-cache-memory-bytes", str(1 << 28)),
    ]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "INFO", "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    lines, said = lines_of(process), []
    try:
        while "Application startup complete" not in (said[-1] if said else ""):
            line = lines.get(timeout=WAIT)
            assert line is not None, "".join(said)[-3000:]
            said.append(line)
        yield openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=WAIT
        )
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def complete(client: openai.OpenAI, prompt: list[int], **arguments: object) -> list[int]:
    """New token ids of a prompt, decoded greedily."""
    answer = client.completions.create(
        model=NAME,
        prompt=prompt,
        temperature=0.0,
        max_tokens=NEW_TOKENS,
        extra_body={"return_token_ids": True, "vllm_xargs": arguments},
    )
    return answer.choices[0].token_ids  # type: ignore[attr-defined]


def test_every_request_is_answered_at_its_own_strength(
    client: openai.OpenAI, reference_engine, small_model
) -> None:
    import torch

    prompt = small_model.tokenizer("the capital of France").input_ids
    columns = [Modulation(std, 0.0, seed) for std in (0.0, 0.5, 2.0, 4.0) for seed in (1, 2)]
    token_ids = torch.tensor([prompt])
    expected = reference_engine.generate(
        Prompts(token_ids, torch.ones_like(token_ids)),
        columns,
        max_length=len(prompt) + NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )[0]
    with ThreadPoolExecutor(len(columns)) as pool:
        given = list(
            pool.map(lambda c: complete(client, prompt, aim_std=c.std, aim_seed=c.seed), columns)
        )
    assert [tokens for tokens in given] == [
        tokens[: len(answer)] for tokens, answer in zip(expected, given, strict=True)
    ]
    assert given[0] == given[1]
    assert len({tuple(tokens) for tokens in given}) > 3


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
    prompt = [5, 6, 7]
    before = complete(client, prompt, aim_std=1.0)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(complete, client, prompt, aim_std=1.0) for _ in range(3)]
        refused = pool.submit(complete, client, prompt, **arguments)
        with pytest.raises(openai.BadRequestError) as caught:
            refused.result()
        assert [other.result() for other in others] == [before] * 3
    assert caught.value.status_code == 400
    assert reason in str(caught.value)


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
