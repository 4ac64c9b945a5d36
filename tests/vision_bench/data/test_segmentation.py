"""Segmentation data by name, on small sets in the layouts they are published in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from vision_bench.data.images import UnreadableImageError, to_tensor
from vision_bench.data.segmentation import load_segmentation_dataset, target_size
from vision_bench.models.model import Preprocessing

# Indices after label reduction that AIM's experiments name.
ADE20K_INDICES = {
    "tree": 4,
    "person": 12,
    "car": 20,
    "bus": 80,
    "streetlight": 87,
    "bicycle": 127,
    "traffic light": 136,
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def label_map(width: int, height: int, highest: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, highest + 1, (7, 9), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def put(path: Path, content: Image.Image | np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)


def write_ade20k(
    root: Path, sizes: list[tuple[int, int]], highest: int = 150
) -> dict[str, np.ndarray]:
    """Writes validation images of these widths and heights; returns the annotations by name."""
    annotations = {}
    for number, (width, height) in enumerate(sizes, start=1):
        name = f"ADE_val_{number:08d}"
        annotations[name] = label_map(width, height, highest, seed=number)
        base = root / "ADEChallengeData2016"
        put(base / "images" / "validation" / f"{name}.jpg", picture(width, height, seed=number))
        put(base / "annotations" / "validation" / f"{name}.png", annotations[name])
    return annotations


def reduced(annotation: np.ndarray) -> np.ndarray:
    """Label reduction, pixel by pixel."""
    rows = [[255 if stored == 0 else stored - 1 for stored in row] for row in annotation.tolist()]
    return np.array(rows)


def test_ade20ks_labels_are_reduced(tmp_path: Path):
    annotations = write_ade20k(tmp_path, [(40, 30), (31, 57)])
    data = load_segmentation_dataset("ade20k", tmp_path, resize="original")
    assert (data.name, len(data), len(data.classes)) == ("ade20k-val", 2, 150)
    for index, annotation in enumerate(annotations.values()):
        image, labels, name = data[index]
        assert name == f"images/validation/ADE_val_{index + 1:08d}.jpg"
        assert labels.dtype == torch.int64
        assert np.array_equal(labels.numpy(), reduced(annotation))
        assert image.shape[1:] == labels.shape
        assert torch.equal(data.read_labels(index), labels)


def test_ade20ks_classes_have_the_indices_that_aim_names(tmp_path: Path):
    write_ade20k(tmp_path, [(8, 8)])
    classes = load_segmentation_dataset("ade20k", tmp_path).classes
    assert {name: classes.index(name) for name in ADE20K_INDICES} == ADE20K_INDICES


def test_ade20ks_own_table_names_the_classes(tmp_path: Path):
    write_ade20k(tmp_path, [(8, 8)])
    table = tmp_path / "ADEChallengeData2016" / "objectInfo150.txt"
    lines = [f"{i}\t0.1\t10\t1\tthing{i}, synonym; other" for i in range(1, 151)]
    table.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]) + "\n")
    classes = load_segmentation_dataset("ade20k", tmp_path).classes
    assert classes == tuple(f"thing{i}" for i in range(1, 151))
    table.write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines[:100]]))
    with pytest.raises(ValueError, match="objectInfo150.txt lists 100 classes, not 150"):
        load_segmentation_dataset("ade20k", tmp_path)


def test_the_square_rule_is_that_of_transformers(tmp_path: Path):
    from transformers import SegformerImageProcessor

    write_ade20k(tmp_path, [(101, 67), (70, 90)])
    processor = SegformerImageProcessor(
        size={"height": 64, "width": 64}, do_reduce_labels=True, do_resize=True
    )
    preprocessing = Preprocessing(
        mean=tuple(processor.image_mean), std=tuple(processor.image_std), size=64, resize="square"
    )
    data = load_segmentation_dataset(
        "ade20k", tmp_path, preprocessing=preprocessing, score_at="input"
    )
    assert data.resize == "square64"
    for index in range(2):
        image, labels, name = data[index]
        annotation = data.files.root / data.files.labels[index]
        expected = processor(
            Image.open(data.files.root / name), Image.open(annotation), return_tensors="pt"
        )
        # Both resize in 8 bits; one step there is 1/255 before normalisation.
        assert (image - expected["pixel_values"][0]).abs().max() < 1.01 / 255 / 0.22
        same = (labels == expected["labels"][0]).float().mean()
        # A pixel on the border between two labels may be rounded either way.
        assert same > 0.95
        assert set(labels.unique().tolist()) == set(
            reduced(np.asarray(Image.open(annotation))).flat
        )


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (512, 512, (512, 512)),
        (683, 512, (512, 704)),  # 683 is 21.3 times 32
        (512, 683, (704, 512)),
        (640, 480, (512, 704)),  # scaled to 682.7
        (1024, 512, (512, 1024)),
        (200, 100, (512, 1024)),
        (300, 299, (512, 544)),  # scaled to 513.7
    ],
)
def test_the_short_rule_rounds_both_sides_up_to_32(width: int, height: int, expected):
    assert target_size("short512", height, width) == expected


@pytest.mark.parametrize("score_at", ["labels", "input"])
def test_labels_keep_their_size_unless_they_are_to_be_resized_with_the_image(
    tmp_path: Path, score_at: str
):
    write_ade20k(tmp_path, [(75, 51), (33, 99)])
    data = load_segmentation_dataset("ade20k", tmp_path, resize="short64", score_at=score_at)
    inputs, own = [(64, 96), (192, 64)], [(51, 75), (99, 33)]
    for index, size in enumerate(inputs if score_at == "input" else own):
        image, labels, _ = data[index]
        assert (tuple(image.shape[1:]), tuple(labels.shape)) == (inputs[index], size)
        assert torch.equal(data.read_labels(index), labels)


@pytest.mark.parametrize("rule", ["square64", "short64", "edge64", "square200", "original"])
def test_labels_are_resized_as_pillow_resizes_to_the_nearest(tmp_path: Path, rule: str):
    (annotation,) = write_ade20k(tmp_path, [(75, 51)]).values()
    data = load_segmentation_dataset("ade20k", tmp_path, resize=rule, score_at="input")
    labels = data.read_labels(0)
    height, width = labels.shape
    stored = Image.fromarray(annotation).resize((width, height), Image.Resampling.NEAREST)
    assert np.array_equal(labels.numpy(), reduced(np.asarray(stored)))


def test_cityscapes_is_read_with_the_19_classes_trained_on(tmp_path: Path):
    stored = np.arange(34, dtype=np.uint8).reshape(2, 17)
    for city in ("lindau", "aachen"):
        name = f"{city}_000000_000019"
        put(tmp_path / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png", picture(17, 2))
        put(tmp_path / "gtFine" / "val" / city / f"{name}_gtFine_labelIds.png", stored)
        # These lie beside it in the published archive.
        put(tmp_path / "gtFine" / "val" / city / f"{name}_gtFine_color.png", picture(17, 2))
        put(tmp_path / "gtFine" / "val" / city / f"{name}_gtFine_instanceIds.png", stored)
    data = load_segmentation_dataset("cityscapes", tmp_path)
    assert [name.split("/")[2] for name in data.names] == ["aachen", "lindau"]
    assert (len(data.classes), data.classes[0], data.classes[18]) == (19, "road", "bicycle")
    _, labels, _ = data[0]
    train_ids = {entry.id: entry.train_id for entry in datasets.Cityscapes.classes}
    expected = [train_ids[index] if 0 <= train_ids[index] < 19 else 255 for index in range(34)]
    assert labels.flatten().tolist() == expected
    # From the paper's table: road is 7, person 24, bicycle 33.
    assert [labels.flatten()[index] for index in (7, 24, 33, 0, 9)] == [0, 11, 18, 255, 255]
    # torchvision pairs the same files.
    pairs = datasets.Cityscapes(tmp_path, split="val", target_type="semantic")
    found = {
        Path(image).name: Path(target[0]).name
        for image, target in zip(pairs.images, pairs.targets, strict=True)
    }
    assert found == {
        Path(image).name: Path(label).name
        for image, label in zip(data.files.images, data.files.labels, strict=True)
    }


def test_cityscapes_keeps_its_size_unless_told(tmp_path: Path):
    put(tmp_path / "leftImg8bit" / "val" / "a" / "a_leftImg8bit.png", picture(64, 32))
    put(tmp_path / "gtFine" / "val" / "a" / "a_gtFine_labelIds.png", label_map(64, 32, 33))
    preprocessing = Preprocessing(size=512, resize="square")
    data = load_segmentation_dataset("cityscapes", tmp_path, preprocessing=preprocessing)
    assert data[0][0].shape == (3, 32, 64)


def write_pairs(root: Path, labels: list[np.ndarray | Image.Image]) -> Path:
    for number, content in enumerate(labels):
        put(root / "images" / f"{number}.jpg", picture(12, 10, seed=number))
        put(root / "labels" / f"{number}.png", content)
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return root


def test_any_folder_of_pairs_is_read(tmp_path: Path):
    stored = label_map(12, 10, 2).copy()
    stored[0, 0] = 255
    palette = Image.fromarray(stored).convert("P")
    palette.putdata(stored.flatten().tolist())
    deep = stored.astype(np.uint16)
    data = load_segmentation_dataset("folder", write_pairs(tmp_path, [stored, palette, deep]))
    assert data.classes == ("sky", "road", "car")
    for index in range(3):
        assert np.array_equal(data[index][1].numpy(), stored)


def test_the_classes_and_split_of_a_folder_can_be_given(tmp_path: Path):
    put(tmp_path / "images" / "test" / "a" / "1.png", picture(6, 4))
    put(tmp_path / "masks" / "test" / "a" / "1.png", label_map(6, 4, 1))
    data = load_segmentation_dataset("folder", tmp_path, split="test", classes=["no", "yes"])
    assert (data.names, data.classes) == (("images/test/a/1.png",), ("no", "yes"))
    with pytest.raises(FileNotFoundError, match="classes.txt: no such file"):
        load_segmentation_dataset("folder", tmp_path, split="test")


@pytest.mark.parametrize("given", [None, True, False])
def test_labels_are_reduced_as_the_models_image_processor_says(tmp_path: Path, given):
    from transformers import SegformerImageProcessor

    stored = label_map(12, 10, 3).copy()
    stored[0, :3] = 0, 3, 255
    write_pairs(tmp_path, [stored] if given is not False else [np.minimum(stored, 2)])
    preprocessing = Preprocessing(reduce_labels=True)
    data = load_segmentation_dataset(
        "folder", tmp_path, preprocessing=preprocessing, reduce_labels=given
    )
    processor = SegformerImageProcessor(do_reduce_labels=given is not False, do_resize=False)
    path = data.files.root / data.files.labels[0]
    maps = processor(picture(12, 10), Image.open(path), return_tensors="pt")["labels"]
    assert torch.equal(data.read_labels(0), maps[0])
    assert ("label 0 is unlabelled" in data.describe_rules()) == (given is not False)


@pytest.mark.parametrize(("reduced", "most"), [(False, 255), (True, 254)])
def test_more_classes_than_labels_can_tell_from_unlabelled_are_refused(tmp_path, reduced, most):
    write_pairs(tmp_path, [label_map(12, 10, 2)])
    options = {"name": "folder", "root": tmp_path, "reduce_labels": reduced}
    classes = [str(index) for index in range(most + 1)]
    with pytest.raises(ValueError, match=f"256 classes|255 classes.*give {most} at most"):
        load_segmentation_dataset(**options, classes=classes)
    data = load_segmentation_dataset(**options, classes=classes[:-1])
    assert data.read_labels(0).max() in (2, 255)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((10, 12), 3, np.uint8), "the index 3 at 120 pixels is none of the 3 classes"),
        (np.full((10, 12), 40000, np.uint16), "the index 40000"),
        (np.zeros((10, 11), np.uint8), "is 11 x 10 pixels, its image 12 x 10"),
        (
            np.full((10, 12, 3), (1, 2, 3), np.uint8),
            "colours, not class indices: say in palette.txt",
        ),
    ],
)
def test_unusable_label_maps_are_named(tmp_path: Path, labels: np.ndarray, message: str):
    data = load_segmentation_dataset("folder", write_pairs(tmp_path, [labels]))
    with pytest.raises(UnreadableImageError, match=f"0.png.*{message}"):
        data[0]


def test_ade20ks_index_151_is_out_of_range(tmp_path: Path):
    write_ade20k(tmp_path, [(20, 20)], highest=0)
    path = tmp_path / "ADEChallengeData2016" / "annotations" / "validation" / "ADE_val_00000001.png"
    Image.fromarray(np.full((20, 20), 151, np.uint8)).save(path)
    with pytest.raises(UnreadableImageError, match="the index 151 .* none of the 150 classes"):
        load_segmentation_dataset("ade20k", tmp_path)[0]


def test_images_without_label_map_are_left_out_and_counted(tmp_path: Path):
    write_ade20k(tmp_path, [(20, 20), (20, 20), (20, 20)])
    base = tmp_path / "ADEChallengeData2016"
    (base / "annotations" / "validation" / "ADE_val_00000002.png").unlink()
    data = load_segmentation_dataset("ade20k", base)
    assert (len(data), data.skipped) == (2, 1)
    assert list(data.unreadable) == ["images/validation/ADE_val_00000002.jpg"]
    with pytest.raises(UnreadableImageError, match="ADE_val_00000002.jpg: no label map"):
        load_segmentation_dataset("ade20k", base, on_error="raise")


def test_a_changed_label_pixel_changes_the_fingerprint(tmp_path: Path):
    fingerprints = []
    for seed in (0, 0, 1):
        root = write_pairs(tmp_path / str(len(fingerprints)) / "set", [label_map(12, 10, 2, seed)])
        fingerprints.append(load_segmentation_dataset("folder", root).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_the_identity_tells_the_resize_rule(tmp_path: Path):
    write_ade20k(tmp_path, [(20, 20)])
    rules = ("square32", "short32")
    one, two = (load_segmentation_dataset("ade20k", tmp_path, resize=rule) for rule in rules)
    assert one.fingerprint == two.fingerprint
    assert one.identity() != two.identity()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "ade"}, "dataset='ade' is no data set; did you mean 'ade20k'"),
        ({"split": "test"}, "split='test': ade20k has the splits val and train"),
        ({"resize": "512"}, "resize='512' is no rule"),
        ({"resize": "square0"}, "resize='square0' is no rule"),
        ({"limit": 0}, "limit=0"),
        ({"classes": ["a"]}, "has its own classes"),
        ({"reduce_labels": False}, "reduce_labels=False: ade20k numbers its labels itself"),
        ({"score_at": "network"}, "score_at='network' is neither 'labels' nor 'input'"),
        ({"preprocessing": Preprocessing(crop=4)}, "preprocessing.crop=4: every pixel"),
    ],
)
def test_unusable_arguments_are_refused(tmp_path: Path, changes: dict, message: str):
    write_ade20k(tmp_path, [(8, 8)])
    with pytest.raises(ValueError, match=message):
        load_segmentation_dataset(**{"name": "ade20k", "root": tmp_path} | changes)


def test_empty_folders_are_refused(tmp_path: Path):
    for name, message in (
        ("ade20k", "is no folder"),
        ("cityscapes", "is no folder"),
        ("folder", "holds no folder labels, annotations or masks"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load_segmentation_dataset(name, tmp_path)


def test_a_line_of_pixels_is_not_enlarged_beyond_all_memory(tmp_path: Path):
    put(tmp_path / "images" / "line.png", Image.new("RGB", (2000, 1)))
    put(tmp_path / "labels" / "line.png", np.zeros((1, 2000), np.uint8))
    data = load_segmentation_dataset(
        "folder", tmp_path, classes=["a"], resize="short512", score_at="input"
    )
    # Each pixel would become 512 x 512, half a billion pixels in all.
    for read in (data.__getitem__, data.read_labels):
        with pytest.raises(UnreadableImageError, match="1024000 x 512 pixels"):
            read(0)
    with pytest.raises(UnreadableImageError, match="1024000 x 512 pixels"):
        to_tensor(Image.new("RGB", (2000, 1)), Preprocessing(size=512, resize="short", crop=512))
