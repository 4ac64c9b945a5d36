"""Attacked images as criteria see them, kept batch by batch so that a killed run goes on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int, UInt8
from safetensors.torch import load, save
from torch import Tensor

from aim_plugins.core.files import write_atomic
from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.paired import Interval
from aim_plugins.sweep.store import SweepStore
from vision_bench.attacks import Attack, NormalisedModel
from vision_bench.coverage.questions.gauge import Pool
from vision_bench.coverage.questions.settings import CorrelationSettings, SensitivitySettings
from vision_bench.coverage.subject import Images, Subject
from vision_bench.data.classification import ClassificationData

FOLDER = "attacked"
_SHOWN = 4
"""Images whose pixels are kept for the report."""


@dataclass(frozen=True)
class Attacked:
    """What an attack made of images.

    Attributes:
        name: The attack.
        pool: The attacked images as the criteria see them.
        clean_right: Which were classified correctly before.
        before: Pixels of the first ones, 0 to 255.
        after: The same ones, attacked.
    """

    name: str
    pool: Pool
    clean_right: Bool[Tensor, " images"]
    before: UInt8[Tensor, "shown 3 height width"]
    after: UInt8[Tensor, "shown 3 height width"]

    @property
    def tried(self) -> int:
        """Images that the model had right."""
        return int(self.clean_right.sum())

    @property
    def fooled(self) -> int:
        """Those of them that it gets wrong now."""
        return int((self.clean_right & ~self.pool.right).sum())

    @property
    def success(self) -> Interval:
        """The share of images that fool the model, of those it had right; Wilson's interval."""
        if not self.tried:
            return Interval(float("nan"), float("nan"), float("nan"))
        share = self.fooled / self.tried
        return Interval(share, *wilson_interval(share, self.tried))


class Attacker:
    """Attacks images of a data set.

    Args:
        subject: The model.
        data: The data set.
        settings: The attacks' parameters.
        store: The study's folder.
    """

    def __init__(
        self,
        subject: Subject,
        data: ClassificationData,
        settings: SensitivitySettings | CorrelationSettings,
        store: SweepStore,
    ) -> None:
        self.subject, self.data, self.settings, self.store = subject, data, settings, store
        known = subject.model.preprocessing
        self.model = NormalisedModel(subject.module, list(known.mean), list(known.std))

    def attack(self, name: str, positions: Int[Tensor, " chosen"]) -> Attacked:
        """Attacks images, or reads what a killed run has attacked.

        Args:
            name: The attack.
            positions: Where they stand in the data set.

        Raises:
            ValueError: If there is no image.
        """
        from tqdm import tqdm

        attack, size = self.settings.attack(name), self.subject.batch_size
        parts = []
        with tqdm(desc=name, total=len(positions), unit="image") as bar:
            for start in range(0, len(positions), size):
                part = positions[start : start + size]
                parts.append(self._kept(f"{name}-{start // size:04d}", attack, part))
                bar.update(len(part))
        if not parts:
            raise ValueError("no image to attack: raise sizes or shares")
        every = {key: torch.cat([one[key] for one in parts]) for key in _KEYS}
        by_label = self.settings.compat != "none"
        pool = Pool(
            every["positions"],
            every["neurons"],
            every["predicted"],
            self.data.labels[every["positions"]],
            by_label,
        )
        first = parts[0]
        return Attacked(name, pool, every["clean_right"], first["before"], first["after"])

    def _kept(
        self, key: str, attack: Attack, positions: Int[Tensor, " chosen"]
    ) -> dict[str, Tensor]:
        path = self.store.folder / FOLDER / f"{key}.safetensors"
        held = self.store.read_batch(f"attacked,{key}")
        if held is not None and held["positions"] == positions.tolist():
            content = path.read_bytes() if path.exists() else b""
            if hashlib.sha256(content).hexdigest() == held["sha256"]:
                return load(content)
        found = self._attack(attack, positions)
        self._write(path, key, found, positions)
        return found

    def _write(
        self, path: Path, key: str, found: dict[str, Tensor], positions: Int[Tensor, " chosen"]
    ) -> None:
        content = save(found)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, content)
        digest = hashlib.sha256(content).hexdigest()
        record = {"sha256": digest, "positions": positions.tolist()}
        self.store.write_batch(f"attacked,{key}", record)

    def _attack(self, attack: Attack, positions: Int[Tensor, " chosen"]) -> dict[str, Tensor]:
        parts: list[dict[str, Tensor]] = []
        for images in self.subject.images(self.data, positions.tolist()):
            labels = self.data.labels[images.positions].to(self.subject.device)
            with torch.inference_mode():
                right = self.subject.module(images.pixels).argmax(1) == labels
            pixels = self.model.pixels(images.pixels).clamp(0, 1)
            attacked = attack(self.model, pixels, labels, images.positions)
            changed = Images(images.positions, self.model.normalise(attacked))
            (seen,) = self.subject.see([changed])
            parts.append(
                {
                    "positions": images.positions,
                    "neurons": seen.batch.neurons,
                    "predicted": seen.batch.classes,
                    "clean_right": right.cpu(),
                    "before": to_bytes(pixels[:_SHOWN]),
                    "after": to_bytes(attacked[:_SHOWN]),
                }
            )
        if not parts:
            raise ValueError(f"none of {len(positions)} images to attack can be read")
        joined = {key: torch.cat([one[key] for one in parts]).contiguous() for key in _KEYS}
        return joined | {key: parts[0][key] for key in ("before", "after")}


_KEYS = ("positions", "neurons", "predicted", "clean_right")


def to_bytes(pixels: Tensor) -> UInt8[Tensor, "images 3 height width"]:
    """Pixels in [0, 1] as whole numbers from 0 to 255, on the CPU."""
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
