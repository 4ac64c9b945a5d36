"""Settings of `vision-bench attribute edit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing
from aim_plugins.core.settings import (
    Classes,
    Count,
    Counts,
    Grid,
    Names,
    Natural,
    NonNegative,
    Part,
    option,
)
from aim_plugins.core.strengths import parse_strengths
from vision_bench.attribution.editing.choices import (
    ORDERS,
    TRIGGERED,
    TYPOGRAPHIC,
    WORST_GROUP,
    WRONG,
    Kind,
)
from vision_bench.attribution.settings import MaskSettings
from vision_bench.data.trigger import Trigger
from vision_bench.data.writing import Writing

SIZES = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 330)
"""Numbers of components that are tried by default, as far as there are so many."""


@dataclass(frozen=True)
class EditSettings(MaskSettings):
    """A classifier, and what of it is to change.

    Images of the test split are parted: some are attributed, others select, the rest is tested.

    Attributes:
        targets: Images whose margins are to change: names or indices of classes, separated by
            commas; a file with the name of an image on each line, which is its number where images
            are no files; "wrong" for images that are answered wrongly; "triggered" for images with
            a patch on them; "typographic" for images with a word on them; or "worst-group".
        references: What they are told from: classes, or a file; by default images drawn from all
            others, and of those with a patch or a word the same without it.
        direction: "raise" or "lower" the targets' margins; by default those of classes are lowered,
            so that they are forgotten, and all others raised.
        target_count: Targets that are attributed.
        reference_count: References that are attributed.
        selection_split: Another split, whose images are attributed and select; by default a share
            of the tested one does.
        selection_share: That share.
        prior: As in `attribute fit`.
        penalty: As in `attribute fit`.
        orders: Orders in which components are ablated, of which the best is chosen: "statistic",
            the paper's, or "margins", which looks at what the references lose too.
        sizes: Numbers of components that are tried, separated by commas; by default up to 330.
        tolerance: By how much the edit may lower the accuracy on what is to stay, on the images
            that select: 0.02 is two points.
        strengths: Strengths of the edit that are tested; at 1 its components are ablated.
        random_edits: Random edits of the same size that it is held against.
        fine_tune: Holds it against fine-tuning the last layer, too.
        backdoor_class: Name or index of the class that the patch stands for.
        trigger: The patch: size, corner, margin and colour.
        word_classes: Names or indices of the classes whose names are written on images, separated
            by commas; by default all. Of several, each image has one drawn, which is not its own.
        writing: How the word looks: size, corner, margin, colour and paper.
        output: Folder of results; by default runs/attribute-edit/DATASET_MODEL.
    """

    targets: Classes = option((), metavar="TARGETS")
    references: Classes = option((), metavar="REFERENCES")
    direction: Literal["raise", "lower"] | None = None
    target_count: Count = 20
    reference_count: Count = 40
    selection_split: str | None = None
    selection_share: Part = 0.4
    prior: Literal["gradient"] | None = "gradient"
    penalty: NonNegative | None = None
    orders: Names = ORDERS
    sizes: Counts = SIZES
    tolerance: NonNegative = 0.02
    strengths: Grid = "0:1:0.25"
    random_edits: Natural = 5
    fine_tune: bool = True
    backdoor_class: str | int | None = option(None, metavar="CLASS")
    trigger: Trigger = Trigger()
    word_classes: Classes = option((), metavar="CLASSES")
    writing: Writing = Writing()
    output: str | None = None

    def check(self) -> None:
        super().check()
        if not self.targets:
            raise ValueError(
                "targets is empty: name classes, a file of images, 'wrong', 'triggered', "
                "'typographic' or 'worst-group'"
            )
        if (self.kind == TRIGGERED) != (self.backdoor_class is not None):
            raise ValueError(
                f"targets={self.words!r} with backdoor_class={self.backdoor_class!r}: give "
                "targets='triggered' and the class that the patch stands for, or neither"
            )
        if self.word_classes and self.kind != TYPOGRAPHIC:
            raise ValueError(
                f"word_classes={list(self.word_classes)} with targets={self.words!r}, where "
                "nothing is written: leave them out, or give targets='typographic'"
            )
        alone = self.kind in (TRIGGERED, TYPOGRAPHIC, WORST_GROUP)
        if self.direction == "lower" and alone:
            raise ValueError(
                f"direction='lower' does not go with targets={self.words!r}, whose margins are to "
                "be raised: leave it out"
            )
        if self.references and alone:
            raise ValueError(
                f"references={list(self.references)} do not go with targets={self.words!r}, which "
                "have references of their own: leave them out"
            )
        if self.grid[-1] != 1 or self.grid[0] != 0:
            raise ValueError(
                f"strengths={self.strengths!r}: begin with 0, the model, and end with 1, the edit"
            )
        for one in self.orders:
            if one not in ORDERS:
                raise ValueError(f"orders holds {one!r}: {did_you_mean(one, ORDERS)}")
        if not self.orders:
            raise ValueError(f"orders is empty: give one of {', '.join(ORDERS)}, or both")
        if self.prior == "gradient" and not self.gradient_passes:
            raise ValueError(
                "gradient_passes=0 leaves prior='gradient' nothing to go by: give some, or "
                "prior=None"
            )
        if self.prior is None and not self.num_ablations:
            raise ValueError("num_ablations=0 leaves prior=None nothing to fit: give masks")

    def check_files(self) -> None:
        super().check_files()
        for name in ("targets", "references"):
            given = getattr(self, name)
            if len(given) == 1 and _is_file(given[0]):
                existing(str(given[0]), name)

    @property
    def words(self) -> str:
        """The targets as a command line has them."""
        return ",".join(map(str, self.targets))

    @property
    def kind(self) -> Kind:
        """What kind of images the targets are."""
        if self.words in (WRONG, TRIGGERED, TYPOGRAPHIC, WORST_GROUP):
            return self.words  # type: ignore[return-value]
        return "images" if len(self.targets) == 1 and _is_file(self.targets[0]) else "classes"

    @property
    def lowers(self) -> bool:
        """Whether margins are to be lowered."""
        return (self.direction or ("lower" if self.kind == "classes" else "raise")) == "lower"

    @property
    def grid(self) -> tuple[float, ...]:
        """The strengths, ascending."""
        return tuple(sorted(parse_strengths(self.strengths, name="strengths", high=1.0)))

    @property
    def reference_file(self) -> Path | None:
        """The file that names the references."""
        one = self.references[0] if len(self.references) == 1 else ""
        return Path(str(one)) if _is_file(one) else None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that name images."""
        own = [Path(str(self.targets[0]))] if self.kind == "images" else []
        return (*own, *([] if self.reference_file is None else [self.reference_file]))

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("attribute-edit", self.output)


def _is_file(word: str | int) -> bool:
    """Whether a word names a file rather than a class."""
    return Path(str(word)).suffix in (".txt", ".csv")
