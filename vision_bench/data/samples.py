"""Reading a data set batch after batch, with the reason in the place of an unusable image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vision_bench.data.dataset import VisionData, first_of
from vision_bench.data.images import UnreadableImageError

Sample = tuple[int, Tensor | str]
"""The position of an image, and its pixels as the model takes them, or why there are none."""


def read_samples(
    data: VisionData, batches: Sequence[list[int]], workers: int = 0
) -> Iterator[list[Sample]]:
    """Reads images in given batches.

    Args:
        data: The data set, with the preprocessing that the model expects.
        batches: Positions of the images of each batch.
        workers: Processes that read.

    Raises:
        UnreadableImageError: If an image is unusable and the data set was loaded with
            `on_error="raise"`.
    """
    loader = DataLoader(
        _Samples(data), batch_sampler=batches, collate_fn=_as_list, num_workers=workers
    )
    return iter(loader)


def first_readable(data: VisionData) -> Tensor:
    """The first image that can be read; those before it are noted in the data's `unreadable`.

    Args:
        data: The data set, with the preprocessing that the model expects.

    Raises:
        UnreadableImageError: If there is none, or an image before it is unusable and the data set
            was loaded with `on_error="raise"`.
    """
    for ((position, image),) in read_samples(data, [[one] for one in range(len(data))]):
        if isinstance(image, Tensor):
            return image
        data.unreadable[data.names[position]] = image
    raise UnreadableImageError(
        f"{data.title} holds no readable image; {first_of(data.unreadable)}: give images that can "
        "be decoded"
    )


class _Samples(Dataset):
    def __init__(self, data: VisionData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        try:
            return index, self.data[index][0]
        except UnreadableImageError as error:
            reason = str(error)
            if self.data.on_error == "raise":
                name = self.data.names[index]
                text = reason if name in reason else f"{name}: {reason}"
                raise UnreadableImageError(text) from error
            return index, reason


def _as_list(samples: list[Any]) -> list[Any]:
    return samples
