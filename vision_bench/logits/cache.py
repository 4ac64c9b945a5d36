"""One pass of a model over a data set, whose logits are kept on disk for every strength.

The cache, whose files `vision_bench.logits.store` describes, has a key over the model's weights,
the contents of the data and the preprocessing, so that changed inputs never meet old logits. A
killed pass goes on where it stopped.

Under `accelerate launch` every process computes its share of the shards. A batch never spans two
shards, so that any number of processes writes the same files. Without a GPU, accelerate starts
several processes only by `accelerate launch --multi_gpu --num_processes 2`; torchrun does too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from aim_plugins.core.strengths import format_strength
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import applied
from vision_bench.data.classification import ClassificationData
from vision_bench.data.dataset import check_on_error, list_left_out
from vision_bench.data.samples import read_samples
from vision_bench.data.segmentation import SegmentationData
from vision_bench.logits.classes import CachedLogits
from vision_bench.logits.forward import UnfitImageError, forward
from vision_bench.logits.pixels import CachedSegmentationLogits
from vision_bench.logits.processes import Processes, only_writer, started_processes
from vision_bench.logits.store import LogitsStore, Sample
from vision_bench.models.model import named_module

if TYPE_CHECKING:
    from vision_bench.models.model import VisionModel


class SkippedImagesWarning(UserWarning):
    """Images of a data set were left out because they cannot be used."""


@overload
def cache_logits(
    model: VisionModel,
    data: ClassificationData,
    folder: str | Path,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    workers: int = 0,
    progress: bool = True,
) -> CachedLogits: ...


@overload
def cache_logits(
    model: VisionModel,
    data: SegmentationData,
    folder: str | Path,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    workers: int = 0,
    progress: bool = True,
) -> CachedSegmentationLogits: ...


def cache_logits(
    model: VisionModel,
    data: ClassificationData | SegmentationData,
    folder: str | Path,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    workers: int = 0,
    progress: bool = True,
) -> CachedLogits | CachedSegmentationLogits:
    """Computes a model's logits on a data set, or finds them computed.

    Args:
        model: The model; hooks on it are not part of its identity, so give a hooked model another
            name.
        data: The data set, with the preprocessing that the model expects.
        folder: Where caches lie, each in a folder of its own.
        batch_size: Images in a forward pass. Another one changes logits by rounding only, and
            resumes the same cache.
        device: Where the model runs; by default where it is, under `accelerate launch` the
            process's own device.
        dtype: Type to store; by default float32 for classification and float16 for segmentation.
        workers: Processes that read images.
        progress: Whether to show a progress bar.

    Returns:
        The logits of every readable image in the data set's order. Images left out are named in
        `unreadable`, here and in the data set.

    Raises:
        ValueError: If model and data do not fit together, an argument is unusable, no image is
            readable, or the model returns NaN or what the dtype cannot hold.
        UnreadableImageError: If an image is unusable and the data set was loaded with
            `on_error="raise"`, or a classifier does not take images of this size.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "dtype": dtype}
    options |= {"workers": workers, "progress": progress}
    (found,) = cache_changed_logits(model, data, folder, [()], **options)
    return found


@overload
def cache_changed_logits(
    model: VisionModel,
    data: ClassificationData,
    folder: str | Path,
    changes: Sequence[tuple[Change, ...]],
    *,
    batch_size: int = ...,
    device: str | torch.device | None = ...,
    dtype: torch.dtype | None = ...,
    workers: int = ...,
    progress: bool = ...,
) -> list[CachedLogits]: ...


@overload
def cache_changed_logits(
    model: VisionModel,
    data: SegmentationData,
    folder: str | Path,
    changes: Sequence[tuple[Change, ...]],
    *,
    batch_size: int = ...,
    device: str | torch.device | None = ...,
    dtype: torch.dtype | None = ...,
    workers: int = ...,
    progress: bool = ...,
) -> list[CachedSegmentationLogits]: ...


