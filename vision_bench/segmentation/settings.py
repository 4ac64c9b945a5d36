"""Settings of the segmentation commands, as their configs and options give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from aim_plugins.core.files import existing_folder
from aim_plugins.core.settings import Count, Natural, bound, option
from vision_bench.changes.settings import ChangeSettings
from vision_bench.data.names import class_list
from vision_bench.models.names import check_weights
from vision_bench.models.preprocessing import Choice, read_choice
from vision_bench.segmentation.perturbation_config import Perturbation


@dataclass(frozen=True)
class SegmentSettings(ChangeSettings):
    """What a config of `vision-bench segment` may hold; only three settings have no default.

    Attributes:
        dataset: ade20k, cityscapes or folder.
        model: Name of a segmentation model, as in `vision_bench.models.load`.
        PERTURBATION: AIM's block, as in `vision_bench.segmentation.perturbation_config`.
        data_root: Folder of the data set; `infer` reads only names of classes from it.
        split: val or train; for "folder" the name of a folder, or None.
        resize: Size of the network's input: square512, edge512, short512 or original; by default
            the model's own, and for Cityscapes that of its images.
        score_at: "labels" upsamples logits to the labels' own size and counts there; "input"
            resizes the labels to the network's input, as AIM's script does.
        reduce_labels: For "folder", whether label files count classes from 1 and 0 is unlabelled;
            by default what the model's image processor says (`do_reduce_labels`).
        limit: Number of images, taken evenly over the data set; by default all.
        on_error: "skip" leaves unusable images out and counts them, "raise" stops at the first.
        weights: File of the model's weights, "hub", or None where the model's name is its folder.
        preprocessing: What is done to images, where that is not known of the weights or is to be
            something else: fields such as "size=512 mean=0.5,0.5,0.5 std=0.2,0.2,0.2", or
            "published" for that of SegFormer's authors.
        device: Where to compute; by default a GPU where there is one.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        cache_dtype: Type of cached logits.
        logits_cache: Folder of cached logits; by default "logits" beside that of results.
        output: Folder of results.
        draws: Sampled runs per strength.
        seed: Draw d has the seed SEED + d.
        exact: Whether to compute the exact law as well, as is done by default.
        exact_pixels: Sampled pixels of an image for laws that need an integral; None takes all.
        mean_over: "present" counts a class that is predicted and never labelled as 0 in means, as
            AIM's script does; "labelled" leaves it out.
        report_classes: Names or indices of classes with curves of their own; by default the
            targets. The table of classes holds all in any case.
        overlays: Images shown in the report.
        overlay_width: Their width in pixels at most.
    """

    dataset: Literal["ade20k", "cityscapes", "folder"]
    model: str
    PERTURBATION: Perturbation
    data_root: str = "data"
    split: str | None = None
    resize: str | None = None
    score_at: Literal["labels", "input"] = "labels"
    reduce_labels: bool | None = None
    limit: Count | None = None
    on_error: Literal["skip", "raise"] = "skip"
    weights: str | None = None
    preprocessing: Choice | None = option(None, metavar="FIELDS")
    device: str | None = None
    batch_size: Count = 4
    workers: Natural = 0
    cache_dtype: Literal["float16", "float32", "bfloat16"] = "float16"
    logits_cache: str | None = None
    output: str = "runs/segment"
    draws: Natural = 1
    seed: int = 0
    exact: bool = True
    exact_pixels: Count | None = 4096
    mean_over: Literal["present", "labelled"] = "present"
    report_classes: Sequence[str | int] = option((), metavar="CLASS")
    overlays: Natural = 6
    overlay_width: Annotated[
        int, bound("a whole number from 32 upwards", lambda width: width >= 32)
    ] = 384

    def check(self) -> None:
        super().check()
        if self.edit is not None and not self.draws:
            raise ValueError(
                f"draws=0 leaves edit={self.edit!r} no answers to compare, as laws are of noise: "
                "give draws=1"
            )
        if not self.draws and not self.exact:
            raise ValueError("draws=0 with exact=False leaves nothing to compute: give draws=1")
        chosen = read_choice(self.preprocessing)
        if isinstance(chosen, dict) and chosen.get("crop") is not None:
            raise ValueError(
                f"preprocessing holds crop={chosen['crop']}: every pixel of an image is segmented, "
                "so leave it out"
            )

    def check_files(self) -> None:
        super().check_files()
        existing_folder(self.data_root, "data_root")
        check_weights(self.weights)
        self.check_classes()

    def check_classes(self) -> None:
        """Refuses a folder of pairs that does not name its classes.

        Raises:
            FileNotFoundError: If so.
        """
        if self.dataset == "folder":
            class_list(Path(self.data_root))

    @property
    def logits_folder(self) -> Path:
        """Folder of cached logits."""
        return Path(self.logits_cache or Path(self.output).parent / "logits")
