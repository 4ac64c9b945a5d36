"""Coverage criteria: all in one pass of the model against one at a time, and IDC's relevance.

    python -m benchmarks.coverage [--models lenet5 ...] [--rounds 3] [--memory-images 5000 50000]

CPU time of LeNet-5 and ResNet-18 on images of Fashion-MNIST: twelve criteria from one pass, against
a pass of the images and the model for each, and against the model alone. A pass reads its images
from the data set, as a run does; with images held in memory, which leaves the criteria a larger
share of it, the same is measured besides. LRP-ε of four layers from one forward and backward pass,
against captum's LayerLRP, which takes one for each. Peak memory of processes that measure few
images and many.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aim_plugins.coverage.activations import NeuronReader, neuron_layers
from aim_plugins.coverage.criteria.criterion import Batch, Criterion
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.learning import Values, choose_neurons, cluster_sets
from aim_plugins.coverage.reference import Reference, ReferenceBuilder, ReferenceMetadata
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.relevance.captum_attributors import CaptumLRP
from aim_plugins.coverage.relevance.gradient import LRPEpsilon
from aim_plugins.coverage.relevance.relevance import measure_relevance
from aim_plugins.coverage.settings import CRITERIA, CriteriaSettings, ImportanceSettings
from benchmarks._timing import RESULTS, paired_medians, write_result
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.models.preprocessing import Preprocessing

_TRAINING = 1000
_BATCH = 500
_EXPLAINED = 100
"""Images whose relevance is measured: captum's LRP takes its time."""


def lenet() -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLUs and max-pooling: 236 neurons."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def resnet18() -> nn.Module:
    """torchvision's ResNet-18, for grey images."""
    from torchvision.models import resnet18 as make

    model = make(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model


def small_image_resnet18() -> nn.Module:
    """The same with a stem for small images, which keeps their size (He et al., section 4.2)."""
    model = resnet18()
    model.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "lenet5": (lenet, 1000),
    "resnet18": (resnet18, 300),
    "resnet18_small_images": (small_image_resnet18, 100),
}
"""What makes a model, and how many test images are measured."""


def data_set(split: str, count: int | None) -> ClassificationData:
    """Fashion-MNIST, standardised."""
    grey = Preprocessing(mean=(0.286,) * 3, std=(0.353,) * 3)
    return load_dataset("fashion-mnist", split=split, preprocessing=grey, limit=count)


def read(data: ClassificationData, start: int = 0, end: int | None = None) -> Iterator[Tensor]:
    """Batches of images [batch, 1, 28, 28], as they are read."""
    end = len(data) if end is None else end
    for first in range(start, end, _BATCH):
        yield torch.stack([data[index][0][:1] for index in range(first, min(end, first + _BATCH))])


