"""Photographs that scikit-image and scikit-learn carry, in one folder.

What they show is told by their names alone, so they are not labelled data.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from vision_bench.demo.store import make_once

_PHOTOGRAPHS = {
    "skimage/data": (
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "motorcycle_left.png",
        "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}


def photographs_folder() -> Path:
    """Folder of the photographs in the cache; copies them there on the first call.

    Raises:
        ImportError: If scikit-image or scikit-learn is not installed.
    """
    recipe = {folder: list(names) for folder, names in _PHOTOGRAPHS.items()}
    return make_once("photographs", recipe, _copy)


def _copy(folder: Path) -> dict[str, Any]:
    for place, names in _PHOTOGRAPHS.items():
        package, _, rest = place.partition("/")
        # Looked up, not imported: only its files are wanted.
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ImportError(f"{package} is not installed: pip install scikit-image scikit-learn")
        for name in names:
            shutil.copyfile(Path(found.submodule_search_locations[0]) / rest / name, folder / name)
    return {"photographs": sum(map(len, _PHOTOGRAPHS.values()))}
