"""The segmentation commands of `vision-bench`.

vision-bench segment evaluate CONFIG            quality of every class against noise strength
vision-bench segment infer CONFIG IMAGE_OR_FOLDER    overlays at every strength, and an animation
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aim_plugins.core.commands import CommandParser, say
from aim_plugins.core.settings import PositionalsFirst, add_config, read_settings
from vision_bench.commands import run_study
from vision_bench.demo.names import resolve
from vision_bench.segmentation.settings import SegmentSettings


def evaluate(arguments: Sequence[str]) -> int:
    """Runs `vision-bench segment evaluate`; returns the exit status 0."""
    run_study(
        SegmentSettings,
        "segment evaluate",
        "Evaluates a segmentation model on a labelled data set at every strength of the config's "
        "PERTURBATION block, from one pass of the model. A killed run goes on when it is started "
        "again.",
        "vision_bench.segmentation.study:SegmentationStudy",
        arguments,
    )
    return 0


def infer(arguments: Sequence[str]) -> int:
    """Runs `vision-bench segment infer`; returns the exit status 0."""
    parser = CommandParser(
        prog="vision-bench segment infer",
        description="Segments an image, or all images below a folder, at every strength of the "
        "config's PERTURBATION block. No labels are needed.",
        formatter_class=PositionalsFirst,
    )
    add_config(parser, "config")
    parser.add_argument("images", type=Path, metavar="IMAGE_OR_FOLDER")
    text = 'folder for pictures; default: the config\'s with "-images" at the end'
    parser.add_argument("--output", type=Path, metavar="DIR", help=text)
    options = parser.parse_args(arguments)
    settings = read_settings(SegmentSettings, options.config, options.cfg_options, resolve=resolve)
    if not options.images.exists():
        raise FileNotFoundError(f"{options.images}: no such image or folder")
    settings.check_classes()
    if settings.edit is not None:
        raise ValueError(
            f"edit={settings.edit!r}: `vision-bench segment infer` draws strengths of noise alone: "
            "leave it out, and give an edited checkpoint as weights"
        )
    say("vision-bench segment infer: loading libraries")
    from vision_bench.segmentation.infer import infer as draw

    draw(settings, options.images, options.output or Path(f"{settings.output}-images"))
    return 0