def train(model: nn.Module, pixels: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """A few steps of Adam: relevance asks for answers that are right."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(pixels), (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(pixels[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def batches(model: nn.Module, layers: Layers, parts: Iterable[Tensor]) -> Iterator[Batch]:
    """What criteria see of images, from one pass of the model."""
    with NeuronReader(model, layers).attached() as reader, torch.no_grad():
        for part in parts:
            logits = model(part)
            yield Batch(reader.neurons(), logits.argmax(1))


def learn(model: nn.Module, layers: Layers, pixels: Tensor, labels: Tensor) -> Reference:
    """A reference of training images for all criteria."""
    builder = ReferenceBuilder(layers, CriteriaSettings(), len(pixels))
    parts = pixels.split(_BATCH)
    for batch in batches(model, layers, parts):
        builder.update(batch)
    relevance = measure_relevance(model, layers, zip(parts, labels.split(_BATCH), strict=True), 10)
    chosen = choose_neurons(
        layers, relevance, ImportanceSettings(), [str(one) for one in range(10)]
    )
    positions = torch.arange(len(pixels)).split(_BATCH)
    values = Values.read(chosen, zip(positions, batches(model, layers, parts), strict=True))
    sets = cluster_sets(layers, chosen, values, 2)
    metadata = ReferenceMetadata(
        method="lrp-epsilon", sites=layers.names, surprise_layer=builder.surprise_layer
    )
    return builder.finish(sets, metadata)


def measure(
    model: nn.Module, layers: Layers, criteria: Mapping[str, Criterion], parts: Iterable[Tensor]
) -> None:
    """Measures criteria in one pass of the model, and reads their values."""
    for batch in batches(model, layers, parts):
        for criterion in criteria.values():
            criterion.update(batch)
    for criterion in criteria.values():
        _ = criterion.value


def alone(model: nn.Module, parts: Iterable[Tensor]) -> None:
    """The model and nothing else."""
    with torch.no_grad():
        for part in parts:
            model(part).argmax(1)


def prepare(name: str) -> tuple[nn.Module, Layers, Reference, Tensor, Tensor]:
    """A trained model with a reference, and its training images."""
    torch.manual_seed(0)
    data = data_set("train", _TRAINING)
    pixels, labels = torch.cat(list(read(data))), data.labels
    model = train(MODELS[name][0](), pixels, labels, 150 if name == "lenet5" else 20)
    layers = neuron_layers(model, lambda: model(pixels[:1]))
    return model, layers, learn(model, layers, pixels, labels), pixels, labels


def compare(name: str, count: int, rounds: int) -> dict[str, Any]:
    """CPU times of one model."""
    model, layers, reference, training, labels = prepare(name)
    data = data_set("test", count)
    held = list(read(data))

    def together(parts: Iterable[Tensor]) -> None:
        measure(model, layers, make_criteria(reference, CriteriaSettings()), parts)

    def one_by_one(source: Callable[[], Iterable[Tensor]]) -> None:
        for criterion in CRITERIA:
            settings = CriteriaSettings(criteria=(criterion,))
            measure(model, layers, make_criteria(reference, settings), source())

    found: dict[str, Any] = {
        "neurons": layers.neurons,
        "layers": len(layers.names),
        "images": count,
        "criteria_seconds": criteria_seconds(model, layers, reference, held),
    }
    sources: dict[str, Callable[[], Iterable[Tensor]]] = {
        "images_from_the_data_set": lambda: read(data),
        "images_in_memory": lambda: held,
    }
    for place, source in sources.items():
        contestants = {
            "alone": functools.partial(lambda source: alone(model, source()), source),
            "together": functools.partial(lambda source: together(source()), source),
            "one_by_one": functools.partial(one_by_one, source),
        }
        times = paired_medians(contestants, rounds=rounds, warm_up=False)
        found[place] = {
            "model_alone_seconds": times["alone"],
            "all_criteria_one_pass_seconds": times["together"],
            "one_criterion_at_a_time_seconds": times["one_by_one"],
            "less_cpu_than_one_at_a_time": times["one_by_one"] / times["together"],
            "times_model_alone": times["together"] / times["alone"],
        }
    return found | relevance_times(name, model, pixels=training, labels=labels, rounds=rounds)


def criteria_seconds(
    model: nn.Module, layers: Layers, reference: Reference, parts: Iterable[Tensor]
) -> dict[str, float]:
    """CPU time of each criterion alone, without the pass of the model."""
    held = list(batches(model, layers, parts))

    def update(criterion: Criterion) -> Callable[[], None]:
        def work() -> None:
            for batch in held:
                # A batch of its own, since criteria share what they need of one.
                criterion.update(Batch(batch.neurons, batch.classes))
            _ = criterion.value

        return work

    criteria = make_criteria(reference, CriteriaSettings())
    return paired_medians({name: update(one) for name, one in criteria.items()}, rounds=1)


def relevance_times(
    name: str, model: nn.Module, *, pixels: Tensor, labels: Tensor, rounds: int
) -> dict[str, Any]:
    """LRP-ε of four layers in one pass, against captum's LayerLRP in a call for each.

    Captum's has no rule for a Flatten and explodes on torchvision's ResNet: only LeNet is compared,
    with the Flatten as a function.
    """
    if name != "lenet5":
        return {}
    pixels, labels = pixels[:_EXPLAINED], labels[:_EXPLAINED]
    wrapped = Flattened(model)
    four = neuron_layers(wrapped, lambda: wrapped(pixels[:1]))
    four = Layers(four.names[:4], four.sizes[:4])
    contestants = {
        "ours": lambda: LRPEpsilon().attribute(wrapped, four, pixels, labels),
        "captum": lambda: CaptumLRP().attribute(wrapped, four, pixels, labels),
    }
    times = paired_medians(contestants, rounds=3 * rounds)
    return {
        "relevance_layers": list(four.names),
        "relevance_seconds": times["ours"],
        "captum_layer_lrp_seconds": times["captum"],
        "less_cpu_than_captum": times["captum"] / times["ours"],
    }


class Flattened(nn.Module):
    """LeNet-5 whose features are flattened by a function, as captum's LRP asks for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        modules = list(model)  # type: ignore[call-overload]
        self.features = nn.Sequential(*modules[:6])
        self.head = nn.Sequential(*modules[7:])

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels).flatten(1))


def peak_memory(count: int) -> float:
    """Peak memory in MB of a process that measures so many images, read as they come."""
    command = [sys.executable, "-m", "benchmarks.coverage", "--peak-of", str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_many(count: int) -> None:
    """Measures LeNet on many images, and prints the peak memory of this process in MB."""
    model, layers, reference, _, _ = prepare("lenet5")
    data = data_set("train", None)
    criteria = make_criteria(reference, CriteriaSettings())
    measure(model, layers, criteria, read(data, 0, count))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--memory-images", type=int, nargs="*", default=[5000, 50_000])
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of is not None:
        measure_many(options.peak_of)
        return
    found = {name: compare(name, MODELS[name][1], options.rounds) for name in options.models}
    memory = {str(count): peak_memory(count) for count in options.memory_images}
    print(json.dumps(found | {"peak_memory_mb": memory}, indent=2))
    # What is not measured this time stays as it was.
    former = RESULTS / "coverage.json"
    result = json.loads(former.read_text()) if former.exists() else {}
    for name, figures in (("models", found), ("peak_memory_mb", memory)):
        result[name] = result.get(name, {}) | figures
    print(write_result("coverage", result))


if __name__ == "__main__":
    main()
