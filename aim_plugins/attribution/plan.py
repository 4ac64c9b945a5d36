"""What a component dataset holds: which masks, in which blocks, of which model and examples."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool

from aim_plugins.attribution.metadata import AblationMetadata
from aim_plugins.attribution.subject import Subject
from aim_plugins.core.identity import fingerprint, model_fingerprint, seed_of
from aim_plugins.modulation.ablation import ablation_mask

BLOCK = {"outputs": 64, "gradients": 16}
"""Masks in a block of each kind, which take about as long."""


@dataclass(frozen=True)
class Block:
    """Masks that are computed and written together.

    Attributes:
        kind: Whether only outputs are computed under them, or gradients besides.
        number: Counted from 0 among those of its kind.
        masks: Their numbers.
        place: Counted from 0 among all blocks, by which shards share them out.
    """

    kind: Literal["outputs", "gradients"]
    number: int
    masks: range
    place: int

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.kind}-{self.number:06d}.safetensors"

    @property
    def words(self) -> str:
        """What it is, for errors."""
        what = "masks" if self.kind == "outputs" else "gradient passes"
        return f"{what} {self.masks[0]}-{self.masks[-1]} (block {self.place})"


@dataclass(frozen=True)
class DatasetPlan(AblationMetadata):
    """What a component dataset holds, and what is known of one that is whole.

    Attributes:
        fingerprint: Of the model; a difference in the last digit of a sampled weight shows.
        block_sizes: Masks in a block of each kind.
    """

    KIND: ClassVar[str] = "component_dataset"
    MADE_BY: ClassVar[str] = "`attribute build`"

    fingerprint: str = ""
    block_sizes: Mapping[str, int] = field(default_factory=lambda: dict(BLOCK))

    @classmethod
    def of(
        cls,
        subject: Subject,
        *,
        masks: int,
        alpha: float = 0.1,
        gradient_passes: int = 0,
        seed: int = 0,
        output: str = "",
        examples: Sequence[str] | None = None,
        data_sha256: str = "",
    ) -> DatasetPlan:
        """Plans a dataset.

        Args:
            subject: Model, components and examples.
            masks: Masks under which outputs are computed.
            alpha: Probability of a component to be ablated.
            gradient_passes: Further masks under which gradients are computed besides.
            seed: Seed of the masks.
            output: What is attributed, if the subject does not know yet; see `Subject.describe`.
            examples: Names of the examples, likewise.
            data_sha256: SHA-256 of the examples, likewise.

        Raises:
            ValueError: If alpha is not inside (0, 1), there are too few masks, or the subject is
                one of other examples or another output, or of no known one.
        """
        subject.describe(output=output, names=examples, data_sha256=data_sha256)
        if not subject.output:
            raise ValueError("output: the subject does not know what is attributed: name it")
        if not 0 < alpha < 1:
            raise ValueError(
                f"alpha={alpha:g}: give the probability of a component to be ablated, above 0 and "
                "below 1"
            )
        if min(masks, gradient_passes) < 0 or masks + gradient_passes < 2:
            raise ValueError(
                f"masks={masks} and gradient_passes={gradient_passes}: give two or more together, "
                "and none below 0"
            )
        return cls.of_model(
            subject.model,
            method="ablation",
            sites=[site.name for site in subject.components.sites],
            components=subject.components.to_json(),
            examples=subject.names,
            output=subject.output,
            alpha=float(alpha),
            masks=masks,
            gradient_passes=gradient_passes,
            fingerprint=model_fingerprint(subject.model),
            seed=seed,
            data_sha256=subject.data_sha256,
        )

    @property
    def rows(self) -> int:
        """Masks of both kinds, those with gradients last."""
        return self.masks + self.gradient_passes

    @cached_property
    def sha256(self) -> str:
        """Of all but the versions of packages, which may differ between shards."""
        held = dataclasses.asdict(self)
        del held["versions"]
        return fingerprint(held)

    def blocks(self) -> Iterator[Block]:
        """All blocks: those of outputs, then those of gradients."""
        place = 0
        for kind, count in (("outputs", self.masks), ("gradients", self.gradient_passes)):
            size = self.block_sizes[kind]
            for number, start in enumerate(range(0, count, size)):
                yield Block(kind, number, range(start, min(start + size, count)), place)  # type: ignore[arg-type]
                place += 1

    def ablated(self, block: Block, components: int) -> Bool[np.ndarray, "masks components"]:
        """Which components the masks of a block ablate."""
        seed = self.seed if block.kind == "outputs" else seed_of(self.seed, "gradients")
        return np.stack(
            [ablation_mask(components, self.alpha, seed, number) for number in block.masks]
        )

    def check_same(self, other: DatasetPlan, where: str | Path) -> None:
        """Refuses blocks that another plan has made.

        Args:
            other: The other plan.
            where: Its folder.

        Raises:
            ValueError: If anything but the versions of packages differs; what does is named.
        """
        for one in dataclasses.fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if one.name != "versions" and _plain(mine) != _plain(theirs):
                raise ValueError(
                    f"{where}: {one.name} is {_short(theirs)} there, not {_short(mine)} as in the "
                    "plan: give the same settings, model and data, or another folder"
                )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
