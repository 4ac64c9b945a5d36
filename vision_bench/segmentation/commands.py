"""The segmentation commands of `vision-bench`.

vision-bench segment evaluate CONFIG            quality of every class against noise strength
vision-bench segment infer CONFIG IMAGE_OR_FOLDER    overlays at every strength, and an animation
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aim_plugins.core.settings import add_config, add_options, read_settings
from vision_bench.demo import resolve
from vision_bench.segmentation.settings import SegmentSettings


def add_parser(commands: Any) -> None:
    """Adds `segment` to the subparsers of `vision-bench`."""
    segment = commands.add_parser(
        "segment", help="semantic segmentation: metrics, or overlays, against noise strength"
    )
    actions = segment.add_subparsers(required=True, metavar="ACTION")

    evaluate = actions.add_parser(
        "evaluate",
        help="IoU, recall, precision and F1 of classes against noise strength",
        description="Evaluates a segmentation model on a labelled data set at every strength of "
        "the config's PERTURBATION block, from one pass of the model. A killed run goes on when "
        "it is started again.",
    )
    add_config(evaluate, "config")
    add_options(evaluate, SegmentSettings, required=False)
    evaluate.set_defaults(run=run_evaluate)

    infer = actions.add_parser(
        "infer",
        help="overlays of images at every strength, side by side and as an animation",
        description="Segments an image, or all images below a folder, at every strength of the "
        "config's PERTURBATION block. No labels are needed.",
    )
    add_config(infer, "config")
    infer.add_argument("images", type=Path, metavar="IMAGE_OR_FOLDER")
    infer.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help='folder for pictures; default: the config\'s with "-images" at the end',
    )
    infer.set_defaults(run=run_infer)


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluates a config; returns the exit status 0."""
    from vision_bench.segmentation.study import SegmentationSweep

    settings = read_settings(
        SegmentSettings, options.config, options.cfg_options, vars(options), resolve=resolve
    )
    SegmentationSweep(settings, command=options.command).run()
    return 0


def run_infer(options: argparse.Namespace) -> int:
    """Draws overlays of images; returns the exit status 0."""
    from vision_bench.segmentation.infer import infer

    settings = read_settings(SegmentSettings, options.config, options.cfg_options, resolve=resolve)
    infer(settings, options.images, options.output or Path(f"{settings.output}-images"))
    return 0
