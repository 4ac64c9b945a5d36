"""Data sets by name, on small ones in the layouts they are published in."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from vision_bench.data import classification
from vision_bench.data.classification import DEBIAN_FASHION_MNIST, ClassificationData, load_dataset
from vision_bench.data.images import UnreadableImageError, read_image
from vision_bench.data.names import CLASSIFICATION
from vision_bench.data.plain_pickle import load_plain_pickle
from vision_bench.models.model import Preprocessing

CIFAR10_NAMES = [f"kind{index}" for index in range(10)]
CIFAR100_NAMES = [f"kind_{index}" for index in range(100)]


def pixels(n: int, seed: int = 0) -> np.ndarray:
    """Random images [n, 3, 32, 32] as CIFAR stores them."""
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def write_cifar10_binary(root: Path, images: np.ndarray, labels: list[int]) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    records = b"".join(
        bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)
    )
    (folder / "test_batch.bin").write_bytes(records)
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")


def python2_text(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def python2_batch(images: np.ndarray, labels: list[int], prefix: bytes = b"") -> bytes:
    """The pickle of a batch as Python 2 wrote it, opcode by opcode (protocol 2)."""
    flat = images.reshape(len(images), -1)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"".join(b"J" + struct.pack("<i", size) for size in flat.shape)
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        + b"J\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", flat.size)
        + flat.tobytes()
        + b"tb"
    )
    numbers = b"](" + b"".join(b"J" + struct.pack("<i", label) for label in labels) + b"e"
    return (
        b"\x80\x02}("
        + python2_text(b"data")
        + array
        + python2_text(prefix + b"labels")
        + numbers
        + b"u."
    )


def write_cifar_python(root: Path, batch: bytes, *, hundred: bool = False) -> Path:
    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    (folder / ("test" if hundred else "test_batch")).write_bytes(batch)
    meta = {"fine_label_names": CIFAR100_NAMES} if hundred else {"label_names": CIFAR10_NAMES}
    (folder / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(meta, 2))
    return folder


def shown(data: ClassificationData) -> np.ndarray:
    """All images as 8-bit [n, 3, h, w]."""
    return np.stack([(data[i][0] * 255).round().byte().numpy() for i in range(len(data))])


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path):
    images, labels = pixels(7), [3, 0, 9, 9, 1, 5, 2]
    write_cifar10_binary(tmp_path, images, labels)
    data = load_dataset("cifar10", tmp_path)
    assert data.labels.tolist() == labels
    assert data.classes == tuple(CIFAR10_NAMES)
    assert data.name == "cifar10-test"
    assert np.array_equal(shown(data), images)


def test_cifar100_is_read_with_its_fine_labels(tmp_path: Path):
    images, folder = pixels(3), tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(
        b"".join(
            bytes([19, fine]) + image.tobytes()
            for fine, image in zip((99, 0, 42), images, strict=True)
        )
    )
    (folder / "fine_label_names.txt").write_text("\n".join(CIFAR100_NAMES))
    data = load_dataset("cifar100", folder, split="train")
    assert data.labels.tolist() == [99, 0, 42]
    assert np.array_equal(shown(data), images)


def test_cifar10_in_the_five_batches_of_training_keeps_their_order(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        record = bytes([number]) + pixels(1, seed=number).tobytes()
        (folder / f"data_batch_{number}.bin").write_bytes(record)
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES))
    assert load_dataset("cifar10", tmp_path, split="train").labels.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("hundred", [False, True])
def test_pickles_of_python_2_are_read_as_torchvision_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hundred: bool
):
    labels = [7, 1, 0, 8]
    batch = python2_batch(pixels(4), labels, prefix=b"fine_" if hundred else b"")
    write_cifar_python(tmp_path, batch, hundred=hundred)
    reader = datasets.CIFAR100 if hundred else datasets.CIFAR10
    # The checksums of the published files do not fit these.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    expected = reader(tmp_path, train=False)
    data = load_dataset("cifar100" if hundred else "cifar10", tmp_path)
    assert list(data.classes) == expected.classes
    assert data.labels.tolist() == expected.targets == labels
    assert np.array_equal(shown(data).transpose(0, 2, 3, 1), expected.data)


@pytest.mark.parametrize("protocol", range(2, 5))
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i8", "<f4"])
def test_plain_pickles_of_every_protocol_read_as_pickle_does(
    tmp_path: Path, protocol: int, dtype: str
):
    content = {"a": np.arange(12).reshape(3, 4).astype(dtype).T, "b": [1, "x"], "c": b"\xff"}
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(content, protocol))
    read = load_plain_pickle(path)
    assert np.array_equal(read["a"], content["a"]) and read["a"].dtype == content["a"].dtype
    assert (read["b"], read["c"]) == (content["b"], content["c"])


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path):
    mark = tmp_path / "ran"
    attack = pickle.dumps({"data": Calls(os.system, f"touch {mark}")}, 2)
    folder = write_cifar_python(tmp_path, attack)
    with pytest.raises(ValueError, match=r"test_batch.*system.*may be malicious"):
        load_dataset("cifar10", tmp_path)
    assert not mark.exists()
    # The same bytes do run where everything is allowed.
    pickle.loads((folder / "test_batch").read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    "attack",
    [
        pickle.dumps({"x": Calls(eval, "1 + 1")}, 0),
        pickle.dumps({"x": Calls(np.load, "/etc/passwd")}, 4),
        pickle.dumps({"x": torch.zeros(1)}, 2),
        pickle.dumps({"x": np.array([{}], dtype=object)}, 2),
        pickle.dumps({"x": np.zeros(2, dtype=[("a", "u1")])}, 2),
        b"(S'echo'\nios\nsystem\n.",  # INST
        b"\x80\x02}U\x01xcnumpy\nndarray\nK\x02\x85Rs.",  # calls a class that is only named
        b"\x80\x02}U\x01xcnumpy\ndtype\n}U\x08__call__K\x00sbs.",  # sets a function's attribute
        b"\x80\x02}U\x01xcnumpy\ndtype.__class__\ns.",
        b"\x80\x04\x8c\x05numpy\x8c\x0elib.npyio.load\x93.",
        b"\x80\x02}U\x01xPid\ns.",  # a persistent id
        b"\x80\x02]q\x00.",  # a list
        b"\x80\x02}U\x01x",  # cut short
        b"",
    ],
)
def test_whatever_is_not_plain_data_is_refused(tmp_path: Path, attack: bytes):
    path = tmp_path / "batch"
    path.write_bytes(attack)
    with pytest.raises(ValueError, match="batch"):
        load_plain_pickle(path)


@pytest.mark.parametrize("put", [b"r" + struct.pack("<I", 1 << 26), b"p%d\n" % (1 << 26), b"p-1\n"])
def test_a_pickle_cannot_ask_for_a_table_of_any_size(tmp_path: Path, put: bytes):
    # A dozen bytes would have the unpickler allocate a gigabyte, or with a larger number all there
    # is.
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02}" + put + b".")
    with pytest.raises(ValueError, match="batch: .*numbers a value"):
        load_plain_pickle(path)


def test_an_array_larger_than_its_bytes_is_refused(tmp_path: Path):
    batch = python2_batch(pixels(2), [0, 1]).replace(struct.pack("<i", 3072), b"\x00\x10\x00\x00")
    write_cifar_python(tmp_path, batch)
    with pytest.raises(ValueError, match="test_batch.*cannot reshape"):
        load_dataset("cifar10", tmp_path)


def test_labels_out_of_range_are_left_out_and_counted(tmp_path: Path):
    images = pixels(4)
    write_cifar10_binary(tmp_path, images, [3, 10, 9, 255])
    data = load_dataset("cifar10", tmp_path)
    assert (data.labels.tolist(), data.skipped) == ([3, 9], 2)
    assert data.names == ("0", "2")
    assert data.unreadable["3"] == "label 255 is outside [0, 10)"
    assert np.array_equal(shown(data), images[[0, 2]])
    with pytest.raises(UnreadableImageError, match="2 images are not usable; 1: label 10"):
        load_dataset("cifar10", tmp_path, on_error="raise")


def test_a_cut_binary_file_is_refused(tmp_path: Path):
    write_cifar10_binary(tmp_path, pixels(2), [0, 1])
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="6145 bytes are no whole number of 3073-byte records"):
        load_dataset("cifar10", tmp_path)


def test_a_missing_list_of_class_names_is_told(tmp_path: Path):
    write_cifar10_binary(tmp_path, pixels(2), [0, 1])
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").unlink()
    with pytest.raises(FileNotFoundError, match="batches.meta.txt of cifar10 is missing: unpack"):
        load_dataset("cifar10", tmp_path)


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_fashion_mnist(folder: Path, images: np.ndarray, labels: np.ndarray, *, zipped: bool):
    folder.mkdir(parents=True)
    for split in ("t10k", "train"):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(array)
            path = folder / f"{split}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_is_read_as_torchvision_does(tmp_path: Path, zipped: bool):
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([9, 0, 3, 3, 7], np.uint8)
    write_fashion_mnist(tmp_path / "FashionMNIST" / "raw", images, labels, zipped=zipped)
    data = load_dataset("fashion-mnist", tmp_path)
    assert data.labels.tolist() == labels.tolist()
    assert np.array_equal(shown(data), np.repeat(images[:, None], 3, axis=1))
    if not zipped:
        expected = datasets.FashionMNIST(tmp_path, train=False)
        assert torch.equal(expected.targets, data.labels)
        assert tuple(expected.classes) == data.classes
        assert np.array_equal(expected.data.numpy(), shown(data)[:, 0])


@pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not there"
)
def test_debians_fashion_mnist_has_a_thousand_test_images_of_each_class():
    data = load_dataset("fashion-mnist")
    assert data.labels.bincount().tolist() == [1000] * 10
    assert data[0][0].shape == (3, 28, 28)
    assert data.classes[data.labels[0]] == "Ankle boot"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "compressed file is damaged|cut short"),
        (lambda content: b"\x1f\x8b" + content, "damaged|not an IDX"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "cut short or damaged"),
        (lambda content: gzip.compress(b"\0\0\x0d\x03"), "not an IDX file of 8-bit numbers"),
        (lambda content: gzip.compress(idx(np.zeros((4, 28, 28), np.uint8))), "do not fit"),
        (lambda content: b"", "not an IDX|damaged"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, damage, message: str):
    labels = np.zeros(5, np.uint8)
    write_fashion_mnist(tmp_path / "f", np.zeros((5, 28, 28), np.uint8), labels, zipped=True)
    path = tmp_path / "f" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        load_dataset("fashion-mnist", tmp_path / "f")


def test_no_more_is_decompressed_than_the_header_states(tmp_path: Path):
    labels = np.zeros(5, np.uint8)
    write_fashion_mnist(tmp_path / "f", np.zeros((5, 28, 28), np.uint8), labels, zipped=True)
    path = tmp_path / "f" / "t10k-images-idx3-ubyte.gz"
    with gzip.open(path, "ab", compresslevel=1) as file:
        for _ in range(128):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 3920 bytes follow the header"):
            load_dataset("fashion-mnist", tmp_path / "f")
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12))
    with pytest.raises(ValueError, match="above the limit"):
        load_dataset("fashion-mnist", tmp_path / "f")


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    train, test = load_dataset("digits", split="train"), load_dataset("digits")
    assert (len(train), len(test)) == (1000, 797)
    assert torch.cat([train.labels, test.labels]).tolist() == labels.tolist()
    expected = torch.from_numpy(images[1003] / 16).float().view(8, 8)
    assert test[3][0][1] == pytest.approx(expected, abs=1.001 / 510)


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


# Indices of ImageNet-1k that everybody knows: tench, tabby cat, golden retriever, pizza.
IMAGENET_INDICES = {"n01440764": 0, "n02123045": 281, "n02099601": 207, "n07873807": 963}


def test_imagenets_classes_keep_their_indices_in_a_subset(tmp_path: Path):
    for seed, name in enumerate(IMAGENET_INDICES):
        save(tmp_path / "val" / name / f"ILSVRC2012_val_{seed:08d}.JPEG", picture(seed=seed))
    data = load_dataset("imagenet", tmp_path)
    folders = [name.split("/")[0] for name in data.names]
    assert dict(zip(folders, data.labels.tolist(), strict=True)) == IMAGENET_INDICES
    assert len(data.classes) == 1000
    assert data.classes[207] == "golden retriever"


def test_a_folder_that_is_no_imagenet_class_is_named(tmp_path: Path):
    save(tmp_path / "val" / "cats" / "a.png", picture())
    with pytest.raises(ValueError, match="cats: the folder's name is no WordNet id.*'folder'"):
        load_dataset("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("val.txt", "b.JPEG 281\na.JPEG 0\n"),
        ("val.txt", "val/b.JPEG n02123045\nval/a.JPEG n01440764\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nb,n02123045 1 2 3 4 n02123045 5 6 7 8 \n"
            "a,n01440764 1 2 3 4\n",
        ),
    ],
)
def test_a_flat_imagenet_folder_is_read_with_its_list(tmp_path: Path, name: str, content: str):
    for seed, file in enumerate(("a", "b", "unlisted")):
        save(tmp_path / "val" / f"{file}.JPEG", picture(seed=seed))
    (tmp_path / name).write_text(content)
    for labels in (None, tmp_path / name):
        data = load_dataset("imagenet", tmp_path, labels=labels)
        assert dict(zip(data.names, data.labels.tolist(), strict=True)) == {
            "a.JPEG": 0,
            "b.JPEG": 281,
        }


def test_listed_images_that_are_missing_or_out_of_range_are_left_out(tmp_path: Path):
    for file in "ab":
        save(tmp_path / "val" / f"{file}.JPEG", picture())
    (tmp_path / "val.txt").write_text("a.JPEG 1000\nb.JPEG 999\nc.JPEG 5\n")
    data = load_dataset("imagenet", tmp_path)
    assert (data.labels.tolist(), data.skipped) == ([999], 2)
    assert "label 1000, outside [0, 1000)" in data.unreadable["a.JPEG"]
    assert "is not in" in data.unreadable["c.JPEG"]
    with pytest.raises(UnreadableImageError, match="2 images"):
        load_dataset("imagenet", tmp_path, on_error="raise")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("490\n361\n", "whose numbers are not the indices"),
        ("a.JPEG 1 2\n", "'a.JPEG 1 2' is not a file name and its label"),
        ("", "lists no image"),
        (None, "neither class folders nor a list"),
    ],
)
def test_lists_that_are_not_understood_are_refused(tmp_path: Path, content, message: str):
    save(tmp_path / "val" / "a.JPEG", picture())
    if content is not None:
        (tmp_path / "val.txt").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_dataset("imagenet", tmp_path)


def test_a_folder_of_classes_is_read_as_torchvision_does(tmp_path: Path):
    for seed, name in enumerate(("b/2.png", "b/1.jpg", "a/x.bmp", "c/deep/y.PNG")):
        save(tmp_path / name, picture(seed=seed))
    (tmp_path / "b" / "notes.txt").write_text("no image")
    expected = datasets.ImageFolder(tmp_path)
    data = load_dataset("folder", tmp_path)
    assert list(data.classes) == expected.classes
    paths = [Path(path).relative_to(tmp_path).as_posix() for path, _ in expected.samples]
    assert list(data.names) == paths
    assert data.labels.tolist() == expected.targets
    for index, (image, _) in enumerate(expected):
        assert torch.equal(data[index][0], transforms.functional.to_tensor(image))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("square", [False, True])
def test_preprocessing_is_that_of_torchvisions_transforms(
    tmp_path: Path, interpolation: str, square: bool
):
    save(tmp_path / "a" / "odd.png", picture(width=61, height=47))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    preprocessing = Preprocessing(
        size=32,
        crop=28,
        mean=mean,
        std=std,
        interpolation=interpolation,
        resize="square" if square else "short",
    )
    expected = transforms.Compose(
        [
            transforms.Resize(
                (32, 32) if square else 32, transforms.InterpolationMode(interpolation)
            ),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )(Image.open(tmp_path / "a" / "odd.png"))
    image, _ = load_dataset("folder", tmp_path, preprocessing=preprocessing)[0]
    assert image.shape == (3, 28, 28)
    assert torch.allclose(image, expected, atol=1e-6)


def test_grey_palette_and_transparent_images_are_shown_in_colour(tmp_path: Path):
    colour = picture()
    for mode in ("L", "1", "P", "RGBA", "LA", "CMYK"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        colour.convert(mode).save(path)
        read = read_image(path)
        assert (read.mode, read.size) == ("RGB", colour.size)
    grey = np.asarray(read_image(tmp_path / "L.png"))
    assert np.array_equal(grey, np.repeat(np.asarray(colour.convert("L"))[..., None], 3, axis=2))


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path):
    # Black, white, and what lies between.
    values = np.array([[0, 257, 128 * 257, 65535, 65535 - 257]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = np.asarray(read_image(tmp_path / "deep.png"))
    assert read[0, :, 0].tolist() == [0, 1, 128, 255, 254]


def damaged(folder: Path) -> dict[str, Path]:
    """Files that are no usable image."""
    picture().save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    contents = {
        "empty.png": b"",
        "text.jpg": b"this is no image",
        "cut.png": whole[: len(whole) // 2],
        "flipped.png": whole[:40] + bytes(255 - byte for byte in whole[40:200]) + whole[200:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tif")
    (folder / "whole.png").unlink()
    return {name: folder / name for name in (*contents, "float.tif")}


def test_damaged_images_are_named_with_the_reason(tmp_path: Path):
    for name, path in damaged(tmp_path).items():
        with pytest.raises(UnreadableImageError, match=name):
            read_image(path)


def test_a_missing_file_is_no_damaged_image(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "absent.png")


def test_a_limit_is_spread_over_the_classes(tmp_path: Path):
    for name in "abc":
        for seed in range(4):
            save(tmp_path / name / f"{seed}.png", picture(seed=seed))
    assert load_dataset("folder", tmp_path, limit=3).labels.tolist() == [0, 1, 2]
    assert len(load_dataset("folder", tmp_path, limit=50)) == 12
    with pytest.raises(ValueError, match="limit=0 is below 1"):
        load_dataset("folder", tmp_path, limit=0)


def test_the_fingerprint_tells_contents_and_not_places(tmp_path: Path):
    def fingerprint(folder: str, **changes) -> str:
        root = tmp_path / folder / "set"
        settings = {"seed": 0, "name": "x.png", "label": "a"} | changes
        save(root / "b" / "y.png", picture(seed=5))
        save(root / settings["label"] / settings["name"], picture(seed=settings["seed"]))
        (root / "a").mkdir(exist_ok=True)
        return load_dataset("folder", root).fingerprint

    first = fingerprint("first")
    assert fingerprint("second") == first
    assert fingerprint("third", seed=1) != first
    assert fingerprint("fourth", name="z.png") != first
    assert fingerprint("fifth", label="b") != first


def test_one_changed_pixel_changes_the_fingerprint(tmp_path: Path):
    images = pixels(2)
    write_cifar10_binary(tmp_path / "one", images, [0, 1])
    images[1, 2, 31, 31] ^= 1
    write_cifar10_binary(tmp_path / "two", images, [0, 1])
    one, two = (load_dataset("cifar10", tmp_path / name) for name in ("one", "two"))
    assert one.fingerprint != two.fingerprint


def test_empty_folders_are_refused(tmp_path: Path):
    (tmp_path / "val").mkdir()
    for name in ("folder", "imagenet"):
        with pytest.raises(FileNotFoundError, match="is empty of images"):
            load_dataset(name, tmp_path, split="val")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_dataset("folder", tmp_path / "absent")
    for name in ("cifar10", "cifar100", "fashion-mnist"):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            load_dataset(name, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, "dataset='cifar' is no data set; did you mean 'cifar10'"),
        ({"name": "digits", "split": "val"}, "split='val': digits has the splits test and train"),
        ({"name": "cifar10"}, "data_root=None: give the folder in which cifar10 lies"),
        ({"name": "digits", "on_error": "stop"}, "on_error='stop' is neither"),
        ({"name": "digits", "labels": "list.txt"}, "only imagenet"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_dataset(**arguments)


def test_the_names_that_are_checked_before_torch_is_imported_are_those_that_load():
    assert tuple(classification._LOADERS) == CLASSIFICATION
