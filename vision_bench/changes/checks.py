"""Whether a model can take changes, and what of them pins a folder's runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from aim_plugins.modulation.columns import Column
from vision_bench.models.model import VisionModel, named_module


def check_columns(columns: Sequence[Column], model: VisionModel) -> None:
    """Refuses changes that a model cannot take.

    Raises:
        ValueError: If one was made for another model.
        ImportError: If what compares strengths is missing.
    """
    for change in dict.fromkeys(one for column in columns for one in column.changes):
        if find_spec("scipy") is None:
            raise ImportError("intervals need scipy: pip install 'aim-plugins[vision]'")
        change.check_model(named_module(model.module), None)


def pinned_changes(columns: Sequence[Column]) -> dict[str, str]:
    """What must not change between two runs in one folder, though a folder's name may agree."""
    changes = (one for column in columns for one in column.changes)
    return {f"{one.name}_fingerprint": one.fingerprint for one in changes}
