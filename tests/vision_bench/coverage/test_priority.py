"""Which inputs to label first, against what loops over all candidates find."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from aim_plugins.coverage.criteria.boundary import KMNC
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.gains import choose_criterion
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.settings import GINI
from vision_bench.coverage.candidates import Candidates, load_candidates, look_at
from vision_bench.coverage.priority import (
    Judgement,
    Orders,
    Priority,
    sentences,
)
from vision_bench.coverage.settings import RunSettings
from vision_bench.coverage.subject import Subject
from vision_bench.data.classification import load_dataset
from vision_bench.models.model import wrap_model
from vision_bench.models.preprocessing import Preprocessing

COUNT = 60


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * 8 * 8, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(images.flatten(1)).relu())


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    prepared = Preprocessing(mean=[0.5] * 3, std=[0.5] * 3)
    model = wrap_model(Net(), classes=10, preprocessing=prepared)
    return Subject(model, [], torch.zeros(1, 3, 8, 8), device="cpu", batch_size=7)


@pytest.fixture(scope="module")
def suite(subject: Subject):
    return load_dataset("digits", preprocessing=subject.model.preprocessing, limit=COUNT)


def criterion(seen: int = 0) -> KMNC:
    """KMNC of the subject's 22 neurons, with some made-up inputs of which are covered."""
    made = KMNC(Layers(("hidden", "head"), (12, 10)), -torch.ones(22), torch.ones(22), 6)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(seen, 22, generator=generator)
    made.update(Batch(rows, torch.zeros(seen, dtype=torch.int64)))
    return made


@pytest.fixture(scope="module")
def found(subject: Subject, suite) -> Candidates:
    return look_at(subject, suite, criterion(3))


def neurons_by_hand(subject: Subject, suite) -> torch.Tensor:
    images = torch.stack([suite[index][0] for index in range(COUNT)])
    with torch.no_grad():
        hidden = subject.named.hidden(images.flatten(1))
        return torch.cat([hidden, subject.named.head(hidden.relu())], 1)


def buckets(row: torch.Tensor) -> set[tuple[int, int]]:
    cells = set()
    for neuron, value in enumerate(row.double().tolist()):
        if -1 <= value <= 1:
            cells.add((neuron, min(5, int((value + 1) / 2 * 6))))
    return cells


def test_each_input_adds_what_nothing_before_it_covers(subject, suite, found) -> None:
    rows = neurons_by_hand(subject, suite)
    start = criterion(3).reached.reshape(22, 6)
    covered = {(int(n), int(b)) for n, b in start.nonzero()}
    ranked = Orders(criterion(3), found).ranked(suite, 20, "KMNC")
    for one in ranked:
        gains = [len(buckets(row) - covered) for row in rows]
        assert one.gain == gains[one.position] == max(gains)
        covered |= buckets(rows[one.position])
        if not max(gains):
            break


def test_deep_gini_orders_by_how_unsure_the_model_is(subject, suite, found) -> None:
    logits = neurons_by_hand(subject, suite)[:, 12:].double()
    gini = 1 - (logits.softmax(1) ** 2).sum(1)
    ranked = Orders(criterion(3), found).ranked(suite, COUNT, GINI)
    assert [one.position for one in ranked] == sorted(range(COUNT), key=lambda i: -gini[i])
    assert [one.gini_rank for one in ranked] == list(range(1, COUNT + 1))
    assert ranked[0].gini == pytest.approx(float(gini.max()), abs=1e-6)


def test_gains_along_deep_gini_add_up_to_what_all_cover(subject, suite, found) -> None:
    ranked = Orders(criterion(3), found).ranked(suite, COUNT, GINI)
    whole = set().union(*map(buckets, neurons_by_hand(subject, suite)))
    start = {(int(n), int(b)) for n, b in criterion(3).reached.reshape(22, 6).nonzero()}
    assert sum(one.gain for one in ranked) == len(whole - start)


def test_orders_are_judged_by_the_models_mistakes(subject, suite, found) -> None:
    orders = Orders(criterion(3), found)
    judgement = orders.judge(suite.labels, "digits")
    wrong = neurons_by_hand(subject, suite)[:, 12:].argmax(1) != suite.labels
    assert judgement.mistakes == int(wrong.sum())
    ranks = [place + 1 for place, one in enumerate(orders.by_gini.tolist()) if wrong[one]]
    by_hand = 1 - sum(ranks) / (COUNT * len(ranks)) + 1 / (2 * COUNT)
    assert judgement.areas[GINI] == pytest.approx(by_hand)
    assert judgement.curves["random"][-1] == pytest.approx(len(ranks))


def test_a_priority_comes_back_from_json(suite, found) -> None:
    orders = Orders(criterion(3), found)
    judgement = orders.judge(suite.labels, "digits")
    ranked = orders.ranked(suite, 5, "KMNC")
    priority = Priority("KMNC", "KMNC", COUNT, ranked, orders.coverage(0), judgement)
    assert Priority.from_json(priority.to_json()) == priority
    assert f"The first 5 of {COUNT} candidates" in sentences(priority)[0]


def settings(**fields) -> RunSettings:
    return RunSettings("digits", "resnet20", prioritize=5, **fields)


def test_labels_are_known_where_folders_are_named_by_classes(tmp_path: Path, suite) -> None:
    draw = random.Random(0)
    for name in ("7", "2"):
        (tmp_path / name).mkdir()
        for number in range(2):
            colour = tuple(draw.randrange(256) for _ in range(3))
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{number}.png")
    data, labels = load_candidates(settings(candidates=str(tmp_path)), suite)
    assert data.names == ("2/0.png", "2/1.png", "7/0.png", "7/1.png")
    assert labels is not None and labels.tolist() == [2, 2, 7, 7]


def test_other_folders_are_unlabelled(tmp_path: Path, suite) -> None:
    (tmp_path / "monday").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "monday" / "a.png")
    data, labels = load_candidates(settings(candidates=str(tmp_path)), suite)
    assert labels is None and data.names == ("monday/a.png",)


def test_a_folder_without_images_is_refused(tmp_path: Path, suite) -> None:
    with pytest.raises(FileNotFoundError, match="image"):
        load_candidates(settings(candidates=str(tmp_path)), suite)


def test_a_criterion_that_counts_no_units_is_refused() -> None:
    from aim_plugins.coverage.criteria.covariance import NLC

    criteria = {"NLC": NLC(Layers(("a",), (2,)))}
    with pytest.raises(ValueError, match="prioritize_by='NLC' counts no units"):
        choose_criterion(criteria, "NLC")


def test_candidates_without_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match="--prioritize 20"):
        RunSettings("digits", "resnet20", candidates="images")


def test_no_order_is_recommended_that_does_not_beat_chance() -> None:
    areas = {"coverage": 0.52, GINI: 0.49, "random": 0.5, "spread": 0.02}
    assert Judgement("digits", 60, 9, {}, areas).best is None
    assert Judgement("digits", 60, 9, {}, areas | {GINI: 0.6}).best == GINI
    assert Judgement("digits", 60, 9, {}, areas | {"coverage": 0.55}).best == "coverage"
    assert Judgement("digits", 60, 0, {}, {}).best is None
