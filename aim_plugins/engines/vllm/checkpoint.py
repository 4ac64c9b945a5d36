"""Telling one checkpoint from another by its files, since vLLM packs weights in ways of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.signature import check_tensors


def checkpoint_sample(model_config: Any, load_config: Any) -> list[Any]:
    """A model's configuration and some bytes of its weight files.

    Workers pack weights in ways of their own, so the files are what tells models apart. Where there
    are none the name and revision have to do.
    """
    described = {
        name: value
        for name, value in model_config.hf_config.to_diff_dict().items()
        if name not in ("_name_or_path", "transformers_version")
    }
    sample: list[Any] = [json.dumps(described, sort_keys=True, default=str)]
    files = sorted(_weight_files(model_config, load_config))
    if not files:
        return [*sample, str(model_config.model), str(model_config.revision)]
    return sample + [[path.name, *_file_sample(path)] for path in files]


def _weight_files(model_config: Any, load_config: Any) -> Iterator[Path]:
    path = Path(model_config.model)
    if path.is_file():
        yield path
        return
    folder = _folder(model_config.model, model_config.revision, load_config.download_dir)
    if folder is None:
        return
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.gguf"):
        yield from folder.glob(pattern)


def _folder(model: str, revision: str | None, cache: str | None) -> Path | None:
    """The checkpoint's folder, or None where the cache has none: weights of another kind."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(model, revision=revision, cache_dir=cache, local_files_only=True)
        )
    except (OSError, ValueError):
        return None


def check_checkpoint(
    model: str,
    learned: ArtifactMetadata,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
) -> None:
    """Compares a checkpoint with the model that something was learned on before vLLM loads it.

    Workers compare as well, but what they raise ends the engine and reaches its user as "engine
    core initialization failed". Checkpoints without safetensors are left to them.

    Args:
        model: Folder or hub name of the checkpoint.
        learned: What is known of what was learned.
        revision: Its revision on the hub.
        download_dir: Where vLLM downloads to.

    Raises:
        ValueError: If weights differ.
    """
    from safetensors import safe_open

    folder = _folder(model, revision, download_dir)
    signature = learned.model_signature
    sampled = set(signature.get("weights") or {})
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors") if folder else ():
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in sampled.intersection(file.keys())}
    learned.refuse(check_tensors(repr(model), tensors, signature))


def _file_sample(path: Path, pieces: int = 256, width: int = 64) -> tuple[int, str]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        found = []
        for piece in range(pieces):
            file.seek(piece * max(1, size // pieces))
            found.append(file.read(width).hex())
    return size, fingerprint(found)
