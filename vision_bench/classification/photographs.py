"""`vision-bench top-classes CONFIG`: a classifier's best classes of photographs under noise.

OUTPUT/
  sweep.csv         how often noise keeps the clean answers
  classes.csv       the best classes of each image with their exact probabilities
  curves/           pictures
  report.html       curves, and each photograph's classes beside a strength slider
  manifest.json
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aim_plugins.core.commands import say
from aim_plugins.core.strengths import parse_strengths
from aim_plugins.modulation.gaussian import GaussianNoise
from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.front import Front
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import Study
from vision_bench.classification.settings import TopClassesSettings
from vision_bench.classification.top_classes import (
    TopClasses,
    image_sample,
    kept_rows,
    top_classes,
)
from vision_bench.data.dataset import first_of, list_left_out
from vision_bench.data.image_folders import image_files, imagenet_classes, no_images
from vision_bench.data.images import UnreadableImageError, read_image, to_tensor
from vision_bench.models.load import load_model

if TYPE_CHECKING:
    from PIL.Image import Image

TASK = "photographs"

_PHOTOGRAPH_SIDE = 320
"""Longer side of a photograph in the report, in pixels."""


class PhotographsStudy(Study):
    """A classifier's answers to the photographs of a folder.

    Args:
        settings: Names both.
        command: The words that repeat the study, for the report.
    """

    axes = (GaussianNoise.axis,)
    packages = ("aim-plugins", "torch", "timm")
    goes_on = False

    def __init__(self, settings: TopClassesSettings, command: Sequence[str] = ()) -> None:
        self.settings = settings
        self.command, self.output = command, Path(settings.output)
        self.stds = parse_strengths(settings.noise_std, name="noise_std")

    @property
    def arguments(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "command": "top-classes",
            "model": settings.model,
            "noise_std": self.stds,
            "noise_version": NOISE_VERSION,
            **{name: getattr(settings, name) for name in ("top", "draws", "seed")},
        }

    def load(self) -> None:
        """Classifies the photographs; those that are damaged are left out and named.

        Raises:
            FileNotFoundError: If there are no photographs.
            ValueError: If the model is none of ImageNet, or no photograph can be read.
        """
        folder = Path(self.settings.images)
        self.class_names = imagenet_classes()[1]
        # Untrained weights too are the same in every run, which goes on where it was.
        settings = self.settings
        self.model = model = load_model(
            settings.model,
            weights=settings.weights,
            class_names=self.class_names,
            preprocessing=settings.preprocessing,
            seed=0,
        )
        if model.classes != 1000:
            raise ValueError(f"{model.name} has {model.classes} classes, not the 1000 of ImageNet")
        model.tell()
        self.photographs: dict[str, Image] = {}
        self.left_out: dict[str, str] = {}
        logits = []
        for name in image_files(folder):
            try:
                photograph = read_image(folder / name)
                pixels = to_tensor(photograph, model.preprocessing)
            except UnreadableImageError as error:
                self.left_out[name] = str(error).removeprefix(f"{folder / name}: ")
                continue
            with torch.no_grad():
                logits.append(model.module(pixels[None]))
            self.photographs[name] = photograph
        if not logits and not self.left_out:
            raise no_images(folder)
        if not logits:
            raise UnreadableImageError(
                f"{folder} holds no usable image; left out: {first_of(self.left_out)}"
            )
        if self.left_out:
            say(f"{folder}: {list_left_out(self.left_out)}")
        self.logits = torch.cat(logits).float()

    def measure(self, store: SweepStore) -> None:
        settings = self.settings
        store.pin_manifest(
            model_fingerprint=self.model.fingerprint,
            preprocessing=asdict(self.model.preprocessing),
            images=list(self.photographs),
        )
        store.update_manifest(
            model=self.model.title,
            weights=self.model.weights,
            preprocessing_source=self.model.preprocessing_source,
            left_out=self.left_out,
        )
        self.found = top_classes(self.logits, self.stds, top=settings.top, seed=settings.seed)
        self.rows = kept_rows(
            self.logits, self.stds, TASK, draws=settings.draws, seed=settings.seed
        )

    def front(self, store: SweepStore) -> Front:
        samples = [
            image_sample(name, _thumbnail(photograph), self.found, image, self.class_names)
            for image, (name, photograph) in enumerate(self.photographs.items())
        ]
        classes = _class_table(self.found, list(self.photographs), self.class_names)
        return Front(
            self.rows,
            self.axes,
            subject=self.model.describe_weights(),
            images={TASK: samples},
            files={"classes.csv": classes},
        )


def _class_table(found: TopClasses, names: Sequence[str], class_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "strength", "rank", "class", "probability", "one_noisy_run"])
    for image, name in enumerate(names):
        for level, std in enumerate(found.stds):
            for rank, index in enumerate(found.classes[image].tolist()):
                drawn = class_names[int(found.drawn[image, level, rank])]
                probability = float(found.probabilities[image, level, rank])
                writer.writerow([name, std, rank + 1, class_names[index], probability, drawn])
    return text.getvalue()


def _thumbnail(photograph: Image) -> bytes:
    small = photograph.copy()
    small.thumbnail((_PHOTOGRAPH_SIDE, _PHOTOGRAPH_SIDE))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return content.getvalue()
