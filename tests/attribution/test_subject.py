"""Many masks as rows of one batch give what the model gives with zeroed weights, one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aim_plugins.attribution.baselines import neuron_conductance
from aim_plugins.attribution.subject import BatchSubject, factors_of
from aim_plugins.modulation.component_kinds import find_components
from tests.attribution.conftest import FormulaSubject, image_subject


def zeroed_outputs(subject, factors):
    """Outputs with the weight rows of ablated filters set to zero, a copy for each mask."""
    found = []
    for row in factors:
        model = copy.deepcopy(subject.model)
        for number in (row == 0).nonzero().flatten().tolist():
            site, place = subject.components.site_of(number)
            model.get_submodule(site.layer).weight.data[place] = 0
        with torch.no_grad():
            found.append(model(subject.images)[:, 0])
    return torch.stack(found)


def masks(subject, count: int):
    generator = torch.Generator().manual_seed(3)
    ablated = torch.rand(count, len(subject.components), generator=generator) < 0.3
    return factors_of(ablated.numpy())


@pytest.mark.parametrize("kind", ["conv_filters", "linear_rows"])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_outputs_are_those_of_zeroed_weights(kind: str, batch_size: int) -> None:
    subject = image_subject(kind, batch_size=batch_size)
    factors = masks(subject, 6)
    found = subject.outputs(factors)
    assert found.shape == (6, 5)
    assert torch.allclose(found, zeroed_outputs(subject, factors), atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    subject = image_subject()
    subject.model[0].weight.requires_grad_(False)
    state = copy.deepcopy(subject.model.state_dict())
    asked = [one.requires_grad for one in subject.model.parameters()]
    subject.gradients(torch.ones(len(subject.components)))
    subject.outputs(masks(subject, 2))
    assert all(torch.equal(one, state[name]) for name, one in subject.model.state_dict().items())
    assert [one.requires_grad for one in subject.model.parameters()] == asked
    assert all(one.grad is None for one in subject.model.parameters())
    assert not any(one._forward_hooks for one in subject.model.modules())


def test_without_ablation_outputs_are_the_models_own() -> None:
    subject = image_subject()
    with torch.no_grad():
        assert torch.equal(subject.whole(), subject.model(subject.images)[:, 0])


def test_gradients_are_finite_differences() -> None:
    subject = image_subject("linear_rows", batch_size=2)
    subject.model[-1].weight.data *= 100  # so that derivatives stand clear of rounding
    at = torch.rand(len(subject.components), generator=torch.Generator().manual_seed(0))
    outputs, gradients = subject.gradients(at)
    step, scale = 1e-2, gradients.abs().median().item()
    for number in range(len(at)):
        above, below = at.clone(), at.clone()
        above[number] += step
        below[number] -= step
        high, low = subject.outputs(torch.stack([above, below]))
        assert gradients[:, number] == pytest.approx((high - low) / (2 * step), abs=0.01 * scale)
    assert torch.allclose(outputs, subject.outputs(at[None])[0], rtol=1e-5)


def test_passes_are_counted_in_units_of_all_examples() -> None:
    subject = image_subject(batch_size=3)
    subject.outputs(masks(subject, 8))
    subject.paired_outputs(masks(subject, 1), torch.zeros(1).long(), torch.tensor([2]))
    subject.gradients(torch.ones(len(subject.components)))
    assert subject.passes.forward == pytest.approx(9.2)
    assert subject.passes.backward == 1


class ChoiceSubject(BatchSubject):
    """Examples of two or three rows each: the first one's score less the mean of the others."""

    counts = (2, 3, 2)

    def __init__(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).eval()
        super().__init__(model, find_components(model, "linear_rows"), 3, batch_size=2)
        self.inputs = [torch.randn(count, 4) for count in self.counts]

    def _rows(self, places):
        rows = [self.inputs[place] for place in places]
        owners = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(r) for r in rows]))
        return (torch.cat(rows), [len(one) for one in rows]), owners

    def _forward(self, inputs):
        rows, counts = inputs
        parts = self.model(rows)[:, 0].split(counts)
        return torch.stack([one[0] - one[1:].mean() for one in parts])


