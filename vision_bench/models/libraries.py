"""What is the same of every library that models come from."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vision_bench.models.checkpoints import refuse_misfit


def require(module: str) -> ModuleType:
    """Imports an optional library.

    Raises:
        ImportError: Naming the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{package} is not installed or does not work ({error}): "
            "pip install 'aim-plugins[vision]'"
        ) from error


@contextlib.contextmanager
def report_left_to_us(transformers: ModuleType) -> Iterator[None]:
    """Silences what transformers says about weights that don't fit, which is an error here."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def refuse_incomplete(report: Mapping[str, Any], name: str, source: str | Path) -> None:
    """Passes transformers' report on as an error, unless every weight found its place."""
    refuse_misfit(
        sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked")),
        sorted(report["unexpected_keys"]),
        sorted(report["mismatched_keys"]),
        name=name,
        source=source,
    )
