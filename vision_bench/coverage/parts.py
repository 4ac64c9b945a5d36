"""Folders of `coverage run` on parts of a suite, and whether they may be joined.

Whether two profiles have images in common cannot be read off their units. It is told by how the
parts were chosen: part i of n holds every nth image from the ith on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
_DRAWN_BY = ("seed", "num_samples")


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
    def share(self) -> tuple[int, int] | None:
        """The part, counted from 0, and of how many; None of what was combined before."""
        arguments = self.manifest["arguments"]
        if "part" not in arguments:
            return None
        number, count = (arguments["part"] or "1/1").split("/")
        return int(number) - 1, int(count)

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
        if reference.fingerprint != self.metadata.reference:
            raise ValueError(
                f"folder {str(self.folder)!r}: its {REFERENCE} is not the one that its {PROFILE} "
                "was measured with: start that run again in a new folder"
            )
        return reference

    def is_of_suite(self, other: Part) -> bool:
        """Whether both were measured on parts of the same images."""
        return self.metadata.data_sha256 == other.metadata.data_sha256


def refuse_overlap(parts: Sequence[Part]) -> None:
    """Refuses parts that have images in common.

    Raises:
        ValueError: If two have.
    """
    for place, one in enumerate(parts):
        for other in parts[:place]:
            if one.share is None or other.share is None or not one.is_of_suite(other):
                continue
            folders = f"folders {str(other.folder)!r} and {str(one.folder)!r}"
            for name in _DRAWN_BY:
                drawn = [each.manifest["arguments"].get(name) for each in (other, one)]
                if drawn[0] != drawn[1]:
                    raise ValueError(
                        f"{folders} were drawn with {name}={drawn[0]} and {drawn[1]}, and may have "
                        f"images in common: measure all parts with the same {name}"
                    )
            if _meet(other.share, one.share):
                shares = " and ".join(_name(each) for each in (other.share, one.share))
                raise ValueError(
                    f"{folders} hold {shares} of the same suite, which have images in common: "
                    "combine parts of one division, each once"
                )


def missing_shares(parts: Sequence[Part]) -> list[str]:
    """The parts of a division that are not among those given, such as "2/4".

    Only what is all of one suite and of one division has any.
    """
    shares = [part.share for part in parts]
    given = {share for share in shares if share is not None}
    counts = {count for _, count in given}
    if None in shares or len(counts) != 1 or not all(map(parts[0].is_of_suite, parts)):
        return []
    (count,) = counts
    return [_name((number, count)) for number in range(count) if (number, count) not in given]


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether i, i + n, i + 2n … and j, j + m … have a number in common."""
    return (one[0] - other[0]) % math.gcd(one[1], other[1]) == 0


def _name(share: tuple[int, int]) -> str:
    return f"{share[0] + 1}/{share[1]}"
