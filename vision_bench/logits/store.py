"""The files of cached logits: whole or absent, and of one model on one data set.

    FOLDER/resnet56-cifar10-test-1f3a…/
      cache.json                what the logits were computed from
      00000000-00000512.safetensors   a shard; classification joins them, segmentation keeps them
      logits.safetensors        classification: logits, labels, and each image's index
      logits.json               its checksum, and the images left out
      index.json                segmentation: where each image lies, the checksum of every shard,
                                and the images left out

The folder's name ends with a hash of `cache.json`, which every file repeats. A file takes its name
once it is whole, so that after a kill the next run goes on at the first missing shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aim_plugins.core.files import (
    CorruptRecordError,
    is_temporary,
    safe_name,
    seal,
    sha256_of,
    unseal,
    write_atomic,
)
from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import digest_files, first_of
from vision_bench.data.segmentation import SegmentationData
from vision_bench.logits.classes import CachedLogits, load_logits
from vision_bench.logits.pixels import CachedImage, CachedSegmentationLogits

_FORMAT = 1
_LOGITS = "logits.safetensors"
_SIDECAR = "logits.json"
_INDEX = "index.json"

CLASSIFICATION_SHARD = 512
SEGMENTATION_SHARD = 16
"""Images in a shard: what a kill loses at most. 16 of ADE20K's take 78 MB."""


@dataclass(frozen=True)
class Sample:
    """What became of one image.

    Attributes:
        index: Its index in the data set.
        logits: Its logits, or why there are none.
        size: Height and width of the network's input; empty if there are no logits.
    """

    index: int
    logits: Tensor | str
    size: tuple[int, ...]


