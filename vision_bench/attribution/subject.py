"""A classifier whose components are ablated, and the images whose outputs are watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.attribution import outputs
from aim_plugins.attribution.subject import BatchSubject
from aim_plugins.core.devices import best_device
from aim_plugins.core.errors import first_few
from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.component_kinds import find_components
from aim_plugins.modulation.components import Components
from vision_bench.attribution.choices import OutputFunction
from vision_bench.attribution.settings import ExampleSettings
from vision_bench.classifiers.load import load, load_training
from vision_bench.data.classes import class_index
from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import evenly
from vision_bench.data.images import UnreadableImageError
from vision_bench.data.samples import read_samples
from vision_bench.logits.forward import forward
from vision_bench.models.model import VisionModel, named_module

MEMORY = 2 << 30
"""Bytes of images that are kept where the model computes; more stay in main memory."""

_Inputs = tuple[Tensor, Tensor]
"""Images as the model takes them, and their labels."""


class ClassifierSubject(BatchSubject):
    """A classifier and labelled images.

    Args:
        model: The classifier, on its device.
        components: Components of the module whose parts carry their names, see `named_module`.
        images: The images, as the model takes them.
        labels: Their classes.
        output_fn: The number that is attributed.
        batch_size: Pairs of a mask and an image in a pass.
    """

    def __init__(
        self,
        model: VisionModel,
        components: Components,
        images: Float[Tensor, "n 3 height width"],
        labels: Int[Tensor, " n"],
        output_fn: OutputFunction = "margin",
        batch_size: int = 128,
    ) -> None:
        super().__init__(named_module(model.module), components, len(images), batch_size)
        fits = images.nbytes <= MEMORY
        self.images = images.to(self.device) if fits else images
        self.labels = labels.to(self.device)
        self._classifier = model
        self._output = {"margin": outputs.margin, "log_likelihood": outputs.log_likelihood}[
            output_fn
        ]

    def _rows(self, places: Sequence[int]) -> tuple[_Inputs, None]:
        chosen = torch.tensor(places)
        images = self.images[chosen.to(self.images.device)].to(self.device)
        return (images, self.labels[chosen.to(self.device)]), None

    def _forward(self, inputs: _Inputs) -> Float[Tensor, " examples"]:
        images, labels = inputs
        return self._output(forward(self._classifier, images), labels)

    def _scaled(self, inputs: _Inputs, share: float) -> _Inputs:
        # From the mean colour, which normalisation makes 0.
        return inputs[0] * share, inputs[1]


@dataclass(frozen=True)
class Loaded:
    """What the stages of an attribution start from.

    Attributes:
        model: The classifier, on its device.
        data: The data that the images are of, as their split is loaded.
        positions: Where the images stand in it.
        subject: The classifier with its components, and the images.
    """

    model: VisionModel
    data: ClassificationData
    positions: Sequence[int]
    subject: ClassifierSubject

    @property
    def components(self) -> Components:
        """The components."""
        return self.subject.components

    @property
    def names(self) -> list[str]:
        """Names of the images, each of them once."""
        return [self.data.names[position] for position in self.positions]

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Classes of the images."""
        return self.data.labels[list(self.positions)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 that identifies the model and the images as it sees them."""
        identity = self.data.identity()
        return fingerprint([self.model.fingerprint, identity, self.names])


def load_subject(settings: ExampleSettings) -> Loaded:
    """Loads the model, finds its components, and reads the images.

    Raises:
        ValueError: If a name, a file or a setting is not usable, or there are no such components.
        FileNotFoundError: If a file is not there.
        ImportError: If a package is missing.
    """
    model, data = load(settings)
    model.tell()
    model.module.to(best_device(settings.device))
    # Before the images are read, which may take a while.
    components = find_components(
        named_module(model.module), settings.components, list(settings.patterns)
    )
    if settings.examples_of == "train":
        data = load_training(settings, model, data)
    positions = choose_examples(data, settings.examples, settings.example_classes)
    positions, images = read_images(data, positions, settings.workers)
    subject = ClassifierSubject(
        model,
        components,
        images,
        data.labels[positions],
        settings.output_fn,
        settings.batch_size,
    )
    return Loaded(model, data, positions, subject)


def choose_examples(
    data: ClassificationData, count: int, classes: Sequence[str | int] = ()
) -> list[int]:
    """Positions of images, evenly over a data set.

    Args:
        data: The data set.
        count: How many, at most.
        classes: Names or indices of the classes that they are of; by default all.

    Raises:
        ValueError: If one is no class, or the data set holds no image of them.
    """
    chosen = {class_index(one, data.classes, "example_classes") for one in classes}
    labels = data.labels.tolist()
    allowed = [place for place, label in enumerate(labels) if not chosen or label in chosen]
    if not allowed:
        named = first_few([data.classes[one] for one in sorted(chosen)])
        raise ValueError(f"example_classes={named!r}: {data.title} holds no image of them")
    return [allowed[place] for place in evenly(len(allowed), count)]


def read_images(
    data: ClassificationData, positions: Sequence[int], workers: int = 0, batch: int = 64
) -> tuple[list[int], Float[Tensor, "n 3 height width"]]:
    """Reads images; unusable ones are noted in the data set and left out.

    Args:
        data: The data set, with the preprocessing that the model expects.
        positions: Which of them.
        workers: Processes that read.
        batch: Images that are read at a time.

    Returns:
        Positions of those that could be read, and the images.

    Raises:
        ValueError: If they are of several sizes.
        UnreadableImageError: If none can be read, or one is unusable and the data set was loaded
            with `on_error="raise"`.
    """
    kept, found = [], []
    batches = [list(positions[start : start + batch]) for start in range(0, len(positions), batch)]
    for samples in read_samples(data, batches, workers):
        for position, image in samples:
            if isinstance(image, str):
                data.unreadable[data.names[position]] = image
            else:
                kept.append(position)
                found.append(image)
    if not found:
        raise UnreadableImageError(f"{data.title}: none of {len(positions)} images can be read")
    sizes = sorted({f"{one.shape[2]}x{one.shape[1]}" for one in found})
    if len(sizes) > 1:
        raise ValueError(
            f"preprocessing leaves images of several sizes ({first_few(sizes)}), which share no "
            "batch: give it a size and a crop, such as preprocessing='size=256 crop=224'"
        )
    return kept, torch.stack(found)
