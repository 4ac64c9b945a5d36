"""The vision demo: its cache, its scenes, and that its models learn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aim_plugins.core.settings import read_settings
from vision_bench.classification.settings import ClassifySettings, TopClassesSettings
from vision_bench.demo import photographs
from vision_bench.demo import train_classifier as train_classifier_module
from vision_bench.demo.command import main
from vision_bench.demo.names import WORDS, resolve
from vision_bench.demo.scenes import (
    SILHOUETTE,
    TEXTURES,
    Objects,
    Pasted,
    ScenesRecipe,
    compose_scene,
    load_objects,
    paste,
    write_scenes,
)
from vision_bench.demo.store import is_whole, make_once, read_record
from vision_bench.demo.train_classifier import (
    LENET5,
    ClassifierRecipe,
    accuracy,
    train_classifier,
)
from vision_bench.demo.train_segmenter import SegmenterRecipe, mean_iou, train_segmenter
from vision_bench.segmentation.settings import SegmentSettings

CONFIGS = Path(__file__).resolve().parents[3] / "eval_configs" / "vision"
SCENES = ScenesRecipe("digits", {"training": 32, "validation": 8}, side=64, objects=(1, 2))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AIM_PLUGINS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Writes two files and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> dict[str, float]:
        self.calls += 1
        (folder / "part").mkdir()
        (folder / "part" / "a.bin").write_bytes(b"weights")
        (folder / "b.txt").write_text("names")
        return {"accuracy": 0.5}


# The cache ------------------------------------------------------------------------------------


def test_what_was_made_once_is_found_again():
    make = Maker()
    folders = {make_once("thing", {"version": 1}, make) for _ in range(3)}
    assert make.calls == 1
    (folder,) = folders
    assert read_record(folder)["notes"] == {"accuracy": 0.5}
    assert (folder / "part" / "a.bin").read_bytes() == b"weights"


def test_another_recipe_is_made_beside_the_first():
    make = Maker()
    first, second = (make_once("thing", {"version": v}, make) for v in (1, 2))
    assert first != second
    assert make.calls == 2
    assert is_whole(first) and is_whole(second)


@pytest.mark.parametrize("file", ["part/a.bin", "b.txt", "record.json"])
@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_damaged_cache_is_made_again(file, damage):
    make = Maker()
    folder = make_once("thing", {}, make)
    path = folder / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        # Of the same size: a size alone would not tell.
        path.write_bytes(content[:-3] if damage == "truncated" else content[:-3] + b"xyz")
    assert not is_whole(folder)
    assert make_once("thing", {}, make) == folder
    assert make.calls == 2
    assert (folder / "part" / "a.bin").read_bytes() == b"weights"


def test_a_failure_leaves_nothing_that_looks_finished(cache):
    def fail(folder):
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_once("thing", {}, fail)
    assert [path.name for path in (cache / "vision").iterdir()] == ["thing.lock"]


MAKE = """
import os, signal, sys
from vision_bench.demo.store import make_once

def make(folder):
    with open(os.environ["LOG"], "a") as log:
        log.write("made\\n")
    (folder / "a").write_text("whole")
    if os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {}

