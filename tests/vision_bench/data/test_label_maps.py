"""Label files as people have them: indices or colours, one channel or several, 1 to 16 bits."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_bench.data.images import UnreadableImageError
from vision_bench.data.label_maps import read_label_map
from vision_bench.data.segmentation import load_segmentation_dataset

INDICES = np.array([[0, 1, 2, 255], [2, 2, 1, 0]], np.uint8)
COLOURS = {0: (70, 130, 180), 1: (128, 64, 128), 2: (0, 0, 142), 255: (0, 0, 0)}
PAINTED = np.array([[COLOURS[i] for i in row] for row in INDICES.tolist()], np.uint8)
OPAQUE = np.full((2, 4, 1), 255, np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)
    return path


def png(path: Path, size: tuple[int, int], bits: int, kind: int, rows: list[bytes]) -> Path:
    """A PNG file of any depth, as its specification lays it out."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", content), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def palette_image(order: list[int]) -> Image.Image:
    """The painted map with a palette of its own, whose entries stand in this order."""
    image = Image.fromarray(np.array([[order.index(i) for i in row] for row in INDICES], np.uint8))
    image = image.convert("P")
    image.putdata([order.index(i) for i in INDICES.ravel().tolist()])
    image.putpalette([value for index in order for value in COLOURS[index]])
    return image


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("grey.png", INDICES),
        ("alpha.png", np.concatenate([INDICES[..., None], OPAQUE], 2)),
        ("deep.png", INDICES.astype(np.uint16)),
        ("deep.tif", INDICES.astype(np.uint16)),
        ("wide.tif", INDICES.astype(np.int32)),
        ("floats.tif", INDICES.astype(np.float32)),
        ("three.png", np.repeat(INDICES[..., None], 3, 2)),
        ("four.png", np.concatenate([np.repeat(INDICES[..., None], 3, 2), OPAQUE], 2)),
    ],
)
def test_one_index_a_pixel_is_read_from_any_channels(tmp_path: Path, name: str, pixels):
    assert np.array_equal(read_label_map(save(tmp_path / name, pixels)), INDICES)


@pytest.mark.parametrize(
    ("bits", "rows", "expected"),
    [
        (1, [bytes([0b01100000])], [0, 1, 1, 0]),
        (2, [bytes([0b00011011])], [0, 1, 2, 3]),
        (4, [bytes([0x0F, 0x21])], [0, 15, 2, 1]),
    ],
)
def test_indices_of_few_bits_are_not_stretched_to_brightness(tmp_path: Path, bits, rows, expected):
    path = png(tmp_path / "few.png", (4, 1), bits, 0, rows)
    assert read_label_map(path).tolist() == [expected]


LISTS = {
    "palette.txt": "sky 70 130 180\nroad 128 64 128\ncar 0 0 142\nvoid 0 0 0\n",
    "class_dict.csv": "name,r,g,b\nsky,70,130,180\nroad,128,64,128\ncar,0,0,142\nVoid,0,0,0\n",
    "label_colors.txt": "70 130 180\tsky\n128 64 128\troad\n0 0 142\tcar\n0 0 0\tVoid\n",
    "labelmap.txt": (
        "# label:color_rgb:parts:actions\nsky:70,130,180::\nroad:128,64,128::\n"
        "car:0,0,142:wheel,door:drive\nvoid:0,0,0::\n"
    ),
}


def write_pairs(root: Path, maps: list[np.ndarray | Image.Image], listed: str, text: str) -> Path:
    for number, content in enumerate(maps):
        save(root / "images" / f"{number}.png", np.zeros((2, 4, 3), np.uint8))
        save(root / "labels" / f"{number}.png", content)
    (root / listed).write_text(text)
    return root


@pytest.mark.parametrize("listed", LISTS)
def test_colours_are_read_with_the_list_that_names_them(tmp_path: Path, listed: str):
    opaque = np.concatenate([PAINTED, OPAQUE], 2)
    other_order = palette_image([255, 2, 0, 1])
    maps = [PAINTED, opaque, other_order, palette_image([0, 1, 2, 255]), INDICES]
    data = load_segmentation_dataset("folder", write_pairs(tmp_path, maps, listed, LISTS[listed]))
    assert data.classes == ("sky", "road", "car")
    for index in range(len(maps)):
        assert np.array_equal(data.read_labels(index).numpy(), INDICES)


