"""Settings of `vision-bench attribute`, as configs and options give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing, existing_folder
from aim_plugins.core.settings import (
    Classes,
    Count,
    Names,
    Natural,
    NonNegative,
    Part,
    Positive,
    Settings,
    Shard,
    Shares,
    option,
    read_shard,
)
from aim_plugins.modulation.components import ComponentKind
from vision_bench.attribution.choices import BASELINES, DATASET, OutputFunction
from vision_bench.classifiers.settings import TrainingSettings


@dataclass(frozen=True)
class ComponentSettings(TrainingSettings):
    """A classifier, and the components that its outputs are attributed to.

    Attributes:
        components: What a component is: conv_filters of convolutions, linear_rows or linear_inputs
            of linear layers, attention_heads, mlp_neurons, or residual blocks.
        patterns: Regular expressions of names of layers or components, such as "layer3.*"; by
            default all of the kind.
        output_fn: The number of each image that is attributed: the margin of the correct class's
            logit over the largest other one, or the correct class's log_likelihood.
    """

    components: ComponentKind = "conv_filters"
    patterns: Sequence[str] = option((), metavar="PATTERN")
    output_fn: OutputFunction = "margin"


@dataclass(frozen=True)
class ExampleSettings(ComponentSettings):
    """The images whose outputs are attributed.

    Attributes:
        examples_of: Whether images of the data set's own split ("test") or of the training split
            ("train") are attributed.
        examples: So many images, taken evenly over these.
        example_classes: Only images of these classes, separated by commas; by default of all.
    """

    examples_of: Literal["test", "train"] = "test"
    examples: Count = 256
    example_classes: Classes = option((), metavar="CLASSES")


@dataclass(frozen=True)
class MaskSettings(ComponentSettings):
    """What is measured to attribute by.

    Attributes:
        alpha: Share of the components that each mask ablates, drawn at random.
        num_ablations: Masks, each with a forward pass over all images.
        gradient_passes: Further masks, with a forward and a backward pass over all images each.
    """

    alpha: Part = 0.1
    num_ablations: Natural = 1000
    gradient_passes: Natural = 100

    def check(self) -> None:
        super().check()
        if not self.num_ablations and not self.gradient_passes:
            raise ValueError(
                "num_ablations=0 and gradient_passes=0 measure nothing: give one of them"
            )


@dataclass(frozen=True)
class AttributionSettings(ExampleSettings, MaskSettings):
    """How attributions are fitted, and what they are held against.

    Attributes:
        prior: "gradient" lets what the gradients say hold where the masks say nothing; None fits
            the masks alone.
        penalty: Weight of the ridge penalty; by default chosen by generalised cross-validation.
            With prior=None, 0 is plain least squares, as in the paper.
        eval_alphas: Shares of the components that fresh masks ablate, separated by commas.
        eval_masks: Fresh masks of each share, with a pass over all images each.
        top: Components of each image that are ablated together, to see whether they matter more
            than as many random ones.
        baselines: Attributions to compare with, separated by commas: leave_one_out,
            gradient_times_parameter, neuron_conductance, internal_influence; "none" for none.
        report_examples: Images that the report shows.
        output: Folder of results; by default runs/attribute/DATASET_MODEL.
    """

    prior: Literal["gradient"] | None = "gradient"
    penalty: NonNegative | None = None
    eval_alphas: Shares = (0.05, 0.1, 0.15)
    eval_masks: Count = 100
    top: Count = 10
    baselines: Names = BASELINES
    report_examples: Natural = 6
    output: str | None = None

    def check(self) -> None:
        super().check()
        if self.prior == "gradient" and not self.gradient_passes:
            raise ValueError(
                "gradient_passes=0 leave prior='gradient' nothing to go by: give some or prior=None"
            )
        if self.prior is None and not self.num_ablations:
            raise ValueError("num_ablations=0 leaves prior=None nothing to fit: give masks")
        if max(self.eval_alphas) >= 1:
            raise ValueError(
                f"eval_alphas={list(self.eval_alphas)} holds 1, which ablates everything: give "
                "shares above 0 and below 1"
            )
        if self.eval_masks < 3:
            raise ValueError(
                f"eval_masks={self.eval_masks} are too few to correlate: give 3 or more, such as "
                "100"
            )
        for name in self.compared:
            if name not in BASELINES:
                hint = did_you_mean(name, [*BASELINES, "none"])
                raise ValueError(f"baselines holds {name!r}: {hint}")

    @property
    def compared(self) -> tuple[str, ...]:
        """The baselines that are asked for."""
        return () if tuple(self.baselines) == ("none",) else tuple(self.baselines)

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("attribute", self.output)


@dataclass(frozen=True)
class BuildSettings(AttributionSettings):
    """What `vision-bench attribute build` measures.

    Attributes:
        shard: Measures a part of the masks alone, such as 1/4; any number of machines may do so at
            once, in one folder or in several that `attribute merge` joins.
    """

    shard: Shard | None = None

    @property
    def part(self) -> tuple[int, int]:
        """The part that is measured, counted from 1, and of how many."""
        place, count = read_shard(self.shard)
        return place + 1, count


@dataclass(frozen=True, kw_only=True)
class ImportSettings(AttributionSettings):
    """Attributions that others published, and what `vision-bench attribute import` makes of them.

    Attributes:
        published: File of the attributions, as COAR's authors publish them: what torch.save wrote
            of a dictionary with "weight" [components, images] and "bias". Nothing in it is run.
        masks: Masks that they were fitted to, as their authors say; reports name them as the cost.
    """

    published: Path = option(metavar="FILE")
    masks: Count = option(metavar="N")

    def check_files(self) -> None:
        super().check_files()
        existing(self.published, "published")


@dataclass(frozen=True)
class InitSettings(ExampleSettings):
    """What `vision-bench attribute init` writes.

    Attributes:
        file: The config to write.
        minutes: How long `attribute run` may take on this machine, by which the numbers of masks
            and gradients are chosen; for few minutes also that of images.
    """

    file: Path = option(Path("attribute.py"), short="-o", metavar="FILE")
    minutes: Positive = 60.0

    def check(self) -> None:
        super().check()
        if self.file.suffix != ".py":
            raise ValueError(f"file={str(self.file)!r} is to be Python: let its name end in .py")


@dataclass(frozen=True)
class MergeSettings(Settings):
    """Parts of a component dataset that were built in several folders, and where they go together.

    Attributes:
        folders: Folders that `attribute build --shard` wrote.
        output: Folder of results, which `attribute fit CONFIG --output` takes.
    """

    folders: Sequence[str] = option(positional=True, metavar="FOLDER")
    output: Path = option(short="-o", metavar="DIR")

    def check_files(self) -> None:
        for folder in self.folders:
            place = existing_folder(folder, "folder")
            if not (place / DATASET).is_dir():
                raise FileNotFoundError(
                    f"folder {folder!r} holds no {DATASET}/: name folders that `attribute build` "
                    "wrote"
                )
