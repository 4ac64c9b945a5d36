"""`vision-bench segment infer`: overlays of unlabelled images at every strength.

OUTPUT/street/              for the image street.jpg
  std=0.png, std=2.png …    an overlay for each strength
  strip.png                 photograph and overlays side by side
  animation.gif             the overlays in turn
  shares.csv                share of the pixels of each class, by strength
"""

from __future__ import annotations

import collections
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Integer
from PIL import Image
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.devices import best_device
from aim_plugins.core.files import write_atomic
from aim_plugins.core.strengths import format_strength
from vision_bench.data.dataset import list_left_out
from vision_bench.data.image_folders import image_files, no_images
from vision_bench.data.images import UnreadableImageError, read_image
from vision_bench.data.segmentation import default_resize, network_input
from vision_bench.data.segmentation_layouts import classes_of
from vision_bench.logits.forward import forward
from vision_bench.logits.pixels import noise_key
from vision_bench.models.model import VisionModel
from vision_bench.perturbators import Perturbator
from vision_bench.pictures import fit_within, save_animation, save_picture, spread
from vision_bench.segmentation.curve import predict_levels
from vision_bench.segmentation.load import load_segmentation_model
from vision_bench.segmentation.overlays import (
    LEGEND_CLASSES,
    class_palette,
    level_overlays,
    overlay,
    present_classes,
    strip,
    with_legend,
)
from vision_bench.segmentation.settings import SegmentSettings

PICTURE_SIDE = 640
"""Longer side of overlays at most, in pixels."""

STRIP_SIDE = 320
"""Longer side of the pictures of a strip."""

STRIP_LEVELS = 6
"""Overlays in a strip; of more levels, evenly chosen ones with both ends."""

_FRAMES = 60
"""Frames of an animation at most."""


def infer(settings: SegmentSettings, images: Path, output: Path) -> list[Path]:
    """Draws overlays of an image, or of all images below a folder.

    Args:
        settings: The config.
        images: An image file or a folder.
        output: Folder for pictures.

    Returns:
        A folder of pictures for each image. Images that cannot be read are left out and named on
        standard error, unless the config says `on_error="raise"`.

    Raises:
        FileNotFoundError: If there is no image.
        UnreadableImageError: If no image can be read, or one cannot and `on_error` is "raise".
        ValueError: If a setting is not usable.
    """
    from tqdm import tqdm

    names, root = _find(images)
    class_names = classes_of(settings.dataset, Path(settings.data_root))
    levels = settings.PERTURBATION.levels(class_names, settings.seed)
    model = load_segmentation_model(settings)
    segment = _Segmenter(settings, model, levels, class_names)
    model.tell(segment.resize)
    folders = _folders(names)
    written: list[Path] = []
    unreadable: dict[str, str] = {}
    for name in tqdm(names, desc="overlays", unit="image"):
        try:
            segment.draw(read_image(root / name), name, output / folders[name])
        except UnreadableImageError as error:
            unreadable[name] = str(error).removeprefix(f"{root / name}: ")
            if settings.on_error == "raise":
                raise UnreadableImageError(f"{root / name}: {unreadable[name]}") from error
            continue
        written.append(output / folders[name])
    if unreadable:
        say(f"{root}: {list_left_out(unreadable)}")
    if not written:
        raise UnreadableImageError(f"{images}: none of the {len(names)} images is usable")
    counted = "1 image" if len(written) == 1 else f"{len(written)} images"
    counted += f", {len(unreadable)} left out" if unreadable else ""
    print(f"pictures: {written[0] if len(written) == 1 else output} ({counted})")
    return written


class _Segmenter:
    """Draws the pictures of one image after another."""

    def __init__(
        self,
        settings: SegmentSettings,
        model: VisionModel,
        levels: Sequence[Perturbator],
        class_names: Sequence[str],
    ) -> None:
        self.perturbator = levels[0]
        self.stds = [level.std for level in levels]
        self.class_names = class_names
        self.preprocessing = model.preprocessing
        self.resize = settings.resize or default_resize(settings.dataset, model.preprocessing)
        self.device = best_device(settings.device)
        self.model = replace(model, module=model.module.to(self.device))

    @torch.inference_mode()
    def predict(
        self, photograph: Image.Image, name: str, size: tuple[int, int]
    ) -> Integer[Tensor, "levels height width"]:
        """Class maps at every strength, of a size with noise on every pixel."""
        pixels = network_input(photograph, self.resize, self.preprocessing)
        logits = forward(self.model, pixels[None].to(self.device))[0]
        return predict_levels(logits, self.perturbator, self.stds, size=size, key=noise_key(name))

    def draw(self, photograph: Image.Image, name: str, folder: Path) -> None:
        """Writes all pictures of an image."""
        shown = fit_within(photograph, PICTURE_SIDE)
        # A small image is enlarged with its pixels, each of which has noise of its own.
        height, width = min(shown.size, photograph.size)[::-1]
        maps = self.predict(photograph, name, (height, width))
        titles = [f"σ = {format_strength(std)}" for std in self.stds]
        legend = present_classes(list(maps), len(self.class_names))
        overlays = level_overlays(shown, dict(zip(titles, maps, strict=True)), self.class_names)
        folder.mkdir(parents=True, exist_ok=True)
        for std, picture in zip(self.stds, overlays, strict=True):
            save_picture(folder / f"std={format_strength(std)}.png", picture)
        save_picture(folder / "strip.png", self._strip(photograph, titles, maps, legend))
        frames = [overlays[index] for index in spread(len(overlays), _FRAMES)]
        colours = class_palette(len(self.class_names))[legend[:LEGEND_CLASSES]]
        save_animation(folder / "animation.gif", frames, keep=colours)
        write_atomic(folder / "shares.csv", self._shares(maps))

    def _strip(
        self,
        photograph: Image.Image,
        titles: Sequence[str],
        maps: Integer[Tensor, "levels h w"],
        legend: Sequence[int],
    ) -> Image.Image:
        """The image and its overlays, above one legend for all."""
        small = fit_within(photograph, STRIP_SIDE)
        nothing = torch.full_like(maps[0].long(), -1)
        panels = [overlay(small, nothing, self.class_names, title="image", legend=[])]
        for index in spread(len(maps), STRIP_LEVELS):
            panels.append(
                overlay(small, maps[index], self.class_names, title=titles[index], legend=[])
            )
        return with_legend(strip(panels), legend, self.class_names)

    def _shares(self, maps: Integer[Tensor, "levels h w"]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", "name", "strength", "share"])
        for index in sorted(present_classes(list(maps), len(self.class_names))):
            for std, prediction in zip(self.stds, maps, strict=True):
                share = float((prediction == index).double().mean())
                line = [index, self.class_names[index], format_strength(std), f"{share:.6f}"]
                writer.writerow(line)
        return text.getvalue()


def _find(images: Path) -> tuple[list[str], Path]:
    """Names of the images and the folder they start from."""
    if images.is_dir():
        names = image_files(images)
        if not names:
            raise no_images(images)
        return names, images
    return [images.name], images.parent


def _folders(names: Sequence[str]) -> dict[str, PurePosixPath]:
    """A folder for each image, named without the suffix where that leaves names apart."""
    bare = {name: PurePosixPath(name).with_suffix("") for name in names}
    uses = collections.Counter(os.path.normcase(path) for path in bare.values())
    return {
        name: path if uses[os.path.normcase(path)] == 1 else PurePosixPath(name)
        for name, path in bare.items()
    }