def test_examples_may_have_several_rows() -> None:
    subject = ChoiceSubject()
    factors = masks(subject, 4)
    found = subject.outputs(factors)
    for mask, row in enumerate(factors):
        model = copy.deepcopy(subject.model)
        model[0].weight.data *= row[:, None]
        for place, inputs in enumerate(subject.inputs):
            scores = model(inputs)[:, 0]
            assert found[mask, place].item() == pytest.approx(
                (scores[0] - scores[1:].mean()).item(), abs=1e-5
            )
    _, gradients = subject.gradients(factors[0])
    step = torch.zeros(5)
    step[1] = 1e-2
    high, low = subject.outputs(torch.stack([factors[0] + step, factors[0] - step]))
    assert gradients[:, 1] == pytest.approx((high - low) / 2e-2, abs=2e-3)


class PairedSubject(BatchSubject):
    """Vectors, which the model reads beside their opposites: as pairs, or first all as they are."""

    def __init__(self, apart: bool, batch_size: int = 8) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh()).eval()
        components = find_components(model, "linear_rows")
        super().__init__(model, components, 3, batch_size=batch_size)
        self.inputs, self.apart = torch.randn(3, 4), apart

    def _rows(self, places):
        return self.inputs[list(places)], None

    def _forward(self, inputs):
        given = torch.stack([inputs, -inputs], 0 if self.apart else 1)
        outputs = self.model(given.flatten(0, 1))[:, :3].sum(1).view(given.shape[:2])
        return outputs.square().sum(0 if self.apart else 1)

    def _scaled(self, inputs, share):
        return inputs * share


def test_a_model_that_lays_rows_out_anew_is_refused_but_for_one_mask_at_a_time() -> None:
    """Of two rows and their opposites the first two would have the first one's factors."""
    factors = masks(PairedSubject(False), 4)
    expected = PairedSubject(False).outputs(factors)
    refused = "components='0': factors of one row of a batch act on others"
    for ask in (
        lambda: PairedSubject(True).outputs(factors),
        lambda: PairedSubject(True).gradients(factors[0]),
        lambda: neuron_conductance(PairedSubject(True)),
    ):
        with pytest.raises(ValueError, match=refused):
            ask()
    alone = PairedSubject(True, batch_size=1)
    assert torch.allclose(alone.outputs(factors), expected, atol=1e-6)
    _, gradients = alone.gradients(factors[0])
    assert torch.allclose(gradients, PairedSubject(False).gradients(factors[0])[1], atol=1e-6)


def test_rows_are_tried_once_and_not_counted() -> None:
    subject, calls = image_subject(), []
    forward = subject._forward
    subject._forward = lambda inputs: (calls.append(len(inputs)), forward(inputs))[1]
    for _ in range(3):
        subject.outputs(masks(subject, 2))
    assert calls.count(10) == 3 and calls.count(2) == len(calls) - 3
    assert subject.passes.forward == 6
    first = len(calls)
    subject.outputs(masks(subject, 2))
    assert len(calls) == first + 1


def test_a_layer_that_does_not_run_is_refused_though_the_model_is_never_called() -> None:
    subject = PairedSubject(False)
    subject._forward = lambda inputs: subject.model[2](nn.functional.pad(inputs, (0, 2)))[:, 0]
    for ask in (
        lambda: subject.outputs(torch.zeros(1, len(subject.components))),
        lambda: subject.gradients(torch.ones(len(subject.components))),
    ):
        with pytest.raises(ValueError, match="components: 0 did not run with the model"):
            ask()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["conv_filters", "linear_rows"])
def test_in_half_precision_outputs_are_those_of_zeroed_weights(dtype, kind) -> None:
    """To rounding, of which the network's own difference from float32 is a measure."""
    subject = image_subject(kind)
    factors = masks(subject, 6)
    exact = subject.outputs(factors)
    subject.model.to(dtype)
    subject.images = subject.images.to(dtype)
    found, expected = subject.outputs(factors), zeroed_outputs(subject, factors).float()
    assert found.dtype == torch.float32
    rounding = (expected - exact).abs().max()
    assert (found - expected).abs().max() <= rounding < 0.1 * (exact - subject.whole()).abs().max()


def test_a_batch_needs_a_row() -> None:
    with pytest.raises(ValueError, match=r"batch_size=0: give 1 or more"):
        image_subject(batch_size=0)


def test_the_made_up_formula_has_its_own_gradients() -> None:
    subject = FormulaSubject(curved=True)
    at = torch.rand(6, dtype=torch.float64)
    subject.linear, subject.squares = subject.linear.double(), subject.squares.double()
    _, gradients = subject.gradients(at)
    by_autograd = torch.autograd.functional.jacobian(lambda m: subject.outputs(m[None])[0], at)
    assert torch.allclose(gradients, by_autograd)
