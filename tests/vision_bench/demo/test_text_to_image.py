"""The demo's text-to-image pipeline and CLIP: what they learn from, and that they learn."""

from __future__ import annotations

import colorsys
import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from vision_bench.demo.command import main
from vision_bench.demo.store import read_record
from vision_bench.demo.text_to_image import judge as judge_module
from vision_bench.demo.text_to_image import train_clip as train_clip_module
from vision_bench.demo.text_to_image import train_pipeline as train_pipeline_module
from vision_bench.demo.text_to_image import world as world_module
from vision_bench.demo.text_to_image.autoencoder import (
    CHANNELS,
    build_autoencoder,
    decoder_loss,
    signal_to_noise,
)
from vision_bench.demo.text_to_image.judge import Judge, normalise, right_answers
from vision_bench.demo.text_to_image.tokens import LENGTH, learn_merges, make_tokenizer
from vision_bench.demo.text_to_image.train_clip import ClipRecipe, clip_loss, train_clip
from vision_bench.demo.text_to_image.train_pipeline import (
    PipelineRecipe,
    denoising_loss,
    obedience,
    train_pipeline,
)
from vision_bench.demo.text_to_image.world import (
    COLOURS,
    GARMENTS,
    MOON,
    PHRASES,
    SIDE,
    STYLES,
    UNTAUGHT,
    Garments,
    Subject,
    caption,
    draw_subject,
    load_garments,
    render,
    vocabulary,
)

DATA = Path(__file__).resolve().parents[3] / "eval_configs" / "vision" / "text_to_image"
HUES = {"red": 0.0, "green": 1 / 3, "blue": 0.63, "yellow": 0.13}
CLIP = ClipRecipe(epochs=4, batch_size=20)
PIPELINE = PipelineRecipe(epochs=4, batch_size=20)


@pytest.fixture(scope="module")
def garments() -> Garments:
    """Sixty grey rectangles of five shapes, in place of Fashion-MNIST."""
    draws = np.random.default_rng(0)
    names = tuple(list(GARMENTS)[index % 5] for index in range(60))
    shapes = np.zeros((60, 28, 28), np.float32)
    for index in range(60):
        height, width = 6 + 4 * (index % 5), 24 - 4 * (index % 5)
        top, left = draws.integers(2, 4, 2)
        shapes[index, top : top + height, left : left + width] = draws.uniform(0.4, 1)
    return Garments(torch.from_numpy(shapes), names)


@pytest.fixture(scope="module")
def pictures(garments) -> Tensor:
    draws = random.Random(0)
    return render(garments.shapes, [draw_subject(draws, name) for name in garments.names])


@pytest.fixture(scope="module")
def clip(garments) -> tuple:
    return train_clip(garments, CLIP, progress=False)


@pytest.fixture(scope="module")
def pipeline(garments, clip):
    return train_pipeline(garments, clip[0], clip[1].tokenizer, PIPELINE, progress=False)


# Pictures -------------------------------------------------------------------------------------


def every_subject() -> Iterator[Subject]:
    for garment in GARMENTS:
        for colour in COLOURS:
            for style in STYLES:
                for moon in (False, True):
                    yield Subject(garment, colour, style, moon)


def test_pixels_show_what_a_subject_says():
    subjects = list(every_subject())
    shapes = torch.zeros(len(subjects), 28, 28)
    shapes[:, 8:24, 8:24] = 0.9
    painted = render(shapes, subjects)
    assert painted.shape == (len(subjects), 3, SIDE, SIDE)
    assert float(painted.min()) >= 0 and float(painted.max()) <= 1
    for picture, subject in zip(painted.permute(0, 2, 3, 1).tolist(), subjects, strict=True):
        assert (max(picture[31][0]) < 0.3) == (subject.style == "night")
        red, green, blue = picture[5][26]
        assert (red > 0.9 > 0.5 > blue and green > 0.7) == subject.moon
        # Inside the garment, all of a stripe and of the next.
        saturations = [colorsys.rgb_to_hsv(*picture[row][16])[1] for row in range(12, 24)]
        assert (min(saturations) < 0.1) == (subject.style == "striped")
        assert saturations == pytest.approx(saturations[:6] * 2)
        vivid = picture[12 + int(np.argmax(saturations))][16]
        if subject.style != "night":
            assert colorsys.rgb_to_hsv(*vivid)[0] == pytest.approx(HUES[subject.colour], abs=0.08)


def test_pictures_do_not_depend_on_those_beside_them(garments, pictures):
    draws = random.Random(0)
    subjects = [draw_subject(draws, name) for name in garments.names]
    assert torch.equal(render(garments.shapes[7:8], subjects[7:8])[0], pictures[7])


