"""What a study of several modules found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vision_bench.reengineering.baselines import Accuracy
from vision_bench.reengineering.choices import Granularity
from vision_bench.reengineering.composition.overlaps import Chance, Overlap, jaccard_by_chance
from vision_bench.reengineering.costs import Size
from vision_bench.reengineering.problem import Problem

COMPOSED, SIDE_BY_SIDE = "composed", "side by side"

COMPOSITIONS = {
    COMPOSED: "composed, new head",
    SIDE_BY_SIDE: "modules' own heads side by side",
}
"""What a person calls them."""


@dataclass(frozen=True)
class Shared:
    """What two modules share, beside what is shared by chance.

    Attributes:
        overlap: What they share.
        names: The modules.
    """

    overlap: Overlap
    names: tuple[str, str]

    @property
    def pair(self) -> str:
        """Both names."""
        return " / ".join(self.names)

    @property
    def jaccard(self) -> float:
        """Of what either retains, the share that both do."""
        return self.overlap.total.jaccard

    @cached_property
    def same_sizes(self) -> Chance:
        """Of random masks of the same sizes."""
        return jaccard_by_chance([self.overlap.total])

    @cached_property
    def same_layers(self) -> Chance:
        """Of random masks that have the same sizes in every layer."""
        return jaccard_by_chance(list(self.overlap.layers.values()))

    @cached_property
    def by_layer(self) -> dict[str, Chance]:
        """The same of each layer alone."""
        return {name: jaccard_by_chance([one]) for name, one in self.overlap.layers.items()}

    @property
    def verdict(self) -> str:
        """How it compares with masks that are random within every layer."""
        if self.jaccard > self.same_layers.high:
            return "above chance"
        return "below chance" if self.jaccard < self.same_layers.low else "as by chance"


@dataclass(frozen=True)
class Findings:
    """What the front shows.

    Attributes:
        problem: The union's.
        title: The data set.
        granularity: What has a mask of its own.
        modules: Size of each module, by name.
        shared: What each pair of them shares.
        baselines: Of the whole model on the union's test images, by name.
        compositions: The same of what the modules are composed to.
        controls: The same of what was chosen without learning, as much as is composed, by kind.
        size: How large the composed model is.
        whole: How large the whole model is.
    """

    problem: Problem
    title: str
    granularity: Granularity
    modules: Mapping[str, Size]
    shared: Sequence[Shared]
    baselines: Mapping[str, Accuracy]
    compositions: Mapping[str, Accuracy]
    controls: Mapping[str, Accuracy]
    size: Size
    whole: Size

    @property
    def noun(self) -> str:
        """What masks retain."""
        return "weights" if self.granularity == "weight" else "channels"
