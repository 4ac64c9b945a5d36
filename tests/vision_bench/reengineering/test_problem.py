"""Target problems, and the data that belongs to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vision_bench.reengineering.conftest import arrays
from vision_bench.data.classification import ClassificationData
from vision_bench.reengineering.problem import (
    Problem,
    binary,
    multiclass,
    predictions,
    restricted_logits,
    split_off,
    sub_dataset,
)

CLASSES = ["cat", "dog", "owl", "crane", "crane"]


def test_outputs_stand_in_the_order_that_was_asked_for() -> None:
    problem = multiclass(CLASSES, ["owl", 0, "crane 4"])
    assert problem.names == ("owl", "cat", "crane 4")
    assert problem.groups == ((2,), (0,), (4,))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["cat", "dgo"], "'dgo', which is no class; did you mean 'dog'"),
        (["cat", 5], r"5, outside the 5 classes \[0, 5\)"),
        (["cat", "0"], "names 'cat' twice"),
        (["cat", "crane"], "'crane 3' or 'crane 4'"),
        (["cat"], "holds 1 of the 5 classes: name at least two"),
        ([], "holds 0 of the 5 classes"),
    ],
)
def test_classes_that_make_no_problem_are_refused(chosen: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiclass(CLASSES, chosen)


def test_a_binary_problem_tells_one_class_from_all_others() -> None:
    problem = binary(CLASSES, "owl")
    assert problem.names == ("owl", "not owl")
    assert problem.groups == ((2,), (0, 1, 3, 4))
    with pytest.raises(ValueError, match="target_class holds 'dgo'"):
        binary(CLASSES, "dgo")


def test_a_sub_data_set_holds_the_images_of_the_problem_under_its_labels() -> None:
    data = arrays([3, 0, 1, 3, 2, 0])
    part = sub_dataset(data, multiclass(data.classes, [3, 0]))
    assert part.names == ("0", "1", "3", "5")
    assert part.labels.tolist() == [0, 1, 0, 1]
    assert part.classes == ("kind3", "kind0")
    for place, original in enumerate((0, 1, 3, 5)):
        assert torch.equal(part[place][0], data[original][0])


def test_a_sub_data_set_of_files_holds_the_files_of_the_problem(folder: ClassificationData) -> None:
    part = sub_dataset(folder, multiclass(folder.classes, ["c", "a"]))
    assert part.names == tuple(f"a/{one}.png" for one in range(4)) + tuple(
        f"c/{one}.png" for one in range(5)
    )
    assert part.labels.tolist() == [1] * 4 + [0] * 5


def test_a_problem_without_images_is_refused() -> None:
    data = arrays([0, 1, 1])
    with pytest.raises(ValueError, match="no image for the output 'kind2'"):
        sub_dataset(data, multiclass(data.classes, [0, 2]))


def test_a_binary_problem_has_as_many_images_of_the_rest_drawn_by_the_seed() -> None:
    # As `extract_target_class` of SeaM's code, which shuffles the others and takes the first.
    data = arrays([0] * 10 + [1] * 20 + [2] * 20 + [3] * 20)
    problem = binary(data.classes, 0)
    drawn = [sub_dataset(data, problem, seed=seed) for seed in (0, 0, 1)]
    for part in drawn:
        assert part.labels.bincount().tolist() == [10, 10]
        assert set(part.names[:10]) == set(data.names[:10])
        assert len(set(part.names)) == 20
    assert drawn[0].names == drawn[1].names != drawn[2].names


def test_negatives_are_drawn_from_all_other_images_alike() -> None:
    data = arrays([0] * 30 + [1] * 20 + [2] * 40 + [3] * 60)
    problem = binary(data.classes, 0)
    counts = np.zeros(150)
    for seed in range(400):
        counts[[int(name) for name in sub_dataset(data, problem, seed=seed).names]] += 1
    # Each of 120 is drawn in a quarter of 400 samples; five standard deviations are 43.
    assert np.abs(counts[30:] - 100).max() < 43


def test_a_split_takes_its_share_of_every_class_and_none_twice() -> None:
    data = arrays([0] * 10 + [1] * 25 + [2] * 2 + [0] * 10)
    rest, split = split_off(data, 0.2, seed=0)
    assert split.labels.bincount().tolist() == [4, 5, 1]
    assert rest.labels.bincount().tolist() == [16, 20, 1]
    assert {*rest.names, *split.names} == set(data.names)
    assert not {*rest.names} & {*split.names}


def test_a_split_depends_on_the_seed_alone() -> None:
    data = arrays([0, 1, 2, 3] * 20)
    once, again, other = (split_off(data, 0.25, seed=seed)[1].names for seed in (3, 3, 4))
    assert once == again != other


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_that_splits_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"validation_share=.* is outside \(0, 1\)"):
        split_off(arrays([0, 0, 1, 1]), share, seed=0)


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="one image alone of 'kind1'"):
        split_off(arrays([0, 0, 1]), 0.5, seed=0)


def test_the_restricted_answer_is_the_largest_logit_of_the_groups() -> None:
    problem = Problem(("a", "b", "c"), ((4,), (0, 2), (3,)))
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    reached = restricted_logits(logits, problem)
    answers = predictions(logits, problem)
    for row, values in enumerate(logits.tolist()):
        expected = [values[4], max(values[0], values[2]), values[3]]
        assert reached[row].tolist() == expected
        assert answers[row] == expected.index(max(expected))
