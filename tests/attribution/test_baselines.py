"""Baselines are what other libraries, or a few lines by hand, say they are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from aim_plugins.attribution.baselines import (
    gradient_times_parameter,
    internal_influence,
    leave_one_out,
    neuron_conductance,
)
from aim_plugins.attribution.captured import captured, summed
from aim_plugins.attribution.subject import BatchSubject
from aim_plugins.modulation.component_kinds import find_components
from tests.attribution.conftest import ImageSubject, image_subject, small_network

LAYERS = {"conv_filters": ("0", "3"), "linear_rows": ("7",)}


def first_logit(model: nn.Module):
    return lambda inputs: model(inputs)[:, 0]


@pytest.mark.parametrize("kind", LAYERS)
def test_leave_one_out_is_the_fall_without_one_row_of_weights(kind) -> None:
    subject = image_subject(kind)
    found = leave_one_out(subject)
    for number in range(len(subject.components)):
        model = copy.deepcopy(subject.model)
        site, place = subject.components.site_of(number)
        model.get_submodule(site.layer).weight.data[place] = 0
        fall = first_logit(subject.model)(subject.images) - first_logit(model)(subject.images)
        assert found[:, number].tolist() == pytest.approx(fall.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradient_times_parameter_is_the_product_summed_over_each_row(kind) -> None:
    subject = image_subject(kind, batch_size=2)
    found = gradient_times_parameter(subject)
    for place in range(subject.examples):
        subject.model.zero_grad()
        first_logit(subject.model)(subject.images[place : place + 1]).sum().backward()
        expected = [
            (weight.grad * weight).flatten(1).sum(1)
            for weight in (subject.model.get_submodule(one).weight for one in LAYERS[kind])
        ]
        assert torch.allclose(found[place], torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_internal_influence_is_captums(kind) -> None:
    attr = pytest.importorskip("captum.attr")
    subject = image_subject(kind, batch_size=2)
    found, expected = internal_influence(subject, steps=8), []
    for name in LAYERS[kind]:
        layer = subject.model.get_submodule(name)
        own = attr.InternalInfluence(first_logit(unfused(subject.model)), layer)
        values = own.attribute(subject.images, n_steps=8)
        expected.append(values.reshape(*values.shape[:2], -1).sum(2))
    assert torch.allclose(found, torch.cat(expected, 1), atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_conductance_is_captums(kind) -> None:
    """Captum's rule takes the derivative at the start of each step: near only with many steps."""
    attr = pytest.importorskip("captum.attr")
    subject = image_subject(kind, images=2)
    # Float64, with logits large enough for conductances to stand clear of the rules' difference.
    subject.model.double()
    subject.model[-1].weight.data *= 100
    subject.images = subject.images.double()
    found, expected = neuron_conductance(subject, steps=400), []
    for name in LAYERS[kind]:
        layer = subject.model.get_submodule(name)
        own = attr.LayerConductance(first_logit(unfused(subject.model)), layer)
        values = own.attribute(subject.images, n_steps=2000)
        expected.append(values.reshape(*values.shape[:2], -1).sum(2))
    errors = (found - torch.cat(expected, 1).float()).abs()
    assert errors.max() < 0.02 * found.abs().median()


def unfused(model: nn.Module) -> nn.Module:
    """The same model without in-place layers, whose inputs captum could not read."""
    for one in model.modules():
        if isinstance(one, nn.ReLU):
            one.inplace = False
    return model


def test_conductances_of_a_layer_add_up_to_the_whole_change() -> None:
    subject = image_subject("linear_rows", images=3, batch_size=2)
    model = first_logit(subject.model)
    change = model(subject.images) - model(torch.zeros_like(subject.images))
    found = neuron_conductance(subject, steps=100).sum(1)
    assert found.tolist() == pytest.approx(change.tolist(), abs=1e-3)


class SequenceSubject(BatchSubject):
    """Vectors in a row, read by PyTorch's own attention; with tokens before rows if asked."""

    def __init__(self, kind: str, *, token_first: bool = False) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=not token_first, dropout=0)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        for one in model.parameters():
            if one.ndim == 1:
                one.data.normal_()
        super().__init__(model, find_components(model, kind), 3, batch_size=2)
        self.inputs = torch.randn(3, 6, 8)
        self.token_first = token_first

    def _rows(self, places):
        return self.inputs[list(places)], None

    def _forward(self, inputs):
        if self.token_first:
            return self.model(inputs.transpose(0, 1))[0, :, 0]
        return self.model(inputs)[:, 0, 0]

    def _scaled(self, inputs, share):
        return inputs * share


