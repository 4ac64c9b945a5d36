"""The words that say how a transport is learned, and its folder.

They are checked before torch is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing

METHOD_NAMES = (
    "linear",
    "gaussian",
    "mean",
    "aura",
    "actadd",
    "caa",
    "iti",
    "pca",
    "lineas",
    "ablation",
    "angular",
    "chars",
)
"""Names of the methods in `aim_plugins.transport.maps`."""

SLOW_METHODS = ("lineas",)
"""Those that take a thousand passes, which nobody should start unasked."""

PAIRED_METHODS = ("pca",)
"""Those that take source and target sentences in pairs."""

OPTIONS: Mapping[str, Sequence[str]] = {
    "lineas": ("steps", "learning_rate", "sparsity"),
    "ablation": ("direction_site",),
    "angular": ("direction_site",),
    "chars": ("clusters", "components"),
}
"""Options that only some methods take, by method."""

POOLINGS = ("mean", "min", "max", "median", "last", "all")
"""How the tokens of a sentence become one response, see `aim_plugins.transport.responses`."""

STATEDICT = ".statedict"
"""Suffix of the maps that the original implementation saved."""

INTERVENTIONS = "intkey_*.bin"
"""Names of the files of pyreft's interventions."""

VECTOR_SUFFIXES = (".gguf", ".safetensors", ".pt", ".pth", ".csv")
"""Suffixes of files of steering vectors that are read."""

WRITTEN_SUFFIXES = (".gguf", ".safetensors")
"""Suffixes of those that are written."""

_PERCENTILES = re.compile(r"q(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")


def existing_transport(
    named: object, made_by: str = "`aim-plugins transport fit`", argument: str = "transport"
) -> Path:
    """The folder of a transport.

    Args:
        named: The folder.
        made_by: What makes such transports, for the error.
        argument: What it was given as, for the error.

    Raises:
        FileNotFoundError: If there is none.
    """
    # A harness reads a folder's name made of digits as a number.
    name = os.fspath(named) if isinstance(named, os.PathLike) else str(named)
    place = Path(name).expanduser().absolute()
    if not place.is_dir():
        raise FileNotFoundError(
            f"{argument}={name!r} is no folder: name the one that {made_by} wrote, or "
            "start from the folder it is relative to"
        )
    return place


def statedict_files(folder: Path) -> list[Path]:
    """The maps in a folder of the original implementation.

    Raises:
        ValueError: If there is none.
    """
    if paths := sorted(folder.glob(f"*{STATEDICT}")):
        return paths
    raise ValueError(
        f"folder={str(folder)!r} holds no *{STATEDICT} files: name the folder where the original "
        f"saved its interventions, or one of pyreft with {INTERVENTIONS}"
    )


def intervention_files(folder: Path) -> list[Path]:
    """The interventions in a folder of pyreft; none where it is another's."""
    return sorted(folder.glob(INTERVENTIONS))


def check_vectors(path: Path) -> None:
    """Refuses what is neither a file of steering vectors nor a folder of maps.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"vectors={str(path)!r}: no such file or folder")
    if path.is_file():
        existing(path, "vectors", VECTOR_SUFFIXES)
    elif not intervention_files(path):
        statedict_files(path)


def check_method(name: str) -> None:
    """Refuses an unknown method."""
    if name not in METHOD_NAMES:
        raise ValueError(f"method={name!r} is unknown; {did_you_mean(name, METHOD_NAMES)}")


def check_options(options: Iterable[str], methods: Iterable[str]) -> None:
    """Refuses options that none of some methods takes.

    Raises:
        ValueError: Naming the methods that do.
    """
    taken = {option for method in methods for option in OPTIONS.get(method, ())}
    for option in options:
        if option not in taken:
            owners = [method for method, own in OPTIONS.items() if option in own]
            if not owners:
                raise ValueError(f"{option} is no option of a method: leave it out")
            raise ValueError(f"{option} is of method={', '.join(owners)} alone: leave it out")


def check_pooling(pooling: str) -> None:
    """Refuses an unknown pooling."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r} is unknown: choose one of {', '.join(POOLINGS)}")


def check_positions(positions: str) -> None:
    """Refuses unknown positions."""
    if positions not in ("all", "last"):
        raise ValueError(f"positions={positions!r} is unknown: write 'all' or 'last'")


def parse_support(support: str) -> tuple[tuple[float, float] | None, bool]:
    """Percentiles of the ends (None for everywhere) and whether to clip."""
    if support == "none":
        return None, False
    if support in ("minmax", "clip"):
        return (0.0, 100.0), support == "clip"
    found = _PERCENTILES.fullmatch(support)
    if found is None:
        raise ValueError(
            f"support={support!r} is unknown: write 'none', 'minmax', 'clip', or two percentiles "
            "as 'q5_95'"
        )
    low, high = map(float, found.groups())
    if not low < high <= 100:
        raise ValueError(
            f"support={support!r} must name two percentiles that rise, 0 to 100, as 'q5_95'"
        )
    return (low, high), False
