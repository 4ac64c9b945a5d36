"""The vote of attributors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.attributor import Attributor
from aim_plugins.coverage.relevance.registry import make_attributor
from aim_plugins.coverage.relevance.wisdom import VOTERS, Wisdom, rank, usable_voters, weigh


class Fixed(Attributor):
    """Names the same neurons for every input."""

    name = "fixed"
    summary = source = ""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def attribute(self, model, layers, inputs, targets):
        return self.scores[: layers.neurons].expand(len(inputs), -1)


LAYERS = Layers(("fc", "head"), (4, 2))


@pytest.fixture
def model():
    """Its first two neurons tell the classes apart; the third does nothing, the last harms."""
    model = nn.Sequential()
    model.fc, model.head = nn.Linear(2, 4), nn.Linear(4, 2)
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0, 0], [0, 1.0], [1, 1], [1, 0]]))
        model.fc.bias.zero_()
        model.head.weight.copy_(torch.tensor([[4.0, 0, 0, -0.5], [0, 2.0, 0, 0]]))
        model.head.bias.zero_()
    return model.eval()


INPUTS = torch.eye(2).repeat(3, 1)
LABELS = torch.tensor([0, 1] * 3)


def loss_without(model, columns):
    pruned = copy.deepcopy(model)
    for column in columns:
        pruned.fc.weight.data[column] = pruned.fc.bias.data[column] = 0
    return float(nn.functional.cross_entropy(pruned(INPUTS).double(), LABELS).detach())


def test_attributors_weigh_as_much_as_the_loss_gains(model):
    voters = {"a": Fixed([9.0, 0, 1, 0, 0, 0]), "b": Fixed([0, 9.0, 1, 0, 0, 0])}
    wisdom = Wisdom(LAYERS, voters, top_m_neurons=1)
    wisdom.vote(model, INPUTS, LABELS)
    before = loss_without(model, [])
    gains = [loss_without(model, [column]) - before for column in (0, 1)]
    expected = [gain / sum(gains) for gain in gains]
    assert list(wisdom.weights.values()) == pytest.approx(expected, abs=1e-6)


def test_points_go_to_the_best_weighted_relevance(model):
    voters = {
        "a": Fixed([5.0, 1.0, 0, 0, 99, 99]),
        "b": Fixed([0, 8.0, 6.0, 0, 99, 99]),
    }
    wisdom = Wisdom(LAYERS, voters, top_m_neurons=2, keep=2)
    wisdom.vote(model, INPUTS, LABELS)
    before = loss_without(model, [])
    gains = [loss_without(model, one) - before for one in ([0, 1], [1, 2])]
    weights = [gain / sum(gains) for gain in gains]
    scores = {
        0: 5 * weights[0],
        1: weights[0] + 8 * weights[1],
        2: 6 * weights[1],
    }
    best = sorted(scores, key=scores.get, reverse=True)[:2]
    expected = [0] * 6
    expected[best[0]], expected[best[1]] = 2, 1
    assert wisdom.points.tolist() == expected


def test_a_neuron_whose_removal_helps_gives_no_weight(model):
    voters = {"harm": Fixed([0.0, 0, 0, 9, 0, 0]), "good": Fixed([9.0, 0, 0, 0, 0, 0])}
    wisdom = Wisdom(LAYERS, voters, top_m_neurons=1)
    wisdom.vote(model, INPUTS, LABELS)
    assert wisdom.weights == {"harm": 0.0, "good": 1.0}
    assert wisdom.points.tolist() == [1, 0, 0, 0, 0, 0]


def test_points_add_up_over_batches(model):
    wisdom = Wisdom(LAYERS, {"a": Fixed([3.0, 2, 0, 0, 0, 0])}, top_m_neurons=2)
    for _ in range(3):
        wisdom.vote(model, INPUTS, LABELS)
    assert wisdom.points.tolist() == [6, 3, 0, 0, 0, 0]
    assert wisdom.batches == 3
    assert wisdom.top(1) == [0]


def test_a_batch_without_any_gain_has_no_vote(model):
    wisdom = Wisdom(LAYERS, {"dead": Fixed([0.0, 0, 9, 0, 0, 0])}, top_m_neurons=1)
    wisdom.vote(model, INPUTS, LABELS)
    assert (wisdom.batches, wisdom.silent, int(wisdom.points.sum())) == (1, 1, 0)
    with pytest.raises(ValueError, match="none of 1 batches had a vote"):
        wisdom.top(1)


def test_accuracy_weighs_only_changed_predictions(model):
    voters = {"needed": Fixed([9.0, 0, 0, 0, 0, 0]), "spare": Fixed([0.0, 0, 0, 9, 0, 0])}
    wisdom = Wisdom(LAYERS, voters, top_m_neurons=1, gain="accuracy")
    wisdom.vote(model, INPUTS, LABELS)
    assert wisdom.weights == {"needed": 1.0, "spare": 0.0}


def test_the_eight_attributors_vote(net, layers, images, labels):
    wisdom = Wisdom(layers, top_m_neurons=3)
    before = copy.deepcopy(net.state_dict())
    for part in range(2):
        rows = slice(part * 6, part * 6 + 6)
        wisdom.vote(net, images[rows], labels[rows])
    assert tuple(wisdom.voters) == VOTERS
    assert sum(wisdom.weights.values()) == pytest.approx(2 - wisdom.silent)
    assert (wisdom.points[layers["fc2"]] == 0).all()
    assert len(wisdom.top(3)) == 3
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_attributors_that_cannot_explain_a_model_are_told_apart():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)).eval()
    layers = Layers(("0", "3"), (2, 3))
    voters = {name: make_attributor(name) for name in ("lrp", "la", "ii")}
    able, reasons = usable_voters(voters, model, layers, torch.rand(2, 1, 3, 3), LABELS[:2])
    assert list(able) == ["la", "ii"]
    assert "Flatten" in reasons["lrp"]
    with pytest.raises(ValueError, match="no attributor can vote: attributor='lrp'"):
        usable_voters({"lrp": voters["lrp"]}, model, layers, torch.rand(2, 1, 3, 3), LABELS[:2])


class Failing(Attributor):
    name = "failing"
    summary = source = ""

    def attribute(self, model, layers, inputs, targets):
        raise ValueError("cannot explain these")


def test_an_attributor_that_fails_on_a_batch_has_no_vote_in_it(model):
    voters = {"a": Fixed([9.0, 0, 1, 0, 0, 0]), "b": Failing()}
    alone, wisdom = Wisdom(LAYERS, {"a": voters["a"]}), Wisdom(LAYERS, voters)
    for one in (alone, wisdom):
        one.vote(model, INPUTS, LABELS)
    assert wisdom.failures == {"a": 0, "b": 1}
    assert wisdom.weights == {"a": 1.0, "b": 0.0}
    assert torch.equal(wisdom.points, alone.points)
    with pytest.raises(ValueError, match="cannot explain these"):
        Wisdom(LAYERS, {"b": Failing()}).vote(model, INPUTS, LABELS)


def test_shares_of_gains():
    assert weigh([1.0, 3.0]) == [0.25, 0.75]
    assert weigh([float("nan"), 2.0]) == [0.0, 1.0]
    assert weigh([]) == []


def test_equal_scores_rank_by_column():
    assert rank([{5: 1.0, 2: 1.0, 8: 0.5}], [1.0], keep=10) == {2: 3, 5: 2, 8: 1}


def test_a_last_layer_alone_has_nothing_to_choose():
    with pytest.raises(ValueError, match="the last layer's neurons are never chosen"):
        Wisdom(Layers(("head",), (3,)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": "f1"}, "gain='f1' is unknown: write 'loss' or 'accuracy'"),
        ({"keep": 0}, "keep=0"),
        ({"voters": {}}, "name at least one attributor"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Wisdom(LAYERS, **options)