class LogitsStore:
    """The cache of one model on one data set.

    Attributes:
        folder: Where its files lie.
        title: Model and data set, for messages.
        key: SHA-256 of what the logits are computed from.
        data: The data set.
    """

    def __init__(
        self,
        parent: Path,
        title: str,
        identity: Mapping[str, Any],
        data: ClassificationData | SegmentationData,
    ) -> None:
        self._identity = {"format": _FORMAT, **identity}
        text = json.dumps(self._identity, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.title = title
        self.folder = parent / f"{safe_name(title.replace(' ', '-'))}-{self.key[:16]}"
        self.data = data

    def start(self) -> None:
        """Removes what a killed run left half written, and notes what is computed here."""
        for path in self.folder.iterdir():
            if is_temporary(path):
                path.unlink(missing_ok=True)
        write_atomic(self.folder / "cache.json", json.dumps(self._identity, indent=2) + "\n")

    def drop_damaged(self) -> None:
        """Removes the shards of a finished segmentation cache that are no longer as written.

        A flipped bit leaves a file of the right size, and logits that nobody would question.
        """
        record = self._record()
        if record is None or not isinstance(self.data, SegmentationData):
            return
        paths = [path for shard in self.shards() if (path := self._path(shard)).is_file()]
        for path, digest in zip(paths, digest_files(paths), strict=True):
            if digest != record["sha256"].get(path.name):
                path.unlink(missing_ok=True)

    def shards(self) -> list[range]:
        """The images of each shard."""
        segmentation = isinstance(self.data, SegmentationData)
        size = SEGMENTATION_SHARD if segmentation else CLASSIFICATION_SHARD
        total = len(self.data)
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    def note(self, shard: range) -> dict[str, Any] | None:
        """What a finished shard says about itself; None if it is not there, or of another cache."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(shard), "pt") as file:
                note = json.loads((file.metadata() or {}).get("note", "{}"))
        except (FileNotFoundError, SafetensorError, ValueError):
            return None
        return note if note.get("key") == self.key else None

    def write(self, shard: range, samples: Sequence[Sample]) -> None:
        """Writes a shard.

        Args:
            shard: The indices of its images.
            samples: What became of each.
        """
        from safetensors.torch import save

        logits = {
            sample.index: sample.logits for sample in samples if isinstance(sample.logits, Tensor)
        }
        note = {
            "key": self.key,
            "sizes": {str(sample.index): sample.size for sample in samples if sample.size},
            "unreadable": {
                self.data.names[sample.index]: sample.logits
                for sample in samples
                if isinstance(sample.logits, str)
            },
        }
        if isinstance(self.data, SegmentationData):
            tensors = {str(index): values for index, values in logits.items()}
        else:
            indices = torch.tensor(list(logits), dtype=torch.int64)
            tensors = {"labels": self.data.labels[indices], "indices": indices}
            if logits:
                tensors["logits"] = torch.stack(list(logits.values()))
        # One entry only: safetensors writes several in a random order.
        write_atomic(self._path(shard), save(tensors, {"note": json.dumps(note)}))

    def finish(self) -> None:
        """Joins the shards that all processes wrote.

        Raises:
            OSError: If one is missing, as on machines that don't share the folder.
            ValueError: If no image is readable.
        """
        notes = {}
        for shard in self.shards():
            note = self.note(shard)
            if note is None:
                raise OSError(
                    f"{self._path(shard)} is missing: all processes need a folder they share"
                )
            notes[shard] = note
        unreadable = {
            name: reason for note in notes.values() for name, reason in note["unreadable"].items()
        }
        if not any(note["sizes"] for note in notes.values()):
            raise ValueError(f"{self.title}: no image is readable; {first_of(unreadable)}")
        if isinstance(self.data, SegmentationData):
            self._finish_segmentation(notes, unreadable)
        else:
            self._finish_classification(unreadable)

    def find(self) -> CachedLogits | CachedSegmentationLogits | None:
        """The finished cache; None if it is not there, damaged, or of something else.

        Of segmentation, shards are only looked for: `drop_damaged` reads them.
        """
        record = self._record()
        if record is None:
            return None
        if isinstance(self.data, SegmentationData):
            return self._find_segmentation(record)
        return self._find_logits(record)

    def tidy(self) -> None:
        """Removes the shards that a finished cache no longer needs."""
        if isinstance(self.data, ClassificationData):
            for shard in self.shards():
                self._path(shard).unlink(missing_ok=True)

    def _record(self) -> dict[str, Any] | None:
        """What a finished cache says about itself."""
        segmentation = isinstance(self.data, SegmentationData)
        try:
            text = (self.folder / (_INDEX if segmentation else _SIDECAR)).read_text("utf-8")
            record = unseal(text)
        except (FileNotFoundError, UnicodeDecodeError, CorruptRecordError):
            return None
        return record if record.get("key") == self.key else None

    def _path(self, shard: range) -> Path:
        return self.folder / f"{shard.start:08d}-{shard.stop:08d}.safetensors"

    def _finish_classification(self, unreadable: Mapping[str, str]) -> None:
        from safetensors.torch import load_file, save

        parts = [load_file(self._path(shard)) for shard in self.shards()]
        joined = {
            name: torch.cat([part[name] for part in parts if name in part])
            for name in ("logits", "labels", "indices")
        }
        path = write_atomic(self.folder / _LOGITS, save(joined))
        record = {"key": self.key, "sha256": sha256_of(path), "unreadable": dict(unreadable)}
        write_atomic(self.folder / _SIDECAR, seal(record))

    def _finish_segmentation(
        self, notes: Mapping[range, Mapping[str, Any]], unreadable: Mapping[str, str]
    ) -> None:
        paths = {shard: self._path(shard) for shard in notes}
        digests = digest_files(list(paths.values()))
        record = {
            "key": self.key,
            "images": [
                [int(index), size, paths[shard].name]
                for shard, note in notes.items()
                for index, size in note["sizes"].items()
            ],
            "sha256": {
                path.name: digest for path, digest in zip(paths.values(), digests, strict=True)
            },
            "unreadable": dict(unreadable),
        }
        write_atomic(self.folder / _INDEX, seal(record))

    def _find_logits(self, record: Mapping[str, Any]) -> CachedLogits | None:
        path = self.folder / _LOGITS
        try:
            cached = load_logits(path)
        except (FileNotFoundError, ValueError):
            return None
        if cached.sha256 != record["sha256"]:
            return None
        return replace(cached, path=path, unreadable=self._unreadable(record))

    def _find_segmentation(self, record: Mapping[str, Any]) -> CachedSegmentationLogits | None:
        assert isinstance(self.data, SegmentationData)
        if not all(self._path(shard).is_file() for shard in self.shards()):
            return None
        return CachedSegmentationLogits(
            self.folder,
            self.data,
            classes=self._identity["classes"],
            key=self.key,
            images=[
                CachedImage(index, (height, width), shard)
                for index, (height, width), shard in record["images"]
            ],
            unreadable=self._unreadable(record),
        )

    def _unreadable(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Every image left out: those without a label, and those that the pass could not use."""
        return {**self.data.unreadable, **record["unreadable"]}
