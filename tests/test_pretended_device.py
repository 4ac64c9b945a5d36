"""The pretended accelerator: what a GPU refuses is refused, and waits for it are counted."""

from __future__ import annotations

import threading

import pytest
import torch

from aim_plugins.core.devices import best_device
from aim_plugins.modulation.logits import (
    GaussianNoiseLogitsProcessor,
    HalfNormalFocusProcessor,
    add_noise,
)
from aim_plugins.modulation.noise import prefix_keys, standard_normal, standard_normal_at
from aim_plugins.modulation.sampling import KeyedSamplingProcessor
from tests.attribution.conftest import image_subject
from tests.pretended_device import MixedDevicesError


@pytest.fixture
def there(accelerator):
    """Tensors on the accelerator: 0 1 2 3, and the same as a square."""
    line = torch.arange(4.0, device="pretended")
    accelerator.clear()
    return line, line.view(2, 2)


MIXED = {
    "a sum": lambda line, square: line + torch.ones(4),
    "a sum in place": lambda line, square: torch.ones(4).add_(line),
    "a product": lambda line, square: square @ torch.ones(2, 2),
    "a concatenation": lambda line, square: torch.cat([line, torch.ones(1)]),
    "membership": lambda line, square: torch.isin(line, torch.ones(1)),
    "an output": lambda line, square: torch.add(line, line, out=torch.empty(4)),
    "a gather": lambda line, square: line.gather(0, torch.tensor([1])),
    "indices of a tensor on the CPU": lambda line, square: torch.ones(4)[line.long()],
    "values that are written": lambda line, square: square.index_put_(
        (torch.tensor([0]),), torch.ones(2)
    ),
    "a generator": lambda line, square: torch.randn(
        2, device="pretended", generator=torch.Generator()
    ),
    "a layer": lambda line, square: torch.nn.Linear(2, 2)(square),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_what_a_gpu_refuses_is_refused(operation, there):
    with pytest.raises(MixedDevicesError):
        operation(*there)


def test_numpy_takes_no_tensor_of_the_accelerator(there):
    with pytest.raises(TypeError, match="can't convert pretended:0 device type tensor to numpy"):
        there[0].numpy()


def test_scalars_of_the_cpu_are_taken_without_a_wait(there, accelerator):
    line, _ = there
    total = torch.where(line > 1, line * torch.tensor(2.0), torch.tensor(0.5)) + 1
    assert not accelerator
    assert total.tolist() == [1.5, 1.5, 5.0, 7.0]


READS = {
    "item": lambda line, square: line[1].item(),
    "bool": lambda line, square: bool(line.any()),
    "tolist": lambda line, square: square.tolist(),
    "cpu": lambda line, square: line.cpu(),
    "a copy to the CPU": lambda line, square: torch.empty(4).copy_(line),
    "a new tensor": lambda line, square: torch.tensor([1], device="pretended"),
    "nonzero": lambda line, square: line.nonzero(),
    "a mask as an index": lambda line, square: line[line > 1],
    "a list as an index": lambda line, square: square[[1, 0]],
    "equality": lambda line, square: torch.equal(line, line),
    "unique": lambda line, square: line.unique(),
    "repeats": lambda line, square: line.repeat_interleave(line.long()),
}


@pytest.mark.parametrize("operation", READS.values(), ids=READS)
def test_a_wait_is_counted_once_with_its_place(operation, there, accelerator):
    operation(*there)
    (sync,) = accelerator
    assert sync.package == "tests" and "test_pretended_device.py:" in sync.place


def test_views_writes_and_gradients_are_those_of_the_cpu(there):
    line, square = there
    square[1].mul_(10)
    square.t()[0].add_(1)
    assert line.tolist() == [1, 1, 21, 30]
    inputs = torch.ones(1, 2, device="pretended", requires_grad=True)
    (inputs @ square).pow(2).sum().backward()
    assert inputs.grad.device.type == "pretended"
    assert inputs.grad.tolist() == [[2 * (22 + 31), 2 * (22 * 21 + 31 * 30)]]


def test_draws_come_from_a_generator_of_the_device(accelerator):
    torch.manual_seed(3)
    on_cpu = torch.randn(4)
    torch.manual_seed(3)
    first = torch.randn(4, device="pretended")
    assert torch.equal(torch.randn(4), on_cpu)  # untouched by the draw between
    torch.manual_seed(3)
    again = torch.randn(4, device="pretended").tolist()
    assert first.tolist() == again != on_cpu.tolist()


def test_threads_see_the_device_as_well(accelerator):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(torch.tensor([1, 2], device="pretended") + 1)
    )
    thread.start()
    thread.join()
    assert found[0].tolist() == [2, 3]


def test_the_device_is_taken_by_default_while_it_is_there(accelerator):
    assert best_device().type == "pretended"


def test_the_device_is_gone_behind_a_test():
    assert best_device().type != "pretended"


@pytest.mark.parametrize("vocabulary", [10, 1000])
def test_noise_is_that_of_the_cpu(vocabulary, accelerator):
    keys = prefix_keys(torch.arange(12).view(3, 4))[:, -1]
    drawn = standard_normal(keys, vocabulary, seed=3)
    assert torch.equal(standard_normal(keys.to("pretended"), vocabulary, seed=3).cpu(), drawn)
    assert torch.equal(standard_normal(keys, vocabulary, seed=3, device="pretended").cpu(), drawn)
    few = standard_normal_at(keys.to("pretended"), torch.tensor([1, 5]), seed=keys)
    assert torch.equal(few.cpu(), standard_normal_at(keys, torch.tensor([1, 5]), seed=keys))
    stds = torch.tensor([0.0, 1.0, 2.0])
    noisy = add_noise(torch.zeros(3, vocabulary, device="pretended"), keys, stds, seed=3)
    torch.testing.assert_close(noisy.cpu(), stds[:, None] * drawn)


PROCESSORS = {
    "noise": lambda mask: GaussianNoiseLogitsProcessor([0.0, 1.0, 2.0], attention_mask=mask),
    "mean": lambda mask: GaussianNoiseLogitsProcessor(1.0, mean=2.0, attention_mask=mask),
    "focus": lambda mask: HalfNormalFocusProcessor({3: 1, 5: -1}, [0.0, 1.0, 1.0]),
    "sampling": lambda mask: KeyedSamplingProcessor([1, 2, 3], attention_mask=mask),
}


@pytest.mark.parametrize("make", PROCESSORS.values(), ids=PROCESSORS)
def test_processors_take_a_mask_of_the_cpu_and_wait_only_to_refuse_nan(make, accelerator):
    tokens, scores = torch.arange(15).view(3, 5), torch.linspace(-2, 2, 384).view(3, 128)
    mask = torch.ones_like(tokens)
    wanted, processor = make(mask)(tokens, scores), make(mask)
    given = tokens.to("pretended"), scores.to("pretended")
    torch.testing.assert_close(processor(*given).cpu(), wanted)
    accelerator.clear()
    processor(*given)
    assert [sync.operation for sync in accelerator] == ["_local_scalar_dense"]


def test_attributions_of_a_model_on_the_accelerator_are_the_cpus(accelerator):
    subject = image_subject()
    factors = (torch.rand(6, len(subject.components)) > 0.3).float()
    wanted = subject.outputs(factors), *subject.gradients(factors[0])
    subject.model.to("pretended")
    subject.images = subject.images.to("pretended")
    found = subject.outputs(factors), *subject.gradients(factors[0])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other)
