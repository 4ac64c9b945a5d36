"""Captum's attributors by their short names."""

from __future__ import annotations

import sys

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.captum_attributors import CAPTUM_ATTRIBUTORS
from aim_plugins.coverage.relevance.registry import ATTRIBUTORS, make_attributor

NAMES = [kind.name for kind in CAPTUM_ATTRIBUTORS]


class Reused(nn.Module):
    """One ReLU, in place, runs twice, as in torchvision's ResNets."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.head(self.relu(self.second(self.relu(self.first(x)))))


def everything(model):
    """All that a module holds, and what is hooked to it."""
    return {
        name: {
            key: len(value) if hasattr(value, "__len__") else value
            for key, value in vars(one).items()
        }
        for name, one in model.named_modules()
    }


def test_the_short_names_are_those_of_the_wisdom_tool():
    assert sorted(NAMES) == ["ii", "la", "lc", "ldl", "ldls", "lgs", "lig", "lrp"]
    assert next(iter(ATTRIBUTORS)) == "lrp-epsilon"


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_captums_means_over_space(net, layers, images, labels, name):
    kind = make_attributor(name)
    found = kind.attribute(net, layers, images[:4], labels[:4])
    captums = getattr(captum.attr, kind.captum_name)
    arguments = {} if name == "la" else {"target": labels[:4]}
    if name in ("ldl", "ldls", "lgs"):
        arguments["baselines"] = torch.zeros_like(images[:4])
    net.relu1.inplace = False
    images.requires_grad_()  # else captum says that it sets it
    for layer, place in zip(layers.names, layers.slices, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            np.random.seed(0)
            expected = captums(net, getattr(net, layer)).attribute(images[:4], **arguments)
        expected = expected.mean((2, 3)) if expected.dim() == 4 else expected
        assert torch.allclose(found[:, place], expected.detach(), atol=1e-5), layer


@pytest.mark.parametrize("name", NAMES)
def test_the_model_and_the_generators_stay_as_they_are(net, layers, images, labels, name):
    before, output = everything(net), net(images)
    torch.manual_seed(3)
    np.random.seed(3)
    make_attributor(name).attribute(net, layers, images[:2], labels[:2])
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    assert drawn == (torch.rand(1), np.random.rand())
    assert everything(net) == before
    assert net.relu1.inplace
    assert torch.equal(net(images), output)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_batch_gets_the_same_scores(net, layers, images, labels, name):
    kind = make_attributor(name)
    first, second = (kind.attribute(net, layers, images[:3], labels[:3]) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_one_input_alone_is_explained(net, layers, images, labels, name):
    found = make_attributor(name).attribute(net, layers, images[:1], labels[:1])
    assert found.shape == (1, layers.neurons)


@pytest.mark.parametrize("name", ["ldl", "ldls"])
def test_a_module_that_runs_twice_is_refused_and_leaves_nothing_behind(name):
    model = Reused().eval()
    before = everything(model)
    with pytest.raises(ValueError, match="cannot explain Reused, as where a module runs twice"):
        make_attributor(name).attribute(
            model, Layers(("first",), (5,)), torch.rand(3, 4), torch.tensor([0, 1, 2])
        )
    assert everything(model) == before
    assert model.relu.inplace
    assert model(torch.rand(3, 4)).shape == (3, 3)


def test_a_module_without_a_rule_is_refused_by_captums_lrp():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3)).eval()
    before = everything(model)
    with pytest.raises(
        ValueError, match="'lrp': captum's LayerLRP .*choose 'lrp-epsilon'.*Flatten"
    ):
        make_attributor("lrp").attribute(
            model, Layers(("0",), (2,)), torch.rand(1, 1, 3, 3), torch.tensor([0])
        )
    assert everything(model) == before


def test_relevance_that_captums_lrp_lets_explode_is_refused():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(12))

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    torch.manual_seed(0)
    model = Residual().eval()
    with pytest.raises(
        ValueError, match="the relevance of 'stem' adds up to .*choose 'lrp-epsilon'"
    ):
        make_attributor("lrp").attribute(
            model, Layers(("stem",), (4,)), torch.rand(20, 4), torch.zeros(20, dtype=torch.int64)
        )


def test_token_ids_are_refused(net, layers, labels):
    with pytest.raises(ValueError, match="attributor='lc' moves inputs towards a baseline"):
        make_attributor("lc").attribute(net, layers, torch.ones(2, 3, dtype=torch.int64), labels)


def test_an_unknown_attributor_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="attributor='lgss': did you mean 'lgs'"):
        make_attributor("lgss")


def test_a_missing_captum_names_the_extra(net, layers, images, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"needs captum: pip install 'aim-plugins\[coverage\]'"):
        make_attributor("lc").attribute(net, layers, images, labels)
