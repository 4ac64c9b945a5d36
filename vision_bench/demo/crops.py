"""Crops of the demo's photographs in folders of ImageNet's classes, as training and test images.

An ImageNet classifier with real weights needs labelled images, and there are none offline. Each
photograph is taken for the class of ImageNet that is nearest to what it shows; crops at random
places and sizes stand for images of it. They show that a model runs, not what it is worth.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from vision_bench.demo.photographs import photographs_folder
from vision_bench.demo.store import make_once

_CLASSES = {
    "camera.png": "n04485082",  # tripod
    "chelsea.png": "n02123045",  # tabby
    "china.jpg": "n03877845",  # palace
    "coffee.png": "n07920052",  # espresso
    "motorcycle_left.png": "n03785016",  # moped
    "rocket.jpg": "n03773504",  # missile
}
_CROPS = {"train": 12, "val": 8}
"""Crops of each photograph."""
_LEAST = 0.5
"""Smallest side of a crop, as a share of the photograph's shorter one."""
_SIDE = 256


def crops_folder() -> Path:
    """Folder of the crops in the cache, in ImageNet's layout; makes it on the first call.

    Raises:
        ImportError: If scikit-image or scikit-learn is not installed.
    """
    recipe = {"classes": _CLASSES, "crops": _CROPS, "least": _LEAST, "side": _SIDE, "version": 1}
    return make_once("photograph-crops", recipe, _make)


def _make(folder: Path) -> dict[str, Any]:
    from PIL import Image

    photographs = photographs_folder()
    for split, count in _CROPS.items():
        for name, wordnet_id in _CLASSES.items():
            draw = random.Random(f"{split} {name}")
            place = folder / split / wordnet_id
            place.mkdir(parents=True)
            photograph = Image.open(photographs / name).convert("RGB")
            for number in range(count):
                side = round(draw.uniform(_LEAST, 1.0) * min(photograph.size))
                left, top = (draw.randint(0, length - side) for length in photograph.size)
                crop = photograph.crop((left, top, left + side, top + side))
                crop.resize((_SIDE, _SIDE)).save(place / f"{Path(name).stem}-{number:02d}.png")
    return {"crops": sum(_CROPS.values()) * len(_CLASSES)}
