"""One pass of a model over a data set, kept on disk.

Run as a script, this file makes two such passes as one of several processes:
`python test_cache.py PAIRS FOLDER`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vision_bench
from tests.conftest import die_in_a_copy
from vision_bench.classification.sampled_runs import sample_run
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.data.dataset import list_left_out
from vision_bench.data.images import UnreadableImageError
from vision_bench.data.segmentation import SegmentationData, load_segmentation_dataset
from vision_bench.logits import store as logits_store
from vision_bench.logits.cache import SkippedImagesWarning, cache_logits
from vision_bench.logits.classes import load_logits
from vision_bench.logits.upsampling import upsample
from vision_bench.models.model import Preprocessing, VisionModel, wrap_model

DIGITS = 100
"""Images in most tests: four shards, the last one short."""
CLASSIFICATION_SHARD, SEGMENTATION_SHARD = 32, 2


class Counting(nn.Module):
    """Counts the images it sees; kills its process at the first beyond a number."""

    def __init__(self, body: nn.Module, kill_after: int | None = None) -> None:
        super().__init__()
        # Numbers in the open are part of a model's identity.
        self.body, self._images, self._kill_after = body, 0, kill_after

    def forward(self, images: Tensor) -> Tensor:
        if self._kill_after is not None and self._images >= self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self._images += len(images)
        return self.body(images)


def classifier(body: nn.Module | None = None, kill_after: int | None = None) -> VisionModel:
    if body is None:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    module = Counting(body, kill_after)
    return wrap_model(module, classes=10, preprocessing=Preprocessing(), name="toy")


def segmenter(classes: int = 3, kill_after: int | None = None) -> VisionModel:
    torch.manual_seed(0)
    return wrap_model(
        Counting(nn.Conv2d(3, classes, 4, stride=4), kill_after),
        classes=classes,
        preprocessing=Preprocessing(),
        task="segmentation",
        name="toy",
    )


def images_seen(model: VisionModel) -> int:
    (counting,) = (part for part in model.module.modules() if isinstance(part, Counting))
    return counting._images


def digits() -> ClassificationData:
    return load_dataset("digits", limit=DIGITS)


def pairs(root: Path) -> SegmentationData:
    return load_segmentation_dataset("folder", root, classes=["a", "b", "c"])


def write_pairs(root: Path, sizes: list[tuple[int, int]]) -> Path:
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number, (width, height) in enumerate(sizes):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        labels = generator.integers(0, 3, (height, width), dtype=np.uint8)
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    return root


def write_classes(root: Path, per_class: int = 3) -> Path:
    generator = np.random.default_rng(1)
    for name in map(str, range(10)):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shards of a few images, on one thread as in the processes that are started."""
    monkeypatch.setattr(logits_store, "CLASSIFICATION_SHARD", CLASSIFICATION_SHARD)
    monkeypatch.setattr(logits_store, "SEGMENTATION_SHARD", SEGMENTATION_SHARD)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_two_processes(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Makes a pass of each task."""
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2")
    package = str(Path(vision_bench.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *launch, __file__, str(root), str(folder)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_logits_are_those_of_the_model_image_by_image(tmp_path: Path):
    model, data = classifier(), digits()
    cached = cache_logits(model, data, tmp_path, batch_size=7)
    with torch.no_grad():
        expected = torch.cat([model.module(data[index][0][None]) for index in range(DIGITS)])
    assert torch.allclose(cached.logits, expected, atol=1e-6)
    assert cached.logits.dtype == torch.float32
    assert torch.equal(cached.labels, data.labels)


def test_the_file_is_one_that_load_logits_reads(tmp_path: Path):
    cached = cache_logits(classifier(), digits(), tmp_path)
    assert cached.path is not None
    again = load_logits(cached.path)
    assert torch.equal(again.logits, cached.logits)
    assert again.sha256 == cached.sha256
    # Shards are gone, and what the file was computed from lies beside it.
    names = {path.name for path in cached.path.parent.iterdir()}
    assert names == {"logits.safetensors", "logits.json", "cache.json", ".lock"}


def test_a_finished_pass_is_not_made_again(tmp_path: Path):
    first = cache_logits(classifier(), digits(), tmp_path)
    model = classifier()
    second = cache_logits(model, digits(), tmp_path)
    assert images_seen(model) == 0
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize("batch_size", [1, 5, 32, 1000])
def test_the_batch_size_changes_no_more_than_rounding(tmp_path: Path, batch_size: int):
    expected = cache_logits(classifier(), digits(), tmp_path / "a", batch_size=32)
    cached = cache_logits(classifier(), digits(), tmp_path / "b", batch_size=batch_size)
    assert torch.allclose(cached.logits, expected.logits, atol=1e-6)
    assert torch.equal(cached.labels, expected.labels)


def test_reading_in_other_processes_changes_nothing(tmp_path: Path):
    here = cache_logits(classifier(), digits(), tmp_path / "a")
    there = cache_logits(classifier(), digits(), tmp_path / "b", workers=2)
    assert torch.equal(here.logits, there.logits)


def _one_weight(model: VisionModel) -> VisionModel:
    with torch.no_grad():
        # A single weight that a sample of 64 per tensor misses.
        next(module for module in model.module.modules() if isinstance(module, nn.Linear)).weight[
            3, 77
        ] += 1
    return model


def test_a_single_changed_weight_is_another_model(tmp_path: Path):
    before = cache_logits(classifier(), digits(), tmp_path)
    model = _one_weight(classifier())
    assert model.fingerprint == classifier().fingerprint
    after = cache_logits(model, digits(), tmp_path)
    assert images_seen(model) == DIGITS
    assert not torch.equal(before.logits, after.logits)


def test_a_changed_image_is_other_data(tmp_path: Path):
    root = write_classes(tmp_path / "data")
    before = cache_logits(classifier(), load_dataset("folder", root), tmp_path / "cache")
    path = root / "4" / "1.png"
    times = path.stat()
    pixels = np.asarray(Image.open(path)).copy()
    pixels ^= 255
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = cache_logits(classifier(), load_dataset("folder", root), tmp_path / "cache")
    changed = (before.logits != after.logits).any(1).nonzero().flatten().tolist()
    assert changed == [4 * 3 + 1]


def test_another_preprocessing_or_type_is_another_cache(tmp_path: Path):
    seen = []
    for preprocessing, dtype in (
        (None, None),
        (Preprocessing(mean=(0.5, 0.5, 0.5)), None),
        (Preprocessing(mean=(0.4, 0.5, 0.5)), None),
        (None, torch.float16),
        (None, None),
    ):
        model = classifier()
        data = load_dataset("digits", limit=DIGITS, preprocessing=preprocessing)
        cached = cache_logits(model, data, tmp_path, dtype=dtype)
        seen.append((images_seen(model), cached.logits.dtype))
    single, half = torch.float32, torch.float16
    assert seen == [(DIGITS, single)] * 3 + [(DIGITS, half), (0, single)]


def test_a_killed_pass_goes_on_at_the_first_missing_shard(tmp_path: Path):
    dying = classifier(kill_after=64)
    die_in_a_copy(lambda: cache_logits(dying, digits(), tmp_path / "killed"))
    (folder,) = (tmp_path / "killed").iterdir()
    assert len(list(folder.glob("0*.safetensors"))) == 2
    # What a kill in the middle of a write leaves.
    (folder / ".logits.json.0123abcd.tmp").write_bytes(b"half a fi")

    model = classifier()
    cache_logits(model, digits(), tmp_path / "killed")
    assert images_seen(model) == DIGITS - 64
    cache_logits(classifier(), digits(), tmp_path / "whole")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_killed_segmentation_pass_goes_on(tmp_path: Path):
    root = write_pairs(tmp_path / "data", [(16, 12)] * 7)
    dying = segmenter(kill_after=4)
    die_in_a_copy(lambda: cache_logits(dying, pairs(root), tmp_path / "killed"))
    model = segmenter()
    cache_logits(model, pairs(root), tmp_path / "killed")
    assert images_seen(model) == 3
    cache_logits(segmenter(), pairs(root), tmp_path / "whole")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_two_processes_write_the_same_files_as_one(tmp_path: Path):
    root = write_pairs(tmp_path / "data", [(16, 12), (20, 8), (16, 12), (9, 31), (16, 16)])
    cache_logits(classifier(), digits(), tmp_path / "one")
    cache_logits(segmenter(), pairs(root), tmp_path / "one")
    made = in_two_processes(root, tmp_path / "two")
    assert made.returncode == 0, made.stderr
    # The shards in turn: 64 and 36 digits, 3 and 2 pictures.
    shares = sorted(json.loads(line) for line in made.stdout.splitlines())
    assert shares == [[36, 2], [64, 3]]
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


@pytest.mark.parametrize("name", ["logits.safetensors", "logits.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, name: str, damage: str):
    expected = cache_logits(classifier(), digits(), tmp_path)
    assert expected.path is not None
    # The tensors are a view of the file.
    logits = expected.logits.clone()
    path = expected.path.with_name(name)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-3])
    model = classifier()
    cached = cache_logits(model, digits(), tmp_path)
    assert images_seen(model) == DIGITS
    assert torch.equal(cached.logits, logits)


def test_the_file_of_another_cache_is_not_taken(tmp_path: Path):
    root = write_pairs(tmp_path / "data", [(16, 12)] * 4)
    right = cache_logits(segmenter(), pairs(root), tmp_path)
    torch.manual_seed(1)
    other = segmenter()
    with torch.no_grad():
        for weight in other.module.parameters():
            weight += 1
    wrong = cache_logits(other, pairs(root), tmp_path)
    for path in right.folder.iterdir():
        (wrong.folder / path.name).write_bytes(path.read_bytes())
    again = cache_logits(other, pairs(root), tmp_path)
    assert not torch.equal(again[0].logits, right[0].logits)


def test_damaged_images_are_left_out_and_counted(tmp_path: Path):
    root = write_classes(tmp_path / "data")
    names = ["0/1.png", "9/2.png"]
    for name in names:
        (root / name).write_bytes(b"no image")
    data = load_dataset("folder", root)
    with pytest.warns(
        SkippedImagesWarning, match="left out 2 images\n  0/1.png: .*no.*\n  9/2.png: "
    ):
        cached = cache_logits(classifier(), data, tmp_path / "cache")
    assert list(cached.unreadable) == names
    assert data.skipped == 2
    kept = [index for index, name in enumerate(data.names) if name not in names]
    assert torch.equal(cached.labels, data.labels[kept])
    with torch.no_grad():
        expected = classifier().module(torch.stack([data[index][0] for index in kept]))
    assert torch.allclose(cached.logits, expected, atol=1e-6)

    # A cache that leaves images out is none for who wants them all.
    for folder in ("cache", "new"):
        with pytest.raises(UnreadableImageError, match="0/1.png"):
            strict = load_dataset("folder", root, on_error="raise")
            cache_logits(classifier(), strict, tmp_path / folder)


def test_a_left_out_image_leaves_the_noise_of_the_others(tmp_path: Path):
    root = write_classes(tmp_path / "data")
    whole = cache_logits(classifier(), load_dataset("folder", root), tmp_path / "cache")
    (root / "0" / "1.png").write_bytes(b"no image")
    with pytest.warns(SkippedImagesWarning):
        part = cache_logits(classifier(), load_dataset("folder", root), tmp_path / "cache")
    kept = [0, *range(2, 30)]
    assert part.indices is not None and part.indices.tolist() == kept
    # Entropies of noisy logits are as good as the noise itself.
    for seed in range(3):
        every, others = (
            sample_run(cached.logits, cached.labels, [5.0], seed=seed, indices=cached.indices)
            for cached in (whole, part)
        )
        alone = sample_run(
            whole.logits[1:2], whole.labels[1:2], [5.0], seed=seed, indices=torch.tensor([1])
        )
        assert torch.equal(every.correct, others.correct + alone.correct)
        assert every.entropy.item() == pytest.approx((others.entropy + alone.entropy).item())


def test_a_shard_without_any_readable_image_is_no_hindrance(tmp_path: Path):
    root = write_classes(tmp_path / "data", per_class=5)
    for name in load_dataset("folder", root).names[:32]:
        (root / name).write_bytes(b"no image")
    with pytest.warns(SkippedImagesWarning, match="left out 32"):
        cached = cache_logits(classifier(), load_dataset("folder", root), tmp_path / "cache")
    assert len(cached.labels) == 18


def test_images_too_small_for_the_model_are_left_out(tmp_path: Path):
    root = write_pairs(tmp_path / "data", [(8, 8), (3, 5), (12, 8), (1, 1), (3, 5)])
    with pytest.warns(
        SkippedImagesWarning, match="left out 3 images\n.*toy takes no images of 3 x 5"
    ):
        cached = cache_logits(segmenter(), pairs(root), tmp_path / "cache")
    assert [cached[place].name for place in range(len(cached))] == ["images/0.png", "images/2.png"]
    strict = load_segmentation_dataset("folder", root, classes=["a", "b", "c"], on_error="raise")
    with pytest.raises(UnreadableImageError, match="toy takes no images of 3 x 5 pixels"):
        cache_logits(segmenter(), strict, tmp_path / "strict")


def test_images_without_a_label_are_on_the_list_of_the_logits_too(tmp_path: Path):
    root = write_pairs(tmp_path / "data", [(16, 12)] * 4)
    (root / "labels" / "1.png").unlink()
    (root / "images" / "3.png").write_bytes(b"no image")
    for _ in ("first", "again"):
        with pytest.warns(SkippedImagesWarning, match="left out 2 images"):
            cached = cache_logits(segmenter(), pairs(root), tmp_path / "cache")
        assert list(cached.unreadable) == ["images/1.png", "images/3.png"]
        assert len(cached) == 2


def test_very_many_images_left_out_are_counted():
    told = list_left_out({f"{number}.png": "no label map" for number in range(60)}).splitlines()
    assert (told[0], told[-1], len(told)) == ("left out 60 images", "  and 10 more", 52)


def test_a_classifier_for_larger_images_is_one_line(tmp_path: Path):
    # Digits have 8 x 8 pixels, which can be halved three times.
    body = nn.Sequential(*[nn.MaxPool2d(2) for _ in range(5)], nn.Flatten(), nn.Linear(3, 10))
    with pytest.raises(ValueError, match="toy takes no images of 8 x 8 pixels .*size"):
        cache_logits(classifier(body), digits(), tmp_path)


def test_other_errors_of_a_model_are_not_taken_for_the_images_fault(tmp_path: Path):
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        cache_logits(classifier(Broken()), digits(), tmp_path)


def test_no_readable_image_at_all_is_refused(tmp_path: Path):
    root = write_classes(tmp_path / "data", per_class=1)
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="no image is readable; 0/0.png: "):
        cache_logits(classifier(), load_dataset("folder", root), tmp_path / "cache")


def test_images_of_one_size_share_a_forward_pass_and_keep_their_order(tmp_path: Path):
    root = write_pairs(tmp_path / "data", [(16, 12), (20, 8), (16, 12), (9, 31), (15, 13)])
    model, data = segmenter(), pairs(root)
    cached = cache_logits(model, data, tmp_path / "cache", batch_size=8)
    assert len(cached) == 5
    for position in range(5):
        image, labels, name = data[position]
        item = cached[position]
        with torch.no_grad():
            expected = model.module(image[None])[0]
        assert (item.index, item.name, item.size) == (position, name, tuple(image.shape[1:]))
        assert item.logits.dtype == torch.float16
        assert item.logits.shape == expected.shape
        # Half precision keeps 11 bits.
        assert torch.allclose(item.logits.float(), expected, rtol=2**-11, atol=1e-4)
        assert torch.equal(cached.read_labels(position), labels)


def test_logits_are_upsampled_bilinearly_between_pixel_centres():
    # A ramp of four columns: halfway between two centres lies their mean, and edges stay flat.
    ramp = torch.tensor([0.0, 4.0, 8.0, 12.0]).expand(1, 2, 4).half()
    upsampled = upsample(ramp, (4, 8))
    assert upsampled.dtype == torch.float32
    assert upsampled[0, 2].tolist() == [0, 1, 3, 5, 7, 9, 11, 12]
    assert torch.equal(upsample(ramp, (2, 4)), ramp.float())


def test_an_image_of_ade20k_takes_4_9_megabytes(tmp_path: Path):
    base = tmp_path / "ADEChallengeData2016"
    for part in ("images", "annotations"):
        (base / part / "validation").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (683, 512)).save(base / "images" / "validation" / f"{number}.jpg")
        Image.new("L", (683, 512), 13).save(base / "annotations" / "validation" / f"{number}.png")
    data = load_segmentation_dataset("ade20k", tmp_path)
    cached = cache_logits(segmenter(classes=150), data, tmp_path / "cache", batch_size=1)
    size = sum(path.stat().st_size for path in cached.folder.iterdir())
    assert size / 3 == pytest.approx(150 * 128 * 128 * 2, rel=0.01)
    item = cached[2]
    assert upsample(item.logits, item.size).shape == (150, 512, 512)
    assert cached.read_labels(2).unique().tolist() == [12]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_shard_is_computed_again_alone(tmp_path: Path, damage: str):
    root = write_pairs(tmp_path / "data", [(16, 12)] * 6)
    before = cache_logits(segmenter(), pairs(root), tmp_path / "cache")
    expected = files_of(before.folder)
    shards = sorted(before.folder.glob("0*.safetensors"))
    content = bytearray(shards[1].read_bytes())
    content[-2] ^= 1
    if damage == "gone":
        shards[1].unlink()
    else:
        shards[1].write_bytes(content if damage == "flipped" else content[:-2])
    model = segmenter()
    cache_logits(model, pairs(root), tmp_path / "cache")
    assert images_seen(model) == SEGMENTATION_SHARD
    assert files_of(before.folder) == expected


class Constant(nn.Module):
    """Returns the same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize(
    ("logits", "dtype", "message"),
    [
        ([float("nan")] + [0.0] * 9, None, "logits of 0 are NaN"),
        ([float("inf")] + [0.0] * 9, None, "logits of 0 are NaN, \\+inf"),
        ([70000.0] + [0.0] * 9, torch.float16, "cannot hold logits of 7e\\+04"),
        ([0.0] * 9, None, r"returns \[32, 9\] for 32 images, not \[32, 10\]"),
    ],
)
def test_unusable_logits_are_refused(tmp_path: Path, logits, dtype, message: str):
    with pytest.raises(ValueError, match=message):
        cache_logits(classifier(Constant(*logits)), digits(), tmp_path, dtype=dtype)


def test_impossible_classes_are_kept(tmp_path: Path):
    model = classifier(Constant(-float("inf"), *range(9)))
    cached = cache_logits(model, digits(), tmp_path)
    assert cached.logits[5].tolist() == [-float("inf"), *range(9)]


def test_models_and_data_that_do_not_fit_are_refused(tmp_path: Path):
    root = write_pairs(tmp_path / "data", [(16, 12)])
    for model, data, message in (
        (segmenter(), digits(), "toy is a segmentation model, but digits-test is for classif"),
        (segmenter(classes=4), pairs(root), "toy has 4 classes, but folder-data has 3"),
    ):
        with pytest.raises(ValueError, match=message):
            cache_logits(model, data, tmp_path / "cache")
    model = classifier(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 10)))
    model.module.train()
    with pytest.raises(ValueError, match="toy is in training mode"):
        cache_logits(model, digits(), tmp_path / "cache")
    with pytest.raises(ValueError, match="batch_size=0"):
        cache_logits(classifier(), digits(), tmp_path / "cache", batch_size=0)
    assert not (tmp_path / "cache").exists()


def main(root: str, folder: str) -> None:
    logits_store.CLASSIFICATION_SHARD = CLASSIFICATION_SHARD
    logits_store.SEGMENTATION_SHARD = SEGMENTATION_SHARD
    seen = []
    for model, data in ((classifier(), digits()), (segmenter(), pairs(Path(root)))):
        cache_logits(model, data, folder, progress=False)
        seen.append(images_seen(model))
    # In one piece, because two processes write to the same pipe.
    os.write(1, f"{json.dumps(seen)}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
