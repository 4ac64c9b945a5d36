"""Confusion matrices against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics

from vision_bench.confusion import ClassMetrics, ConfusionMatrix

CLASSES = 7


@pytest.fixture(scope="module")
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and predictions; class 5 has no ground truth and class 6 is never predicted."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (3, 40, 31), generator=generator)
    predictions = torch.where(
        torch.rand(labels.shape, generator=generator) < 0.6,
        labels,
        torch.randint(0, CLASSES, labels.shape, generator=generator),
    )
    labels[labels == 5] = 4
    predictions[predictions == 6] = 0
    labels[:, :5] = 255
    return labels, predictions


@pytest.fixture(scope="module")
def confusion(maps) -> ConfusionMatrix:
    result = ConfusionMatrix(CLASSES)
    for labels, predictions in zip(*maps, strict=True):
        result.update(labels, predictions)
    return result


def _counted(maps) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = maps
    return labels[labels != 255].numpy(), predictions[labels != 255].numpy()


def test_matrix_is_that_of_scikit_learn(maps, confusion):
    expected = metrics.confusion_matrix(*_counted(maps), labels=range(CLASSES))
    assert np.array_equal(confusion.matrix.numpy(), expected)
    assert confusion.accuracy == metrics.accuracy_score(*_counted(maps))


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("iou", metrics.jaccard_score),
        ("recall", metrics.recall_score),
        ("precision", metrics.precision_score),
        ("f1", metrics.f1_score),
    ],
)
def test_metrics_of_classes_are_those_of_scikit_learn(maps, confusion, name, score):
    expected = score(*_counted(maps), labels=range(CLASSES), average=None, zero_division=0)
    labelled = [0, 1, 2, 3, 4, 6]
    # Class 5 is predicted and never labelled: nothing of it could be recalled.
    present = labelled if name == "recall" else range(CLASSES)
    for counted, convention in ((present, "present"), (labelled, "labelled")):
        values = confusion.metrics(convention).by_name()[name].numpy()
        assert np.flatnonzero(~np.isnan(values)).tolist() == list(counted)
        assert values[counted] == pytest.approx(expected[counted], rel=1e-12)
        mean = float(confusion.metrics(convention).means()[f"m{name}"])
        assert mean == pytest.approx(expected[counted].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "score", "value"),
    [
        ("miou", metrics.jaccard_score, 1 / 2),
        ("mprecision", metrics.precision_score, 2 / 3),
        ("mf1", metrics.f1_score, 5 / 9),
    ],
)
def test_a_class_predicted_but_never_labelled_counts_as_zero(name, score, value):
    labels, predictions = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1])
    confusion = ConfusionMatrix(4)  # the last class is in neither, and left out
    confusion.update(labels, predictions)
    assert float(confusion.metrics().means()[name]) == pytest.approx(value)
    # scikit-learn too averages over the classes that are in either.
    assert score(labels, predictions, average="macro", zero_division=0) == pytest.approx(value)
    left_out = float(confusion.metrics("labelled").means()[name])
    assert left_out == pytest.approx(value * 3 / 2)


def test_a_class_never_predicted_counts_as_zero(confusion):
    assert [float(v[6]) for v in confusion.metrics().by_name().values()] == [0, 0, 0, 0]


def test_order_and_parts_do_not_matter(maps, confusion):
    labels, predictions = maps
    first, second = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    first.update(labels[2], predictions[2])
    second.update(labels[:2].to(torch.uint8), predictions[:2].int())
    first.merge(second)
    assert torch.equal(first.matrix, confusion.matrix)


def test_without_ignored_label_every_pixel_counts():
    confusion = ConfusionMatrix(2, ignore_index=None)
    confusion.update(torch.tensor([0, 1]), torch.tensor([1, 1]))
    assert confusion.matrix.tolist() == [[0, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"labels hold 255 \(1 such pixels\), outside \[0, 2\)"):
        confusion.update(torch.tensor([0, 255]), torch.tensor([1, 1]))


def test_no_data_has_no_metric():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([255]), torch.tensor([0]))
    assert np.isnan(confusion.accuracy)
    assert all(bool(value.isnan()) for value in confusion.metrics().means().values())


def test_fractions_of_pixels_have_metrics_too():
    metric = ClassMetrics.from_counts(
        torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([0.75], dtype=torch.float64)
    )
    assert [float(v) for v in metric.by_name().values()] == pytest.approx(
        [0.5 / 1.25, 0.5, 0.5 / 0.75, 1 / 1.75]
    )


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 7], [0, 0], r"labels hold 7 .*ADE20K"),
        ([0, -1], [0, 0], "labels hold -1"),
        ([0, 1], [0, 7], "predictions hold 7"),
        ([0, 1], [0], "one prediction per label"),
        ([0.0, 1.0], [0, 0], "give integer class indices"),
    ],
)
def test_what_is_no_class_is_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(CLASSES).update(torch.tensor(labels), torch.tensor(predictions))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="classes=0"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="other has 3 classes"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))
