"""Batches of labelled images to train and to measure on.

Masks are trained for hundreds of epochs on a few thousand images, mostly without a GPU: reading,
resizing and normalising them anew in each epoch would cost as much as the network. Prepared images
are therefore kept in memory where they fit, and random views are taken of whole batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.core.identity import seed_of
from vision_bench.data.classification import ClassificationData
from vision_bench.data.images import normalise
from vision_bench.data.samples import first_readable, read_samples
from vision_bench.reengineering.augmentation import DRAWS, augmented
from vision_bench.reengineering.choices import Augment

MEMORY = 2 << 30
"""Bytes of prepared images that are kept at most."""

Batch = tuple[Float[Tensor, "batch 3 height width"], Int[Tensor, " batch"]]
"""Images as the model takes them, and their labels."""


class TrainingImages:
    """Labelled images of one size, in random order and random views for each epoch.

    Order and views depend on the seed, the epoch and the image's place in its data set alone.
    Unusable images are left out and noted in the data set's `unreadable`.

    Args:
        data: The images.
        augment: Which random views are trained on.
        seed: Seed of order and views.
        memory: Bytes of prepared images that are kept at most; of more, all are read anew in each
            epoch.
        workers: Processes that read images.

    Raises:
        ValueError: If, of those kept, not all images have one size.
        UnreadableImageError: If no image can be read, or one is unusable and the data set was
            loaded with `on_error="raise"`.
    """

    def __init__(
        self,
        data: ClassificationData,
        *,
        augment: Augment = "none",
        seed: int = 0,
        memory: int = MEMORY,
        workers: int = 0,
    ) -> None:
        self.data, self.augment, self.seed, self.workers = data, augment, seed, workers
        height, width = first_readable(data).shape[1:]
        self._size = (height, width)
        black = normalise(torch.zeros(3, 1, 1), data.preprocessing)
        self._black: Float[Tensor, 3] = black.flatten()
        self._kept: Float[Tensor, "n 3 height width"] | None = None
        # Of images that are not kept it is known only once they have been read.
        self._usable: Bool[Tensor, " n"] = torch.ones(len(data), dtype=torch.bool)
        if 4 * len(data) * 3 * self._size[0] * self._size[1] <= memory:
            self._kept = self._read_all()

    @property
    def in_memory(self) -> bool:
        """Whether the prepared images are kept."""
        return self._kept is not None

    def epoch(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """All images once, in the order and the views of an epoch.

        Args:
            epoch: Its number.
            batch_size: Images in a batch; unusable ones are missing from theirs.

        Raises:
            ValueError: If images differ in size.
        """
        count = len(self.data)
        order = torch.randperm(count, generator=self._generator("order", epoch))
        draws = torch.rand(count, DRAWS[self.augment], generator=self._generator("views", epoch))
        for positions, images in self._batches(order, batch_size):
            views = augmented(images, draws[positions], self._black, self.augment)
            yield views, self.data.labels[positions]

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All images as they are, in the order of the data set.

        Args:
            batch_size: Images in a batch; unusable ones are missing from theirs.

        Raises:
            ValueError: If images differ in size.
        """
        for positions, images in self._batches(torch.arange(len(self.data)), batch_size):
            yield images, self.data.labels[positions]

    def _generator(self, *words: object) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self.seed, *words))

    def _batches(
        self, order: Int[Tensor, " n"], batch_size: int
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch 3 height width"]]]:
        parts = [part[self._usable[part]] for part in order.split(batch_size)]
        parts = [part for part in parts if len(part)]
        if self._kept is not None:
            for part in parts:
                yield part, self._kept[part]
            return
        yield from self._read(parts)

    def _read(
        self, parts: Sequence[Int[Tensor, " _"]]
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch 3 height width"]]]:
        """Reads batches of images, and leaves unusable ones out."""
        for samples in read_samples(self.data, [part.tolist() for part in parts], self.workers):
            positions, images = [], []
            for position, image in samples:
                if isinstance(image, str):
                    self._leave_out(position, image)
                    continue
                self._check_size(position, image)
                positions.append(position)
                images.append(image)
            if images:
                yield torch.tensor(positions), torch.stack(images)

    def _read_all(self) -> Float[Tensor, "n 3 height width"]:
        from tqdm import tqdm

        count, size = len(self.data), 256
        kept = torch.zeros(count, 3, *self._size)
        with tqdm(desc="reading images", total=count, unit="image", delay=5, leave=False) as bar:
            for positions, images in self._read(torch.arange(count).split(size)):
                kept[positions] = images
                bar.update(len(positions))
        return kept

    def _leave_out(self, position: int, reason: str) -> None:
        self._usable[position] = False
        self.data.unreadable[self.data.names[position]] = reason

    def _check_size(self, position: int, image: Float[Tensor, "3 height width"]) -> None:
        if image.shape[1:] != self._size:
            (height, width), (other, wide) = self._size, image.shape[1:]
            raise ValueError(
                f"{self.data.names[position]} is {wide} x {other} where the first image is "
                f"{width} x {height}: batches need one size, such as preprocessing='size=224 "
                "crop=224'"
            )