def cache_changed_logits(
    model: VisionModel,
    data: ClassificationData | SegmentationData,
    folder: str | Path,
    changes: Sequence[tuple[Change, ...]],
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    workers: int = 0,
    progress: bool = True,
) -> list[CachedLogits] | list[CachedSegmentationLogits]:
    """Computes a model's logits under several changes, in one pass over the images.

    Images are read once, and every batch goes through the model under each of the changes in turn.
    Strengths are no rows of one batch here: a batch is full of images already, so that it would
    hardly be faster, and the logits at one strength would be rounded by which others are asked for.

    Args:
        model: The model, which every change was made for.
        data: As in `cache_logits`.
        folder: As in `cache_logits`; those under each of the changes lie in a folder of their own.
        changes: What is changed of activations and weights; nothing gives the logits of
            `cache_logits`, to the bit.
        batch_size: As in `cache_logits`, and so are all others.
        device: Where the model runs.
        dtype: Type to store.
        workers: Processes that read images.
        progress: Whether to show a progress bar.

    Returns:
        The logits under each of the changes.

    Raises:
        ValueError: As in `cache_logits`.
        UnreadableImageError: As in `cache_logits`.
    """
    task = "segmentation" if isinstance(data, SegmentationData) else "classification"
    _check(model, data, task, batch_size, workers)
    if dtype is None:
        dtype = torch.float16 if task == "segmentation" else torch.float32
    processes = started_processes()
    passes = []
    for own in dict.fromkeys(changes):
        run = functools.partial(_forward, model, own, device or processes.device, dtype)
        passes.append(_Pass(_store(model, data, task, Path(folder), dtype, own), run))
    with contextlib.ExitStack() as stack:
        # In one order in every run, so that no two wait for each other.
        for place in sorted(one.store.folder for one in passes):
            stack.enter_context(only_writer(place, processes))
        if processes.index == 0:
            for one in passes:
                one.store.start()
                one.store.drop_damaged()
        processes.wait()
        found = [one.store.find() for one in passes]
        missing = [one for one, cached in zip(passes, found, strict=True) if cached is None]
        if missing:
            _compute(missing, processes, batch_size, workers, progress)
            processes.wait()
            if processes.index == 0:
                for one in missing:
                    one.store.finish()
            processes.wait()
            found = [one.store.find() for one in passes]
        for one, cached in zip(passes, found, strict=True):
            if cached is None:
                raise OSError(f"{one.store.folder} was changed from outside: start again")
            if processes.index == 0:
                one.store.tidy()
            data.unreadable.update(cached.unreadable)
    check_on_error(data.name, data.unreadable, data.on_error)
    if data.unreadable and processes.index == 0:
        warnings.warn(
            f"{data.title}: {list_left_out(data.unreadable)}",
            SkippedImagesWarning,
            stacklevel=3,
        )
    held = dict(zip(dict.fromkeys(changes), found, strict=True))
    return [held[own] for own in changes]  # type: ignore[return-value]


@dataclass(frozen=True)
class _Pass:
    """One of the caches that a pass over the images fills.

    Attributes:
        store: Its files.
        run: The model as it is run for them.
    """

    store: LogitsStore
    run: Callable[[list[Tensor]], list[Tensor]]


