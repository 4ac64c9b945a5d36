"""Scores of pictures by a CLIP, against transformers' own and the formulas of AcT's script."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from vision_bench.text_to_image.judge import ClipJudge, load_judge
from vision_bench.text_to_image.scores import (
    DIRECTION,
    IMAGE,
    PRESENCE,
    PROMPT,
    TARGET,
    ImageScores,
    directional_similarity,
    score_images,
    zero_shot_share,
)
from vision_bench.text_to_image.tasks import Prompt

STRENGTHS = (0.0, 0.5, 1.0)
PROMPTS = [
    Prompt(f"cup {index}.", f"cup {index}.", f"cup {index}.", f"cup {index}. in ink")
    for index in range(5)
]


def picture(seed: int, side: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def pictures() -> list[list[Image.Image]]:
    """Of each prompt, one at each strength: the first blended with another."""
    rows = []
    for index in range(len(PROMPTS)):
        plain, other = picture(index), picture(index + 100)
        rows.append([Image.blend(plain, other, strength) for strength in STRENGTHS])
    return rows


@pytest.fixture(scope="module")
def judge(clip: Path) -> ClipJudge:
    return load_judge(clip, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def scores(judge: ClipJudge, pictures: list[list[Image.Image]]) -> ImageScores:
    flat = [one for row in pictures for one in row]
    return score_images(judge, flat, PROMPTS, STRENGTHS, concept="ink-on_paper")


class Whole:
    """The features that transformers itself gives."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        # As in AcT's script: padded to the longest text that the model takes, and cut there.
        tokens = self.tokenizer(
            texts, max_length=32, padding="max_length", truncation=True, return_tensors="pt"
        )
        return self.model.get_text_features(**tokens).pooler_output

    @torch.no_grad()
    def images(self, pictures: list[Image.Image]) -> Tensor:
        inputs = self.processor(pictures, return_tensors="pt")
        return self.model.get_image_features(**inputs).pooler_output


@pytest.fixture(scope="module")
def whole(clip: Path) -> Whole:
    return Whole(clip)


@pytest.fixture(scope="module")
def published(whole: Whole, pictures: list[list[Image.Image]]) -> dict[str, Tensor]:
    """What AcT's `calculate_clip_score.py` makes of the pictures, by its formulas.

    For each image, its picture at 0 and its plain caption are the first, those at a strength and
    with the change in words the second.
    """
    found: dict[str, list[Tensor]] = {}
    for prompt, row in zip(PROMPTS, pictures, strict=True):
        image_one, image_two = whole.images(row[:1]), whole.images(row)
        image_one, image_two = F.normalize(image_one), F.normalize(image_two)
        text_one = F.normalize(whole.texts([prompt.plain]))
        text_two = F.normalize(whole.texts([str(prompt.target)]))
        zero_one = whole.texts(["A picture of something."])
        zero_two = whole.texts(["A picture of ink on paper."])
        pair = [F.cosine_similarity(image_two, zero) for zero in (zero_one, zero_two)]
        for name, value in {
            "image": F.cosine_similarity(image_one, image_two),
            "conditional": F.cosine_similarity(image_two, text_two),
            "unconditional": F.cosine_similarity(image_two, text_one),
            "directional": F.cosine_similarity(image_two - image_one, text_two - text_one),
            "zero_shot": torch.stack(pair, dim=1).softmax(1)[:, 1],
            "scaled": (whole.model.logit_scale.exp() * torch.stack(pair, dim=1)).softmax(1)[:, 1],
        }.items():
            found.setdefault(name, []).append(value.detach().double())
    return {name: torch.stack(rows) for name, rows in found.items()}


# Features.


def test_features_are_those_of_transformers(judge, whole, pictures):
    flat = [one for row in pictures for one in row]
    expected = F.normalize(whole.images(flat).double(), dim=-1)
    found = judge.image_features(iter(flat))
    assert float((found - expected).abs().max()) < 1e-5
    assert float(expected.std(0).max()) > 1e-2  # pictures are told apart at all
    texts = ["a cup", "a", "a cup", "the street at night"]
    expected = F.normalize(whole.texts(texts).double(), dim=-1)
    assert float((judge.text_features(texts) - expected).abs().max()) < 1e-5


def test_grey_and_transparent_pictures_are_taken_as_colours(judge):
    one = picture(3)
    grey = one.convert("L")
    found = judge.image_features([grey, grey.convert("RGB"), one.convert("RGBA"), one])
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert torch.allclose(found[2], found[3], atol=1e-6)


def test_a_text_is_embedded_once_and_a_long_one_is_cut(clip, whole):
    judge = load_judge(clip, device="cpu")
    long = "a " * 60 + "cup"
    first = judge.text_features([long, "a cup"])
    assert float((first - F.normalize(whole.texts([long, "a cup"]).double())).abs().max()) < 1e-5
    judge._clip.text_model.final_layer_norm.weight.data.zero_()
    assert torch.equal(judge.text_features(["a cup", long]), first[[1, 0]])


