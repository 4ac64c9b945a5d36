"""Neurons of all documents on disk: the model sees each document once, and all else reads this.

The file holds a row of float32 for each document, in the order of the pass. A killed run goes on
behind the last part that was written whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.sweep.store import SweepStore
from aim_plugins.task_coverage.subject import Subject, Tokens

_PART = 1 << 24
"""Numbers written together: 64 MiB."""
_BATCH = 1 << 22
"""Numbers that criteria look at together, of which they make copies in 64 bits."""
_FLOAT = np.dtype("<f4")


class KeptNeurons:
    """Neurons of documents, as a subject reads them, and behind them their projections.

    Args:
        path: The file.
        inputs: Number of documents.
        neurons: Number of neurons.
        directions: Number of directions.
        order: The documents in the order of the rows.
    """

    def __init__(
        self, path: Path, inputs: int, neurons: int, directions: int, order: Sequence[int]
    ) -> None:
        self.path, self.neurons, self.directions = path, neurons, directions
        self._rows = np.empty(inputs, dtype=np.int64)
        self._rows[list(order)] = np.arange(inputs)
        shape = (inputs, neurons + directions)
        self._values = np.memmap(path, dtype=_FLOAT, mode="r", shape=shape)

    def batches(
        self,
        positions: Sequence[int],
        classes: Int[Tensor, " documents"],
        *,
        directions: bool = False,
    ) -> Iterator[tuple[Int[Tensor, " inputs"], Batch]]:
        """Documents in an order, in batches of bounded memory.

        Args:
            positions: The documents.
            classes: The class of every document, whether it is asked for or not.
            directions: Whether projections are wanted in the place of neurons.

        Yields:
            Positions, and the batch.
        """
        columns = slice(self.neurons, None) if directions else slice(self.neurons)
        size = max(1, _BATCH // max(1, self.directions if directions else self.neurons))
        for start in range(0, len(positions), size):
            chosen = list(positions[start : start + size])
            # A copy, which outlives the file.
            values = np.array(self._values[self._rows[chosen], columns], dtype=np.float32)
            places = torch.tensor(chosen)
            yield places, Batch(torch.from_numpy(values), classes[places])


def keep_neurons(
    subject: Subject,
    tokens: Sequence[Tokens],
    store: SweepStore,
    name: str,
    title: str,
) -> KeptNeurons:
    """Reads the neurons of documents into a file of a study's folder, where they are not there.

    Args:
        subject: The model.
        tokens: The documents.
        store: The folder; it notes which parts are written.
        name: Name of the file.
        title: Of the progress bar.

    Raises:
        OSError: If the file cannot be written.
    """
    from tqdm import tqdm

    neurons = subject.layers.neurons
    directions = 0 if subject.directions is None else len(subject.directions.vectors)
    width = neurons + directions
    # Documents of like length stand together, so that little is padded.
    order = sorted(range(len(tokens)), key=lambda one: (-len(tokens[one].ids), one))
    size = max(subject.batch_size, _PART // width // subject.batch_size * subject.batch_size)
    path = store.folder / name
    held = path.stat().st_size if path.exists() else 0
    with (
        open(path, "r+b" if held else "wb") as file,
        tqdm(desc=title, total=len(tokens), unit="document") as bar,
    ):
        for start in range(0, len(order), size):
            part = order[start : start + size]
            end, key = (start + len(part)) * width * _FLOAT.itemsize, f"{name},{start}"
            if store.read_batch(key) is None or held < end:
                rows = _read(subject, tokens, part, width, bar.update)
                file.seek(start * width * _FLOAT.itemsize)
                file.write(rows.astype(_FLOAT).tobytes())
                file.flush()
                os.fsync(file.fileno())
                store.write_batch(key, {"documents": len(part)})
            else:
                bar.update(len(part))
    return KeptNeurons(path, len(tokens), neurons, directions, order)


def _read(
    subject: Subject,
    tokens: Sequence[Tokens],
    part: Sequence[int],
    width: int,
    progress: Callable[[int], object],
) -> np.ndarray:
    rows = np.empty((len(part), width), dtype=np.float32)
    for seen in subject.read([tokens[one] for one in part]):
        values = torch.cat([seen.neurons, seen.projections], 1).numpy()
        rows[seen.positions.numpy()] = values
        progress(len(values))
    return rows
