"""Component datasets: outputs of a model under many masks, on disk.

A dataset is computed in blocks of masks. Each block is written as one file when it is finished and
is never computed again, whatever happens to the process; shards of blocks can be computed on any
number of machines. When all are there, one file holds them, the same whoever made which.

Source: arXiv:2404.11534, section 3, step 1.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Bool, Float
from safetensors import safe_open

from aim_plugins.attribution.assembly import GRADIENTS, assemble, compute_block, open_block, unpack
from aim_plugins.attribution.checks import check_mode
from aim_plugins.attribution.plan import BLOCK, Block, DatasetPlan
from aim_plugins.attribution.subject import Subject
from aim_plugins.core.artifact import artifact_files, read_metadata
from aim_plugins.core.errors import first_few
from aim_plugins.core.files import seal, temporary_path, unseal, write_atomic

PLAN, BLOCKS = "plan.json", "blocks"
"""File and folder of a dataset that is being built."""


@dataclass(frozen=True)
class ComponentDataset:
    """Outputs under masks; what is on disk is read as it is needed.

    Attributes:
        plan: What it holds. Rows are masks, those with gradients last.
        packed: Which components are ablated, eight in a byte, the first in the lowest bit
            [rows, bytes].
        values: Outputs [rows, examples].
        kept: Mean derivatives by each component where it is kept [examples, components]; None
            without gradients.
        change: Those where it is ablated less those where it is kept, 0 where not both are known.
    """

    plan: DatasetPlan
    packed: Any
    values: Any
    kept: Any = None
    change: Any = None

    @property
    def components(self) -> int:
        """How many components there are."""
        return len(self.plan.read_components())

    def ablated(self, start: int, stop: int) -> Bool[np.ndarray, "rows components"]:
        """Which components some masks ablate."""
        return unpack(self.packed[start : min(stop, self.plan.rows)], self.components)

    def outputs(self, start: int, stop: int) -> Float[np.ndarray, "rows examples"]:
        """Outputs under some masks."""
        return np.asarray(self.values[start : min(stop, self.plan.rows)])

    def columns(self, start: int, stop: int) -> Bool[np.ndarray, "rows some"]:
        """Which of some components the masks ablate.

        Args:
            start: The first of the components, a multiple of 8.
            stop: The one behind the last.
        """
        stop = min(stop, self.components)
        packed = self.packed[0 : self.plan.rows, start // 8 : -(-stop // 8)]
        return unpack(packed, stop - start)

    @classmethod
    def load(cls, folder: str | Path) -> ComponentDataset:
        """Opens a dataset that is whole.

        Raises:
            ValueError: If it is unfinished, which is named, or a file is missing or altered.
        """
        folder = Path(folder)
        _, metadata_file = artifact_files(folder, DatasetPlan)
        if not metadata_file.is_file() and (folder / PLAN).is_file():
            plan = read_plan(folder)
            refuse_unfinished(plan, folder)
            raise ValueError(
                f"{DatasetPlan.KIND}={str(folder)!r} has all its blocks, but they were not put "
                "together: run build again, which computes nothing twice"
            )
        tensors_file, plan = read_metadata(folder, DatasetPlan)
        held = safe_open(tensors_file, framework="numpy")
        names = ["ablated", "outputs", *(GRADIENTS if plan.gradient_passes else ())]
        return cls(plan, *map(held.get_slice, names))


def build(
    plan: DatasetPlan,
    subject: Subject,
    folder: str | Path,
    *,
    shard: tuple[int, int] = (1, 1),
    after: Callable[[int, int], None] | None = None,
) -> bool:
    """Computes the blocks of a shard that are not there yet.

    Shards may share one folder, or have one each, which `merge` puts together. When the dataset is
    written, the folder of blocks is no longer needed.

    Args:
        plan: What to compute.
        subject: Model, components and examples.
        folder: Where blocks go.
        shard: Which shard, from 1, of how many.
        after: Called after each block with how many of the shard are there, and how many it has.

    Returns:
        Whether all blocks of all shards are in the folder; then the dataset is written.

    Raises:
        ValueError: If the shard does not exist, the subject is not the planned one or in train
            mode, the folder holds blocks of another plan or damaged ones, or an output is not
            finite.
        OSError: If a file cannot be written.
    """
    own, count = shard
    if not 1 <= own <= count:
        raise ValueError(f"shard={own}/{count}: give 1/{count} to {count}/{count}")
    folder = Path(folder)
    _check_subject(plan, subject)
    _start(plan, folder)
    blocks = [block for block in plan.blocks() if block.place % count == own - 1]
    for done, block in enumerate(blocks, 1):
        path = folder / BLOCKS / block.file
        if path.is_file():
            open_block(path, plan)
        else:
            held = compute_block(plan, subject, block)
            note = {"plan": plan.sha256, "shards": str(count)}
            write_atomic(path, safetensors.numpy.save(held, metadata=note))
        if after is not None:
            after(done, len(blocks))
    if missing_blocks(plan, folder):
        return False
    assemble(read_plan(folder), folder, folder / BLOCKS)
    return True


def merge(folders: Sequence[str | Path], output: str | Path) -> Path:
    """Puts shards together that were built in folders of their own.

    Args:
        folders: Those of all shards.
        output: Where the dataset goes.

    Returns:
        That folder.

    Raises:
        ValueError: If they are of different plans, or blocks are missing, which are named.
        OSError: If a file cannot be written.
    """
    if not folders:
        raise ValueError("folders: give those of all shards")
    output, plan = Path(output), read_plan(folders[0])
    for one in folders[1:]:
        plan.check_same(read_plan(one), one)
    _start(plan, output)
    for block in plan.blocks():
        target = output / BLOCKS / block.file
        sources = [Path(one) / BLOCKS / block.file for one in folders]
        found = next((one for one in sources if one.is_file()), None)
        if found is not None and not target.is_file():
            open_block(found, plan)
            temporary = temporary_path(target)
            shutil.copyfile(found, temporary)
            os.replace(temporary, target)
    refuse_unfinished(plan, output)
    assemble(read_plan(output), output, output / BLOCKS)
    return output


def read_plan(folder: str | Path) -> DatasetPlan:
    """The plan of a dataset that is whole or being built.

    Raises:
        ValueError: If there is none in the folder, or it was altered.
    """
    path = Path(folder, PLAN)
    if not path.is_file():
        raise ValueError(
            f"{DatasetPlan.KIND}={str(folder)!r} has no file {PLAN!r}: name the folder that "
            f"{DatasetPlan.MADE_BY} wrote, or run that first"
        )
    try:
        return DatasetPlan(**unseal(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} was altered ({error}): build the dataset again") from error


def missing_blocks(plan: DatasetPlan, folder: str | Path) -> list[Block]:
    """Blocks of a plan that are not in a folder."""
    return [one for one in plan.blocks() if not Path(folder, BLOCKS, one.file).is_file()]


def refuse_unfinished(plan: DatasetPlan, folder: str | Path) -> None:
    """Refuses a dataset that lacks blocks.

    Raises:
        ValueError: If it does; masks and shard of the first are named.
    """
    missing = missing_blocks(plan, folder)
    if not missing:
        return
    shards = _shards(Path(folder))
    mend = (
        "run build"
        if shards == 1
        else f"run build --shard {missing[0].place % shards + 1}/{shards}"
    )
    of_kinds = ([one.words for one in missing if one.kind == kind] for kind in BLOCK)
    named = ", ".join(first_few(one, 2) for one in of_kinds if one)
    raise ValueError(
        f"{DatasetPlan.KIND}={str(folder)!r} is unfinished: {named} are missing; {mend}"
    )


def _shards(folder: Path) -> int:
    """Among how many shards the blocks were shared out, by what is there."""
    for path in sorted((folder / BLOCKS).glob("*.safetensors")):
        with safe_open(path, framework="numpy") as held:
            return int((held.metadata() or {}).get("shards", 1))
    return 1


def _check_subject(plan: DatasetPlan, subject: Subject) -> None:
    """Model, components, output and examples are the subject's own, and the plan's are not told."""
    check_mode(subject.model)
    given = DatasetPlan.of(
        subject,
        masks=plan.masks,
        alpha=plan.alpha,
        gradient_passes=plan.gradient_passes,
        seed=plan.seed,
    )
    plan.check_same(given, "the subject")


def _start(plan: DatasetPlan, folder: Path) -> None:
    (folder / BLOCKS).mkdir(parents=True, exist_ok=True)
    if (folder / PLAN).is_file():
        plan.check_same(read_plan(folder), folder)
    else:
        write_atomic(folder / PLAN, seal(dataclasses.asdict(plan)))
