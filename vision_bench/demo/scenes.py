"""Made scenes with a class for every pixel: textures, with tinted garments or digits on them.

A scene is a pure function of the seed, the split and its number. Each is divided into an upper and
a lower texture by a slanted line; objects of random size, place and tint go on top, later ones over
earlier ones. An object is opaque where its grey image is brighter than `SILHOUETTE`, so that every
pixel has one true class. Training and validation scenes use different objects.

They are written once, in the layout of ADE20K and with the class names in `classes.txt`:
`images/{training,validation}` and `annotations/{training,validation}`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vision_bench.data.classification import load_dataset
from vision_bench.demo.data import dataset_name, dataset_root
from vision_bench.demo.store import make_once

TEXTURES = ("stripes", "checks", "sand")
SILHOUETTE = 24
"""Brightness, of 255, above which a pixel belongs to the object."""

HUE_SPREAD = 0.5
"""How far an object's hue strays from its class's, in steps from class to class."""

SPLITS = {"training": "train", "validation": "test"}
"""By folder, the split of the data set that the objects come from."""

_OBJECTS = {"fashion-mnist": (1, 2, 3, 8, 9), "digits": (0, 1, 3, 4, 7)}
_NAMES = {
    "fashion-mnist": ("trouser", "pullover", "dress", "bag", "boot"),
    "digits": ("zero", "one", "three", "four", "seven"),
}


@dataclass(frozen=True)
class ScenesRecipe:
    """What the scenes look like.

    Attributes:
        dataset: Where the objects come from, "fashion-mnist" or "digits".
        scenes: Number of scenes in each folder.
        side: Height and width in pixels.
        objects: Fewest and most objects in a scene.
        object_side: Smallest and largest side of an object's square.
        seed: Of all scenes.
        version: Changes with the code that draws.
    """

    dataset: str
    scenes: Mapping[str, int] = field(default_factory=lambda: {"training": 800, "validation": 100})
    side: int = 96
    objects: tuple[int, int] = (1, 4)
    object_side: tuple[int, int] = (28, 56)
    seed: int = 0
    version: int = 1

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes: the textures, then the objects."""
        return (*TEXTURES, *_NAMES[self.dataset])


@dataclass(frozen=True)
class Pasted:
    """An object in a scene.

    Attributes:
        class_index: Its class.
        source: Its position among the objects it was chosen from.
        top: First row of its square.
        left: First column of its square.
        side: Side of its square.
        tint: Colour that its brightness is multiplied with, in [0, 1].
    """

    class_index: int
    source: int
    top: int
    left: int
    side: int
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """An image, its labels, and the objects in the order they were pasted."""

    image: UInt8[np.ndarray, "side side 3"]
    labels: UInt8[np.ndarray, "side side"]
    pasted: tuple[Pasted, ...]


@dataclass(frozen=True)
class Objects:
    """Grey images to paste, with the class in the scene of each."""

    images: UInt8[np.ndarray, "n height width"]
    classes: UInt8[np.ndarray, " n"]


def scenes_folder() -> Path:
    """Folder of the scenes in the cache; composes them on the first call.

    Returns:
        A folder for `load_segmentation_dataset("folder", ..., split="validation")`.
    """
    recipe, root = ScenesRecipe(dataset_name()), dataset_root()
    return make_once(
        f"scenes-{recipe.dataset}",
        asdict(recipe),
        lambda folder: write_scenes(folder, recipe, root),
    )


def write_scenes(folder: Path, recipe: ScenesRecipe, root: Path | None = None) -> dict[str, Any]:
    """Composes all scenes of a recipe and writes them as PNG files.

    Args:
        folder: An empty folder.
        recipe: What to draw.
        root: Where the objects' data set lies, as `load_dataset` takes it.

    Returns:
        The class names and the number of scenes.
    """
    from PIL import Image
    from tqdm import trange

    (folder / "classes.txt").write_text("\n".join(recipe.classes) + "\n", encoding="utf-8")
    for split, count in recipe.scenes.items():
        objects = load_objects(recipe.dataset, split, root)
        parts = [folder / part / split for part in ("images", "annotations")]
        for part in parts:
            part.mkdir(parents=True)
        for number in trange(count, desc=f"composing {split} scenes", delay=2):
            scene = compose_scene(recipe, objects, split, number)
            for part, pixels in zip(parts, (scene.image, scene.labels), strict=True):
                Image.fromarray(pixels).save(part / f"scene_{number:04}.png")
    return {"classes": recipe.classes, "scenes": dict(recipe.scenes)}


