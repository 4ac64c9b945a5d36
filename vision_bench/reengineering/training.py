"""The training path on disk: killed anywhere, it goes on from the last finished epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from aim_plugins.core.commands import say
from aim_plugins.core.files import write_atomic
from aim_plugins.modulation.retained import MaskPoint
from vision_bench.reengineering.learn import Batches, Learner
from vision_bench.reengineering.path import Choice, Epoch, Snapshot, keep_best

STATE = "state.safetensors"
_SNAPSHOT = "epoch-{}.safetensors"
_NOTES = "notes"


@dataclass
class Training:
    """Epochs that are finished, and the best of what they left.

    Attributes:
        epochs: What each left.
        path: The snapshots that no other one beats, by falling share.
        stopped: How many alphas were left early, because nothing got better, and why training
            ended, in words; empty where it went to the end.
    """

    epochs: list[Epoch] = field(default_factory=list)
    path: list[Snapshot] = field(default_factory=list)
    stopped: str = ""


@dataclass(frozen=True)
class Course:
    """How a training is conducted.

    Attributes:
        choice: Chooses the module that is reused.
        points: How many snapshots are kept.
        early_stop: Epochs without a better module after which an alpha is left; 0 for never.
    """

    choice: Choice
    points: int
    early_stop: int = 0


def train(
    learner: Learner,
    epoch_batches: Callable[[int], Batches],
    validation: Callable[[], Batches],
    course: Course,
    folder: Path,
    prepare: Callable[[], object] = lambda: None,
) -> Training:
    """Trains masks and head, and keeps the state of every epoch.

    Args:
        learner: What is trained.
        epoch_batches: The training images of an epoch.
        validation: The images that select.
        course: How it is conducted.
        folder: Where the state is kept; what a former run left there is taken up.
        prepare: Called before the first epoch.

    Returns:
        The finished training.

    Raises:
        OSError: If the state cannot be written.
    """
    from tqdm import tqdm

    training = _resume(learner, folder)
    if not training.epochs:
        prepare()
    total = learner.recipe.total
    with tqdm(desc="learning masks", total=total, unit="epoch") as bar:
        bar.update(len(training.epochs))
        while not training.stopped and (number := _next(training, learner, course)) < total:
            loss = learner.train(number, epoch_batches(number))
            accuracy = float(learner.right(validation()).double().mean())
            snapshot = learner.snapshot(number, loss, accuracy)
            training.epochs.append(snapshot.epoch)
            if snapshot.epoch.share > 0:
                training.path = keep_best(training.path, snapshot, course.points, course.choice)
            else:
                training.stopped = (
                    f"in epoch {number} nothing was retained any more: the masks of the epochs "
                    "before are kept; take a smaller alpha or lr_mask for a finer path"
                )
            _keep(learner, training, folder)
            bar.set_postfix(retained=f"{snapshot.epoch.share:.3f}", accuracy=f"{accuracy:.3f}")
            bar.update(number + 1 - bar.n)
    if training.stopped:
        say(training.stopped)
    return training


def _next(training: Training, learner: Learner, course: Course) -> int:
    """The number of the next epoch; the first of the next alpha where nothing gets better."""
    if not training.epochs:
        return 0
    number, length = training.epochs[-1].number + 1, learner.recipe.epochs
    begun = (number - 1) // length * length
    if course.early_stop and number % length:
        best = training.path[course.choice.of(training.path)].epoch.number
        if number - max(best + 1, begun) >= course.early_stop:
            return begun + length
    return number


def _keep(learner: Learner, training: Training, folder: Path) -> None:
    """Writes new snapshots, then the state that names them, and removes what it names no more."""
    files = {_snapshot_file(folder, one.epoch.number): one.point for one in training.path}
    for file, point in files.items():
        if not file.is_file():
            parts = {
                f"{kind}.{name}": one
                for kind, content in _parts(point).items()
                for name, one in content.items()
            }
            write_file(file, parts, {})
    notes = {
        "epochs": [asdict(one) for one in training.epochs],
        "path": [one.epoch.number for one in training.path],
        "stopped": training.stopped,
    }
    write_file(folder / STATE, learner.state(), notes)
    for file in folder.glob(_SNAPSHOT.format("*")):
        if file not in files:
            file.unlink()


def _resume(learner: Learner, folder: Path) -> Training:
    if not (folder / STATE).is_file():
        return Training()
    state, notes = read_file(folder / STATE)
    learner.restore(state)
    epochs = [Epoch(**one) for one in notes["epochs"]]
    by_number = {one.number: one for one in epochs}
    path = [
        Snapshot(by_number[number], _point(read_file(_snapshot_file(folder, number))[0]))
        for number in notes["path"]
    ]
    say(f"{folder}: {len(epochs)} epochs are finished and kept")
    return Training(epochs, path, notes["stopped"])


def _snapshot_file(folder: Path, number: int) -> Path:
    return folder / _SNAPSHOT.format(number)


def write_file(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Writes a file of a training, whole or not at all."""
    from safetensors.torch import save

    plain = {name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()}
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, save(plain, {_NOTES: json.dumps(notes)}))


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of a training: its tensors, and its notes."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()[_NOTES])


def _parts(point: MaskPoint) -> Mapping[str, Mapping[str, Tensor]]:
    return {"masks": point.masks, "head": point.head, "channels": point.channels}


def _point(tensors: Mapping[str, Tensor]) -> MaskPoint:
    return MaskPoint(*(_below(tensors, f"{kind}.") for kind in ("masks", "head", "channels")))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)
    }
