"""The classifier whose coverage is measured: its neurons of any images, in one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core.devices import best_device
from aim_plugins.coverage.activations import NeuronReader, neuron_layers
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers
from vision_bench.classifiers.load import load, load_training
from vision_bench.coverage.settings import TrainedSettings
from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import VisionData
from vision_bench.data.images import UnreadableImageError
from vision_bench.data.samples import read_samples
from vision_bench.logits.forward import forward
from vision_bench.models.model import VisionModel, named_module


@dataclass(frozen=True)
class Images:
    """Images of one size, as the model takes them.

    Attributes:
        positions: Where they stand in their data set.
        pixels: The model's inputs, on its device.
    """

    positions: Int[Tensor, " images"]
    pixels: Float[Tensor, "images 3 height width"]


@dataclass(frozen=True)
class Seen:
    """What a pass of the model says of images.

    Attributes:
        positions: Where they stand in their data set.
        batch: Their neurons and predicted classes.
        logits: The model's answers, on the CPU.
    """

    positions: Int[Tensor, " images"]
    batch: Batch
    logits: Float[Tensor, "images classes"]


class Subject:
    """A classifier and its neurons.

    Args:
        model: The classifier.
        modules: Patterns of the modules whose neurons are looked at; none for the default.
        example: Some of the model's inputs, with which it is run once.
        device: Where it runs; by default a GPU where there is one.
        batch_size: Images in a pass.
        workers: Processes that read images.

    Attributes:
        module: The module that is called.
        named: The module whose parts carry the names of layers.
        layers: The neurons.

    Raises:
        ValueError: If a pattern matches nothing, or the model has no layer to look at.
    """

    def __init__(
        self,
        model: VisionModel,
        modules: Sequence[str],
        example: Float[Tensor, "images 3 height width"],
        *,
        device: str | None = None,
        batch_size: int = 128,
        workers: int = 0,
    ) -> None:
        self.model, self.batch_size, self.workers = model, batch_size, workers
        self.device = torch.device(best_device(device))
        self.module: nn.Module = model.module.to(self.device)
        self.named: nn.Module = named_module(self.module)
        example = example.to(self.device)
        self.layers: Layers = neuron_layers(
            self.named, lambda: forward(model, example), list(modules) or None
        )

    def images(
        self,
        data: VisionData,
        positions: Sequence[int] | None = None,
        title: str = "",
        size: int | None = None,
    ) -> Iterator[Images]:
        """Reads images, batch by batch; unusable ones are noted in the data set and left out.

        Args:
            data: The data set.
            positions: Which of them, by default all.
            title: Of the progress bar; none is shown without one.
            size: Images in a batch; by default as many as in a pass.
        """
        from tqdm import tqdm

        chosen = list(range(len(data)) if positions is None else positions)
        size = size or self.batch_size
        batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        with tqdm(desc=title, total=len(chosen), unit="image", disable=not title) as bar:
            for samples in read_samples(data, batches, self.workers):
                by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
                for position, image in samples:
                    if isinstance(image, str):
                        data.unreadable[data.names[position]] = image
                    else:
                        by_shape.setdefault(tuple(image.shape), []).append((position, image))
                for members in by_shape.values():
                    yield Images(
                        torch.tensor([position for position, _ in members]),
                        torch.stack([image for _, image in members]).to(self.device),
                    )
                bar.update(len(samples))

    def see(self, images: Iterable[Images]) -> Iterator[Seen]:
        """Runs the model on images and reads its neurons.

        Raises:
            UnfitImageError: If the model takes no images of this size.
            ValueError: If an activation is NaN or infinite.
        """
        reader = NeuronReader(self.named, self.layers)
        with reader.attached():
            for one in images:
                with torch.inference_mode():
                    logits = forward(self.model, one.pixels).float().cpu()
                # Outside of inference mode, so that criteria may keep what they are given.
                neurons = reader.neurons().clone()
                classes = logits.argmax(1).clone()
                yield Seen(one.positions, Batch(neurons, classes), logits.clone())

    def pass_over(
        self, data: VisionData, positions: Sequence[int] | None = None, title: str = ""
    ) -> Iterator[Seen]:
        """Reads images and runs the model on them; see `images` and `see`."""
        return self.see(self.images(data, positions, title))


def load_subject(
    settings: TrainedSettings,
) -> tuple[Subject, ClassificationData, ClassificationData | None]:
    """Loads the model, the suite, and the training data unless a reference stands for them.

    Raises:
        ValueError: If a name, a file or a setting is not usable.
        FileNotFoundError: If a file is not there.
        ImportError: If a package is missing.
    """
    model, suite = load(settings)
    model.tell()
    training = load_training(settings, model, suite) if settings.needs_training else None
    subject = Subject(
        model,
        settings.modules,
        first_image(suite),
        device=settings.device,
        batch_size=settings.batch_size,
        workers=settings.workers,
    )
    return subject, suite, training


def first_image(data: VisionData) -> Float[Tensor, "1 3 height width"]:
    """The first image of a data set that can be read, as a batch."""
    for position in range(len(data)):
        with contextlib.suppress(UnreadableImageError):
            return data[position][0][None]
    raise UnreadableImageError(f"{data.title} holds no readable image")
