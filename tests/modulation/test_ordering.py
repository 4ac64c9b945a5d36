"""The laws of the argmax under Gaussian noise, against adaptive quadrature and sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.utils._python_dispatch import TorchDispatchMode

from aim_plugins.modulation import ordering
from aim_plugins.modulation.ordering import (
    argmax_probabilities,
    greedy_survival,
    label_probability,
    pairwise_order_probability,
)

STDS = (0.05, 0.3, 1.0, 4.0, 20.0)


def quad_probability(logits: np.ndarray, k: int, std: float) -> float:
    """P_k by adaptive quadrature over the noise of class k alone, one class at a time."""
    others = (logits[k] - np.delete(logits, k)) / std

    def integrand(z: float) -> float:
        return stats.norm._pdf(z) * math.exp(special.log_ndtr(others + z).sum())

    return integrate.quad(integrand, -9, 9, epsabs=1e-11, epsrel=1e-11, limit=400)[0]


def example_rows(classes: int) -> torch.Tensor:
    """Rows of different character: spread, flat, one favourite, exact ties, near-ties."""
    generator = torch.Generator().manual_seed(classes)
    normal = torch.randn(5, classes, generator=generator, dtype=torch.float64)
    favourite = 0.5 * normal[2]
    favourite[classes // 2] += 4
    ties = 3 * normal[3]
    ties[:2] = ties.max() + 1
    near_ties = 3 * normal[4]
    near_ties[:2] = near_ties.max() + torch.tensor([1.0, 1.0 - 1e-3], dtype=torch.float64)
    return torch.stack([3 * normal[0], 0.1 * normal[1], favourite, ties, near_ties])


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("classes", [2, 3, 10, 150, 1000])
@pytest.mark.parametrize("std", STDS)
def test_probabilities_equal_adaptive_quadrature(classes: int, std: float):
    rows = example_rows(classes)
    law = argmax_probabilities(rows, std)
    for row, probabilities in zip(rows, law, strict=True):
        for k in {*row.topk(2).indices.tolist(), classes - 1}:
            assert float(probabilities[k]) == pytest.approx(
                quad_probability(row.numpy(), k, std), abs=1e-7
            )


@pytest.mark.parametrize("classes", [2, 10, 150, 1000])
def test_probabilities_sum_to_one(classes: int):
    rows = torch.cat([example_rows(classes), torch.zeros(1, classes)])
    for std in STDS:
        sums = argmax_probabilities(rows, std).sum(1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-6, rtol=0)


def test_probabilities_of_confident_rows_do_not_exceed_one():
    logits = torch.zeros(200, 10)
    logits[:, 4] = torch.linspace(5, 30, 200)
    labels = torch.full((200,), 4)
    for std in (0.3, 1.0, 2.0):
        for law in (
            argmax_probabilities(logits, std),
            label_probability(logits, labels, std),
            greedy_survival(logits, std),
        ):
            assert ((law >= 0) & (law <= 1)).all()


@pytest.mark.parametrize("std", [0.3, 1.0, 4.0])
def test_probabilities_agree_with_sampling(std: float):
    draws = 400_000
    logits = example_rows(10)[0]
    noise = torch.randn(draws, 10, generator=torch.Generator().manual_seed(1))
    share = torch.bincount((logits + std * noise).argmax(1), minlength=10) / draws
    law = argmax_probabilities(logits, std)
    standard_error = (law * (1 - law) / draws).sqrt()
    assert ((share - law).abs() <= 5 * standard_error + 1 / draws).all()


def test_two_classes_follow_the_pairwise_law():
    difference = torch.linspace(-3, 3, 13, dtype=torch.float64)
    logits = torch.stack([difference, torch.zeros_like(difference)], dim=1)
    for std in STDS:
        expected = torch.from_numpy(stats.norm.cdf(difference.numpy(), scale=std * math.sqrt(2)))
        torch.testing.assert_close(
            pairwise_order_probability(difference, std), expected, atol=1e-12, rtol=0
        )
        torch.testing.assert_close(
            argmax_probabilities(logits, std)[:, 0], expected, atol=1e-8, rtol=0
        )


def test_pairs_at_zero_noise_keep_their_order():
    difference = torch.tensor([-torch.inf, -1e-30, 0.0, 1e-30, torch.inf])
    expected = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    assert torch.equal(pairwise_order_probability(difference.double(), 0.0), expected)


def test_ties_share_their_probability_at_the_smallest_noise():
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    expected = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]], dtype=torch.float64)
    for std in (1e-12, 1e-3, 0.05):
        torch.testing.assert_close(argmax_probabilities(logits, std), expected, atol=1e-8, rtol=0)


def test_near_ties_are_resolved_in_units_of_the_noise():
    logits = torch.tensor([5.0, 5.0 - 1e-9, 0.0], dtype=torch.float64)
    difference = float(logits[0] - logits[1])
    for std in (1e-9, 1e-8, 1e-7):
        expected = stats.norm.cdf(difference, scale=std * math.sqrt(2))
        assert float(argmax_probabilities(logits, std)[0]) == pytest.approx(expected, abs=1e-8)


def test_zero_noise_gives_the_clean_argmax_and_the_first_of_equals():
    logits = torch.tensor([[0.0, 3.0, 3.0], [-torch.inf, -1.0, -2.0]])
    expected = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(argmax_probabilities(logits, 0.0), expected)
    assert torch.equal(expected.argmax(1), logits.argmax(1))
    labels = torch.tensor([2, 1])
    assert label_probability(logits, labels, 0.0).tolist() == [[0.0, 1.0]]
    assert greedy_survival(logits, 0.0).tolist() == [[1.0, 1.0]]


def test_huge_noise_makes_all_possible_classes_equally_likely():
    logits = torch.tensor([0.0, 3.0, -5.0, 9.0, -torch.inf])
    expected = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0], dtype=torch.float64)
    torch.testing.assert_close(argmax_probabilities(logits, 1e9), expected, atol=1e-7, rtol=0)


def test_impossible_classes_change_nothing():
    rows = example_rows(10)
    padded = torch.cat([rows, torch.full((5, 3), -torch.inf)], dim=1)
    labels = rows.argmin(1)
    for std in STDS:
        expected = argmax_probabilities(rows, std)
        law = argmax_probabilities(padded, std)
        assert (law[:, 10:] == 0).all()
        torch.testing.assert_close(law[:, :10], expected, atol=1e-7, rtol=0)
        torch.testing.assert_close(
            label_probability(padded, labels, std)[0],
            expected.gather(1, labels[:, None])[:, 0],
            atol=1e-7,
            rtol=0,
        )
        torch.testing.assert_close(
            greedy_survival(padded, std), greedy_survival(rows, std), atol=1e-7, rtol=0
        )


def test_laws_depend_on_the_ratio_of_gaps_to_noise_alone():
    rows = example_rows(10)
    torch.testing.assert_close(
        argmax_probabilities(7 * rows + 100, 7 * 0.8),
        argmax_probabilities(rows, 0.8),
        atol=1e-12,
        rtol=0,
    )


def test_batch_dimensions_are_kept():
    rows = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    law = argmax_probabilities(rows, 1.0)
    assert law.shape == rows.shape
    torch.testing.assert_close(
        law[1, 2, 3], argmax_probabilities(rows[1, 2, 3], 1.0), atol=1e-14, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_logits_lose_nothing_more(dtype: torch.dtype):
    logits = example_rows(10).to(dtype)
    assert torch.equal(
        argmax_probabilities(logits, 1.0), argmax_probabilities(logits.double(), 1.0)
    )


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_label_probabilities_equal_adaptive_quadrature(classes: int):
    rows = example_rows(classes)
    # The best class, its rival and the worst one: near and far labels.
    for labels in (rows.argmax(1), rows.topk(2).indices[:, 1], rows.argmin(1)):
        law = label_probability(rows, labels, STDS)
        expected = [
            [quad_probability(r.numpy(), int(k), s) for r, k in zip(rows, labels, strict=True)]
            for s in STDS
        ]
        np.testing.assert_allclose(law.numpy(), expected, atol=1e-7, rtol=0)


def test_strengths_may_be_a_number_a_list_or_a_tensor():
    rows, labels = example_rows(10), torch.tensor([0, 1, 2, 3, 4])
    law = label_probability(rows, labels, [0.0, 0.5, 2.0])
    assert torch.equal(label_probability(rows, labels, 0.5), law[1:2])
    tensor = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    assert torch.equal(label_probability(rows, labels, tensor), law)


def test_rows_do_not_depend_on_their_neighbours(monkeypatch):
    # Confident rows and flat ones, of which each may take its own short cut.
    rows = torch.cat([example_rows(150).repeat(20, 1) * scale for scale in (0.1, 1, 10)])
    labels = torch.arange(300) % 150
    argmax, label = argmax_probabilities(rows, 1.0), label_probability(rows, labels, [0.1, 1.0])
    survival = greedy_survival(rows, [0.1, 1.0])
    monkeypatch.setattr(ordering, "_CPU_ELEMENTS", 450)
    torch.testing.assert_close(argmax_probabilities(rows, 1.0), argmax, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        label_probability(rows, labels, [0.1, 1.0]), label, atol=1e-14, rtol=0
    )
    torch.testing.assert_close(greedy_survival(rows, [0.1, 1.0]), survival, atol=1e-14, rtol=0)


def test_memory_does_not_grow_with_the_number_of_rows():
    rows = torch.randn(40_000, 10, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        label_probability(rows, rows.argmin(1), [1.0])
        assert largest.elements <= max(ordering._CPU_ELEMENTS, len(rows))
        greedy_survival(rows[:50], [1.0])
        assert largest.elements <= max(ordering._CPU_ELEMENTS, len(rows))


def vocabulary_rows() -> torch.Tensor:
    """Rows like a language model's: a bulk, a heavy head, and a winner by 0.1, 2 or 12."""
    generator = torch.Generator().manual_seed(2)
    rows = 2.5 * torch.randn(3, 50_000, generator=generator, dtype=torch.float64)
    rows[:, :40] += 8 * torch.rand(3, 40, generator=generator, dtype=torch.float64)
    rows[:, 7] = rows.amax(1) + torch.tensor([0.1, 2.0, 12.0], dtype=torch.float64)
    return rows


