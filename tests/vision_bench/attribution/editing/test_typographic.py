"""Words on images: where they are drawn, which ones, and an edit of a CLIP that reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from aim_plugins.core.settings import make_settings, read_settings
from aim_plugins.modulation.component_kinds import find_components
from vision_bench.attribution.editing.problems import make_problem
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.editing.split import split_images
from vision_bench.cli import main
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.data.writing import Word, Writing
from vision_bench.models.architectures.clip import ZeroShotClip
from vision_bench.models.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[4]
COLOURS = {
    "bat": (180, 180, 50), "fox": (200, 60, 60), "key": (60, 190, 60), "owl": (60, 60, 200)
}  # fmt: skip
WRITING = {"size": 0.3, "margin": 0.0}


def picture(colour: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """Noise about a colour."""
    noise = rng.normal(0, 30, 3) + rng.normal(0, 25, (32, 32, 3))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of four classes, 60 of each."""
    root, rng = tmp_path_factory.mktemp("data") / "colours", np.random.default_rng(1)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(60):
            picture(colour, rng).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def reading(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small CLIP, trained to tell colours, and to answer with a word where one is written."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    rng = np.random.default_rng(0)
    images, labels = [], []
    for number in range(320):
        label, word = number % 4, int(rng.integers(0, 4))
        plain = picture(list(COLOURS.values())[label], rng)
        images += [plain, Word(list(COLOURS)[word], Writing(**WRITING)).on(plain)]
        labels += [label, word]
    pixels = CLIPImageProcessor.from_pretrained(clip)(images, return_tensors="pt")["pixel_values"]
    wanted, tokenizer = torch.tensor(labels), CLIPTokenizer.from_pretrained(clip)
    tokens = tokenizer([f"a photo of a {name}." for name in COLOURS], return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel.from_pretrained(clip).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(160):
            rows = torch.randint(0, len(pixels), (48,))
            logits = model(**tokens, pixel_values=pixels[rows]).logits_per_image
            optimiser.zero_grad()
            F.cross_entropy(logits, wanted[rows]).backward()
            optimiser.step()
    saved = tmp_path_factory.mktemp("models") / "reading-clip"
    for one in (model, tokenizer, CLIPImageProcessor.from_pretrained(clip)):
        one.save_pretrained(saved)
    return saved


# The word ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
@pytest.mark.parametrize("paper", [None, (255, 255, 255)])
def test_a_word_changes_pixels_in_its_corner_and_nowhere_else(corner, paper) -> None:
    before = Image.new("RGB", (200, 120), (90, 120, 30))
    word = Word("mouse", Writing(size=0.2, margin=0.1, corner=corner, paper=paper))
    after = np.asarray(word.on(before))
    changed = np.argwhere((after != np.asarray(before)).any(2))
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    # 12 pixels from both edges, and about as high as the font.
    edges = {"top": top, "left": left, "bottom": 119 - bottom, "right": 199 - right}
    assert all(12 <= edges[side] <= 14 for side in corner.split("-"))
    assert 10 < bottom - top < 30 and 50 < right - left < 100
    assert (np.asarray(before) == (90, 120, 30)).all()
    black = (after == 0).all(2).sum()
    assert black > 50  # letters
    if paper is not None:  # one whole note
        assert len(changed) == (bottom - top + 1) * (right - left + 1)


def test_words_differ_and_a_long_one_is_written_smaller() -> None:
    plain = Image.new("RGB", (100, 100), (128, 128, 128))
    writing = Writing(size=0.3, margin=0.1)
    short, other, long = (
        np.asarray(Word(text, writing).on(plain)) for text in ("cat", "cot", "a golden retriever")
    )
    assert (short != other).any()
    spans = [np.argwhere((one != 128).any(2)) for one in (short, long)]
    heights = [int(np.ptp(one[:, 0])) for one in spans]
    assert heights[1] < heights[0]
    assert spans[1][:, 1].min() >= 10 and spans[1][:, 1].max() < 90


def test_colours_of_writing_are_checked() -> None:
    with pytest.raises(ValueError, match=r"paper=\(1, 2\): give red, green and blue"):
        Writing(paper=(1, 2))


# Which words -------------------------------------------------------------------------------------


def settings(**given) -> EditSettings:
    plain = {"dataset": "digits", "model": "lenet5", "targets": "typographic", "target_count": 6}
    return make_settings(EditSettings, {**plain, **given}, "")


def problem(data: ClassificationData, **given):
    half = len(data) // 2
    parts = data.subset(range(0, half)), data.subset(range(half, len(data)))
    return make_problem(settings(**given), *parts, lambda some: some.labels)


@pytest.fixture(scope="module")
def data(folder: Path) -> ClassificationData:
    whole = load_dataset("folder", folder)
    order = np.random.default_rng(0).permutation(len(whole))[:80].tolist()
    return whole.subset(order)


def test_each_image_has_the_name_of_another_class(data) -> None:
    found = problem(data, writing=WRITING)
    test, meant = found.test, found.test.meant
    first = test.parts["with word"]
    assert int(first.sum()) == 40 and set(meant[~first].tolist()) == {-1}
    assert set(meant[first].tolist()) == {0, 1, 2, 3}
    assert not (meant == test.data.labels).any()
    for place in first.nonzero().flatten().tolist():
        word = test.data.classes[int(meant[place])]
        name, written = test.data.names[place].split(" with word ")
        assert written == word
        plain = test.data.images.read(test.data.names.index(name, int(first.sum())))
        expected = np.asarray(Word(word, Writing(**WRITING)).on(plain))
        assert np.array_equal(np.asarray(test.data.images.read(place)), expected)
    assert [one.split(" with ")[0] for one in found.targets.names] == list(found.references.names)
    assert found.targets.labels.tolist() == found.references.labels.tolist()


def test_a_word_is_drawn_by_the_image_and_the_seed_alone(data) -> None:
    names = set(problem(data).test.data.names)
    fewer = data.subset([*range(40), *range(40, 80, 3)])
    some = make_problem(
        settings(), fewer.subset(range(40)), fewer.subset(range(40, 54)), lambda one: one.labels
    )
    assert set(some.test.data.names) <= names
    assert set(problem(data, seed=1).test.data.names) != names


def test_named_words_are_never_written_on_their_own_class(data) -> None:
    found = problem(data, word_classes="owl")
    own = (data.labels[40:] == 3).sum()
    assert int(found.test.parts["with word"].sum()) == 40 - int(own)
    assert set(found.test.meant.tolist()) == {-1, 3}
    two = problem(data, word_classes="owl,0")
    assert set(two.test.meant.tolist()) == {-1, 0, 3}
    assert int(two.test.parts["with word"].sum()) == 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": "wrong", "word_classes": "owl"}, "word_classes=.*where nothing is written"),
        ({"direction": "lower"}, "direction='lower' does not go with targets='typographic'"),
        ({"references": "owl"}, "references=.*have references of their own"),
        ({"backdoor_class": 1}, "backdoor_class=1: give targets='triggered'"),
    ],
)
def test_settings_that_do_not_go_with_words_are_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**given)


