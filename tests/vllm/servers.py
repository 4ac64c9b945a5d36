"""Servers for tests, and what clients ask them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai

SECOND_RUNNER = os.environ.get("TRITON_INTERPRET") == "1"

NAME = "small"
NEW_TOKENS = 12
PROCESSED = ("--logprobs-mode", "processed_logprobs")
WAIT = 240
"""Seconds that a loaded machine may take to start the server."""

ROOT = Path(__file__).parents[2]
CHAT_TEMPLATE = "{% for one in messages %}{{ one.content }} {% endfor %}"


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


def start_server(checkpoint: Path, port: int, *options: str) -> subprocess.Popen[str]:
    command = [
        # What `vllm serve` runs; the command itself asks for the version of a package "vllm", which
        # the CPU build is not called.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(checkpoint)),
        *("--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "128"),
        *("--max-num-seqs", "16", "--kv-cache-memory-bytes", str(1 << 28)),
        *("--chat-template", CHAT_TEMPLATE),
        *options,
    ]
    environment = {
        **os.environ,
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # takes calls of workers, by which tests put in faults
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str]) -> list[str]:
    """Returns what a server has said as soon as it takes requests."""
    lines, said = lines_of(process), []
    while "Application startup complete" not in (said[-1] if said else ""):
        line = lines.get(timeout=WAIT)
        assert line is not None, "".join(said)[-3000:]
        said.append(line)
    return said


@contextlib.contextmanager
def serving(checkpoint: Path, transport: Path, condition: Path) -> Iterator[SimpleNamespace]:
    """Clients of two servers on the loopback interface, which run within the block."""
    named = json.dumps(
        {
            "aim_transports": dict.fromkeys(("praise", "sea"), str(transport)),
            "aim_loading": {"folder": str(transport.parent), "slots": 1},
            "aim_conditions": {"harmful": str(condition)},
        }
    )
    faults = ["--worker-extension-cls", "tests.vllm.faults.Faults"]
    servers = {"transport": ["--additional-config", named, *PROCESSED, *faults]}
    if not SECOND_RUNNER:  # no test of the second runner asks it
        servers["plain"] = []
    ports = {name: free_port() for name in servers}
    # Both at once: a server mostly waits for its imports.
    processes = [
        start_server(checkpoint, ports[name], *options) for name, options in servers.items()
    ]
    try:
        for process in processes:
            said = "".join(wait_for(process))
            assert ("Using V2 Model Runner" in said) == SECOND_RUNNER, said[-3000:]
        yield SimpleNamespace(
            ports=ports,
            **{
                name: openai.OpenAI(
                    base_url=f"http://127.0.0.1:{port}/v1",
                    api_key="none",
                    max_retries=0,
                    timeout=WAIT,
                )
                for name, port in ports.items()
            },
        )
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
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


def ask_for_transports(
    clients: SimpleNamespace, path: str = "", *, server: str = "transport", **given: object
) -> tuple[int, dict]:
    """Status and body of what a server answers about its transports."""
    url = f"http://127.0.0.1:{clients.ports[server]}/v1/transports{path}"
    data = json.dumps(given).encode() if path else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=WAIT) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def call_workers(clients: SimpleNamespace, method: str, *arguments: str) -> Any:
    """What the worker of the server with transports answers, see `tests.vllm.faults`."""
    url = f"http://127.0.0.1:{clients.ports['transport']}/collective_rpc"
    data = json.dumps({"method": method, "args": arguments}).encode()
    header = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, header), timeout=WAIT) as answer:
        return json.load(answer)["results"][0]