def _check(
    model: VisionModel,
    data: ClassificationData | SegmentationData,
    task: str,
    batch_size: int,
    workers: int,
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is below 1")
    if workers < 0:
        raise ValueError(f"workers={workers} is below 0")
    if model.task != task:
        raise ValueError(f"{model.name} is a {model.task} model, but {data.name} is for {task}")
    if model.classes != len(data.classes):
        raise ValueError(
            f"{model.name} has {model.classes} classes, but {data.name} has {len(data.classes)}: "
            "choose the data set it was trained for"
        )
    # A wrapper's own flag changes nothing; layers such as dropout have no parts.
    if any(part.training for part in model.module.modules() if not list(part.children())):
        raise ValueError(f"{model.name} is in training mode: call its module's eval()")


def _store(
    model: VisionModel,
    data: ClassificationData | SegmentationData,
    task: str,
    folder: Path,
    dtype: torch.dtype,
    changes: Sequence[Change],
) -> LogitsStore:
    identity = {
        "task": task,
        "model": [model.name, model.fingerprint, _weights_digest(model.module)],
        "classes": model.classes,
        "dtype": str(dtype),
        **data.identity(),
    }
    title = model.title
    if changes:
        identity["changes"] = [one.identity for one in changes]
        named = (f"{one.axis.name}={format_strength(one.strength)}" for one in changes)
        title = f"{title} at {', '.join(named)}"
    return LogitsStore(folder, f"{title} on {data.title}", identity, data)


def _weights_digest(module: nn.Module) -> str:
    """SHA-256 of every weight: a model whose masks or ablations differ is another model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _compute(
    passes: Sequence[_Pass],
    processes: Processes,
    batch_size: int,
    workers: int,
    progress: bool,
) -> None:
    """Computes this process's share of the shards that are missing."""
    from tqdm import tqdm

    first = passes[0].store
    share = first.shards()[processes.index :: processes.count]
    lacking = {shard: [one for one in passes if one.store.note(shard) is None] for shard in share}
    missing = [shard for shard in share if lacking[shard]]
    # Fixed batches: their sizes decide how sums are rounded.
    batches = [
        list(shard[start : start + batch_size])
        for shard in missing
        for start in range(0, len(shard), batch_size)
    ]
    loader = read_samples(first.data, batches, workers)
    with tqdm(
        desc=first.title if len(passes) == 1 else f"{first.data.title}, {len(passes)} strengths",
        total=sum(map(len, share)),
        initial=sum(map(len, share)) - sum(map(len, missing)),
        unit="image",
        disable=not progress or processes.index != 0,
    ) as bar:
        for shard in missing:
            samples: list[list[Sample]] = [[] for _ in lacking[shard]]
            while len(samples[0]) < len(shard):
                batch = next(loader)
                for one, own in zip(lacking[shard], samples, strict=True):
                    own += _logits_of(one.store, one.run, batch)
                bar.update(len(batch))
            for one, own in zip(lacking[shard], samples, strict=True):
                one.store.write(shard, own)


def _logits_of(
    store: LogitsStore,
    run: Callable[[list[Tensor]], list[Tensor]],
    batch: Iterable[tuple[int, Tensor | str]],
) -> list[Sample]:
    """Index, logits (or why there are none) and input size of each image of a batch."""
    by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    results: dict[int, Sample] = {}
    for index, image in batch:
        if isinstance(image, str):
            results[index] = Sample(index, image, ())
        else:
            by_shape.setdefault(tuple(image.shape), []).append((index, image))
    for shape, members in by_shape.items():
        try:
            logits = run([image for _, image in members])
        except UnfitImageError as error:
            # A classifier's images are of one size, and none would be left.
            if store.data.on_error == "raise" or isinstance(store.data, ClassificationData):
                raise
            results |= {index: Sample(index, str(error), ()) for index, _ in members}
            continue
        for (index, _), values in zip(members, logits, strict=True):
            _check_values(store, index, values)
            results[index] = Sample(index, values, shape[1:])
    return [results[index] for index in sorted(results)]


@torch.inference_mode()
def _forward(
    model: VisionModel,
    changes: Sequence[Change],
    device: str | torch.device | None,
    dtype: torch.dtype,
    images: list[Tensor],
) -> list[Tensor]:
    """Logits of images of one size, in the type to store, on the CPU."""
    module = model.module if device is None else model.module.to(device)
    weight = next(module.parameters(), torch.zeros(()))
    batch = torch.stack(images).to(weight.device, weight.dtype)
    with applied(named_module(module), [changes]):
        logits = forward(model, batch)
    dimensions = 4 if model.task == "segmentation" else 2
    if logits.dim() != dimensions or tuple(logits.shape[:2]) != (len(images), model.classes):
        raise ValueError(
            f"{model.name} returns {list(logits.shape)} for {len(images)} images, not "
            f"[{len(images)}, {model.classes}{', rows, columns' if dimensions == 4 else ''}]"
        )
    stored = logits.to(dtype)
    if (overflow := stored.isinf() & logits.isfinite()).any():
        raise ValueError(
            f"cache_dtype={dtype} cannot hold logits of {float(logits[overflow].abs().max()):.3g} "
            f"of {model.name}: give cache_dtype=float32"
        )
    # Views of one batch could not be stored apart, nor could channels-last memory.
    return [row.clone(memory_format=torch.contiguous_format) for row in stored.cpu()]


def _check_values(store: LogitsStore, index: int, logits: Tensor) -> None:
    if not (logits.amax(0).isfinite().all()):
        raise ValueError(
            f"{store.title}: the logits of {store.data.names[index]} "
            "are NaN, +inf or all -inf: check the weights, or run the model in float32"
        )
