"""Scores of neurons over training images: an attributor's relevance, or WISDOM's vote.

Captum's attributors run a model many times for each layer, so what was found is saved on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.files import write_atomic
from aim_plugins.coverage.relevance.registry import make_attributor
from aim_plugins.coverage.relevance.relevance import Relevance, measure_relevance
from aim_plugins.coverage.relevance.wisdom import VOTERS, Wisdom, usable_voters
from aim_plugins.coverage.settings import VoteSettings
from vision_bench.coverage.subject import Subject
from vision_bench.data.classification import ClassificationData

_BATCHES = 8
"""Batches between which relevance may be saved."""
_SAVED_EVERY = 20.0
"""Seconds between two savings."""
_TRIED_ON = 4
"""Images on which attributors are tried before they vote."""

_Tensors = dict[str, Tensor]


class Progress:
    """A file of what was found so far, and of how many images.

    Args:
        path: The file; None where nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._saved = time.monotonic()

    def read(self) -> tuple[_Tensors, int] | None:
        """What was saved last; None if there is nothing whole."""
        import safetensors.torch
        from safetensors import SafetensorError

        if self.path is None or not self.path.is_file():
            return None
        try:
            found = safetensors.torch.load(self.path.read_bytes())
            return found, int(found.pop("position"))
        except (SafetensorError, KeyError):
            say(f"{self.path} is no longer whole: it is made again")
            return None

    def note(self, state: Callable[[], _Tensors], position: int, last: bool) -> None:
        """Saves what was found, if it is time or the last."""
        import safetensors.torch

        if self.path is None or not (last or time.monotonic() - self._saved > _SAVED_EVERY):
            return
        found = state() | {"position": torch.tensor(position, dtype=torch.int64)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, safetensors.torch.save(found))
        self._saved = time.monotonic()


def relevance_of(
    subject: Subject, data: ClassificationData, attr: str, path: Path | None = None
) -> Relevance:
    """The relevance of every neuron for a data set's correctly classified images.

    Relevance of a filter is summed over space: within a layer the order is that of the mean, and
    between layers each counts for what it adds to the answer.

    Args:
        subject: The classifier.
        data: The images and labels.
        attr: Name of the attributor.
        path: File that keeps what was found so far.

    Raises:
        ValueError: If the attributor cannot explain the model.
    """
    attributor, classes = make_attributor(attr, "sum"), len(data.classes)
    progress = Progress(path)
    found, start = Relevance.empty(subject.layers, classes), 0
    if (kept := progress.read()) is not None:
        found, start = Relevance.from_state(subject.layers, kept[0]), kept[1]
    # Stretches are the same ones whether a run was interrupted, and so is the order of summing.
    step = _BATCHES * subject.batch_size
    for positions in _stretches(len(data), start, step, f"training set: relevance by {attr}"):
        batches = (
            (one.pixels, data.labels[one.positions].to(subject.device))
            for one in subject.images(data, positions)
        )
        found.combine(
            measure_relevance(subject.named, subject.layers, batches, classes, attributor)
        )
        end = positions[-1] + 1
        progress.note(found.state, end, end == len(data))
    return found


def vote(
    subject: Subject, data: ClassificationData, settings: VoteSettings, path: Path | None = None
) -> tuple[Wisdom, dict[str, str]]:
    """WISDOM's vote over training images.

    Args:
        subject: The classifier.
        data: The images and labels.
        settings: How to vote.
        path: File that keeps the votes so far.

    Returns:
        The vote, and why attributors have none, by name.

    Raises:
        ValueError: If no attributor can explain the model, or no vote was decided.
    """
    voters = {name: make_attributor(name, "sum") for name in VOTERS}
    few = next(iter(subject.images(data, range(min(_TRIED_ON, len(data))))))
    able, silent = usable_voters(
        voters,
        subject.named,
        subject.layers,
        few.pixels,
        data.labels[few.positions].to(subject.device),
    )
    for name, reason in silent.items():
        say(f"{name} has no vote: {reason}")
    wisdom = Wisdom(
        subject.layers,
        able,
        settings.vote_neurons,
        settings.vote_keep,
        settings.vote_gain,
    )
    progress, start = Progress(path), 0
    if (kept := progress.read()) is not None:
        start = kept[1]
        _restore(wisdom, kept[0])
    for positions in _stretches(len(data), start, settings.vote_inputs, "training set: votes"):
        for one in subject.images(data, positions, size=settings.vote_inputs):
            labels = data.labels[one.positions].to(subject.device)
            wisdom.vote(subject.named, one.pixels, labels)
        end = positions[-1] + 1
        progress.note(lambda: _state(wisdom), end, end == len(data))
    wisdom.top(1)  # refuses votes that were all undecided
    return wisdom, silent


def _state(wisdom: Wisdom) -> _Tensors:
    return {
        "points": wisdom.points,
        "batches": torch.tensor([wisdom.batches, wisdom.silent], dtype=torch.int64),
        "weights": torch.tensor(list(wisdom.weights.values()), dtype=torch.float64),
        "failures": torch.tensor(list(wisdom.failures.values()), dtype=torch.int64),
    }


def _restore(wisdom: Wisdom, state: _Tensors) -> None:
    points: Int[Tensor, " neurons"] = state["points"]
    wisdom.points = points
    wisdom.batches, wisdom.silent = state["batches"].tolist()
    wisdom.weights = dict(zip(wisdom.weights, state["weights"].tolist(), strict=True))
    wisdom.failures = dict(zip(wisdom.failures, state["failures"].tolist(), strict=True))


def _stretches(count: int, start: int, step: int, title: str) -> Iterator[Sequence[int]]:
    """Positions in stretches, from where a former run ended, under a progress bar."""
    from tqdm import tqdm

    with tqdm(desc=title, total=count, initial=start, unit="image") as bar:
        for first in range(start, count, step):
            positions = range(first, min(first + step, count))
            yield positions
            bar.update(len(positions))
