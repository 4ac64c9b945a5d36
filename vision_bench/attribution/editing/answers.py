"""What a model answers under several edits: images are read once, and go through all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core.identity import fingerprint
from vision_bench.data.classification import ClassificationData
from vision_bench.data.samples import read_samples
from vision_bench.logits.forward import forward
from vision_bench.models.model import VisionModel


class Edit(NamedTuple):
    """What is done to the model while images go through it.

    Attributes:
        what: All that tells it from others, as JSON.
        applied: Does it while the block runs.
    """

    what: Any
    applied: Callable[[], AbstractContextManager[Any]]


UNCHANGED = Edit(None, contextlib.nullcontext)
"""The model as it is."""

UNREADABLE = -1
"""The answer to an image that cannot be read."""


@runtime_checkable
class Journal(Protocol):
    """Where finished batches are kept."""

    def read_batch(self, key: str) -> Any | None: ...

    def write_batch(self, key: str, payload: Any) -> None: ...


class EditedClassifier:
    """A classifier that is asked under edits, of which answers are kept.

    Args:
        model: The classifier, on its device.
        batch_size: Images in a pass.
        workers: Processes that read.
        journal: Where finished batches are kept, so that a killed run goes on.
    """

    def __init__(
        self, model: VisionModel, batch_size: int, workers: int = 0, journal: Journal | None = None
    ) -> None:
        self.model, self.batch_size, self.workers = model, batch_size, workers
        self.device = next(model.module.parameters()).device
        self.journal = journal

    def __call__(
        self, data: ClassificationData, edits: Mapping[str, Edit], title: str
    ) -> dict[str, Int[Tensor, " images"]]:
        """The classes that images are answered with, under each edit.

        Args:
            data: The images; unreadable ones are noted in it, and answered with -1.
            edits: By name.
            title: Of the progress bar, and of what is kept of these images under these edits.
        """
        from tqdm import tqdm

        found = {name: torch.full((len(data),), UNREADABLE) for name in edits}
        size, digest = self.batch_size, fingerprint([[n, one.what] for n, one in edits.items()])
        starts = range(0, len(data), size)
        with tqdm(desc=title, total=len(data), unit="image") as bar:
            for start in starts:
                places = list(range(start, min(start + size, len(data))))
                held = self._kept(data, edits, f"{title},{start},{size},{digest}", places)
                for name, answers in held["answers"].items():
                    found[name][places] = torch.tensor(answers)
                data.unreadable |= held["unreadable"]
                bar.update(len(places))
        return found

    def _kept(
        self, data: ClassificationData, edits: Mapping[str, Edit], key: str, places: Sequence[int]
    ) -> dict[str, Any]:
        """The answers to a batch, computed unless they are there."""
        held = None if self.journal is None else self.journal.read_batch(key)
        if held is None:
            held = self._ask(data, edits, places)
            if self.journal is not None:
                self.journal.write_batch(key, held)
        return held

    @torch.no_grad()
    def _ask(
        self, data: ClassificationData, edits: Mapping[str, Edit], places: Sequence[int]
    ) -> dict[str, Any]:
        answers = {name: [UNREADABLE] * len(places) for name in edits}
        for positions, images in self.images(data, places):
            for name, edit in edits.items():
                with edit.applied():
                    given = forward(self.model, images).argmax(1).tolist()
                for position, answer in zip(positions, given, strict=True):
                    answers[name][position - places[0]] = answer
        names = [data.names[one] for one in places]
        unreadable = {one: data.unreadable[one] for one in names if one in data.unreadable}
        return {"answers": answers, "unreadable": unreadable}

    def images(
        self, data: ClassificationData, places: Sequence[int]
    ) -> Iterator[tuple[list[int], Float[Tensor, "images 3 height width"]]]:
        """Reads images, those of one size together; unreadable ones are noted and left out."""
        for samples in read_samples(data, [list(places)], self.workers):
            by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
            for position, image in samples:
                if isinstance(image, str):
                    data.unreadable[data.names[position]] = image
                else:
                    by_shape.setdefault(tuple(image.shape), []).append((position, image))
            for members in by_shape.values():
                pixels = torch.stack([image for _, image in members]).to(self.device)
                yield [position for position, _ in members], pixels

    @torch.no_grad()
    def features(
        self, data: ClassificationData, layer: nn.Module
    ) -> tuple[list[int], Float[Tensor, "images features"]]:
        """What a layer takes in of each readable image, and where these images stand."""
        held: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, given: held.append(given[0].cpu()))
        positions: list[int] = []
        try:
            for start in range(0, len(data), self.batch_size):
                places = range(start, min(start + self.batch_size, len(data)))
                for own, images in self.images(data, places):
                    forward(self.model, images)
                    positions += own
        finally:
            hook.remove()
        return positions, torch.cat(held).float()