def test_the_fingerprint_and_scale_are_the_models(judge, clip, tmp_path):
    whole = CLIPModel.from_pretrained(clip)
    scale = whole.logit_scale.detach().double().exp()
    assert judge.logit_scale == pytest.approx(float(scale), rel=1e-12)
    assert load_judge(clip, device="cpu").fingerprint == judge.fingerprint
    shutil.copytree(clip, tmp_path / "other")
    with torch.no_grad():
        whole.visual_projection.weight.mul_(2)
    whole.save_pretrained(tmp_path / "other")
    assert load_judge(tmp_path / "other", device="cpu").fingerprint != judge.fingerprint


# Scores of AcT's script, and where they differ from it.


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [(IMAGE, "image"), (PROMPT, "unconditional"), (TARGET, "conditional")],
)
def test_similarities_are_those_of_acts_script(scores, published, metric, theirs):
    assert float((scores.values[metric] - published[theirs]).abs().max()) < 1e-5
    assert float(published[theirs].std()) > 1e-3


def test_the_direction_is_that_of_acts_script_except_at_zero(scores, published):
    found, theirs = scores.values[DIRECTION], published["directional"]
    assert float((found - theirs)[:, 1:].abs().max()) < 1e-4
    assert float(theirs[:, 1:].std()) > 1e-2
    # There it is that of rounding: up to 0.49 here, of pictures that are the same.
    assert found[:, 0].isnan().all()


def test_the_presence_has_the_scale_that_acts_script_leaves_out(scores, published):
    found = scores.values[PRESENCE]
    assert float((found - published["scaled"]).abs().max()) < 1e-4
    # Without it, all presences lie about a half.
    assert float((published["zero_shot"] - 0.5).abs().max()) < 0.1
    assert float((found - published["zero_shot"]).abs().max()) > 0.1


@pytest.mark.parametrize(("scale", "share"), [(100.0, 0.9999546), (1.0, 0.5249792)])
def test_the_presence_of_known_cosines(scale, share):
    # Of a width of 3, an image with cosines 0.3 and 0.2 to two texts at right angles.
    image = torch.tensor([0.3, 0.2, math.sqrt(1 - 0.3**2 - 0.2**2)], dtype=torch.float64)
    one, other, _ = torch.eye(3, dtype=torch.float64)
    found = zero_shot_share(image[None, None], one, other, scale)
    assert float(found) == pytest.approx(share, abs=1e-7)
    assert share == pytest.approx(1 / (1 + math.exp(-0.1 * scale)), abs=1e-7)


