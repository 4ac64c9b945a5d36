"""The PERTURBATION block of AIM's segmentation configs.

    PERTURBATION:
      METHOD: multi            # single, multi or utility
      RATIO: 0.2               # std of the first level, in logit units
      STEP_SIZE: 0.4           # and the step to the next
      STEP_LIMIT: 10           # number of levels
      TARGET_IDX: 136          # single: the class, or its name, and whether it is made more likely
      POSITIVE: true
      TARGETS:                 # multi: the same for each class
        - {index: 136, positive: true}
        - {index: car, positive: false}

Source: the settings documented beside AIM's code, https://github.com/CurtisYoung18/AIM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

from aim_plugins.core.settings import Settings, Strength, bound
from aim_plugins.core.strengths import MAX_STRENGTHS
from vision_bench.data.classes import class_index

if TYPE_CHECKING:
    from vision_bench.perturbators import Perturbator

_Levels = Annotated[
    int, bound(f"a number of levels, 1 to {MAX_STRENGTHS}", lambda n: 1 <= n <= MAX_STRENGTHS)
]


@dataclass(frozen=True)
class Target(Settings):
    """A class of focus modulation.

    Attributes:
        index: The class, by index or name.
        positive: Whether it is made more likely; by default what POSITIVE says.
    """

    index: str | int
    positive: bool | None = None


@dataclass(frozen=True)
class Perturbation(Settings):
    """The block; names that a METHOD does not use are left alone, as one block serves them all.

    Attributes:
        METHOD: "single" (TARGET_IDX and POSITIVE), "multi" (TARGETS) or, not of AIM, "utility".
        RATIO: Standard deviation of the first level, in logit units.
        STEP_SIZE: From one level to the next.
        STEP_LIMIT: Number of levels.
        TARGET_IDX: The class of "single", by index or name.
        POSITIVE: Whether it is made more likely.
        TARGETS: The classes of "multi".
    """

    METHOD: Literal["single", "multi", "utility"]
    RATIO: Strength
    STEP_SIZE: Strength = 0.0
    STEP_LIMIT: _Levels = 1
    TARGET_IDX: str | int | None = None
    POSITIVE: bool = True
    TARGETS: Sequence[Target] = ()

    def check(self) -> None:
        if self.STEP_LIMIT > 1 and self.STEP_SIZE == 0:
            raise ValueError(
                f"STEP_SIZE is 0 or missing, so that STEP_LIMIT={self.STEP_LIMIT} levels would be "
                "the same: give the step between levels"
            )
        needed = {"single": ("TARGET_IDX", "12"), "multi": ("TARGETS", "[{index: 136}]")}
        name, example = needed.get(self.METHOD, ("METHOD", ""))
        if getattr(self, name) in (None, ()):
            raise ValueError(f"PERTURBATION holds no {name}: add one, such as {name}: {example}")

    def levels(self, names: Sequence[str], seed: int = 0) -> list[Perturbator]:
        """A perturbator for each level, whose stds RATIO + i·STEP_SIZE are counted in decimal.

        Args:
            names: Names of all classes.
            seed: Seed of the draw.

        Returns:
            The levels, by rising std.

        Raises:
            ValueError: If a target is no class or is named twice.

        >>> block = Perturbation("single", 0.2, STEP_SIZE=0.1, STEP_LIMIT=2, TARGET_IDX="car")
        >>> block.levels(["road", "car"])[1]
        SingleClassPerturbator(std=0.3, target=1, positive=True, seed=0)
        """
        from vision_bench import perturbators

        # Through their shortest decimals, as 0.2 + 0.1 is 0.30000000000000004 in binary.
        lowest, step = Decimal(repr(self.RATIO)), Decimal(repr(self.STEP_SIZE))
        stds = [float(lowest + index * step) for index in range(self.STEP_LIMIT)]
        first: Perturbator = perturbators.UtilityPerturbator(stds[0], seed)
        if self.METHOD == "single":
            assert self.TARGET_IDX is not None
            target = class_index(self.TARGET_IDX, names, "TARGET_IDX")
            first = perturbators.SingleClassPerturbator(stds[0], target, self.POSITIVE, seed)
        elif self.METHOD == "multi":
            first = perturbators.MultiClassPerturbator(
                stds[0],
                [class_index(one.index, names, "TARGETS") for one in self.TARGETS],
                [self.POSITIVE if one.positive is None else one.positive for one in self.TARGETS],
                seed,
            )
        return [first.at(std) for std in stds]