def load_objects(dataset: str, split: str, root: Path | None = None) -> Objects:
    """Loads the garments or digits that scenes of a split are made of."""
    data = load_dataset(dataset, root, split=SPLITS[split])
    chosen = _OBJECTS[dataset]
    kept = [index for index, label in enumerate(data.labels.tolist()) if label in chosen]
    images = [np.asarray(data.images.read(index).convert("L")) for index in kept]
    classes = [len(TEXTURES) + chosen.index(int(data.labels[index])) for index in kept]
    return Objects(np.stack(images), np.array(classes, np.uint8))


def compose_scene(recipe: ScenesRecipe, objects: Objects, split: str, number: int) -> Scene:
    """Composes one scene.

    Args:
        recipe: What scenes look like.
        objects: What may be pasted.
        split: "training" or "validation".
        number: Number of the scene in its split.

    Returns:
        The scene.
    """
    draws = np.random.default_rng([recipe.seed, list(SPLITS).index(split), number])
    image, labels = _background(draws, recipe.side)
    pasted = []
    for _ in range(draws.integers(*recipe.objects, endpoint=True)):
        item = _choose(draws, recipe, objects)
        paste(image, labels, objects.images[item.source], item)
        pasted.append(item)
    noisy = image + draws.normal(0, 4, image.shape)
    return Scene(np.rint(noisy.clip(0, 255)).astype(np.uint8), labels, tuple(pasted))


def paste(
    image: np.ndarray, labels: UInt8[np.ndarray, "side side"], grey: np.ndarray, item: Pasted
) -> None:
    """Draws an object into an image [side, side, 3] and its class into the labels, in place."""
    from PIL import Image

    scaled = Image.fromarray(grey).resize((item.side, item.side), Image.Resampling.BILINEAR)
    brightness = np.asarray(scaled).astype(np.float64)
    opaque = brightness > SILHOUETTE
    window = (slice(item.top, item.top + item.side), slice(item.left, item.left + item.side))
    # Never black: a garment's shade stays visible on a dark texture.
    shade = (0.3 + 0.7 * brightness[..., None] / 255) * 255 * np.array(item.tint)
    image[window][opaque] = shade[opaque]
    labels[window][opaque] = item.class_index


def _choose(draws: np.random.Generator, recipe: ScenesRecipe, objects: Objects) -> Pasted:
    # The class first: each is equally likely, however many objects it has.
    class_index = int(draws.integers(len(TEXTURES), len(recipe.classes)))
    source = int(draws.choice(np.flatnonzero(objects.classes == class_index)))
    side = int(draws.integers(*recipe.object_side, endpoint=True))
    top, left = (int(draws.integers(0, recipe.side - side, endpoint=True)) for _ in range(2))
    return Pasted(class_index, source, top, left, side, _tint(draws, recipe, class_index))


def _tint(
    draws: np.random.Generator, recipe: ScenesRecipe, class_index: int
) -> tuple[float, float, float]:
    """A colour near the class's own; neighbours overlap, so that shape has to tell them apart."""
    kinds = len(recipe.classes) - len(TEXTURES)
    hue = (class_index - len(TEXTURES) + draws.uniform(-HUE_SPREAD, HUE_SPREAD)) / kinds
    saturation, value = draws.uniform(0.5, 1), draws.uniform(0.7, 1)
    return colorsys.hsv_to_rgb(hue % 1, saturation, value)


def _background(
    draws: np.random.Generator, side: int
) -> tuple[np.ndarray, UInt8[np.ndarray, "side side"]]:
    """Two textures that meet in a slanted line, and their labels."""
    rows, columns = np.mgrid[:side, :side].astype(np.float64)
    height, slope = draws.uniform(0.3, 0.7) * side, draws.uniform(-0.4, 0.4)
    below = rows > height + slope * (columns - side / 2)
    upper, lower = draws.choice(len(TEXTURES), 2, replace=False)
    labels = np.where(below, lower, upper).astype(np.uint8)
    textures = [_texture(draws, int(index), rows, columns) for index in (upper, lower)]
    return np.where(below[..., None], textures[1], textures[0]), labels


def _texture(
    draws: np.random.Generator, index: int, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """A texture [side, side, 3] that blends a dark and a light colour, both pale."""
    dark, light = (draws.uniform(*b) + draws.uniform(-25, 25, 3) for b in ((40, 100), (150, 220)))
    angle, period = draws.uniform(0, np.pi), draws.uniform(5, 10)
    along = np.cos(angle) * rows + np.sin(angle) * columns
    across = -np.sin(angle) * rows + np.cos(angle) * columns
    if TEXTURES[index] == "stripes":
        blend = 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
    elif TEXTURES[index] == "checks":
        blend = (np.floor(along / period) + np.floor(across / period)) % 2
    else:
        blend = draws.uniform(0, 1, rows.shape)
    return dark + (light - dark) * blend[..., None]