def test_the_direction_of_known_changes():
    # To the text, against it, across it, at 60 degrees, and not at all.
    moves = torch.tensor([[2, 0], [-0.1, 0], [0, 3], [0.5, math.sqrt(0.75)], [0, 0], [1e-7, 0]])
    plain = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    images = (plain[:, None] + moves.double()[None]).contiguous()
    found = directional_similarity(images, plain, torch.tensor([[0.2, 0.0]], dtype=torch.float64))
    expected = torch.tensor([[1, -1, 0, 0.5, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_pictures_that_lose_a_concept_change_in_its_direction():
    # Features of pictures and texts are set by hand, on a circle.
    class Set(ClipJudge):
        def __init__(self) -> None:
            self.logit_scale = 100.0

        def image_features(self, pictures):
            return torch.stack(list(pictures))

        def text_features(self, texts):
            return torch.stack([places[text] for text in texts])

    east, north = torch.eye(2, dtype=torch.float64)
    places = {"plain": east, "with": north, "A picture of fox.": north}
    places["A picture of something."] = east
    angles = torch.tensor([[1.2, 0.9, 0.3], [1.3, 1.3, 0.2]], dtype=torch.float64)
    features = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(0, 1)
    prompts = [Prompt("asked", "plain", source="with", target="plain")] * 2
    scores = score_images(Set(), features, prompts, STRENGTHS, concept="fox").values
    assert float(scores[PRESENCE][:, 0].min()) > 0.99
    assert float(scores[PRESENCE][:, 2].max()) < 0.01
    torch.testing.assert_close(scores[IMAGE], (angles - angles[:, :1]).cos())
    torch.testing.assert_close(scores[PROMPT], angles.cos())
    # A chord of the circle from a to b has the direction (a + b) / 2 - 90 degrees; words, -45.
    expected = ((angles + angles[:, :1]) / 2 - math.pi / 4).cos()
    torch.testing.assert_close(scores[DIRECTION][:, 2], expected[:, 2])
    assert float(scores[DIRECTION][1, 1]) == 0  # of a picture that has not changed


def test_without_texts_to_compare_with_these_scores_are_left_out(judge, pictures):
    flat = [one for row in pictures for one in row]
    plain = [Prompt(one.text, one.plain) for one in PROMPTS]
    assert set(score_images(judge, flat, plain, STRENGTHS).values) == {IMAGE, PROMPT}


def test_the_picture_at_zero_may_stand_anywhere(judge, pictures, scores):
    turned = [one for row in pictures for one in row[::-1]]
    found = score_images(judge, turned, PROMPTS, STRENGTHS[::-1], concept="ink-on_paper")
    for metric, table in found.values.items():
        torch.testing.assert_close(
            table.flip(1), scores.values[metric], rtol=0, atol=1e-4, equal_nan=True
        )


# Means, intervals and changes.


def test_rows_are_means_with_errors_over_images(scores):
    rows = {(row.metric, row.strength): row for row in scores.rows("styles")}
    assert len(rows) == 5 * 3 - 1
    for (metric, strength), row in rows.items():
        column = scores.values[metric][:, STRENGTHS.index(strength)].numpy()
        assert (row.task, row.draw, row.n) == ("styles", None, 5)
        assert row.value == pytest.approx(column.mean(), abs=1e-12)
        if (metric, strength) == (IMAGE, 0.0):
            assert (row.value, row.stderr) == (1.0, None)
        else:
            assert row.stderr == pytest.approx(stats.sem(column), rel=1e-9)
    assert (DIRECTION, 0.0) not in rows


def test_means_lie_in_their_intervals_and_these_in_the_scores_range(scores):
    for metric in scores.values:
        low = 0 if metric == PRESENCE else -1
        found = scores.means(metric)
        assert set(found) == set(STRENGTHS) - ({0.0} if metric == DIRECTION else set())
        for strength, one in found.items():
            if (metric, strength) == (IMAGE, 0.0):
                assert one.value == 1
                assert math.isnan(one.low)
            else:
                assert low <= one.low < one.value < one.high <= 1


def test_changes_are_in_pairs_of_images(scores):
    for metric in (PRESENCE, IMAGE, PROMPT, TARGET):
        table = scores.values[metric].numpy()
        found = scores.changes(metric)
        assert set(found) == {0.5, 1.0}
        for place, strength in ((1, 0.5), (2, 1.0)):
            expected = stats.ttest_rel(table[:, place], table[:, 0])
            low, high = expected.confidence_interval(0.95)
            difference = (table[:, place] - table[:, 0]).mean()
            assert found[strength].value == pytest.approx(difference, abs=1e-12)
            # Student's factor is an expansion, off by 3e-3 of four degrees of freedom.
            assert found[strength].low == pytest.approx(low, rel=5e-3)
            assert found[strength].high == pytest.approx(high, rel=5e-3)
    assert scores.changes(DIRECTION) == {}


def test_where_no_picture_changes_others_may():
    table = torch.full((20, 2), 0.7, dtype=torch.float64)
    [one] = ImageScores((0.0, 1.0), {PROMPT: table}).changes(PROMPT).values()
    assert one.value == 0
    # Wilson's bound for none of 20, of differences of 2 at most.
    bound = stats.binomtest(0, 20).proportion_ci(method="wilson").high
    assert (one.low, one.high) == pytest.approx((-2 * bound, 2 * bound), rel=1e-5)


# Errors.


@pytest.mark.parametrize("clip", [None, ""])
def test_without_a_clip_it_is_said_what_to_give(clip):
    with pytest.raises(
        ValueError, match=r"clip=.*give a folder that transformers saved, or a name"
    ):
        load_judge(clip)


def test_a_folder_that_is_no_clip_is_refused(tmp_path, clip):
    with pytest.raises(ValueError, match="clip='.*': transformers loads no CLIP from this folder"):
        load_judge(tmp_path)
    for name, message in {
        "tokenizer*": "loads no tokenizer from this folder, which texts need",
        "preprocessor_config.json": r"has no preprocessor_config\.json, which says how it takes",
    }.items():
        folder = tmp_path / name.strip("*")
        shutil.copytree(clip, folder, ignore=shutil.ignore_patterns(name))
        with pytest.raises(ValueError, match=message):
            load_judge(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strengths": (0.5, 1.0, 2.0)}, "strengths=0.5, 1, 2: add 0, whose pictures"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": PROMPTS[:4]}, "15 pictures of 4 prompts at 3 strengths: give 12, at each"),
        ({"pictures": []}, "pictures is empty"),
    ],
)
def test_what_cannot_be_scored_is_refused(judge, pictures, given, message):
    flat = [one for row in pictures for one in row]
    whole = {"pictures": flat, "prompts": PROMPTS, "strengths": STRENGTHS, **given}
    with pytest.raises(ValueError, match=message):
        score_images(judge, **whole)