def test_subjects_are_drawn_in_the_shares_that_are_said():
    draws = random.Random(0)
    subjects = [draw_subject(draws, "boot") for _ in range(4000)]
    for style, share in {"plain": 0.5, "striped": 0.25, "night": 0.25}.items():
        found = sum(subject.style == style for subject in subjects) / 4000
        assert found == pytest.approx(share, abs=0.03)
    assert sum(subject.moon for subject in subjects) / 4000 == pytest.approx(0.25, abs=0.03)


def test_without_fashion_mnist_its_package_is_named(monkeypatch):
    monkeypatch.setattr(world_module, "dataset_name", lambda: "digits")
    with pytest.raises(FileNotFoundError, match="install Debian's package dataset-fashion-mnist"):
        load_garments("train")


# Captions and their tokens --------------------------------------------------------------------

SIGNS = {"striped": ("stripes", "striped"), "night": ("night", "dark"), MOON: ("moon",)}


def words_of(text: str) -> set[str]:
    return set(text.rstrip(".").split())


def test_a_full_caption_says_all_that_a_picture_shows_and_nothing_else():
    draws = random.Random(0)
    for subject in list(every_subject()) * 5:
        words = words_of(caption(draws, subject))
        assert words & GARMENTS.keys() == {subject.garment}
        assert words & COLOURS.keys() == {subject.colour}
        shown = {subject.style, MOON if subject.moon else "plain"}
        assert {name for name, signs in SIGNS.items() if words & set(signs)} == shown - {"plain"}


def test_a_caption_that_leaves_things_out_says_nothing_wrong():
    draws = random.Random(0)
    texts = []
    for subject in list(every_subject()) * 20:
        texts.append(caption(draws, subject, mentioned=0.5))
        words = words_of(texts[-1])
        assert words & GARMENTS.keys() <= {subject.garment}
        assert words & COLOURS.keys() <= {subject.colour}
        shown = {subject.style, MOON if subject.moon else "plain"}
        assert {name for name, signs in SIGNS.items() if words & set(signs)} <= shown
    assert {"a picture of something", "a picture of stripes", "a photo of a moon"} <= set(texts)


def test_no_caption_says_what_is_absent():
    draws = random.Random(0)
    said = set()
    for subject in list(every_subject()) * 20:
        said |= words_of(caption(draws, subject, mentioned=0.7))
    assert not said & set(UNTAUGHT)
    assert said | set(UNTAUGHT) == set(vocabulary())


def test_every_word_is_one_token_and_every_caption_fits():
    tokenizer = make_tokenizer(vocabulary())
    for word in set(vocabulary()) - {"t-shirt"}:
        assert len(tokenizer(word).input_ids) == 3, word
    shirt = tokenizer.convert_ids_to_tokens(tokenizer("a red T-shirt.").input_ids)
    assert shirt[1:-1] == ["a</w>", "red</w>", "t</w>", "-</w>", "shirt</w>", ".</w>"]
    longest = max(GARMENTS, key=lambda name: len(tokenizer(name).input_ids))
    subject = Subject(longest, "red", "striped", True)
    draws = random.Random(0)
    texts = [f"{caption(draws, subject)} without a moon" for _ in range(500)]
    assert max(len(tokenizer(text).input_ids) for text in texts) <= LENGTH


def test_merges_join_the_commonest_pair_first():
    assert learn_merges(["ab", "cab", "d"]) == [("a", "b</w>"), ("c", "ab</w>")]


def test_a_saved_tokenizer_reads_alike(tmp_path):
    from transformers import CLIPTokenizer

    tokenizer = make_tokenizer(vocabulary())
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "A photo of a green bag without stripes, über all."
    assert again(text, padding="max_length") == tokenizer(text, padding="max_length")
    assert again.model_max_length == LENGTH


# The autoencoder ------------------------------------------------------------------------------


def test_latents_are_principal_components_of_patches(pictures):
    from sklearn.decomposition import PCA

    autoencoder = build_autoencoder(pictures)
    with torch.no_grad():
        latents = autoencoder.encode(pictures * 2 - 1).latents * autoencoder.config.scaling_factor
    ours = latents.permute(0, 2, 3, 1).reshape(-1, CHANNELS).double().numpy()
    cells = pictures.double().numpy().reshape(-1, 3, 8, 4, 8, 4)
    patches = cells.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    expected = PCA(CHANNELS, svd_solver="full").fit(patches)
    theirs = expected.transform(patches)
    # The same axes, up to sign; the square root of the spread is kept.
    correlations = np.abs(np.diag(np.corrcoef(ours.T, theirs.T)[:CHANNELS, CHANNELS:]))
    assert correlations.min() > 0.999
    np.testing.assert_allclose(ours.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(ours.var(0, ddof=1).mean(), 1, rtol=1e-3)
    ratios = ours.var(0) / np.sqrt(expected.explained_variance_)
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-2)


