"""Folders of `coverage run` on parts of a suite, and whether they may be joined.

Whether two profiles have images in common cannot be read off their units. It is told by how the
parts were chosen: part i of n holds every nth image from the ith on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aim_plugins.coverage.profile import ProfileMetadata, read_metadata
from aim_plugins.coverage.reference import Reference
from aim_plugins.sweep.manifest import MANIFEST, read_manifest
from vision_bench.models.names import plain_name

PROFILE, REFERENCE = "profile", "reference"
"""Folders in that of a run."""
_DRAWN_BY = ("seed", "num_samples", "idc_test_all")


@dataclass(frozen=True)
class Part:
    """A folder that `coverage run` or `coverage combine` wrote.

    Attributes:
        folder: The folder.
        metadata: What its profile was measured with.
        manifest: Its manifest.
    """

    folder: Path
    metadata: ProfileMetadata
    manifest: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Part:
        """Reads what is known of a folder.

        Raises:
            ValueError: If a file is damaged, or the run was not finished.
        """
        folder = Path(folder)
        part = cls(folder, read_metadata(folder / PROFILE), read_manifest(folder / MANIFEST))
        done, images = part.metadata.position, part.manifest.get("images", 0)
        if done < images:
            raise ValueError(
                f"folder {str(folder)!r} has {done} of its {images} images: start that run again, "
                "which goes on"
            )
        return part

    @cached_property
    def members(self) -> list[dict[str, Any]]:
        """What was measured: the suite, which part of it, and how its order was drawn, as JSON.

        One of a run, several of what was combined before.
        """
        if (held := self.manifest.get("members")) is not None:
            return held
        arguments = self.manifest["arguments"]
        drawn = {name: arguments.get(name) for name in _DRAWN_BY}
        return [{"suite": self.metadata.data_sha256, "part": arguments["part"] or "1/1", **drawn}]

    @property
    def title(self) -> str:
        """What a person calls the model."""
        return str(self.manifest.get("model") or plain_name(self.metadata.base_model))

    def load_reference(self) -> Reference:
        """The reference it was measured with.

        Raises:
            ValueError: If it is missing, damaged, or another one.
        """
        reference = Reference.load(self.folder / REFERENCE)
        if reference.identity != self.metadata.reference:
            raise ValueError(
                f"folder {str(self.folder)!r}: its {REFERENCE} is not the one that its {PROFILE} "
                "was measured with: start that run again in a new folder"
            )
        return reference


def refuse_overlap(parts: Sequence[Part]) -> None:
    """Refuses parts that have images in common.

    Raises:
        ValueError: If two have.
    """
    for place, one in enumerate(parts):
        for other in parts[:place]:
            folders = f"folders {str(other.folder)!r} and {str(one.folder)!r}"
            for first, second in itertools.product(other.members, one.members):
                _refuse_shared(first, second, folders)


def _refuse_shared(one: Mapping[str, Any], other: Mapping[str, Any], folders: str) -> None:
    if one["suite"] != other["suite"]:
        return
    for name in _DRAWN_BY:
        if one[name] != other[name]:
            raise ValueError(
                f"{folders} were drawn with {name}={one[name]} and {other[name]}, and may have "
                f"images in common: measure all parts with the same {name}"
            )
    if _meet(_share(one["part"]), _share(other["part"])):
        raise ValueError(
            f"{folders} hold {one['part']} and {other['part']} of the same suite, which have "
            "images in common: combine parts of one division, each once"
        )


def missing_shares(parts: Sequence[Part]) -> list[str]:
    """The parts of a division that are not among those given, such as "2/4".

    Only what is all of one suite and of one division has any.
    """
    members = [member for part in parts for member in part.members]
    given = {_share(one["part"]) for one in members}
    counts = {count for _, count in given}
    if len(counts) != 1 or len({one["suite"] for one in members}) != 1:
        return []
    (count,) = counts
    return [f"{one + 1}/{count}" for one in range(count) if (one, count) not in given]


def _share(part: str) -> tuple[int, int]:
    """A part, counted from 0, and of how many."""
    number, count = part.split("/")
    return int(number) - 1, int(count)


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether i, i + n, i + 2n … and j, j + m … have a number in common."""
    return (one[0] - other[0]) % math.gcd(one[1], other[1]) == 0
