"""Pictures: that classes have their colours where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vision_bench.pictures import save_animation, save_picture
from vision_bench.segmentation.overlays import (
    class_palette,
    colour_map,
    level_overlays,
    overlay,
    present_classes,
    strip,
)

NAMES = [f"class {index}" for index in range(150)]
HEIGHT, WIDTH = 37, 53


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def prediction() -> torch.Tensor:
    """Left half class 3, right half class 149, a row of ignored pixels."""
    result = torch.full((HEIGHT, WIDTH), 3, dtype=torch.uint8)
    result[:, WIDTH // 2 :] = 149
    result[5] = 255
    return result


def _top(picture: Image.Image, rows: int = HEIGHT, columns: int = WIDTH) -> np.ndarray:
    return np.asarray(picture)[:rows, :columns]


GREY = 6
"""The first class whose colour the smoothed edges of letters have as well."""


def _legend_classes(picture: Image.Image, top: int) -> set[int]:
    shown = {tuple(colour) for colour in np.asarray(picture)[top:].reshape(-1, 3).tolist()}
    palette = [tuple(colour) for colour in class_palette(150).tolist()]
    return {c for c, colour in enumerate(palette) if colour in shown and len(set(colour)) > 1}


def test_palette_is_that_of_the_pascal_devkit():
    # From its published label list: aeroplane, bicycle, bird, boat, bottle, bus, car, ..., tv.
    published = [
        (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
        (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128),
        (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0),
        (128, 192, 0), (0, 64, 128),
    ]  # fmt: skip
    assert [tuple(colour) for colour in class_palette(20).tolist()] == published


def test_no_two_classes_share_a_colour():
    colours = {tuple(colour) for colour in class_palette(1000).tolist()}
    assert len(colours) == 1000 and (0, 0, 0) not in colours


def test_pixels_of_no_class_are_black():
    colours = colour_map(np.array([[0, 255], [-1, 1]]), classes=2)
    assert colours.tolist() == [[[128, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 128, 0]]]


def test_opaque_overlay_shows_the_classes_where_they_are(photograph, prediction):
    shown = _top(overlay(photograph, prediction, NAMES, alpha=1.0))
    expected = class_palette(150)[np.minimum(prediction.numpy(), 149)]
    labelled = prediction.numpy() != 255
    assert np.array_equal(shown[labelled], expected[labelled])
    assert np.array_equal(shown[~labelled], photograph[~labelled])


def test_transparent_overlay_is_the_photograph(photograph, prediction):
    assert np.array_equal(_top(overlay(photograph, prediction, NAMES, alpha=0.0)), photograph)


def test_overlay_mixes_by_its_share(photograph, prediction):
    shown = _top(overlay(photograph, prediction, NAMES, alpha=0.25)).astype(float)
    expected = 0.75 * photograph[10, 10] + 0.25 * class_palette(150)[3]
    assert np.abs(shown[10, 10] - expected).max() <= 0.5


def test_legend_shows_the_present_classes_only(photograph, prediction):
    picture = overlay(photograph, prediction, NAMES, alpha=0.0)
    assert _legend_classes(picture, HEIGHT) == {3, 149}
    assert overlay(photograph, prediction, NAMES, legend=[]).size == (WIDTH, HEIGHT)


def test_long_legends_stop_with_a_count():
    many = torch.arange(400 * 600).remainder(150).view(400, 600)
    picture = overlay(np.zeros((400, 600, 3), dtype=np.uint8), many, NAMES)
    assert _legend_classes(picture, 400) == set(range(12)) - {GREY}


def test_title_is_written_above(photograph, prediction):
    plain = overlay(photograph, prediction, NAMES)
    titled = overlay(photograph, prediction, NAMES, title="σ = 2")
    extra = titled.height - plain.height
    assert extra > 10
    assert np.array_equal(np.asarray(titled)[extra:, :WIDTH], np.asarray(plain)[:, :WIDTH])
    assert (np.asarray(titled)[:extra] < 100).any()


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (1, 1), (7, 111), (4 * HEIGHT, 4 * WIDTH)])
def test_odd_sizes_take_the_nearest_class(size):
    prediction = torch.arange(9).view(3, 3)
    image = np.zeros((*size, 3), dtype=np.uint8)
    shown = _top(overlay(image, prediction, NAMES, alpha=1.0), *size)
    expected = np.asarray(
        Image.fromarray(prediction.byte().numpy()).resize(size[::-1], Image.Resampling.NEAREST)
    )
    assert np.array_equal(shown, class_palette(150)[expected])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_images_of_every_mode_are_shown(mode, photograph, prediction):
    grey = Image.fromarray(photograph).convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else None
    picture = overlay(image or grey.convert(mode), prediction, NAMES, alpha=1.0)
    assert np.array_equal(_top(picture)[10, 10], class_palette(150)[3])


def test_present_classes_are_ordered_by_size(prediction):
    assert present_classes([prediction, torch.full((99, 99), 7)], 150) == [7, 149, 3]


def test_strip_sets_levels_side_by_side(photograph, prediction):
    levels = {"σ = 0": prediction, "σ = 2": torch.full_like(prediction, 8)}
    pictures = level_overlays(photograph, levels, NAMES, alpha=1.0)
    assert pictures[0].size == pictures[1].size
    joined = np.asarray(strip(pictures, gap=6))
    width = pictures[0].width
    assert joined.shape == (pictures[0].height, 2 * width + 6, 3)
    assert np.array_equal(joined[:, :width], np.asarray(pictures[0]))
    assert np.array_equal(joined[:, width + 6 :], np.asarray(pictures[1]))


def test_animation_shows_each_level_with_its_classes(tmp_path, photograph, prediction):
    levels = {f"σ = {k}": torch.where(prediction == 3, 10 + k, 140 - k) for k in range(4)}
    pictures = level_overlays(photograph, levels, NAMES, alpha=1.0)
    legend = present_classes(list(levels.values()), 150)
    path = save_animation(
        tmp_path / "levels.gif", pictures, seconds=0.25, keep=class_palette(150)[legend]
    )
    with Image.open(path) as animation:
        assert animation.n_frames == 4
        assert animation.info["loop"] == 0
        for number, picture in enumerate(pictures):
            animation.seek(number)
            assert animation.info["duration"] == 250
            shown = np.asarray(animation.convert("RGB")).astype(int)
            # All but the smoothed edges of letters.
            flat = [*class_palette(150)[legend], (255, 255, 255)]
            exact = np.array([(np.asarray(picture) == colour).all(-1) for colour in flat]).any(0)
            assert exact.mean() > 0.7
            assert np.array_equal(shown[exact], np.asarray(picture)[exact])


def test_photographs_in_animations_keep_their_look(tmp_path):
    from sklearn.datasets import load_sample_image

    image = load_sample_image("china.jpg")[::4, ::4]
    half = torch.zeros(image.shape[:2], dtype=torch.long)
    pictures = level_overlays(image, {"a": half, "b": half + 1}, NAMES, alpha=0.4)
    with Image.open(save_animation(tmp_path / "a.gif", pictures)) as animation:
        shown = np.asarray(animation.convert("RGB")).astype(int)
    assert np.abs(shown - np.asarray(pictures[0])).mean() < 8


def test_pictures_are_written_whole(tmp_path, photograph, prediction):
    picture = overlay(photograph, prediction, NAMES)
    path = save_picture(tmp_path / "a.png", picture)
    with Image.open(path) as written:
        assert np.array_equal(np.asarray(written), np.asarray(picture))
    save_picture(tmp_path / "a.jpg", picture)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, p: overlay(i, p, NAMES, alpha=1.5), "alpha=1.5"),
        (lambda i, p: overlay(i, p.float(), NAMES), "give class indices"),
        (lambda i, p: overlay(i.astype(float), p, NAMES), "float64"),
        (lambda i, p: overlay(i, p, NAMES, legend=[150]), "legend names class 150"),
        (lambda i, p: strip([]), "pictures is empty"),
        (lambda i, p: save_picture("a.tiff", Image.fromarray(i)), "'.tiff'"),
        (lambda i, p: save_animation("a.png", [Image.fromarray(i)]), "not .gif"),
        (lambda i, p: save_animation("a.gif", []), "pictures is empty"),
        (
            lambda i, p: save_animation("a.gif", [Image.fromarray(i), Image.fromarray(i[1:])]),
            "frames of one size",
        ),
        (
            lambda i, p: save_animation("a.gif", [Image.fromarray(i)], keep=class_palette(150)),
            "150 colours",
        ),
    ],
)
def test_bad_arguments_are_named(call, message, photograph, prediction):
    with pytest.raises(ValueError, match=message):
        call(photograph, prediction)