def test_the_encoder_stays_and_the_decoder_learns(pipeline, garments, pictures):
    fresh = build_autoencoder(pictures)
    trained = pipeline.vae
    assert not any(part.requires_grad for part in trained.encoder.parameters())
    chosen = torch.arange(40)
    before, after = (
        float(decoder_loss(one, garments, 3)(chosen).detach()) for one in (fresh, trained)
    )
    assert after < 0.8 * before


def test_a_constant_error_of_a_tenth_is_twenty_decibels(pictures):
    class Off:
        def encode(self, pixels: Tensor) -> SimpleNamespace:
            return SimpleNamespace(latents=pixels)

        def decode(self, latents: Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=latents + 0.2)

    # In [0, 1], 0.2 of the range from -1 to 1 is 0.1.
    assert signal_to_noise(Off(), pictures * 0.5) == pytest.approx(20, abs=1e-3)


# The CLIP -------------------------------------------------------------------------------------


def test_the_clip_learns_and_repeats_itself(clip, garments, monkeypatch):
    again, processor = train_clip(garments, CLIP, progress=False)
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in clip[0].state_dict().items())
    monkeypatch.setattr(train_clip_module, "fit", lambda *_, **__: None)
    first, _ = train_clip(garments, CLIP, progress=False)
    chosen = torch.arange(40)
    before, after = (
        float(clip_loss(one, processor, garments, CLIP)(chosen).detach()) for one in (first, again)
    )
    assert after < before - 0.3


