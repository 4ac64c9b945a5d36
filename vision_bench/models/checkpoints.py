"""Weights from local files: read without unpickling, and loaded only if they fit key for key.

A checkpoint that fits only in part is refused: a model with a few random layers would still give
numbers, and every number measured on it would be wrong.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training programs put the weights, beside the optimizer's state."""
_PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""
_SHOWN = 5


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the weights in a file, without executing anything in it.

    A dictionary of a training program is unwrapped (`state_dict`, `model`), and the prefixes of
    `DataParallel` and `torch.compile` are taken off.

    Args:
        path: A `.pt`, `.pth`, `.bin` or `.safetensors` file.

    Returns:
        Tensors on the CPU by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, damaged, holds more than plain data, or holds no
            weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"{path}: the suffix is {path.suffix!r}, not one of {', '.join(_SUFFIXES)}"
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return unwrap_state_dict(content, source=path)


def unwrap_state_dict(content: Any, *, source: str | Path) -> dict[str, Tensor]:
    """Takes the weights out of what a training program saved.

    Args:
        content: A state dict, or dictionaries around one.
        source: Where it comes from, for messages.

    Returns:
        Tensors by name, without the prefixes of `DataParallel` and `torch.compile`.

    Raises:
        ValueError: If there are no weights in it.

    >>> unwrap_state_dict({"epoch": 3, "state_dict": {"module.w": torch.ones(1)}}, source="x.pt")
    {'w': tensor([1.])}
    """
    state = content
    while isinstance(state, Mapping) and not _is_state_dict(state):
        inner = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, Mapping) or not _is_state_dict(state):
        found = sorted(map(str, state))[:_SHOWN] if isinstance(state, Mapping) else type(state)
        raise ValueError(
            f"{source} holds no state dict but {found}: save model.state_dict(), bare or under "
            f"one of the keys {', '.join(_WRAPPERS)}"
        )
    names = list(state)
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def load_weights(
    module: torch.nn.Module, state: Mapping[str, Tensor], *, name: str, source: str | Path
) -> None:
    """Loads weights that fit key for key and shape for shape, or none at all.

    Args:
        module: The model; its parameters keep their type.
        state: Tensors by name.
        name: The model's name, for messages.
        source: Where the weights come from, for messages.

    Raises:
        ValueError: If the weights are another architecture's; names the first keys that differ.
    """
    own = module.state_dict()
    # Files older than PyTorch 0.4.1 lack this counter, which a model in eval mode never reads.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshaped = [
        (key, tuple(value.shape), tuple(own[key].shape))
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    refuse_misfit(missing, unexpected, misshaped, name=name, source=source)
    module.load_state_dict(state, strict=False)


def refuse_misfit(
    missing: Iterable[str],
    unexpected: Iterable[str],
    misshaped: Iterable[tuple[str, Iterable[int], Iterable[int]]],
    *,
    name: str,
    source: str | Path,
) -> None:
    """Raises an error naming the keys that keep weights from fitting a model, if there are any.

    Args:
        missing: Keys that the model has and the weights lack.
        unexpected: Keys that the weights have and the model lacks.
        misshaped: Key, shape in the weights and shape in the model.
        name: The model's name.
        source: Where the weights come from.

    Raises:
        ValueError: If any of the three is not empty.
    """
    missing, unexpected = list(missing), list(unexpected)
    shapes = [f"{key} is {[*got]}, not {[*wanted]}" for key, got, wanted in misshaped]
    problems = [
        f"{label} {_first(keys)}"
        for label, keys in (
            ("missing:", missing),
            ("unexpected:", unexpected),
            ("of another shape:", shapes),
        )
        if keys
    ]
    if problems:
        # Where every key is there, most likely only the last layer has other classes.
        mend = "" if missing or unexpected else ", or the weights' number of classes as classes="
        raise ValueError(
            f"weights={str(source)!r} do not fit {name!r}: {'; '.join(problems)}. "
            f"Give the checkpoint of this architecture{mend}"
        )


def _first(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    return len(value) > 0 and all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items()
    )


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than weights, and nothing here unpickles: save "
            "model.state_dict() instead of the model"
        ) from error
    except (RuntimeError, OSError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no PyTorch checkpoint, or a damaged one ({error})") from error
