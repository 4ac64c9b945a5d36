"""Telling one checkpoint from another by its files, since vLLM packs weights in ways of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aim_plugins.engines.engine import fingerprint


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
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        try:
            path = Path(
                snapshot_download(
                    model_config.model,
                    revision=model_config.revision,
                    cache_dir=load_config.download_dir,
                    local_files_only=True,
                )
            )
        except (OSError, ValueError):  # nothing in the cache: weights of another kind
            return
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.gguf"):
        yield from path.glob(pattern)


def _file_sample(path: Path, pieces: int = 256, width: int = 64) -> tuple[int, str]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        found = []
        for piece in range(pieces):
            file.seek(piece * max(1, size // pieces))
            found.append(file.read(width).hex())
    return size, fingerprint(found)
