"""What the files of blocks hold, and how the file of a whole dataset is made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from safetensors import SafetensorError, safe_open

from aim_plugins.attribution.checks import check_derivatives, check_finite
from aim_plugins.attribution.plan import Block, DatasetPlan
from aim_plugins.attribution.subject import Subject, factors_of
from aim_plugins.attribution.tensor_file import write_pieces
from aim_plugins.core.artifact import artifact_files, write_metadata

_EXAMPLES = 64
"""Examples whose gradients are gathered at a time."""
_STATES = ("kept", "ablated")

GRADIENTS = ("gradients_kept", "gradients_change")
"""Tensors of mean derivatives: where a component is kept, and what ablating it changes in them."""


def compute_block(plan: DatasetPlan, subject: Subject, block: Block) -> dict[str, np.ndarray]:
    """Computes what the file of a block holds.

    Raises:
        ValueError: If an output or a derivative is not finite; its example and mask are named.
    """
    ablated = plan.ablated(block, len(subject.components))
    factors = factors_of(ablated)
    held = {"ablated": pack(ablated)}
    if block.kind == "outputs":
        values = subject.outputs(factors)
        check_finite(values, plan.examples, "mask", block.masks[0])
        return held | {"outputs": values.numpy()}
    outputs = []
    sums = {name: torch.zeros(subject.examples, len(subject.components)) for name in _STATES}
    for number, row in zip(block.masks, factors, strict=True):
        output, gradient = subject.gradients(row)
        check_finite(output[None], plan.examples, "gradient pass", number)
        check_derivatives(gradient, plan.examples, subject.components)
        outputs.append(output.numpy())
        sums["kept"].addcmul_(gradient, row)
        sums["ablated"].addcmul_(gradient, 1 - row)
    held |= {f"gradients_{name}": one.numpy() for name, one in sums.items()}
    return held | {"outputs": np.stack(outputs)}


def assemble(plan: DatasetPlan, folder: Path, blocks: Path) -> None:
    """Writes the file of a whole dataset, if it is not there yet.

    Args:
        plan: What it holds.
        folder: Where it goes.
        blocks: Folder of the blocks, which are all there.

    Raises:
        ValueError: If a block is cut short or altered, or one of another plan.
        OSError: If the file cannot be written.
    """
    tensors_file, metadata_file = artifact_files(folder, DatasetPlan)
    if metadata_file.is_file():
        return
    components, examples = len(plan.read_components()), len(plan.examples)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "ablated": ("U8", (plan.rows, -(-components // 8))),
        "outputs": ("F32", (plan.rows, examples)),
    }
    if plan.gradient_passes:
        shapes |= {name: ("F32", (examples, components)) for name in GRADIENTS}
    sha256 = write_pieces(tensors_file, shapes, _pieces(plan, blocks))
    write_metadata(folder, plan, sha256)


def _pieces(plan: DatasetPlan, folder: Path) -> Iterator[np.ndarray]:
    for name in ("ablated", "outputs"):
        for block in plan.blocks():
            with open_block(folder / block.file, plan) as held:
                own = held.get_tensor(name)
            if name == "ablated":
                _check_masks(own, plan, block, folder)
            yield own
    if plan.gradient_passes:
        for name in GRADIENTS:
            yield from _gradients(plan, folder, name)


def _gradients(plan: DatasetPlan, folder: Path, name: str) -> Iterator[np.ndarray]:
    """Mean derivatives of some examples at a time."""
    blocks = [block for block in plan.blocks() if block.kind == "gradients"]
    components = len(plan.read_components())
    ablated = sum(plan.ablated(block, components).sum(0) for block in blocks)
    counts = {"kept": plan.gradient_passes - ablated, "ablated": ablated}
    for start in range(0, len(plan.examples), _EXAMPLES):
        stop = min(start + _EXAMPLES, len(plan.examples))
        means = {}
        for state in _STATES:
            total = np.zeros(())
            for block in blocks:
                with open_block(folder / block.file, plan) as held:
                    own = held.get_slice(f"gradients_{state}")[start:stop]
                total = total + own.astype(np.float64)
            means[state] = total / np.maximum(counts[state], 1)
        # A component that was kept, or ablated, in all passes has but one of the two.
        if name == GRADIENTS[0]:
            found = np.where(counts["kept"] > 0, means["kept"], means["ablated"])
        else:
            both = (counts["kept"] > 0) & (counts["ablated"] > 0)
            found = np.where(both, means["ablated"] - means["kept"], 0)
        yield found.astype(np.float32)


def open_block(path: Path, plan: DatasetPlan) -> Any:
    """Opens the file of a block.

    Raises:
        ValueError: If it is cut short or altered, or a block of another plan.
    """
    try:
        held = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is cut short or altered ({error}): delete it and run build again"
        ) from error
    if (held.metadata() or {}).get("plan") != plan.sha256:
        raise ValueError(f"{path} is a block of another plan: delete it and run build again")
    return held


def _check_masks(
    packed: UInt8[np.ndarray, "masks bytes"], plan: DatasetPlan, block: Block, folder: Path
) -> None:
    """Refuses masks that are not the plan's, of which the first tells.

    Raises:
        ValueError: If they are others.
    """
    first = dataclasses.replace(block, masks=block.masks[:1])
    if not np.array_equal(packed[:1], pack(plan.ablated(first, len(plan.read_components())))):
        raise ValueError(
            f"{folder / block.file} has other masks than the plan: delete it and run build again, "
            "with one version of numpy everywhere"
        )


def pack(ablated: Bool[np.ndarray, "rows components"]) -> np.ndarray:
    """Masks with eight components in a byte, the first in the lowest bit."""
    return np.packbits(ablated, axis=1, bitorder="little")


def unpack(packed: np.ndarray, components: int) -> Bool[np.ndarray, "rows components"]:
    """What `pack` packed."""
    return np.unpackbits(packed, axis=1, count=components, bitorder="little").astype(bool)