print(make_once("thing", {}, make))
"""


def start(log: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKE],
        env={**os.environ, "LOG": str(log), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_make_it_once_and_a_kill_leaves_no_folder(tmp_path, cache):
    log = tmp_path / "log"
    killed = start(log, KILLED="1")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert list((cache / "vision").glob(".partial-*"))
    both = [start(log) for _ in range(2)]
    answers = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(answers) == 1
    assert log.read_text() == "made\nmade\n"
    assert not list((cache / "vision").glob(".partial-*"))


# Scenes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_to_paste() -> Objects:
    return load_objects("digits", "training")


def test_scenes_repeat_and_differ_by_number_split_and_seed(digits_to_paste):
    scene = compose_scene(SCENES, digits_to_paste, "training", 3)
    again = compose_scene(SCENES, digits_to_paste, "training", 3)
    np.testing.assert_array_equal(scene.image, again.image)
    np.testing.assert_array_equal(scene.labels, again.labels)
    others = [
        compose_scene(SCENES, digits_to_paste, "training", 4),
        compose_scene(SCENES, digits_to_paste, "validation", 3),
        compose_scene(
            ScenesRecipe("digits", side=64, objects=(1, 2), seed=1), digits_to_paste, "training", 3
        ),
    ]
    assert all((other.image != scene.image).mean() > 0.5 for other in others)


def test_a_pasted_object_gets_its_class_where_it_is_brighter_than_the_silhouette():
    grey = np.zeros((4, 4), np.uint8)
    grey[1, 2], grey[3, 0], grey[0, 0] = 255, SILHOUETTE + 1, SILHOUETTE
    image, labels = np.full((8, 8, 3), 7.0), np.zeros((8, 8), np.uint8)
    paste(image, labels, grey, Pasted(5, 0, top=2, left=3, side=4, tint=(1.0, 0.5, 0.0)))
    assert np.argwhere(labels == 5).tolist() == [[3, 5], [5, 3]]
    assert (labels[labels != 5] == 0).all()
    assert image[3, 5].tolist() == [255.0, 127.5, 0.0]
    assert (image[labels == 0] == 7).all()


def test_labels_of_a_scene_are_those_of_the_objects_pasted_last_and_textures_elsewhere(
    digits_to_paste,
):
    from PIL import Image

    seen = set()
    for number in range(20):
        scene = compose_scene(SCENES, digits_to_paste, "training", number)
        owner = np.full(scene.labels.shape, -1)
        for index, item in enumerate(scene.pasted):
            assert digits_to_paste.classes[item.source] == item.class_index
            grey = Image.fromarray(digits_to_paste.images[item.source])
            scaled = np.asarray(grey.resize((item.side, item.side), Image.Resampling.BILINEAR))
            for row, column in np.argwhere(scaled > SILHOUETTE):
                owner[item.top + row, item.left + column] = index
        assert (scene.labels[owner == -1] < len(TEXTURES)).all()
        for index, item in enumerate(scene.pasted):
            own = owner == index
            assert (scene.labels[own] == item.class_index).all()
            if own.sum() < 30:
                continue
            # A tint is a colour times a brightness, so the mean colour has the tint's proportions.
            colour = scene.image[own].mean(0)
            np.testing.assert_allclose(
                colour / colour.max(), np.array(item.tint) / max(item.tint), atol=0.03
            )
            seen.add(item.class_index)
    assert seen == set(range(len(TEXTURES), len(SCENES.classes)))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, SCENES)
    return folder


def test_written_scenes_are_read_back_by_the_reader_of_real_data(scenes, digits_to_paste):
    from vision_bench.data.segmentation import load_segmentation_dataset

    data = load_segmentation_dataset("folder", scenes, split="training")
    assert (len(data), data.classes) == (32, SCENES.classes)
    image, labels, name = data[5]
    scene = compose_scene(SCENES, digits_to_paste, "training", 5)
    assert name == "images/training/scene_0005.png"
    np.testing.assert_array_equal(labels.numpy(), scene.labels)
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy() * 255, scene.image, atol=1e-3)


def test_training_and_validation_scenes_show_different_objects():
    training, validation = (load_objects("digits", split) for split in ("training", "validation"))
    shown = {image.tobytes() for image in training.images}
    assert not shown & {image.tobytes() for image in validation.images}


# Training -------------------------------------------------------------------------------------


def test_the_classifier_learns_from_a_few_digits_and_repeats_itself():
    from vision_bench.data.classification import load_dataset

    recipe = ClassifierRecipe("digits", images=500, epochs=8, flip=False, batch_size=50)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model, again = (train_classifier(recipe, progress=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    data = load_dataset("digits", preprocessing=model.preprocessing, limit=300)
    # Chance is 0.1.
    assert accuracy(model.module, data) > 0.8
    state = again.module.state_dict()
    for key, value in model.module.state_dict().items():
        torch.testing.assert_close(state[key], value)


def test_lenet_is_made_once_and_loads_without_being_told_how_images_were_prepared(monkeypatch):
    from vision_bench.data.classification import load_dataset
    from vision_bench.models.load import load_model

    recipe = ClassifierRecipe(
        "digits", images=500, epochs=10, flip=False, batch_size=50, learning_rate=0.05
    )
    monkeypatch.setattr(train_classifier_module, "dataset_name", lambda: "digits")
    monkeypatch.setattr(train_classifier_module, "dataset_root", lambda: None)
    monkeypatch.setitem(LENET5.recipes, "digits", recipe)
    path = Path(resolve("demo:lenet5"))
    model = load_model("lenet5", weights=path)
    data = load_dataset("digits", preprocessing=model.preprocessing)
    notes = read_record(path.parent)["notes"]
    assert notes == {"accuracy": accuracy(model.module, data), "images": len(data)}
    # Chance is 0.1.
    assert notes["accuracy"] > 0.8


def test_trained_weights_are_loaded_as_a_published_checkpoint(tmp_path):
    from safetensors.torch import save_file

    from vision_bench.models.load import load_model

    recipe = ClassifierRecipe("digits", images=64, epochs=1, flip=True, batch_size=32)
    model = train_classifier(recipe, progress=False)
    save_file(model.module.state_dict(), tmp_path / "model.safetensors")
    made = {"demo:dataset": "digits", "demo:data-root": None}
    config = CONFIGS / "demo_fashion_mnist.py"
    settings = read_settings(ClassifySettings, config, resolve=lambda one: made.get(str(one), one))
    loaded = load_model(
        "cifar10_resnet20",
        weights=tmp_path / "model.safetensors",
        preprocessing=settings.preprocessing,
    )
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.module(image), model.module(image))
    assert loaded.preprocessing == model.preprocessing


def test_the_segmenter_learns_and_is_loaded_as_any_other_folder(scenes, tmp_path):
    from vision_bench.data.segmentation import load_segmentation_dataset
    from vision_bench.models.load import load_model

    train_segmenter(scenes, tmp_path, SegmenterRecipe("digits", epochs=12), progress=False)
    model = load_model(str(tmp_path))
    assert (model.task, model.classes, model.preprocessing.size) == ("segmentation", 8, 64)
    data = load_segmentation_dataset(
        "folder", scenes, split="validation", preprocessing=model.preprocessing
    )
    # Calling every pixel by the commonest class reaches less than 1/8.
    assert mean_iou(model, data) > 0.2


# Words in configs -----------------------------------------------------------------------------


def test_only_words_of_the_demo_are_replaced():
    assert [resolve(value) for value in ("hub", None, 3, ["demo:scenes"])] == [
        "hub",
        None,
        3,
        ["demo:scenes"],
    ]
    with pytest.raises(ValueError, match="'demo:resnet' is none of demo:dataset, .*demo:resnet20"):
        resolve("demo:resnet")


def test_without_fashion_mnist_digits_take_its_place(monkeypatch, cache, tmp_path):
    monkeypatch.setattr(
        "vision_bench.data.classification.DEBIAN_FASHION_MNIST", tmp_path / "absent"
    )
    assert (resolve("demo:dataset"), resolve("demo:data-root")) == ("digits", None)
    # torchvision's layout, in the cache folder.
    (cache / "FashionMNIST" / "raw").mkdir(parents=True)
    assert resolve("demo:dataset") == "fashion-mnist"
    assert resolve("demo:data-root") == str(cache)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("demo_*.py")), ids=lambda path: path.stem)
def test_demo_configs_are_read_by_their_commands(config):
    made = {f"demo:{name}": f"/made/{name}" for name in WORDS}
    made |= {"demo:data-root": None, "demo:dataset": "digits"}
    kinds = {"demo_fashion_mnist": ClassifySettings, "demo_efficientnet": TopClassesSettings}
    kind = kinds.get(config.stem, SegmentSettings)
    settings = read_settings(kind, config, resolve=lambda value: made.get(str(value), value))
    assert "demo:" not in repr(settings)
    assert "/made/" in repr(settings)


def test_the_photographs_are_copied_from_their_packages(monkeypatch):
    from vision_bench.data.images import read_image

    folder = Path(resolve("demo:photographs"))
    assert read_image(folder / "chelsea.png").size == (451, 300)
    monkeypatch.setattr(photographs, "_PHOTOGRAPHS", {"no_such_package/data": ("a.png",)})
    with pytest.raises(ImportError, match="pip install scikit-image"):
        photographs.photographs_folder()


def test_demo_models_prints_one_path_alone(capsys, monkeypatch):
    assert main(["photographs"]) == 0
    printed = capsys.readouterr().out
    assert Path(printed.removesuffix("\n")).is_dir()
    shutil.rmtree(printed.strip())