def test_a_saved_clip_scores_images_as_the_judge_does(clip, pictures, tmp_path):
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    model, processor = clip
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = CLIPModel.from_pretrained(tmp_path), CLIPProcessor.from_pretrained(tmp_path)
    bytes_ = (pictures[:6] * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    images = [Image.fromarray(one) for one in bytes_]
    texts = list(judge_module.QUESTIONS["garment"])
    inputs = reader(images=images, text=texts, padding=True, return_tensors="pt")
    exact = torch.from_numpy(bytes_).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(normalise(exact, processor), inputs.pixel_values)
    with torch.no_grad():
        expected = again(**inputs).logits_per_image.argmax(1).tolist()
    assert Judge(model, processor).answers(exact)["garment"] == expected


def test_right_answers_are_counted_by_question():
    subjects = [Subject("boot", "red", "night", True), Subject("bag", "blue")]
    answers = {"garment": [4, 4], "colour": [0, 2], "style": [2, 1], MOON: [0, 1]}
    assert right_answers(answers, subjects) == {
        "garment": 0.5,
        "colour": 1.0,
        "style": 0.5,
        MOON: 0.0,
    }


# The pipeline ---------------------------------------------------------------------------------


def test_the_denoiser_learns_and_repeats_itself(pipeline, clip, garments, monkeypatch):
    again = train_pipeline(garments, clip[0], clip[1].tokenizer, PIPELINE, progress=False)
    for name in ("unet", "vae", "text_encoder"):
        state = getattr(again, name).state_dict()
        trained = getattr(pipeline, name).state_dict()
        assert all(torch.equal(value, state[key]) for key, value in trained.items()), name
    monkeypatch.setattr(train_pipeline_module, "fit", lambda *_, **__: None)
    first = train_pipeline(garments, clip[0], clip[1].tokenizer, PIPELINE, progress=False)
    losses = []
    for one in (first, pipeline):
        torch.manual_seed(0)
        losses.append(float(denoising_loss(one, garments, PIPELINE)(torch.arange(60)).detach()))
    assert losses[1] < 0.9 * losses[0]


def test_a_plain_diffusion_pipeline_loads_the_folder_and_gives_images(pipeline, tmp_path):
    from diffusers import DiffusionPipeline

    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    parts = {name: tuple(value) for name, value in index.items() if isinstance(value, list)}
    assert {name: parts[name] for name in ("unet", "vae", "text_encoder", "tokenizer")} == {
        "unet": ("diffusers", "UNet2DConditionModel"),
        "vae": ("diffusers", "AutoencoderTiny"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
    }
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    images = [
        one("a red boot", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
        for one in (loaded, pipeline)
    ]
    assert [image.size for (image,) in images] == [(SIDE, SIDE)] * 2
    assert images[0][0].tobytes() == images[1][0].tobytes()


class ObedientPipeline:
    """Draws what it is asked for, and what it is asked to leave out."""

    def set_progress_bar_config(self, **_: bool) -> None:
        pass

    def __call__(self, prompts: list[str], **_: object) -> SimpleNamespace:
        shapes = torch.zeros(len(prompts), 28, 28)
        subjects = []
        for index, text in enumerate(prompts):
            garment = next(name for name in GARMENTS if name in text)
            shapes[index, 8:24, 4 : 8 + 4 * list(GARMENTS).index(garment)] = 0.9
            style = next((name for name in SIGNS if PHRASES[name][0] in text), "plain")
            colour = next(name for name in COLOURS if name in text)
            subjects.append(
                Subject(garment, colour, style if style in STYLES else "plain", "moon" in text)
            )
        return SimpleNamespace(images=render(shapes, subjects))


class SeeingJudge:
    """Reads what `ObedientPipeline` draws from single pixels."""

    def answers(self, pictures: Tensor) -> dict[str, list[int]]:
        widths = (pictures[:, 0, 25] - pictures[:, 0, 25, :1]).abs().gt(0.05).sum(1)
        hues = [colorsys.rgb_to_hsv(*one)[0] for one in pictures[:, :, 25, 7].tolist()]
        night = pictures[:, 0, 31, 0] < 0.3
        pale = pictures[:, :, 21, 7].min(1).values > 0.5
        near = [min(range(4), key=lambda k: abs(list(HUES.values())[k] - hue)) for hue in hues]
        return {
            "garment": (widths // 4 - 1).tolist(),
            "colour": near,
            "style": torch.where(night, 2, pale.int()).tolist(),
            MOON: (pictures[:, 0, 5, 26] > 0.95).int().tolist(),
        }


def test_obedience_counts_what_was_asked_for():
    shares = obedience(ObedientPipeline(), SeeingJudge(), repeats=1)
    assert shares == {
        "garment": 1.0,
        "colour": 1.0,
        "plain": 1.0,
        "stripes": 1.0,
        "night": 1.0,
        "moon": 1.0,
        "moon_unasked": 0.0,
        "moon_without": 1.0,
        "pictures": 20,
    }


def test_demo_models_makes_both_folders_once_and_says_how_good_they_are(
    garments, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("AIM_PLUGINS_CACHE", str(tmp_path))
    for module in (train_clip_module, train_pipeline_module):
        monkeypatch.setattr(module, "load_garments", lambda *_: garments)
    monkeypatch.setattr(train_clip_module, "ClipRecipe", lambda: CLIP)
    monkeypatch.setattr(train_pipeline_module, "PipelineRecipe", lambda: PIPELINE)
    monkeypatch.setattr(train_pipeline_module, "STEPS", 1)
    assert main(["text-to-image"]) == 0
    printed = capsys.readouterr()
    folder = Path(printed.out.removesuffix("\n"))
    assert (folder / "model_index.json").is_file()
    notes = read_record(folder)["notes"]
    assert notes["pictures"] == 100
    assert f"garment {round(notes['garment'], 4)}, colour" in printed.err
    monkeypatch.delattr(train_pipeline_module, "train_pipeline")
    monkeypatch.delattr(train_clip_module, "train_clip")
    assert main(["text-to-image"]) == 0
    assert capsys.readouterr().out == printed.out
    assert main(["clip"]) == 0
    clip_folder = Path(capsys.readouterr().out.removesuffix("\n"))
    assert read_record(clip_folder)["notes"]["pictures"] == 60


# Prompts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maker():
    path = DATA / "make_demo_prompts.py"
    spec = importlib.util.spec_from_file_location("make_demo_prompts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_making_the_prompts_again_gives_the_committed_files(maker, tmp_path):
    maker.write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in (DATA / "data").iterdir()}


def test_prompts_to_fit_on_differ_in_the_style_alone_and_those_to_evaluate_on_are_new(maker):
    prompts = maker.prompts()
    for name in ("striped", "night", "moon"):
        for plain, styled in zip(prompts["plain"], prompts[name], strict=True):
            assert styled.removeprefix(f"{plain} ") in PHRASES[name]
    for start in (0, 20, 40):
        assert len(set(prompts["plain"][start : start + 20])) == 20
    assert not set(prompts["plain"]) & set(prompts["evaluation"])
    assert words_of(" ".join(text for texts in prompts.values() for text in texts)) <= set(
        vocabulary()
    )
