"""What is known of whatever comes from outputs under masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.modulation.components import Components


@dataclass(frozen=True)
class AblationMetadata(ArtifactMetadata):
    """Which components were ablated, how often, and of which examples what was computed.

    Attributes:
        components: The components, as `Components.to_json` writes them.
        examples: Names of the examples.
        output: What is attributed.
        alpha: Probability of a component to be ablated in a mask.
        masks: Masks under which outputs are computed.
        gradient_passes: Further masks under which gradients are computed besides.
    """

    components: Sequence[Mapping[str, Any]] = ()
    examples: Sequence[str] = ()
    output: str = ""
    alpha: float = 0.0
    masks: int = 0
    gradient_passes: int = 0

    def read_components(self) -> Components:
        """The components."""
        return Components.from_json(self.components)
