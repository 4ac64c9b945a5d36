"""Batches of images, their order, and their random views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from tests.vision_bench.reengineering.conftest import PREPROCESSING, arrays
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.data.images import UnreadableImageError
from vision_bench.reengineering.augmentation import DRAWS, Augment, augmented, crop_boxes
from vision_bench.reengineering.batches import TrainingImages

LABELS = [one % 4 for one in range(23)]
AUGMENTS: list[Augment] = ["none", "flip", "crop-flip", "resized-crop-flip"]


def gathered(batches: object) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_images_in_order_are_those_of_the_data_set() -> None:
    data = arrays(LABELS)
    images, labels = gathered(TrainingImages(data, augment="crop-flip").in_order(5))
    assert labels.tolist() == LABELS
    assert torch.equal(images, torch.stack([data[one][0] for one in range(len(data))]))


def test_an_epoch_holds_every_image_once_with_its_label() -> None:
    data = arrays(LABELS)
    label_of = {tuple(data[one][0].flatten().tolist()): LABELS[one] for one in range(len(data))}
    images, labels = gathered(TrainingImages(data).epoch(0, 5))
    seen = [tuple(image.flatten().tolist()) for image in images]
    assert {*seen} == {*label_of}
    assert [label_of[one] for one in seen] == labels.tolist() != LABELS


@pytest.mark.parametrize("augment", AUGMENTS)
def test_an_epoch_depends_on_its_number_and_the_seed_but_not_on_the_batch_size(
    augment: Augment,
) -> None:
    def epoch(number: int, batch_size: int, seed: int = 0) -> Tensor:
        images = TrainingImages(arrays(LABELS), augment=augment, seed=seed)
        return gathered(images.epoch(number, batch_size))[0]

    assert torch.equal(epoch(3, 4), epoch(3, 9))
    assert not torch.equal(epoch(3, 4), epoch(4, 4))
    assert not torch.equal(epoch(3, 4), epoch(3, 4, seed=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_do_not_fit_into_memory_are_read_and_the_same(workers: int) -> None:
    fitting = TrainingImages(arrays(LABELS), augment="crop-flip")
    most = 4 * 3 * 8 * 8 * len(LABELS)
    reading = TrainingImages(arrays(LABELS), augment="crop-flip", memory=most - 1, workers=workers)
    assert fitting.in_memory and not reading.in_memory
    assert TrainingImages(arrays(LABELS), memory=most).in_memory
    for one, other in zip(fitting.epoch(2, 5), reading.epoch(2, 5), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_a_damaged_image_is_left_out_and_counted(folder: ClassificationData, memory: int) -> None:
    images = TrainingImages(folder, memory=memory)
    for _ in range(2):
        seen, labels = gathered(images.in_order(3))
        assert labels.tolist() == [0] * 4 + [1] * 2 + [2] * 5
        assert torch.equal(seen[5], folder[6][0])
    assert len(gathered(images.epoch(0, 4))[1]) == 11
    assert list(folder.unreadable) == ["b/1.png"]


def test_a_damaged_image_stops_data_that_may_have_none(folder: ClassificationData) -> None:
    folder.on_error = "raise"
    with pytest.raises(UnreadableImageError, match="1.png"):
        TrainingImages(folder)


def test_images_of_several_sizes_make_no_batch(tmp_path: Path) -> None:
    for number, size in enumerate([(8, 8), (9, 8)]):
        (tmp_path / str(number)).mkdir()
        Image.new("RGB", size).save(tmp_path / str(number) / "one.png")
    data = load_dataset("folder", tmp_path, preprocessing=PREPROCESSING)
    with pytest.raises(ValueError, match="1/one.png is 9 x 8 where the first image is 8 x 8"):
        TrainingImages(data)


def test_a_cropped_image_is_torchvisions_before_normalisation() -> None:
    # Padded with black and cut as pixels, and only then normalised: the authors' order.
    data = arrays([0] * 60, side=32)
    normalise = transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std)
    (views, _) = gathered(TrainingImages(data, augment="crop-flip").epoch(0, 60))
    possible = {}
    for index in range(60):
        framed = functional.pad(functional.to_tensor(data.images.read(index)), [4])
        for top in range(9):
            for left in range(9):
                view = normalise(functional.crop(framed, top, left, 32, 32))
                for mirrored, one in ((False, view), (True, view.flip(2))):
                    key = tuple(one[:, 14, 10:22].flatten().mul(1000).round().tolist())
                    possible[key] = (index, top, left, mirrored, one)
    found = []
    for view in views:
        key = tuple(view[:, 14, 10:22].flatten().mul(1000).round().tolist())
        *where, expected = possible[key]
        torch.testing.assert_close(view, expected)
        found.append(where)
    assert sorted(one[0] for one in found) == list(range(60))
    assert len({one[1] for one in found}) == len({one[2] for one in found}) == 9
    assert {one[3] for one in found} == {False, True}


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(2000, 3, 1, 2)
    views = augmented(images, torch.rand(2000, 1), torch.zeros(3), "flip")
    mirrored = (views[:, 0, 0, 0] == images[:, 0, 0, 1]).sum()
    # Five standard deviations of a fair coin.
    assert abs(int(mirrored) - 1000) < 5 * np.sqrt(500)


def test_resized_crops_are_torchvisions_of_the_same_boxes() -> None:
    images = torch.rand(6, 3, 24, 20)
    draws = torch.rand(6, DRAWS["resized-crop-flip"])
    draws[:, 0] = 0.9  # not mirrored
    views = augmented(images, draws, torch.zeros(3), "resized-crop-flip")
    boxes = crop_boxes(draws[:, 1:], 24, 20).tolist()
    for view, image, (top, left, height, width) in zip(views, images, boxes, strict=True):
        expected = functional.resized_crop(
            image, top, left, height, width, [24, 20], antialias=True
        )
        torch.testing.assert_close(view, expected)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 90), (8, 200)])
def test_crop_boxes_follow_the_law_of_torchvisions(height: int, width: int) -> None:
    from scipy.stats import ks_2samp

    draws = torch.rand(1500, 22, generator=torch.Generator().manual_seed(0))
    boxes = crop_boxes(draws, height, width).numpy()
    torch.manual_seed(0)
    canvas = torch.zeros(3, height, width)
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(canvas, [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(1500)
        ]
    )
    for column in range(4):
        assert ks_2samp(boxes[:, column], theirs[:, column]).pvalue > 1e-3
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()
