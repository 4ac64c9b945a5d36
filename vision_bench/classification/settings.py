"""Settings of the classification commands, as configs and options give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from aim_plugins.core.files import existing
from aim_plugins.core.settings import Count, Grid, Settings, option
from aim_plugins.core.strengths import MAX_STRENGTHS, parse_strengths, validate_strength
from vision_bench.changes.settings import ChangeSettings
from vision_bench.classifiers.settings import ClassifierSettings, FocusSettings
from vision_bench.models.names import plain_name
from vision_bench.models.preprocessing import Choice

_STEPS, _STEP = 101, 0.2
"""AIM's strengths for CIFAR, where none are given."""


@dataclass(frozen=True, kw_only=True)
class NoiseSettings(FocusSettings):
    """Modulation, and how it is sampled.

    Attributes:
        seed: Draw d has the seed SEED + d.
        top_k: How many of the best classes count for the top-k accuracy.
    """

    seed: int = 0
    top_k: Count = 5

    @property
    def stds(self) -> tuple[float, ...]:
        """Noise standard deviations in logit units."""
        raise NotImplementedError

    def check(self) -> None:
        super().check()
        _ = self.stds


@dataclass(frozen=True)
class ClassifySettings(ClassifierSettings, NoiseSettings, ChangeSettings):
    """A classifier on a labelled data set.

    Attributes:
        num_perturb_steps: Number of strengths of noise, from 0 upwards; by default 101, or no noise
            beside an edit where neither this nor one of the next two is given.
        perturb_step: From one strength to the next, in logit units; by default 0.2.
        noise_std: The strengths themselves, such as "0:20:0.2" (20 included) or "0,0.5,1", in the
            place of the two above.
        report_classes: Names or indices of classes with curves of their own; by default the targets
            of focus, or all of up to ten. The table of classes holds all in any case.
        plot: Whether to draw pictures beside the report, as is done with a config.
        logits_cache: Folder of cached logits; by default "logits" beside that of results.
        output: Folder of results; by default runs/DATASET_MODEL.
    """

    num_perturb_steps: Count | None = None
    perturb_step: str | float | None = None
    noise_std: Grid | None = option(None, metavar="GRID")
    report_classes: Sequence[str | int] = option((), metavar="CLASS")
    plot: bool = True
    logits_cache: str | None = None
    output: str | None = None

    def check(self) -> None:
        super().check()
        if self.edit is not None and self.focus_target and not any(self.stds):
            raise ValueError(
                f"focus_target={list(self.focus_target)} is of noise, and none is asked for beside "
                f"edit={self.edit!r}: add noise_std, or leave it out"
            )

    @property
    def stds(self) -> tuple[float, ...]:
        if self.noise_std is not None:
            return parse_strengths(self.noise_std)
        steps, step = self.num_perturb_steps, self.perturb_step
        if self.edit is not None and steps is None and step is None:
            return (0.0,)
        return perturb_grid(_STEPS if steps is None else steps, _STEP if step is None else step)

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return Path(self.output or f"runs/{self.dataset.lower()}_{plain_name(self.model_name)}")

    @property
    def logits_folder(self) -> Path:
        """Folder of cached logits."""
        return Path(self.logits_cache or self.folder.parent / "logits")


@dataclass(frozen=True)
class LogitsSettings(NoiseSettings):
    """Logits that another program cached.

    Attributes:
        file: A .npz or .safetensors file with the arrays logits and labels.
        noise_std: Strengths in logit units: "0:20:0.2" (20 included), "0,0.5,1" or a number.
        output: Folder of results.
        task: Name in table and pictures; by default the file's.
    """

    file: Path = option(positional=True, metavar="FILE")
    noise_std: Grid = option(metavar="GRID")
    output: Path = option(metavar="DIR")
    task: str | None = None

    def check_files(self) -> None:
        existing(self.file, "file")

    @property
    def stds(self) -> tuple[float, ...]:
        return parse_strengths(self.noise_std)


@dataclass(frozen=True)
class TopClassesSettings(Settings):
    """What a config of `vision-bench top-classes` may hold.

    Attributes:
        model: Name of an ImageNet classifier, as in `vision_bench.models.load`.
        images: Folder of photographs.
        weights: File of the model's weights, or what else `load_model` takes.
        preprocessing: What is done to images, as for `vision-bench classify`.
        noise_std: Strengths in logit units, a grid or a list.
        top: Number of classes shown.
        draws: Sampled runs per strength.
        seed: Draw d has the seed SEED + d.
        output: Folder of results.
    """

    model: str
    images: str
    weights: str | None = None
    preprocessing: Choice | None = option(None, metavar="FIELDS")
    noise_std: Grid = option("0:10:1", metavar="GRID")
    top: Count = 5
    draws: Count = 5
    seed: int = 0
    output: str = "runs/top-classes"


def perturb_grid(steps: int, step: float | str) -> tuple[float, ...]:
    """Strengths 0, step, … as AIM counts them, in decimal.

    Args:
        steps: Number of strengths.
        step: From one to the next, in logit units.

    Raises:
        ValueError: If there are too few or too many, or the step is not above 0.

    >>> perturb_grid(4, 0.1)
    (0.0, 0.1, 0.2, 0.3)
    """
    if not 1 <= steps <= MAX_STRENGTHS:
        raise ValueError(f"num_perturb_steps={steps} is outside [1, {MAX_STRENGTHS}]")
    try:
        # Through its shortest decimal, as 3 · 0.1 is 0.30000000000000004 in binary.
        width = Decimal(str(step).strip())
    except InvalidOperation as error:
        raise ValueError(f"perturb_step={step!r} is not a number: give one such as 0.2") from error
    validate_strength(float(width), name="perturb_step")
    if steps > 1 and width <= 0:
        raise ValueError(f"perturb_step={step} is not above 0: all strengths would be the same")
    return tuple(float(index * width) for index in range(steps))
