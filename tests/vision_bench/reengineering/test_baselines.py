"""What modules are held against, and differences of accuracies on the same images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.vision_bench.reengineering.conftest import arrays
from vision_bench.reengineering.baselines import (
    Accuracy,
    accuracy,
    baselines,
    logits_of,
    paired_difference,
)
from vision_bench.reengineering.batches import TrainingImages
from vision_bench.reengineering.problem import Problem, binary, multiclass, sub_dataset


def paired(both: int, won: int, lost: int, neither: int) -> tuple[Tensor, Tensor]:
    first = [1] * both + [1] * won + [0] * lost + [0] * neither
    second = [1] * both + [0] * won + [1] * lost + [0] * neither
    return torch.tensor(first).bool(), torch.tensor(second).bool()


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


@pytest.mark.parametrize("cells", [(80, 9, 2, 9), (50, 0, 6, 4), (3, 5, 5, 1), (0, 1, 0, 0)])
def test_a_difference_is_paired_and_has_mcnemars_exact_p(cells: tuple[int, ...]) -> None:
    _, won, lost, _ = cells
    found = paired_difference(*paired(*cells))
    assert found.value == pytest.approx((won - lost) / sum(cells))
    # The two-sided exact test by hand: all splits that are at most as likely as the one found.
    total = won + lost
    law = [math.comb(total, one) / 2**total for one in range(total + 1)]
    assert found.p == pytest.approx(sum(one for one in law if one <= law[won] * (1 + 1e-9)))
    turned = paired_difference(*reversed(paired(*cells)))
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_answers_that_never_differ_still_leave_a_doubt() -> None:
    same = paired_difference(*paired(30, 0, 0, 10))
    assert same.low < same.value == 0 < same.high
    assert same.p == 1


@pytest.mark.parametrize(
    ("n", "laws"), [(60, (0.7, 0.12, 0.05, 0.13)), (300, (0.9, 0.03, 0.02, 0.05))]
)
def test_intervals_hold_the_truth_as_often_as_they_say(n: int, laws: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    truth, held = laws[1] - laws[2], 0
    for _ in range(800):
        found = paired_difference(*paired(*rng.multinomial(n, laws).tolist()))
        held += found.low <= truth <= found.high
    # Four standard deviations of 95 % of 800 are 3 points; the interval errs to the safe side.
    assert 0.92 < held / 800 < 0.99


def test_answers_to_no_image_are_not_compared() -> None:
    with pytest.raises(ValueError, match="first is empty"):
        paired_difference(torch.ones(0).bool(), torch.ones(0).bool())