def test_names_of_classes_decide_their_order_and_may_include_void(tmp_path: Path):
    root = write_pairs(tmp_path, [PAINTED], "palette.txt", LISTS["palette.txt"])
    (root / "classes.txt").write_text("void\ncar\nroad\nsky\n")
    labels = load_segmentation_dataset("folder", root).read_labels(0)
    order = {0: 3, 1: 2, 2: 1, 255: 0}
    assert labels.tolist() == [[order[index] for index in row] for row in INDICES.tolist()]
    reduced = load_segmentation_dataset("folder", root, reduce_labels=True)
    assert reduced.read_labels(0).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("second", "reduced"),
    [(palette_image([255, 2, 0, 1]), False), (INDICES.astype(np.uint8), True)],
)
def test_labels_in_colours_are_not_said_to_be_reduced(tmp_path: Path, second, reduced: bool):
    root = write_pairs(tmp_path, [PAINTED, second], "palette.txt", LISTS["palette.txt"])
    data = load_segmentation_dataset("folder", root, reduce_labels=True)
    assert data.rules["reduce_labels"] is reduced
    words = "label 0 is unlabelled and 1 the first class where labels are stored as indices, not"
    assert ("unlabelled" in data.describe_rules()) == (words in data.describe_rules()) == reduced
    # What is said is what is done.
    known = INDICES if not reduced else np.where(INDICES % 255 == 0, 255, INDICES - 1)
    assert np.array_equal(data.read_labels(0).numpy(), INDICES)
    assert np.array_equal(data.read_labels(1).numpy(), known)


def test_a_changed_list_of_colours_is_another_data_set(tmp_path: Path):
    root = write_pairs(tmp_path, [PAINTED], "palette.txt", LISTS["palette.txt"])
    before = load_segmentation_dataset("folder", root).fingerprint
    swapped = "road 70 130 180\nsky 128 64 128\ncar 0 0 142\nvoid 0 0 0\n"
    (root / "palette.txt").write_text(swapped)
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    assert load_segmentation_dataset("folder", root).fingerprint != before


def test_palettes_without_a_list_hold_indices_whatever_their_colours(tmp_path: Path):
    path = save(tmp_path / "map.png", palette_image([255, 2, 0, 1]))
    order = [255, 2, 0, 1]
    expected = [[order.index(index) for index in row] for row in INDICES.tolist()]
    assert read_label_map(path).tolist() == expected


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("a.png", np.stack([INDICES, INDICES], 2), "7 pixels are transparent"),
        ("a.png", PAINTED, "its pixels are colours, not class indices: say in palette.txt"),
        ("a.jpg", INDICES, "JPEG blurs labels"),
        ("a.tif", INDICES + np.float32(0.5), "of the mode F"),
        ("a.tif", Image.fromarray(PAINTED).convert("CMYK"), "of the mode CMYK"),
    ],
)
def test_what_has_no_single_meaning_is_named(tmp_path: Path, name, pixels, message):
    with pytest.raises(UnreadableImageError, match=f"{name}: .*{message}"):
        read_label_map(save(tmp_path / name, pixels))


@pytest.mark.parametrize(("kind", "pixel"), [(2, "000100020003"), (4, "0007ffff")])
def test_several_channels_of_16_bits_are_named(tmp_path: Path, kind: int, pixel: str):
    path = png(tmp_path / "deep.png", (1, 1), 16, kind, [bytes.fromhex(pixel)])
    with pytest.raises(UnreadableImageError, match="only the high bytes are read"):
        read_label_map(path)


def test_a_colour_outside_the_list_is_named(tmp_path: Path):
    painted = PAINTED.copy()
    painted[0, :2] = 9, 8, 7
    root = write_pairs(tmp_path, [painted], "palette.txt", LISTS["palette.txt"])
    data = load_segmentation_dataset("folder", root)
    with pytest.raises(UnreadableImageError, match=r"\(9, 8, 7\) at 2 pixels is none of the 4"):
        data.read_labels(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky 70 130\n", "'sky 70 130' is no line"),
        ("sky 70 130 256\n", "'sky 70 130 256' is no line"),
        ("sky 70 130 180\nroad 70 130 180\ncar 0 0 1\n", "to two classes, one is 'road'"),
        ("sky 70 130 180\nroads 1 2 3\ncar 0 0 1\n", "'roads', which is no class.*'road'"),
        ("sky 70 130 180\nroad 1 2 3\n", "no colour to 'car'"),
    ],
)
def test_faulty_lists_of_colours_are_refused(tmp_path: Path, text: str, message: str):
    root = write_pairs(tmp_path, [PAINTED], "palette.txt", text)
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    with pytest.raises(ValueError, match=f"palette.txt.*{message}"):
        load_segmentation_dataset("folder", root)


def test_16_bits_mark_unlabelled_pixels_with_their_largest_number(tmp_path: Path):
    stored = INDICES.astype(np.uint16)
    stored[stored == 255] = 65535
    root = write_pairs(tmp_path, [stored], "classes.txt", "sky\nroad\ncar\n")
    assert np.array_equal(load_segmentation_dataset("folder", root).read_labels(0), INDICES)
