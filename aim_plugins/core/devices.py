"""Where a command computes, which of its processes speaks, and how long a model's inputs may be."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_WINDOWS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "model_max_length",
)
_UNBOUNDED = 10**6
"""Tokenizers without a limit state a number far above this."""

_PATIENCE = 60.0
"""Seconds that a process waits for the one beside it to report an error that all of them find."""


def machine_memory() -> int:
    """Bytes of memory of the machine, in use or not."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def best_device(asked: str | None = None) -> torch.device:
    """The device asked for, or else the accelerator if there is one, or else the CPU.

    An accelerator without float64, as Apple's, is taken only if it is asked for.

    Raises:
        ValueError: If there is no such device, or none that holds values.
    """
    import torch

    if not asked:
        available = torch.accelerator.is_available()
        found = torch.accelerator.current_accelerator() if available else None
        return torch.device("cpu") if found is None or found.type == "mps" else found
    try:
        # Only using a device tells whether it is there.
        values = torch.zeros(1, device=asked)
        values.tolist()
    except (RuntimeError, AssertionError, ImportError) as error:  # builds without it raise them all
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"device={asked!r} cannot be used: {first_line}; give cpu, cuda or cuda:1, or leave it "
            "out"
        ) from error
    return values.device


def pass_device(asked: str | None) -> torch.device | None:
    """The device of a model's pass; None where `accelerate launch` gives each process its own."""
    if asked is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    return best_device(asked)


def is_main_process() -> bool:
    """Whether this process writes the results."""
    return int(os.environ.get("RANK", "0")) == 0


def speaks_for_machine() -> bool:
    """Whether this process is the one of its machine that reports what all of them find wrong."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Leaves it to one process of a machine to report what all of them find wrong."""
    try:
        yield
    except (ValueError, OSError, ImportError):
        if not speaks_for_machine():
            # The launcher ends all processes once one has failed.
            time.sleep(_PATIENCE)
        raise


def model_window(config: Any, tokenizer: Any = None) -> int | None:
    """Tokens that a language model takes at most.

    Args:
        config: Its configuration; of several modalities, that of the text counts.
        tokenizer: What is asked where the configuration knows no bound.

    Returns:
        The bound; None where none is known.

    >>> from types import SimpleNamespace
    >>> model_window(SimpleNamespace(n_positions=1024)), model_window(SimpleNamespace())
    (1024, None)
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(text, name, None) for name in _WINDOWS]
    found.append(getattr(tokenizer, "model_max_length", None))
    bounds = (one for one in found if isinstance(one, int) and 0 < one < _UNBOUNDED)
    return next(bounds, None)