@pytest.mark.parametrize("kind", ["attention_heads", "linear_inputs", "blocks"])
def test_what_is_captured_is_what_factors_multiply(kind) -> None:
    """The derivative by a factor is that by what it multiplies, times that, summed."""
    subject = SequenceSubject(kind)
    subject.batch_size = 3
    with captured(subject.model, subject.components) as kept:
        output = subject._forward(subject.inputs)
    values = [one.values for one in kept]
    gradients = torch.autograd.grad(output.sum(), values)
    products = [one * gradient for one, gradient in zip(values, gradients, strict=True)]
    found = summed(kept, subject.components, products, 3)
    assert torch.allclose(found, gradient_times_parameter(subject), atol=1e-5)


@pytest.mark.parametrize("method", [neuron_conductance, internal_influence])
@pytest.mark.parametrize("kind", ["attention_heads", "linear_inputs", "linear_rows", "blocks"])
def test_tokens_before_rows_change_nothing(kind, method) -> None:
    found = method(SequenceSubject(kind, token_first=True), steps=4)
    expected = method(SequenceSubject(kind), steps=4)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


class WindowSubject(BatchSubject):
    """Images cut into windows, which are rows of a layer that is called by keyword."""

    def __init__(self, *, by_keyword: bool = False, calls: int = 1) -> None:
        torch.manual_seed(0)
        model = nn.ModuleDict({"inner": nn.Linear(4, 5), "last": nn.Linear(5, 1)}).eval()
        super().__init__(model, find_components(model, "linear_inputs"), 3, batch_size=2)
        self.inputs = torch.randn(3, 12)
        self.by_keyword, self.calls = by_keyword, calls

    def _rows(self, places):
        return self.inputs[list(places)], None

    def _forward(self, inputs):
        inner, last = self.model["inner"], self.model["last"]
        windows = inputs.reshape(-1, 4)
        hidden = nn.functional.pad(windows, (0, 1))
        for _ in range(self.calls):
            hidden = inner(input=windows) if self.by_keyword else inner(windows)
        hidden = hidden.tanh().view(len(inputs), 3, 5).sum(1)
        return last(hidden)[:, 0]

    def _scaled(self, inputs, share):
        return inputs * share


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_layer_that_sees_parts_of_rows_as_rows_has_its_values_summed(by_keyword) -> None:
    """By Gauss-Legendre points on each image alone, from the network's own formula."""
    subject = WindowSubject(by_keyword=by_keyword)
    found = internal_influence(subject, steps=6)
    inner, last = subject.model["inner"], subject.model["last"]
    points, weights = np.polynomial.legendre.leggauss(6)
    for place, image in enumerate(subject.inputs):
        total = torch.zeros(4)
        for point, weight in zip(points, weights, strict=True):
            windows = (image * (point + 1) / 2).view(3, 4)
            slope = 1 - inner(windows).tanh().square()
            total += weight / 2 * ((slope * last.weight) @ inner.weight).sum(0)
        assert torch.allclose(found[place], total, rtol=1e-4, atol=1e-7)


def test_layers_that_run_twice_or_not_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="components='inner' runs more than once in a pass"):
        neuron_conductance(WindowSubject(calls=2))
    with pytest.raises(ValueError, match="components: inner did not run with the model"):
        internal_influence(WindowSubject(calls=0))


def test_capturing_changes_nothing() -> None:
    for subject in (SequenceSubject("attention_heads"), image_subject()):
        inputs = subject._rows(range(3))[0]
        before = subject._forward(inputs)
        with captured(subject.model, subject.components):
            assert torch.allclose(subject._forward(inputs), before, atol=1e-6)
        assert torch.equal(subject._forward(inputs), before)


def test_chosen_components_have_the_columns_they_have_among_all() -> None:
    every = image_subject()
    chosen = ImageSubject(small_network(), every.components.take([1, 5, 9]), every.images)
    for method in (neuron_conductance, internal_influence, leave_one_out):
        assert torch.allclose(method(chosen), method(every)[:, [1, 5, 9]], atol=1e-6)


def test_inputs_without_a_way_to_them_are_refused() -> None:
    subject = image_subject()
    subject._scaled = lambda inputs, share: BatchSubject._scaled(subject, inputs, share)
    with pytest.raises(ValueError, match="ImageSubject has inputs that cannot be scaled"):
        neuron_conductance(subject)
