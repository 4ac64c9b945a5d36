"""Settings of the questions; the defaults of sizes and shares are those of WISDOM's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.settings import (
    Count,
    Counts,
    Names,
    Natural,
    NonNegative,
    Positive,
    Settings,
    Share,
    Shares,
    bound,
    option,
)
from vision_bench.coverage.settings import CoverageSettings

if TYPE_CHECKING:
    from vision_bench.attacks import Attack

ATTACKS = ("fgsm", "pgd", "cw")
"""Names of attacks; `vision_bench.attacks` has them, which takes a while to import."""

_Pixel = Annotated[float, bound("a share of the range [0, 1]", lambda value: 0 <= value <= 1)]
_Mixture = Annotated[float, bound("a share from 0 to 1", lambda value: 0 <= value <= 1)]


@dataclass(frozen=True)
class QuestionSettings(CoverageSettings):
    """What every question takes.

    Attributes:
        runs: How often suites are drawn.
        output: Folder of results; by default runs/coverage-QUESTION/DATASET_MODEL.
    """

    QUESTION: ClassVar[str]

    runs: Count = 5
    output: str | None = None

    def check(self) -> None:
        super().check()
        if self.runs < 2:
            raise ValueError(
                f"runs={self.runs}: give at least 2, as one run says nothing of chance"
            )

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results(f"coverage-{self.QUESTION}", self.output)


@dataclass(frozen=True)
class DiversitySettings(QuestionSettings):
    """What `vision-bench coverage diversity` measures; of `num_samples` images, by default a third.

    Attributes:
        pixel_share: Share of an image's pixels that noise is added to, those of most relevance or
            random ones.
        noise_std: Standard deviation of the noise, as a share of the range [0, 1] of pixels.
    """

    QUESTION: ClassVar[str] = "diversity"

    pixel_share: Share = 0.02
    noise_std: Positive = 0.3


@dataclass(frozen=True)
class AttackSettings(Settings):
    """How images are attacked.

    Attributes:
        eps: Of FGSM and PGD, the largest change of a pixel, as a share of the range [0, 1].
        alpha: Of PGD, the size of a step.
        steps: Of PGD, the number of steps.
        cw_c: Of CW, the first weight of the logits against the distance.
        cw_confidence: Of CW, by how much in logits another class has to win.
        cw_searches: Of CW, how many weights are tried.
        cw_steps: Of CW, steps for each weight.
        cw_lr: Of CW, Adam's rate.
    """

    eps: _Pixel = 8 / 255
    alpha: _Pixel = 2 / 255
    steps: Count = 20
    cw_c: Positive = 1.0
    cw_confidence: NonNegative = 0.0
    cw_searches: Count = 1
    cw_steps: Count = 50
    cw_lr: Positive = 0.05

    def attack(self, name: str) -> Attack:
        """The attack of a name."""
        from vision_bench.attacks import make_attack

        fields: dict[str, float] = {"eps": self.eps}
        if name == "pgd":
            fields |= {"alpha": self.alpha, "steps": self.steps}
        if name == "cw":
            fields = {"c": self.cw_c, "confidence": self.cw_confidence, "lr": self.cw_lr}
            fields |= {"searches": self.cw_searches, "steps": self.cw_steps}
        return make_attack(name, **fields)


@dataclass(frozen=True)
class SensitivitySettings(AttackSettings, QuestionSettings):
    """What `vision-bench coverage sensitivity` measures.

    Attributes:
        sizes: Sizes of the suites, by default 100,1000,3000.
        shares: Shares of a suite that are replaced, by default 0.01,0.05,0.1.
        attacks: What they are replaced by, by default fgsm,pgd,cw.
    """

    QUESTION: ClassVar[str] = "sensitivity"

    sizes: Counts = option((100, 1000, 3000), metavar="SIZES")
    shares: Shares = option((0.01, 0.05, 0.1), metavar="SHARES")
    attacks: Names = option(ATTACKS, metavar="NAMES")

    def check(self) -> None:
        super().check()
        _check_attacks("attacks", self.attacks)
        _check_rising("sizes", self.sizes)
        _check_rising("shares", self.shares)
        if not round(self.sizes[0] * self.shares[0]):
            raise ValueError(
                f"shares={self.shares[0]:g} of sizes={self.sizes[0]} replaces no input: give "
                f"shares from {1 / self.sizes[0]:g}, or larger sizes"
            )


@dataclass(frozen=True)
class CorrelationSettings(AttackSettings, QuestionSettings):
    """What `vision-bench coverage correlation` measures.

    Attributes:
        sizes: Sizes of the suites, by default 100,500,1000.
        mixtures: Shares of attacked images in a suite, by default 0,0.5,1.
        attacks: The attack, by default cw.
    """

    QUESTION: ClassVar[str] = "correlation"

    sizes: Counts = option((100, 500, 1000), metavar="SIZES")
    mixtures: Annotated[Sequence[_Mixture], "separated by commas"] = option(
        (0.0, 0.5, 1.0), metavar="SHARES"
    )
    attacks: Names = option(("cw",), metavar="NAME")

    def check(self) -> None:
        super().check()
        _check_attacks("attacks", self.attacks)
        if len(self.attacks) > 1:
            raise ValueError(f"attacks={','.join(self.attacks)!r}: give one")
        _check_rising("sizes", self.sizes)
        _check_rising("mixtures", self.mixtures)
        suites = len(self.sizes) * len(self.mixtures) * self.runs
        if suites < 4:
            raise ValueError(
                f"sizes, mixtures and runs={self.runs} make {suites} suites: a correlation needs "
                "at least 4; raise runs"
            )


@dataclass(frozen=True)
class OverheadSettings(QuestionSettings):
    """What `vision-bench coverage overhead` measures.

    By default of 1,000 images (`num_samples`), after learning from 5,000 (`train_limit`).

    Attributes:
        builds: How often learning is timed; 0 leaves it out.
    """

    QUESTION: ClassVar[str] = "overhead"

    builds: Natural = 1

    def check(self) -> None:
        super().check()
        if self.reference is not None:
            raise ValueError(
                f"reference={self.reference!r}: overhead times how one is learned; leave it out"
            )


def _check_attacks(name: str, attacks: Sequence[str]) -> None:
    if not attacks:
        raise ValueError(f"{name} is empty: name at least one, such as pgd")
    for one in attacks:
        if one not in ATTACKS:
            raise ValueError(f"{name} holds {one!r}: {did_you_mean(one, ATTACKS)}")
    if len(set(attacks)) < len(attacks):
        raise ValueError(f"{name}={','.join(attacks)!r} names an attack twice")


def _check_rising(name: str, values: Sequence[float]) -> None:
    if not values or any(one >= other for one, other in zip(values, values[1:], strict=False)):
        written = ",".join(f"{one:g}" for one in values)
        raise ValueError(f"{name}={written!r}: give rising numbers, such as 100,1000")
