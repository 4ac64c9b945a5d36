"""The images that a public model is reused for: to train on, and to choose on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import list_left_out
from vision_bench.data.samples import read_samples


@dataclass(frozen=True)
class Labelled:
    """Images in memory.

    Attributes:
        images: As the model takes them.
        labels: Their classes.
    """

    images: Float[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Int[Tensor, " some"]) -> Labelled:
        """Some of them."""
        return Labelled(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Target:
    """A problem that a model is fine-tuned for.

    Attributes:
        training: What it learns from.
        validation: What the best state is chosen on; no test image is.
        classes: How many it has.
        batch_size: Images in a step.
        device: Where to compute.
    """

    training: Labelled
    validation: Labelled
    classes: int
    batch_size: int
    device: torch.device

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order.

        A last batch of a single image, of which batch normalisation knows no variance, is left out.
        """
        order = torch.randperm(len(self.training), generator=generator)
        for rows in order.split(self.batch_size):
            if len(rows) > 1 or len(order) == 1:
                part = self.training.take(rows)
                yield part.images.to(self.device), part.labels.to(self.device)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Share of the validation images that a model answers rightly; it is put into eval mode."""
        model.eval()
        right = 0
        for rows in torch.arange(len(self.validation)).split(self.batch_size):
            part = self.validation.take(rows)
            found = model(part.images.to(self.device)).argmax(1).cpu()
            right += int((found == part.labels).sum())
        return right / len(self.validation)


def read_target(
    data: ClassificationData,
    *,
    validation: float,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    seed: int = 0,
) -> Target:
    """Reads a data set's training images, and splits a part off for validation.

    Args:
        data: The training split, with the model's preprocessing.
        validation: Share that is split off, of every class alike.
        batch_size: Images in a step.
        device: Where to compute.
        workers: Processes that read.
        seed: Seed of the split.

    Raises:
        ValueError: If images differ in size, or too few are left for training or validation.
    """
    from aim_plugins.core.commands import say

    rows = list(range(len(data)))
    batches = [rows[start : start + 256] for start in range(0, len(rows), 256)]
    images, labels = [], []
    for samples in read_samples(data, batches, workers):
        for position, image in samples:
            if isinstance(image, str):
                data.unreadable[data.names[position]] = image
            else:
                images.append(image)
                labels.append(int(data.labels[position]))
    if data.unreadable:
        say(f"{data.title}: {list_left_out(data.unreadable)}")
    sizes = sorted({tuple(one.shape[1:]) for one in images})
    if len(sizes) != 1:
        raise ValueError(
            f"{data.title} holds images of {len(sizes)} sizes, first {sizes[:2]}: give a "
            "preprocessing with size and crop"
        )
    every = Labelled(torch.stack(images), torch.tensor(labels))
    kept, held = _split(every.labels, validation, seed)
    if not len(kept) or not len(held):
        raise ValueError(
            f"validation={validation} of {len(every)} images leaves {len(kept)} for training and "
            f"{len(held)} for validation: give more images, or another share"
        )
    return Target(every.take(kept), every.take(held), len(data.classes), batch_size, device)


def _split(labels: Int[Tensor, " n"], share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows for training and for validation, of every class alike."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = order[labels[order] == label]
        held[own[: round(share * len(own))]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]
