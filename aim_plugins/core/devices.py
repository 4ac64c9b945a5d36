"""Where a command computes, and which of its processes speaks."""

from __future__ import annotations

import os

import torch


def best_device(asked: str | None) -> torch.device:
    """The device asked for, or else a GPU where there is one.

    Raises:
        ValueError: If there is no such device.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Only using a device tells whether it is there.
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"device={asked!r} cannot be used ({first_line}): give 'cpu', 'cuda' or 'cuda:1'"
        ) from error


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
