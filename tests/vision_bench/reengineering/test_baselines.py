"""What modules are held against, and accuracies on the same images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.vision_bench.reengineering.conftest import arrays
from vision_bench.reengineering.baselines import (
    Accuracy,
    accuracy,
    baselines,
    logits_of,
)
from vision_bench.reengineering.batches import TrainingImages
from vision_bench.reengineering.problem import Problem, binary, multiclass, sub_dataset
from vision_bench.reengineering.wording import verdict


def test_the_restricted_model_is_right_where_its_best_class_of_the_problem_is() -> None:
    # Classes 0 and 2 of four are asked for; the outputs are 1 for class 0 and 0 for class 2.
    problem = Problem(("two", "zero"), ((2,), (0,)))
    logits = torch.tensor(
        [
            [5.0, 1.0, 2.0, 0.0],  # class 0 of all
            [1.0, 9.0, 2.0, 0.0],  # class 1 of all, 2 of those asked for
            [3.0, 0.0, 2.0, 8.0],  # class 3 of all, 0 of those asked for
            [0.0, 1.0, 7.0, 2.0],  # class 2 of all
        ]
    )
    found = baselines(logits, torch.tensor([1, 0, 0, 0]), problem)
    assert found.whole.right.tolist() == [True, False, False, True]
    assert found.restricted.right.tolist() == [True, True, False, True]
    assert (found.whole.value, found.restricted.value) == (0.5, 0.75)


def test_restricting_loses_no_right_answer() -> None:
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(500) % 3
    found = baselines(logits, labels, multiclass([str(one) for one in range(10)], [7, 1, 4]))
    assert (found.restricted.right | ~found.whole.right).all()
    assert found.restricted.value > found.whole.value


def test_a_binary_problem_is_answered_alike_by_the_whole_model() -> None:
    logits = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    found = baselines(logits, torch.arange(300) % 2, binary([str(one) for one in range(6)], 3))
    assert torch.equal(found.whole.right, found.restricted.right)


def test_accuracy_is_measured_on_all_images_in_their_order() -> None:
    data = arrays([3, 0, 1, 3, 2, 0] * 5)
    problem = multiclass(data.classes, [3, 0])
    part = sub_dataset(data, problem)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)).eval()
    logits, labels = logits_of(model, TrainingImages(part, augment="flip"), batch_size=7)
    expected = torch.cat([model(part[one][0][None]) for one in range(len(part))])
    torch.testing.assert_close(logits, expected.detach())
    assert labels.tolist() == [0, 1, 0, 1] * 5
    right = [
        bool((row[3] > row[0]) == (label == 0))
        for row, label in zip(expected, labels.tolist(), strict=True)
    ]
    assert baselines(logits, labels, problem).restricted.right.tolist() == right
    assert accuracy(logits[:, [3, 0]], labels).right.tolist() == right
    with torch.no_grad():
        model[1].bias[0] = float("nan")
    with pytest.raises(ValueError, match="logits of 20 of 20 images are NaN"):
        logits_of(model, TrainingImages(part), batch_size=7)


def test_an_accuracy_has_wilsons_interval() -> None:
    from scipy.stats import binomtest

    found = Accuracy(torch.arange(40) < 31)
    law = binomtest(31, 40).proportion_ci(method="wilson")
    assert found.value == 31 / 40
    assert found.interval == pytest.approx((law.low, law.high), rel=1e-6)


def test_accuracies_on_the_same_images_are_compared_image_by_image() -> None:
    first = Accuracy(torch.tensor([1, 1, 1, 1, 1, 1, 1, 0, 0, 0]).bool())
    second = Accuracy(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).bool())
    assert first.against(second).value == 0.6
    # Six of six unequal answers are the first one's: 2 / 2**6.
    assert first.against(second).p == 0.03125
    assert verdict(first, second).startswith("better, +60.0 points")
    assert verdict(second, first).startswith("worse, -60.0 points")
