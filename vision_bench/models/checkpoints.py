"""Weights from local files: read without running them, and loaded only if they fit key for key.

A checkpoint that fits only in part is refused: a model with a few random layers would still give
numbers, and every number measured on it would be wrong.

Training programs keep more beside the weights than tensors: the options of a run, NumPy's numbers,
the optimizer. A pickle names the classes and functions of these, and could name any; here every
name that PyTorch's own restricted reader does not know stands for an inert object, so that nothing
is imported or called, and the weights beside it are read.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from aim_plugins.core.commands import say
from aim_plugins.core.errors import first_few
from aim_plugins.core.files import existing

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
"""Keys under which training programs put the weights, beside the optimizer's state."""
_AVERAGED = ("model_ema", "ema", "state_dict_ema", "ema_state_dict")
"""Keys of their moving average, which is read where there is no other."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What `DataParallel`, `torch.compile` and Lightning's modules put before every name."""
_COUNTER = "n_averaged"
"""What `torch.optim.swa_utils` keeps beside an averaged model."""
_SHOWN = 5
_LEGACY_PICKLES = 4
"""Pickles at the start of a file from before PyTorch 1.6; the last of them holds the content."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the weights in a file, without executing anything in it.

    A dictionary of a training program is unwrapped (`state_dict`, `model`, `net`, `model_ema`), and
    the prefixes of `DataParallel`, `torch.compile` and Lightning are taken off.

    Args:
        path: What `torch.save` wrote, such as a `.pth`, `.pth.tar`, `.th`, `.ckpt` or `.bin` file,
            or a `.safetensors` file.

    Returns:
        Tensors on the CPU by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, damaged, or holds no weights, as that of a whole
            pickled module.
    """
    path = existing(path, "weights")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return unwrap_state_dict(content, source=path)


def unwrap_state_dict(content: Any, *, source: str | Path) -> dict[str, Tensor]:
    """Takes the weights out of what a training program saved.

    Where it saved their moving average as well, that is left, and a line on standard error says so.

    Args:
        content: A state dict, or dictionaries around one.
        source: Where it comes from, for messages.

    Returns:
        Tensors by name, without the prefixes of `DataParallel`, `torch.compile` and Lightning.

    Raises:
        ValueError: If there are no weights in it.

    >>> unwrap_state_dict({"epoch": 3, "state_dict": {"module.w": torch.ones(1)}}, source="x.pt")
    {'w': tensor([1.])}
    """
    state = content
    while isinstance(state, Mapping) and not _is_state_dict(state):
        found = [key for key in _WRAPPERS + _AVERAGED if isinstance(state.get(key), Mapping)]
        if not found:
            break
        if averaged := [key for key in found[1:] if key in _AVERAGED]:
            say(
                f"{source}: the weights under {found[0]!r} are read; for those under "
                f"{averaged[0]!r}, save them alone"
            )
        state = state[found[0]]
    if not isinstance(state, Mapping) or not _is_state_dict(state) or set(state) <= {_COUNTER}:
        raise ValueError(
            f"{source} holds no state dict but {_what(state)}: save model.state_dict(), bare or "
            f"under one of the keys {', '.join(_WRAPPERS)}"
        )
    names = [name for name in state if name != _COUNTER]
    tensors = [state[name] for name in names]
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in names)), ""):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, tensors, strict=True))


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
        f"{label} {first_few(keys, _SHOWN)}"
        for label, keys in (
            ("missing:", missing),
            ("unexpected:", unexpected),
            ("of another shape:", shapes),
        )
        if keys
    ]
    if problems:
        # Where every key is there, most likely only the last layer has other classes.
        mend = "" if missing or unexpected else ", or choose the data whose classes it has"
        raise ValueError(
            f"weights={str(source)!r} do not fit {name!r}: {'; '.join(problems)}. "
            f"Give the checkpoint of this architecture{mend}"
        )


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    return len(value) > 0 and all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items()
    )


def _what(content: Any) -> str:
    """What there is in the place of weights, for an error."""
    if isinstance(content, _Unread):
        return f"a whole pickled {content} (nothing here unpickles code)"
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    for key in _WRAPPERS + _AVERAGED:
        if isinstance(content.get(key), _Unread):
            return f"{_what(content[key])} under {key!r}"
    return str(sorted(map(str, content))[:_SHOWN])


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        names = _named_globals(path)
        try:
            return _load_plain(path, names, _unread_class)
        except pickle.UnpicklingError:
            # PyTorch's reader fills items into its own dictionaries only.
            return _load_plain(path, names, _unread_dictionary)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds a whole pickled module, or data that only its program can read (nothing "
            "here unpickles code): save model.state_dict() there"
        ) from error
    except (RuntimeError, OSError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no PyTorch checkpoint, or a damaged one ({_first_sentence(error)})"
        ) from error


def _load_plain(path: Path, names: Iterable[str], stand_in: Callable[[str], Any]) -> Any:
    """Reads a checkpoint in which these names stand for inert objects."""
    with safe_globals([stand_in(name) for name in names]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols, whose failure is told
        return torch.load(path, map_location="cpu", weights_only=True)


def _named_globals(path: Path) -> set[str]:
    """Classes and functions that a checkpoint names, which are not looked up."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            return {name for _ in range(_LEGACY_PICKLES) for name in _globals_of(file)}
    with zipfile.ZipFile(path) as archive:
        inside = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in inside):
            raise ValueError("a TorchScript program: save the model.state_dict() of its module")
        (pickled,) = (name for name in inside if name.endswith("/data.pkl"))
        with archive.open(pickled) as file:
            return set(_globals_of(file))


def _globals_of(file: IO[bytes]) -> Iterator[str]:
    for opcode, text, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = str(text).partition(" ")
            # Python 3 too writes the names of Python 2, and PyTorch's reader translates them.
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            yield f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


class _Unread:
    """What a pickle built by a name that is not looked up; it keeps nothing of its content."""

    def __new__(cls, *arguments: Any, **options: Any) -> _Unread:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __str__(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}"


def _unread_class(name: str) -> type[_Unread]:
    module, _, qualname = name.rpartition(".")
    return type(qualname, (_Unread,), {"__module__": module, "__qualname__": qualname})


def _unread_dictionary(name: str) -> type:
    """The same for classes that derive from dict, as those of many configs; NumPy has none."""
    if name.startswith("numpy."):
        return _unread_class(name)

    def make(cls: type, *arguments: Any) -> OrderedDict[Any, Any]:
        return OrderedDict()

    made = _unread_class(name)
    made.__new__ = make  # type: ignore[assignment, method-assign]
    return made


def _first_sentence(error: BaseException) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]