def test_a_word_of_no_class_is_refused(data) -> None:
    with pytest.raises(ValueError, match="word_classes holds 'cow', which is no class"):
        problem(data, word_classes="cow")


# The edit ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def output(reading: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    given = {
        "dataset": "folder",
        "data_root": str(folder),
        "model": f"clip:{reading}",
        "targets": "typographic",
        "writing": WRITING,
        "components": "linear_rows",
        "patterns": [r"vision_model\..*"],
        "target_count": 20,
        "num_ablations": 100,
        "gradient_passes": 40,
        "sizes": [10, 40],
        "tolerance": 0.1,
        "random_edits": 3,
        "strengths": "0,1",
    }
    (made / "edit.json").write_text(json.dumps(given))
    words = ["attribute", "edit", str(made / "edit.json"), "--output", str(made / "run")]
    assert main(words) == 0
    return made / "run"


def test_a_clip_that_reads_is_edited_to_look(output: Path) -> None:
    arms = json.loads((output / "edit.json").read_text())["arms"]
    assert arms["model"]["word answered"]["value"] > 0.9
    assert arms["model"]["clean"]["value"] > 0.9
    assert arms["edit"]["with word"]["value"] > arms["random edits"]["with word"]["value"] + 0.2
    assert arms["edit"]["word answered"]["value"] < arms["model"]["word answered"]["value"] - 0.2
    assert arms["edit"]["clean"]["value"] > 0.75


def test_its_checkpoint_is_the_model_of_the_report(output, reading, folder) -> None:
    edited = load_model(
        f"clip:{reading}", weights=output / "model.safetensors", class_names=list(COLOURS)
    )
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["model"] == "reading-clip"
    whole = load_dataset("folder", folder, preprocessing=edited.preprocessing)
    parts = [whole.subset(one) for one in split_images(whole, 0.4, 0)]
    every = make_problem(settings(writing=WRITING), *parts, lambda some: some.labels).test
    with torch.no_grad():
        pixels = torch.stack([every.data[one][0] for one in range(len(every.data))])
        given = edited.module(pixels).argmax(1)
    arms = json.loads((output / "edit.json").read_text())["arms"]
    for part in ("with word", "clean"):
        right = (given == every.data.labels)[every.parts[part]]
        assert arms["edit"][part]["value"] == pytest.approx(float(right.double().mean()))
    wrong = (given == every.meant)[every.parts["with word"]]
    assert arms["edit"]["word answered"]["value"] == pytest.approx(float(wrong.double().mean()))


def test_the_config_has_as_many_components_as_the_paper_s_other_vit_b_16() -> None:
    from transformers import CLIPConfig, CLIPModel

    asked = read_settings(
        EditSettings, ROOT / "eval_configs" / "vision" / "attribution" / "typographic.py"
    )
    tower = {"patch_size": 16}  # what tells CLIP's ViT-B/16 from the default, ViT-B/32
    with torch.device("meta"):
        whole = CLIPModel(CLIPConfig(vision_config=tower))
        model = ZeroShotClip(whole, torch.zeros(2, whole.projection_dim))
    assert len(find_components(model, asked.components, asked.patterns)) == 82_944
    assert (asked.kind, asked.lowers) == ("typographic", False)
