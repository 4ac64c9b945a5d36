"""Small labelled images that the tests of re-engineering share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_bench.data.classification import ArrayImages, ClassificationData, load_dataset
from vision_bench.models.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def arrays(labels: list[int], classes: int = 4, side: int = 8) -> ClassificationData:
    """Random images, all different, under these labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 3), np.uint8)
    names = [f"kind{one}" for one in range(classes)]
    return ClassificationData(
        "made-up", ArrayImages(pixels), labels, names, preprocessing=PREPROCESSING
    )


@pytest.fixture
def folder(tmp_path: Path) -> ClassificationData:
    """Files of three classes, the second image of the class "b" damaged."""
    rng = np.random.default_rng(1)
    for kind, count in (("a", 4), ("b", 3), ("c", 5)):
        (tmp_path / kind).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "b" / "1.png").write_bytes(b"no image")
    return load_dataset("folder", tmp_path, preprocessing=PREPROCESSING)
