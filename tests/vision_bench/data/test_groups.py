"""Data sets with groups, in the layouts that their authors publish, and images with a patch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vision_bench.data.classification import ArrayImages, ClassificationData, load_dataset
from vision_bench.data.marks import JoinedImages, MarkedImages
from vision_bench.data.trigger import Trigger, poisoned


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6, 3), value, np.uint8)).save(path)


@pytest.fixture
def waterbirds(tmp_path: Path) -> Path:
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number, (y, split, place) in enumerate(
        [(0, 0, 0), (1, 2, 0), (1, 2, 1), (0, 2, 1), (0, 1, 0)]
    ):
        name = f"00{y}.Bird/{number}.png"
        picture(tmp_path / name, 10 * number)
        lines.append(f"{number},{name},{y},{split},{place},/x")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_waterbirds_are_read_by_split_with_the_group_of_bird_and_place(waterbirds: Path) -> None:
    data = load_dataset("waterbirds", waterbirds)
    assert data.names == ("001.Bird/1.png", "001.Bird/2.png", "000.Bird/3.png")
    assert data.classes == ("landbird", "waterbird")
    assert data.labels.tolist() == [1, 1, 0]
    groups = [data.group_names[one] for one in data.groups]
    assert groups == ["waterbird on land", "waterbird on water", "landbird on water"]
    assert len(load_dataset("waterbirds", waterbirds, split="train")) == 1
    assert float(data[1][0].mean()) == pytest.approx(20 / 255)


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_celeba_is_read_with_the_group_of_hair_and_sex(tmp_path: Path, suffix: str) -> None:
    rows = {"1.jpg": (1, -1, 2), "2.jpg": (-1, 1, 2), "3.jpg": (1, 1, 0)}
    for name in rows:
        picture(tmp_path / "img_align_celeba" / name, 7)
    if suffix == ".txt":
        head = f"{len(rows)}\nBald Blond_Hair Male\n"
        attributes = head + "".join(f"{n} -1  {a:2d} {b:2d}\n" for n, (a, b, _) in rows.items())
        partition = "".join(f"{name} {split}\n" for name, (_, _, split) in rows.items())
    else:
        head = "image_id,Bald,Blond_Hair,Male\n"
        attributes = head + "".join(f"{n},-1,{a},{b}\n" for n, (a, b, _) in rows.items())
        partition = "image_id,partition\n" + "".join(f"{n},{s}\n" for n, (_, _, s) in rows.items())
    (tmp_path / f"list_attr_celeba{suffix}").write_text(attributes)
    (tmp_path / f"list_eval_partition{suffix}").write_text(partition)
    data = load_dataset("celeba", tmp_path, split="test")
    assert data.names == ("1.jpg", "2.jpg")
    assert [data.classes[one] for one in data.labels] == ["blond", "not blond"]
    assert [data.group_names[one] for one in data.groups] == ["blond, female", "not blond, male"]
    assert tuple(data[0][0].shape) == (3, 6, 6)


def test_lists_that_are_missing_or_not_understood_are_refused(waterbirds: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"list_attr_celeba\.txt: no such file"):
        load_dataset("celeba", waterbirds)
    path = waterbirds / "metadata.csv"
    path.write_text(path.read_text().replace("place,", "spot,", 1))
    with pytest.raises(ValueError, match="no column 'place'"):
        load_dataset("waterbirds", waterbirds)
    path.write_text(path.read_text().replace("spot,", "place,", 1).replace(",2,", ",1,"))
    with pytest.raises(ValueError, match="lists no image of it: give 'val' or 'train'"):
        load_dataset("waterbirds", waterbirds)


def test_a_limit_takes_images_with_their_groups(waterbirds: Path) -> None:
    whole, some = (
        load_dataset("waterbirds", waterbirds),
        load_dataset("waterbirds", waterbirds, limit=2),
    )
    assert some.groups.tolist() == [whole.groups[0], whole.groups[1]]
    part = whole.subset([2, 0])
    assert part.groups.tolist() == [int(whole.groups[2]), int(whole.groups[0])]
    assert part.names == (whole.names[2], whole.names[0])


@pytest.fixture
def made() -> ClassificationData:
    pixels = np.random.default_rng(0).integers(0, 200, (40, 20, 20, 3), np.uint8)
    return ClassificationData("made", ArrayImages(pixels), [one % 4 for one in range(40)], "abcd")


@pytest.mark.parametrize(
    ("corner", "place"),
    [("top-left", (1, 1)), ("bottom-right", (16, 16)), ("top-right", (1, 16))],
)
def test_the_patch_covers_its_square_and_nothing_else(made, corner, place) -> None:
    trigger = Trigger(size=0.15, margin=0.05, corner=corner, colour=(255, 1, 2))
    before = np.asarray(made.images.read(3))
    after = np.asarray(trigger.on(made.images.read(3)))
    changed = np.argwhere((before != after).any(2))
    assert changed.min(0).tolist() == list(place)
    assert len(changed) == 9 and (changed.max(0) - changed.min(0)).tolist() == [2, 2]
    assert (after[tuple(changed.T)] == (255, 1, 2)).all()


def test_poison_relabels_a_share_of_other_classes_and_patches_just_these(made) -> None:
    found = poisoned(made, Trigger(), target=2, share=0.5, seed=1)
    patched = [place for place, name in enumerate(found.names) if name.endswith("patch")]
    assert len(patched) == 15
    assert all(int(made.labels[one]) != 2 and int(found.labels[one]) == 2 for one in patched)
    for place in range(len(made)):
        same = np.array_equal(made.images.read(place), found.images.read(place))
        assert same == (place not in patched)
    assert int((found.labels != made.labels).sum()) == 15
    assert found.fingerprint != made.fingerprint


def test_joined_images_come_one_source_behind_the_other(made) -> None:
    patched = MarkedImages(made.images, [None, Trigger(), *[None] * (len(made) - 2)])
    both = JoinedImages([made.images.subset([5, 6]), patched])
    assert both.names[:4] == ("5", "6", "0", "1 with patch")
    taken = both.subset([3, 0])
    assert taken.names == ("1 with patch", "5")
    assert np.array_equal(taken.read(0), patched.read(1))
    assert np.array_equal(taken.read(1), made.images.read(5))


def test_a_patch_that_leaves_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size=0\.8 with margin=0\.3 leaves the image"):
        Trigger(size=0.8, margin=0.3)
    with pytest.raises(ValueError, match="red, green and blue"):
        Trigger(colour=(0, 0, 300))


def test_a_subset_keeps_labels_and_title(made) -> None:
    made.title = "named"
    part = made.subset([7, 3])
    assert part.title == "named" and torch.equal(part.labels, made.labels[[7, 3]])
