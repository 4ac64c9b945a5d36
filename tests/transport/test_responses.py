"""Pooled activations against numpy on each sentence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aim_plugins.transport.responses import (
    Responses,
    as_tokens,
    in_order,
    last_tokens,
    pool,
)
from aim_plugins.transport.vocabulary import POOLINGS

LENGTHS = (5, 2, 1, 4)
NEURONS = 3

ALONE = {
    "mean": lambda one: one.mean(0, keepdims=True),
    "min": lambda one: one.min(0, keepdims=True),
    "max": lambda one: one.max(0, keepdims=True),
    # The lower of the two middle values, as ml-act's torch.median.
    "median": lambda one: np.sort(one, 0)[(len(one) - 1) // 2][None],
    "last": lambda one: one[-1:],
    "all": lambda one: one,
}


def sentences(*, several=()):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(length, *several, NEURONS)) for length in LENGTHS]


def padded(rows, width=7, *, left=False, filler=float("nan")):
    activations = torch.full((len(rows), width, *rows[0].shape[1:]), filler)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(0, len(row))
        activations[number, place] = torch.tensor(row).float()
        mask[number, place] = True
    return activations, mask


def test_every_pooling_has_a_reference_here():
    assert set(ALONE) == set(POOLINGS)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_of_any_content_and_side_leaves_responses_alone(pooling, left):
    rows = sentences()
    responses = pool(*padded(rows, left=left), pooling)
    wanted = [ALONE[pooling](row) for row in rows]
    assert responses.counts.tolist() == [len(one) for one in wanted]
    np.testing.assert_allclose(responses.values, np.concatenate(wanted), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_head_counts_as_a_token(pooling):
    rows = sentences(several=(2,))
    responses = pool(*padded(rows), pooling)
    own = [row[-1:] if pooling == "last" else row for row in rows]
    kind = "all" if pooling == "last" else pooling
    wanted = [ALONE[kind](row.reshape(-1, NEURONS)) for row in own]
    np.testing.assert_allclose(responses.values, np.concatenate(wanted), atol=1e-6)
    assert responses.counts.tolist() == [len(one) for one in wanted]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_nan_of_a_sentence_shows_in_its_responses(pooling):
    rows = sentences()
    rows[0][-1, 1] = np.nan
    values = pool(*padded(rows, filler=0.0), pooling).values
    assert values[:, 1].isnan().any()
    assert not values[:, 0].isnan().any()


def test_half_precision_is_pooled_in_single():
    activations = torch.tensor([[[1000.0], [1000.5], [1001.5]]], dtype=torch.bfloat16)
    mask = torch.ones(1, 3, dtype=torch.bool)
    wanted = activations.double().mean()  # bfloat16 has steps of 4 there
    assert pool(activations, mask, "mean").values.item() == pytest.approx(float(wanted))
    assert pool(activations, mask, "mean").values.dtype == torch.float32


def test_double_precision_stays_double():
    rows = [torch.rand(1, 3, 2, dtype=torch.float64)]
    assert pool(rows[0], torch.ones(1, 3, dtype=torch.bool), "max").values.dtype == torch.float64


def test_last_token_is_resolved_by_the_mask():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]).bool()
    assert last_tokens(mask).tolist() == [1, 3, 0]


def test_batches_come_together_in_the_order_of_the_sentences():
    first = Responses(torch.tensor([[40.0], [10.0], [11.0]]), torch.tensor([1, 2]))
    second = Responses(torch.tensor([[20.0], [30.0], [31.0]]), torch.tensor([1, 2]))
    values, owners = in_order([first, second], [torch.tensor([3, 0]), torch.tensor([1, 2])])
    assert values.flatten().tolist() == [10, 11, 20, 30, 31, 40]
    assert owners.tolist() == [0, 0, 1, 2, 2, 3]


def test_outputs_laid_out_as_rows_of_tokens_are_unfolded():
    mask = torch.ones(2, 3, dtype=torch.bool)
    output = torch.arange(12.0).reshape(6, 2)
    assert torch.equal(as_tokens(output, mask, "fc"), output.reshape(2, 3, 2))


@pytest.mark.parametrize("shape", [(2, 4, 5), (5, 2), (3, 2, 5), (6,)])
def test_outputs_without_a_token_dimension_are_refused_by_name(shape):
    with pytest.raises(ValueError, match=r"modules: 'router' has an output of the shape"):
        as_tokens(torch.zeros(shape), torch.ones(2, 3, dtype=torch.bool), "router")


def test_an_unknown_pooling_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="pooling='average' is unknown: choose one of mean, min"):
        pool(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), "average")
