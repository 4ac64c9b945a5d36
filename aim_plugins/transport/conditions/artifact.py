"""A learned condition: its direction, and what it was learned on, as an artifact on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.modulation.conditions import Condition

_DIRECTION = "direction"


@dataclass(frozen=True)
class ConditionMetadata(ArtifactMetadata):
    """What a condition was learned on, and how well it tells the two sides apart.

    Attributes:
        sites: The one module whose output is looked at.
        threshold: The similarity at which it begins to hold.
        above: Whether it holds above the threshold, instead of at it and below.
        summary: How the states of a prompt become one, see `conditions.Summary`.
        chat: Whether the prompts went through the model's chat template.
        n_source: Prompts of which it should not hold.
        n_target: Prompts of which it should.
        held_out: What was found on prompts that neither direction nor threshold has seen, by name.
    """

    KIND: ClassVar[str] = "condition"
    FORCIBLE: ClassVar[bool] = False
    MADE_BY: ClassVar[str] = "`aim-plugins transport condition`"

    threshold: float = 0.0
    above: bool = True
    summary: str = "mean"
    chat: bool = False
    n_source: int = 0
    n_target: int = 0
    held_out: Mapping[str, float] | None = None


@dataclass(frozen=True)
class LearnedCondition:
    """A condition together with where it comes from.

    Attributes:
        condition: What engines decide by.
        metadata: What it was learned on.
    """

    condition: Condition
    metadata: ConditionMetadata

    def save(self, folder: str | Path) -> Path:
        """Writes it into a folder, replacing one that is there; returns the folder."""
        one = self.condition
        metadata = replace(
            self.metadata,
            sites=[one.site],
            threshold=one.threshold,
            above=one.above,
            summary=one.summary,
        )
        return artifact.save(folder, {_DIRECTION: one.direction}, metadata)

    @classmethod
    def load(cls, folder: str | Path, name: str = "condition") -> LearnedCondition:
        """Reads one.

        Args:
            folder: Where it lies.
            name: The argument that named the folder, for errors.

        Raises:
            ValueError: If files are missing, damaged or of another kind.
        """
        tensors, metadata = artifact.load(folder, ConditionMetadata, name)
        summary: Any = metadata.summary
        found = Condition(
            metadata.sites[0],
            tensors[_DIRECTION],
            metadata.threshold,
            metadata.above,
            summary,
            metadata=metadata,
        )
        return cls(found, metadata)