@pytest.mark.parametrize("std", [0.05, 0.7, 2.0, 5.0, 20.0])
def test_survival_in_a_vocabulary_equals_adaptive_quadrature(std: float):
    rows = vocabulary_rows()
    expected = [quad_probability(row.numpy(), 7, std) for row in rows]
    np.testing.assert_allclose(greedy_survival(rows, std)[0].numpy(), expected, atol=1e-6, rtol=0)


def test_survival_at_many_strengths_equals_single_runs():
    rows = vocabulary_rows()
    law = greedy_survival(rows, [0.0, 0.5, 3.0])
    assert torch.equal(law[0], torch.ones(3, dtype=torch.float64))
    assert torch.equal(law[1:2], greedy_survival(rows, 0.5))
    assert torch.equal(law[2:3], greedy_survival(rows, 3.0))


def test_survival_of_tied_tokens_is_shared():
    logits = torch.full((1, 1000), -8.0)
    logits[0, [3, 500]] = 4.0
    assert float(greedy_survival(logits, 0.05)) == pytest.approx(0.5, abs=1e-7)


@pytest.mark.parametrize(
    ("value", "fault"), [(torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "only -inf")]
)
def test_faulty_logits_are_named_by_their_row(value: float, fault: str):
    logits = torch.zeros(4, 3)
    if value == -torch.inf:
        logits[2] = value
    else:
        logits[2, 1] = value
    for law in (
        lambda: argmax_probabilities(logits, 1.0),
        lambda: label_probability(logits, torch.zeros(4, dtype=torch.long), 1.0),
        lambda: greedy_survival(logits, 1.0),
    ):
        with pytest.raises(ValueError, match=f"row 2 holds {fault}"):
            law()


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf])
def test_faulty_strengths_are_refused(std: float):
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"std="):
        argmax_probabilities(logits, std)
    with pytest.raises(ValueError, match=r"stds="):
        label_probability(logits, torch.tensor([0, 1]), [0.5, std])
    with pytest.raises(ValueError, match=r"stds="):
        greedy_survival(logits, [0.5, std])
    with pytest.raises(ValueError, match=r"std="):
        pairwise_order_probability(torch.zeros(2), std)


def test_labels_outside_the_classes_are_named():
    with pytest.raises(ValueError, match=r"labels\[1\]=255 is outside \[0, 3\)"):
        label_probability(torch.zeros(2, 3), torch.tensor([0, 255]), 1.0)


def test_undefined_differences_are_refused():
    with pytest.raises(ValueError, match="difference holds NaN"):
        pairwise_order_probability(torch.tensor([0.0, torch.nan]), 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_laws_on_an_accelerator_equal_those_on_the_cpu():
    rows, labels = example_rows(150), torch.arange(5)
    device_rows, device_labels = rows.cuda(), labels.cuda()
    for law, expected in (
        (argmax_probabilities(device_rows, 1.0), argmax_probabilities(rows, 1.0)),
        (
            label_probability(device_rows, device_labels, STDS),
            label_probability(rows, labels, STDS),
        ),
        (greedy_survival(device_rows, STDS), greedy_survival(rows, STDS)),
    ):
        torch.testing.assert_close(law.cpu(), expected, atol=2e-9, rtol=0)
