"""The counts of a segmentation sweep on disk, so that a killed run goes on from them.

Counts of images add up, so the record holds their sum and how many images it covers, and is
replaced as a whole.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from aim_plugins.core.files import write_atomic
from aim_plugins.sweep.store import CorruptRecordWarning
from vision_bench.segmentation.curve import SegmentationCurve
from vision_bench.segmentation.group_counts import GroupCounts


class CurveRecord:
    """The record of a sweep's counts.

    Args:
        path: The file; its folder is made when it is first written.
        key: SHA-256 of the logits that are counted.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key

    def read(self, stds: Sequence[float]) -> SegmentationCurve | None:
        """Reads the counts so far.

        Args:
            stds: Strengths of the sweep.

        Returns:
            The counts; None if there are none yet, or they are damaged and computed again.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                note = json.loads((file.metadata() or {})["note"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (note["key"], note["stds"]) != (self.key, list(stds)):
                raise ValueError("it belongs to another sweep")
            if note["checksum"] != _checksum(tensors):
                raise ValueError("its counts were changed")
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{self.path} is damaged ({error}): the images are counted again",
                CorruptRecordWarning,
                stacklevel=2,
            )
            return None
        runs = [
            GroupCounts(
                **{
                    name.partition(".")[2]: tensor
                    for name, tensor in tensors.items()
                    if name.startswith(f"{run}.")
                }
            )
            for run in range(note["runs"])
        ]
        expected = tensors.get("expected")
        return SegmentationCurve(
            tuple(stds),
            tensors["confusion"],
            expected,
            tuple(runs if expected is None else runs[:-1]),
            None if expected is None else runs[-1],
            note["images"],
        )

    def write(self, curve: SegmentationCurve) -> None:
        """Writes the counts so far, replacing the former ones."""
        from safetensors.torch import save

        runs = [*curve.sampled_groups]
        tensors = {"confusion": curve.confusion}
        if curve.expected is not None and curve.expected_groups is not None:
            tensors["expected"] = curve.expected
            runs.append(curve.expected_groups)
        for number, groups in enumerate(runs):
            tensors |= {f"{number}.{name}": part for name, part in groups.parts().items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        note = {
            "key": self.key,
            "stds": list(curve.stds),
            "images": curve.images,
            "runs": len(runs),
            "checksum": _checksum(tensors),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, save(tensors, {"note": json.dumps(note)}))


def _checksum(tensors: dict[str, Tensor]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
