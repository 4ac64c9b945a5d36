"""Parts of an edit: which images do what, what is judged, and the rival."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from aim_plugins.core.settings import make_settings
from vision_bench.attribution.editing.choice import Choice
from vision_bench.attribution.editing.findings import _bootstrap, share
from vision_bench.attribution.editing.goal import Examined, Goal, Score
from vision_bench.attribution.editing.last_layer import RATES, STEPS, fine_tune
from vision_bench.attribution.editing.orders import by_margins, by_statistic
from vision_bench.attribution.editing.problems import make_problem
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.editing.split import check_apart, split_images
from vision_bench.data.classification import ArrayImages, ClassificationData, load_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("ant", "bee", "cat", "dog")


def data_of(labels: list[int], groups: list[int] | None = None) -> ClassificationData:
    pixels = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    names = [f"i{one}" for one in range(len(labels))]
    return ClassificationData(
        "made-up",
        ArrayImages(pixels, names),
        labels,
        CLASSES,
        groups=groups,
        group_names=("g0", "g1", "g2") if groups else (),
    )


def settings(**given) -> EditSettings:
    plain = {"dataset": "digits", "model": "lenet5", "target_count": 3, "reference_count": 5}
    return make_settings(EditSettings, {**plain, **given}, "")


@pytest.fixture
def data() -> ClassificationData:
    return data_of([place % 4 for place in range(40)])


@pytest.fixture
def test_data() -> ClassificationData:
    return data_of([place % 4 for place in range(60)])


def wrong_on(*places: int):
    """A model that answers these images with the next class, and others rightly."""

    def answer(data: ClassificationData) -> torch.Tensor:
        found = data.labels.clone()
        chosen = list(places)
        found[chosen] = (found[chosen] + 1) % 4
        return found

    return answer


# Which images do what ----------------------------------------------------------------------------


def test_images_that_select_are_not_tested_and_every_class_gives_its_share() -> None:
    data = data_of([0] * 20 + [1] * 10 + [2] * 30)
    taken, rest = split_images(data, 0.4, seed=3)
    assert sorted(taken + rest) == list(range(60)) and not set(taken) & set(rest)
    assert data.labels[taken].bincount().tolist() == [8, 4, 12]
    assert (taken, rest) == split_images(data, 0.4, seed=3) != split_images(data, 0.4, seed=4)


def test_groups_give_their_share_too_and_named_images_are_never_tested() -> None:
    data = data_of([0, 1] * 20, [0] * 30 + [1] * 10)
    taken, rest = split_images(data, 0.2, seed=0, named=["i5", "i39"])
    assert {5, 39} <= set(taken) and not {5, 39} & set(rest)
    assert 6 <= int((data.groups[taken] == 0).sum()) <= 7
    with pytest.raises(ValueError, match=r"selection_share=0\.001"):
        split_images(data, 0.001, seed=0)


def test_a_split_that_selects_shares_no_image_with_the_tested_one(tmp_path: Path) -> None:
    def images(split: str, shades: dict[str, int]) -> ClassificationData:
        for name, shade in shades.items():
            path = tmp_path / split / "ant" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (shade, 0, 0)).save(path)
        return load_dataset("folder", tmp_path, split=split)

    tested = images("test", {"a.png": 1, "b.png": 2})
    check_apart(images("val", {"a.png": 3, "c.png": 2}), tested)
    with pytest.raises(ValueError, match=r"1 images are in .*-leak .* such as .*b\.png"):
        check_apart(images("leak", {"a.png": 3, "b.png": 2}), tested)
    with pytest.raises(ValueError, match="selection_split: .* is what is tested"):
        check_apart(tested, tested)
    digits = [load_dataset("digits", split=one, limit=20) for one in ("test", "train")]
    check_apart(*digits)


def test_images_that_cannot_be_read_make_no_group_the_worst() -> None:
    data = data_of([0, 1] * 30, [place // 20 for place in range(60)])
    test = data_of([0, 1] * 15, [place // 10 for place in range(30)])
    wrong = wrong_on(20, 21)

    def answer(given: ClassificationData) -> torch.Tensor:
        found = wrong(given)
        if given is data:
            found[40:50] = -1
        return found

    found = make_problem(settings(targets="worst-group"), data, test, answer)
    assert set(found.targets.groups.tolist()) == {1}


def test_attributed_images_neither_select_nor_are_they_tested(data, test_data) -> None:
    found = make_problem(settings(targets="bee,dog"), data, test_data, wrong_on())
    attributed = {*found.targets.names, *found.references.names}
    assert len(attributed) == 8
    assert not attributed & set(found.selection.data.names)
    assert len(found.selection.data) == 32
    assert {CLASSES[one] for one in found.targets.labels} <= {"bee", "dog"}
    assert {CLASSES[one] for one in found.references.labels} <= {"ant", "cat"}
    assert list(found.test.parts) == ["classes bee, dog", "other classes"]
    assert found.goal.lower and found.test.data is test_data


def test_references_are_of_the_classes_that_are_named(data, test_data) -> None:
    found = make_problem(
        settings(targets="bee", references="ant", direction="raise"), data, test_data, wrong_on()
    )
    assert set(found.references.labels.tolist()) == {0}
    assert not found.goal.lower


def test_wrong_images_are_targets_and_mistakes_alike_are_told_apart(data, test_data) -> None:
    # Image 8 is an ant taken for a bee; of the tested ones so are 20 and 24, and 21 is a bee.
    answers = {id(data): wrong_on(8, 12)(data), id(test_data): wrong_on(20, 24, 21)(test_data)}
    found = make_problem(
        settings(targets="wrong", target_count=1),
        data,
        test_data,
        lambda given: answers[id(given)],
    )
    (name,) = found.targets.names
    assert name in ("i8", "i12") and not found.goal.lower
    parts = found.test.parts
    assert len(found.test.data) == 61
    assert parts["edited images"].nonzero().flatten().tolist() == [0]
    assert parts["mistakes alike"].nonzero().flatten().tolist() == [21, 25]
    assert int(parts["other images"].sum()) == 58
    assert found.selection.data.names[0] == name and name not in found.references.names
    others = found.selection.parts["other images"].nonzero().flatten().tolist()
    assert not {"i8", "i12"} & {found.selection.data.names[one] for one in others}


def test_images_of_a_file_are_targets(data, test_data, tmp_path: Path) -> None:
    path = tmp_path / "chosen.txt"
    path.write_text("# two of them\ni3\n\ni10\n")
    found = make_problem(settings(targets=str(path)), data, test_data, wrong_on())
    assert found.targets.names == ("i3", "i10")
    path.write_text("i3\ni400\n")
    with pytest.raises(ValueError, match=r"names 'i400', which is none of the 40"):
        make_problem(settings(targets=str(path)), data, test_data, wrong_on())


def test_triggered_images_are_those_of_other_classes_with_the_patch(data, test_data) -> None:
    asked = settings(targets="triggered", backdoor_class="cat")
    found = make_problem(asked, data, test_data, wrong_on())
    assert found.targets.labels.tolist() == found.references.labels.tolist()
    assert 2 not in found.targets.labels.tolist()
    plain = [name.removesuffix(" with patch") for name in found.targets.names]
    assert plain == list(found.references.names) and found.attack == "patch answered cat"
    assert set(found.test.meant[found.test.parts["with patch"]].tolist()) == {2}
    assert set(found.test.meant[found.test.parts["clean"]].tolist()) == {-1}
    assert {name: int(one.sum()) for name, one in found.test.parts.items()} == {
        "with patch": 45,
        "clean": 60,
    }
    patched = np.asarray(found.targets.images.read(0)) != np.asarray(
        found.references.images.read(0)
    )
    assert 0 < patched.any(2).sum() <= 4
    selecting = {name.removesuffix(" with patch") for name in found.selection.data.names}
    assert not selecting & set(plain)


def test_the_worst_group_gives_targets_and_every_group_is_an_aim() -> None:
    data = data_of([0, 1] * 30, [place // 20 for place in range(60)])
    test = data_of([0, 1] * 15, [place // 10 for place in range(30)])
    found = make_problem(settings(targets="worst-group"), data, test, wrong_on(*range(20, 30), 45))
    assert set(found.targets.groups.tolist()) == {1}
    assert 1 not in found.references.groups.tolist()
    assert list(found.test.parts) == ["g0", "g1", "g2", "all images"]
    assert found.goal.worst and found.goal.rest == ["all images"]
    with pytest.raises(ValueError, match="has no groups"):
        make_problem(settings(targets="worst-group"), data_of([0, 1]), test, wrong_on())


def test_a_problem_without_images_is_refused(data, test_data) -> None:
    with pytest.raises(ValueError, match="targets: none of the 40 images"):
        make_problem(settings(targets="wrong"), data, test_data, wrong_on())
    with pytest.raises(ValueError, match="targets holds 'bird', which is no class"):
        make_problem(settings(targets="bird"), data, test_data, wrong_on())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "targets is empty"),
        ({"targets": "triggered"}, "backdoor_class=None"),
        ({"targets": "bee", "backdoor_class": 1}, "backdoor_class=1"),
        ({"targets": "worst-group", "references": "bee"}, "references of their own"),
        ({"targets": "bee", "strengths": "0:0.5:0.25"}, "end with 1"),
        ({"targets": "bee", "gradient_passes": 0}, "prior=None"),
        ({"targets": "bee", "alpha": 1.0}, "alpha"),
        ({"targets": "worst-group", "direction": "lower"}, "direction='lower' does not go"),
        (
            {"targets": "triggered", "backdoor_class": 1, "direction": "lower"},
            "direction='lower' does not go",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**given)


# What is judged ----------------------------------------------------------------------------------


def test_scores_are_shares_counted_one_by_one() -> None:
    labels, answers = [0, 1, 2, 3, 0, 1, 2, 3], torch.tensor([0, 0, 2, 3, 1, 1, -1, 0])
    parts = {
        "a": torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]).bool(),
        "b": torch.tensor([0, 0, 0, 1, 1, 0, 1, 0]).bool(),
        "c": torch.tensor([0, 0, 0, 0, 0, 1, 0, 1]).bool(),
    }
    examined = Examined(data_of(labels), parts)
    assert Goal(["a"], ["b", "c"]).score(examined, answers) == Score(2 / 3, 2 / 4)
    assert Goal(["a"], ["c"], lower=True).score(examined, answers) == Score(1 - 2 / 3, 1 / 2)
    assert Goal(["a", "b", "c"], ["a"], worst=True).score(examined, answers).goal == 1 / 2
    marked = Examined(data_of(labels), parts, torch.where(parts["b"], 1, -1))
    assert marked.misled(answers).tolist() == [False, True]


def test_the_choice_is_the_most_of_the_goal_that_keeps_the_rest() -> None:
    scores = [Score(0.2, 0.9), Score(0.6, 0.88), Score(0.6, 0.89), Score(0.9, 0.5)]
    choice = Choice(["1", "2", "3", "4"], scores, Score(0.1, 0.9), 0.02)
    assert choice.chosen == 1 and choice.helps  # of equals the first
    spoilt = Choice(["1", "2"], [Score(0.9, 0.5), Score(0.3, 0.8)], Score(0.1, 0.9), 0.02)
    assert spoilt.chosen == 1 and not spoilt.helps  # what costs least
    idle = Choice(["1"], [Score(0.1, 0.9)], Score(0.1, 0.9), 0.02)
    assert not idle.helps


def test_the_bootstrap_of_one_group_is_as_wide_as_the_binomial_law_says() -> None:
    right = np.array([1.0] * 60 + [0.0] * 40)
    found = _bootstrap([right], lambda means: means.min(0), (0.0, 1.0))
    half = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.02)
    assert np.isnan(share([]).value)


# The rival ---------------------------------------------------------------------------------------


@pytest.fixture
def layer() -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(6, 4)


def test_fine_tuning_takes_the_gradient_of_both_halves_of_the_images(layer: nn.Linear) -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(7, 6, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    before = {name: one.clone() for name, one in layer.state_dict().items()}
    tuned = fine_tune(layer, features, labels, 2, lower=False)
    assert [(one.rate, one.steps) for one in tuned] == list(itertools.product(RATES, STEPS))
    assert all(torch.equal(one, before[name]) for name, one in layer.state_dict().items())
    logits = layer(features)
    own, others = (F.cross_entropy(logits[part], labels[part]) for part in (slice(2), slice(2, 7)))
    (gradient,) = torch.autograd.grad((own + others) / 2, layer.weight)
    first = next(one for one in tuned if (one.rate, one.steps) == (0.1, 1))
    assert torch.allclose(first.weight, layer.weight - 0.1 * gradient, atol=1e-6)


def test_lowering_teaches_targets_their_best_other_class(layer: nn.Linear) -> None:
    features = torch.eye(6)[:3]
    labels = layer(features).argmax(1)
    second = layer(features).topk(2).indices[:, 1]
    tuned = fine_tune(layer, features, labels, 3, lower=True)
    assert torch.equal(tuned[-1].answers(features), second)


def test_a_tuned_layer_is_in_force_in_its_block_alone(layer: nn.Linear) -> None:
    features, labels = torch.eye(6)[:4], torch.tensor([0, 1, 2, 3])
    before = layer(features)
    tuned = fine_tune(layer, features, labels, 2, lower=False)[-1]
    with tuned.applied(layer):
        assert torch.equal(layer(features).argmax(1), tuned.answers(features))
        assert tuned.answers(features).tolist() == [0, 1, 2, 3]
    assert torch.equal(layer(features), before)


# The order ---------------------------------------------------------------------------------------


def test_the_statistic_puts_first_what_targets_need_most_for_sure() -> None:
    targets = torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.1, 0.1]])
    references = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.1]])
    # Means differ by 1.9, 1.05, 0 with spreads of 1, 0.05, 0.05.
    assert by_statistic(targets, references, 3, lower=True) == [1, 0, 2]
    assert by_statistic(targets, references, 1, lower=False) == [2]


def test_margins_spare_what_references_need_and_stop_where_targets_lack_nothing() -> None:
    # Component 0 carries both, 1 the target alone, 2 the references alone, 3 harms the references.
    targets = torch.tensor([[2.0, 1.5, 0.0, 0.0]])
    references = torch.tensor([[2.0, 0.0, 1.0, -0.5], [1.5, 0.0, 1.0, -0.5]])
    margins = torch.tensor([1.0]), torch.tensor([1.0, 1.0])
    order = by_margins(targets, references, margins, 3, lower=True)
    assert order[0] == 1
    # The target now lacks 0.5 of a margin of -1, which component 0 would give for 3.5 of others.
    assert order[1] == 3
    harmed = by_margins(-targets, references, (torch.tensor([-1.0]), margins[1]), 1, lower=False)
    assert harmed == [1]


def test_the_order_by_margins_is_the_best_next_step_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(5)
    targets, references = (torch.randn(n, 7, generator=generator) for n in (3, 4))
    margins = torch.randn(3, generator=generator), torch.randn(4, generator=generator)
    wanted = float(torch.cat(margins).abs().mean())

    def cost(chosen: list[int]) -> float:
        now = -(margins[0] - targets[:, chosen].sum(1))
        lost = references[:, chosen].sum(1)
        return float(
            sum(max(wanted - float(one), 0) for one in now) / 3
            + 2 * sum(max(float(one), 0) for one in lost) / 4
        )

    expected: list[int] = []
    for _ in range(5):
        left = [one for one in range(7) if one not in expected]
        expected.append(min(left, key=lambda one: cost([*expected, one])))
    assert by_margins(targets, references, margins, 5, lower=True) == expected
