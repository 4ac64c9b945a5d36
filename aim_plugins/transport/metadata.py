"""What is known of learned maps, whichever model they were learned on and from whatever inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.core.strengths import format_strength
from aim_plugins.transport.incremental import TITLES


@dataclass(frozen=True)
class MapsMetadata(ArtifactMetadata):
    """What maps were learned from, and how.

    Attributes:
        INPUTS: What they were learned from, in words.
        OUTPUTS: What the model makes, for warnings.
        pooling: How the activations of an input became one response, or several.
        incremental: Which inputs the earlier maps transported while a map was fitted: those of
            both sides ("causal"), of the source ("source") or none ("atonce").
        strength: Strength at which they did that.
        support: Where the maps act: "none", "minmax", "qLO_HI" or "clip".
        clipped: Names of the maps that clip; noted when they are saved.
        n_source: Source inputs.
        n_target: Target inputs.
        constant_neurons: For each map, neurons whose activations never changed, where any.
        moved: How far the maps move source responses, in units of their spread; the mean over
            maps, see `holdout`.
        held: The share of it that holds on inputs held out from the fit.
        batch_size: Inputs in a forward pass.
    """

    INPUTS: ClassVar[str]
    OUTPUTS: ClassVar[str]

    pooling: str = "mean"
    incremental: str = "atonce"
    strength: float = 1.0
    support: str = "none"
    clipped: Sequence[str] = field(default=(), compare=False)
    n_source: int = 0
    n_target: int = 0
    constant_neurons: Mapping[str, int] = field(default_factory=dict)
    moved: float | None = None
    held: float | None = None
    batch_size: int | None = None

    @property
    def fitted(self) -> str:
        """How they were fitted, in words."""
        return f"{TITLES[self.incremental]}, {self.pooling} pooling, strength {self.strength:g}"

    @property
    def applied(self) -> str:
        """What the maps are applied to, in words."""
        raise NotImplementedError

    @property
    def learned_strengths(self) -> tuple[float, float]:
        """Lowest and highest strength that the maps were learned for.

        Between 0 and 1 a map interpolates. Where later maps were learned on activations that
        earlier ones transported more strongly, or backwards, that strength was learned for as well.
        """
        reached = 0.0 if self.incremental == "atonce" else self.strength
        return min(0.0, reached), max(1.0, reached)

    def warning_of(self, strengths: Iterable[float]) -> str:
        """What to warn of, given strengths to run at; empty where all were learned for."""
        low, high = self.learned_strengths
        outside = [one for one in dict.fromkeys(strengths) if not low <= one <= high]
        if not outside:
            return ""
        return (
            f"strength={', '.join(map(format_strength, outside))} lies outside {low:g} to {high:g},"
            " the strengths that the transport was learned for: its maps are extrapolated, and "
            f"{self.OUTPUTS} may break down"
        )
