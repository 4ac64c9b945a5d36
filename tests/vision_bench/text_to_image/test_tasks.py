"""Tasks of AcT's section on pictures: published layouts, what is added to captions, bad files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from vision_bench.text_to_image.tasks import PromptSet, load_prompts, load_sides

STYLES = {
    "wood_cut": ", ".join(f"cut_{index}" for index in range(16)),
    "mosaic": "tiles, gold, stones",
    "none": "",
}
CONCEPTS = {
    "red_fox": ["a red fox.", "and a red fox.", "with a red fox."],
    "no_red_fox": ["no red fox.", "and no red fox.", "without a red fox."],
    "owl": ["an owl."],
}
SUBSETS = {
    "none": ["A cup. ", "A street. ", "A pond. "],
    "no_trees": ["A camel in a desert."],
    "trees": ["A camel below palm trees."],
}
TRAIN = [f"Thing {index} on a table." for index in range(40)]
VAL = [f"Thing {index} in a street. " for index in range(30)]


def coco(captions: list[str]) -> str:
    annotations = [{"image_id": 7, "id": n, "caption": text} for n, text in enumerate(captions)]
    return json.dumps({"info": {"year": 2017}, "images": [], "annotations": annotations})


def write_coco(folder: Path, train: list[str] = TRAIN, val: list[str] = VAL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "captions_train2017.json").write_text(coco(train))
    (folder / "captions_val2017.json").write_text(coco(val))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_coco(tmp_path / "coco" / "annotations")
    return tmp_path / "coco"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "style_prompts.json").write_text(json.dumps(STYLES))
    (folder / "diffusion_concept_prompts.json").write_text(json.dumps(CONCEPTS))
    (folder / "diffusion_prompts.json").write_text(json.dumps(SUBSETS))
    return folder


def styled(root: Path, texts: Path, **options) -> PromptSet:
    given = {"name": "coco_styles", "root": root, "texts": texts, "target": "wood_cut"}
    return load_prompts({**given, **options})


def denied(root: Path, texts: Path, **options) -> PromptSet:
    given = {"name": "coco_concepts", "root": root, "texts": texts, "source": "red_fox"}
    return load_prompts({**given, **options})


def split_caption(text: str) -> tuple[str, str]:
    caption, rest = text[: text.index(".") + 1], text[text.index(".") + 2 :]
    return caption, rest


# Sides.


def test_a_styles_side_has_its_first_five_tags_and_five_others(root, texts):
    sides = load_sides("coco_styles", root, texts=texts, target="wood_cut")
    every = STYLES["wood_cut"].split(", ")
    added = [split_caption(text)[1].split(", ") for text in sides.target]
    assert all(tags[:5] == every[:5] for tags in added)
    assert all(len(tags) == len(set(tags)) == 10 for tags in added)
    assert all(set(tags[5:]) <= set(every[5:]) for tags in added)
    # Of 20 captions with 5 of 11 tags each, a tag is left out of all with probability 6e-6.
    assert {tag for tags in added for tag in tags} == set(every)
    assert len({tuple(tags) for tags in added}) == len(added)
    assert set(sides.source) <= set(TRAIN)


def test_a_style_with_few_tags_gets_all_of_them(root, texts):
    [one] = load_sides("coco_styles", root, texts=texts, target="mosaic", n_target=1).target
    assert sorted(split_caption(one)[1].split(", ")) == ["gold", "stones", "tiles"]
    short = load_sides("coco_styles", root, texts=texts, target="mosaic", num_tags=2)
    assert all(split_caption(text)[1].split(", ")[0] == "tiles" for text in short.target)
    assert all(len(split_caption(text)[1].split(", ")) == 2 for text in short.target)


def test_sides_have_no_caption_in_common_unless_they_are_to_share_them(root, texts):
    apart = load_sides("coco_styles", root, texts=texts, target="wood_cut")
    captions = [split_caption(text)[0] for text in apart.target]
    assert len(apart.source) == len(captions) == 20
    assert sorted([*apart.source, *captions]) == sorted(TRAIN)
    shared = load_sides("coco_styles", root, texts=texts, target="wood_cut", shared=True)
    assert [split_caption(text)[0] for text in shared.target] == list(shared.source)
    assert sorted(shared.source) == sorted(TRAIN)


def test_a_side_of_coco_has_half_of_the_papers_prompts(tmp_path, texts):
    folder = write_coco(tmp_path / "much", [f"Thing {index}." for index in range(3000)], VAL)
    sides = load_sides("coco_concepts", folder, texts=texts, source="owl")
    assert len(sides.source) + len(sides.target) == 32 * 64
    assert len(sides.source) == len(sides.target)
    sides = load_sides("coco_concepts", folder, texts=texts, source="owl", n_source=3, n_target=5)
    assert (len(sides.source), len(sides.target)) == (3, 5)


def test_a_concepts_source_has_its_phrases_and_the_target_none(root, texts):
    sides = load_sides("coco_concepts", root, texts=texts, source="red_fox")
    assert {split_caption(text)[1] for text in sides.source} == set(CONCEPTS["red_fox"])
    assert set(sides.target) <= set(TRAIN)


def test_any_two_subsets_are_sides(root, texts):
    sides = load_sides("coco_concepts", root, texts=texts, source="none", target="owl")
    assert set(sides.source) <= set(TRAIN)
    assert all(text.endswith(". an owl.") for text in sides.target)
    sides = load_sides("coco_styles", root, texts=texts, source="mosaic", target="wood_cut")
    assert all("tiles" in text for text in sides.source)


def test_whole_prompts_are_the_subsets_of_their_file(texts):
    sides = load_sides("diffusion_prompts", texts)
    assert sides.source == ("A camel in a desert.",)
    assert sides.target == ("A camel below palm trees.",)
    found = load_prompts({"name": "diffusion_prompts", "root": texts / "diffusion_prompts.json"})
    assert [one.text for one in found.prompts] == ["A cup.", "A street.", "A pond."]
    assert found.concept == "trees"


def test_files_of_ones_own_are_read_as_sentences_are(tmp_path):
    (tmp_path / "a.txt").write_text("A cup.\nA pond.\n")
    (tmp_path / "b.txt").write_text("A striped cup.\nA striped pond.\n")
    sides = load_sides("files", tmp_path, source="a.txt", target="b.txt")
    assert sides.target == ("A striped cup.", "A striped pond.")


# Prompts.


def test_a_style_is_evaluated_on_plain_captions_for_validation(root, texts):
    found = styled(root, texts)
    assert found.concept == "wood_cut"
    assert len(found.prompts) == len(VAL)
    for one in found.prompts:
        assert one.text == one.plain == one.source
        caption, tags = split_caption(str(one.target))
        assert caption == one.plain
        assert tags.startswith("cut_0, cut_1, cut_2, cut_3, cut_4, ")
    assert {one.plain for one in found.prompts} == {text.strip() for text in VAL}


def test_a_concept_is_evaluated_on_captions_that_deny_it(root, texts):
    found = denied(root, texts)
    assert found.concept == "red_fox"
    for one in found.prompts:
        [place] = [
            place
            for place, phrase in enumerate(CONCEPTS["no_red_fox"])
            if one.text == f"{one.plain} {phrase}"
        ]
        # What the transport leads away from is the same phrase without the denial.
        assert one.source == f"{one.plain} {CONCEPTS['red_fox'][place]}"
        assert one.target == one.plain
    assert len({split_caption(one.text)[1] for one in found.prompts}) == 3


def test_prompts_may_ask_for_any_subset(root, texts):
    asked = styled(root, texts, asked="wood_cut").prompts
    assert all(one.text == one.target for one in asked)
    asked = denied(root, texts, asked="none").prompts
    assert all(one.text == one.plain for one in asked)
    led_in = denied(root, texts, source="none", target="owl")
    assert led_in.concept == "owl"
    assert all(one.text == one.plain for one in led_in.prompts)


def test_the_papers_number_of_captions_is_evaluated(tmp_path, texts):
    folder = write_coco(tmp_path / "much", TRAIN, [f"Thing {index}." for index in range(600)])
    assert len(styled(folder, texts).prompts) == 512
    assert len(styled(folder, texts, n=3).prompts) == 3


def test_lines_of_files_go_together(tmp_path):
    for name in ("asked", "plain", "with"):
        lines = "".join(f"{name} {index}\n" for index in range(20))
        (tmp_path / f"{name}.txt").write_text(lines)
    given = {
        "root": tmp_path / "asked.txt",
        "plain": tmp_path / "plain.txt",
        "source": tmp_path / "with.txt",
        "target": tmp_path / "plain.txt",
        "concept": "moon",
        "n": 5,
    }
    found = load_prompts(given)
    assert found.concept == "moon"
    assert len({one.text for one in found.prompts}) == 5
    for one in found.prompts:
        row = one.text.removeprefix("asked ")
        assert (one.plain, one.source, one.target) == (f"plain {row}", f"with {row}", one.plain)
    alone = load_prompts(tmp_path / "asked.txt")
    assert [one.text for one in alone.prompts] == [f"asked {index}" for index in range(20)]
    assert alone.prompts[0].plain == "asked 0"
    assert (alone.prompts[0].source, alone.concept) == (None, None)


# Draws.


def test_draws_do_not_depend_on_the_order_of_captions(tmp_path, texts):
    first = write_coco(tmp_path / "a")
    second = write_coco(tmp_path / "b", TRAIN[::-1], VAL[::-1])
    options = {"texts": texts, "target": "wood_cut", "n_source": 7, "n_target": 9}
    assert load_sides("coco_styles", first, **options) == load_sides(
        "coco_styles", second, **options
    )
    assert styled(first, texts, n=6) == styled(second, texts, n=6)
    assert styled(first, texts, n=6) != styled(first, texts, n=6, seed=1)


def test_tags_of_a_caption_do_not_depend_on_what_else_is_drawn(root, texts):
    few = {one.plain: one.target for one in styled(root, texts, n=9).prompts}
    every = {one.plain: one.target for one in styled(root, texts).prompts}
    assert few.items() <= every.items()
    other = {one.plain: one.target for one in styled(root, texts, seed=1).prompts}
    assert sum(every[caption] != other[caption] for caption in every) > 25


def test_tags_are_drawn_evenly(tmp_path, texts):
    count = 2000
    folder = write_coco(tmp_path / "much", [f"Thing {index}." for index in range(count)], VAL)
    options = {"texts": texts, "target": "wood_cut", "n_source": 1, "n_target": count - 1}
    found = load_sides("coco_styles", folder, **options).target
    for tag in STYLES["wood_cut"].split(", ")[5:]:
        share = sum(tag in text.partition(". ")[2].split(", ") for text in found) / len(found)
        assert abs(share - 5 / 11) < 5 * (5 / 11 * 6 / 11 / len(found)) ** 0.5


# Layouts and errors.


@pytest.mark.parametrize("place", ["annotations", "coco_captions_2017", ".", "a file"])
def test_captions_are_found_in_every_layout(tmp_path, texts, place):
    folder = write_coco(tmp_path / "coco" / ("." if place == "a file" else place))
    root = folder / "captions_train2017.json" if place == "a file" else tmp_path / "coco"
    sides = load_sides("coco_styles", root, texts=texts / "style_prompts.json", target="mosaic")
    assert set(sides.source) <= set(TRAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "wodcut"}, r"target='wodcut' is not in .*style_prompts\.json; did you mean"),
        ({"target": "none"}, "source and target are both 'none': give two subsets"),
        ({"source": "none "}, "source='none ' is not in"),
        ({"num_tags": 0}, "num_tags=0: give 1 or more"),
        ({"n_source": 0}, "n_source=0: give 1 or more"),
        ({"n_target": 30}, "captions of both sides: n=50, but there are 40 texts"),
        ({"concept": "mosaic"}, "coco_styles has no option 'concept'"),
    ],
)
def test_what_sides_cannot_be_made_of_is_refused(root, texts, options, message):
    with pytest.raises(ValueError, match=message):
        load_sides("coco_styles", root, **{"texts": texts, "target": "wood_cut", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "coco_stiles"}, "name='coco_stiles' is no data set; did you mean 'coco_styles'"),
        ({"name": "coco_concepts", "target": "none"}, "coco_concepts needs source: add it"),
        ({"asked": "mosaics"}, "asked='mosaics' is not in .*did you mean 'mosaic'"),
        ({"n": 31}, "n=31, but there are 30 texts"),
    ],
)
def test_what_prompts_cannot_be_made_of_is_refused(root, texts, options, message):
    with pytest.raises(ValueError, match=message):
        styled(root, texts, **options)


def test_a_concept_without_phrases_that_deny_it_asks_for_another_subset(root, texts):
    with pytest.raises(ValueError, match="asked='no_owl' is not in .*concept_prompts.json"):
        denied(root, texts, source="owl")
    assert denied(root, texts, source="owl", asked="owl").concept == "owl"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has no list 'annotations'"),
        (
            '{"annotations": [{"caption": "A."}, {"bbox": []}]}',
            r"annotations\[1\]\.caption is null",
        ),
        ('{"annotations": [{"caption": " "}]}', r'annotations\[0\]\.caption is " ", not a text'),
        ('{"annotations": ', "line 1 is no JSON"),
        ('{"annotations": []}', "holds no text"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, texts, content, message):
    (tmp_path / "captions_val2017.json").write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        styled(tmp_path, texts)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("style_prompts.json", "[1]", "holds a JSON list: give an object"),
        ("style_prompts.json", '{"wood_cut": ["a"]}', "'wood_cut' must be one text of tags"),
        ("style_prompts.json", '{"wood_cut": " , "}', "'wood_cut' is empty, and target names it"),
        ("diffusion_concept_prompts.json", '{"red_fox": "a"}', "must be a list of texts"),
        ("diffusion_concept_prompts.json", '{"red_fox": [1]}', "must be a list of texts"),
    ],
)
def test_additions_of_another_layout_are_refused(root, texts, name, content, message):
    (texts / name).write_text(content)
    load = styled if name.startswith("style") else denied
    with pytest.raises(ValueError, match=message) as raised:
        load(root, texts)
    assert str(texts / name) in str(raised.value)


def test_missing_files_are_named(tmp_path, root, texts):
    with pytest.raises(FileNotFoundError, match=r"holds no captions_val2017\.json or annotations"):
        styled(tmp_path / "nowhere", texts)
    with pytest.raises(FileNotFoundError, match=r"holds no style_prompts\.json"):
        styled(root, tmp_path)


def test_files_that_do_not_go_together_are_refused(tmp_path):
    for name, count in itertools.product(("a", "b"), (2, 3)):
        (tmp_path / f"{name}{count}.txt").write_text("text\n" * count)
    given = {"root": tmp_path / "a2.txt"}
    with pytest.raises(ValueError, match=r"plain='.*b3\.txt' holds 3 texts and .*a2\.txt 2: give"):
        load_prompts({**given, "plain": tmp_path / "b3.txt"})
    with pytest.raises(ValueError, match="source=None and target='b': give both"):
        load_prompts({**given, "target": "b"})
