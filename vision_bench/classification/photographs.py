"""`vision-bench top-classes CONFIG`: a classifier's best classes of photographs under noise.

OUTPUT/
  sweep.csv         how often noise keeps the clean answers
  classes.csv       the best classes of each image with their exact probabilities
  curves/           pictures
  report.html       curves, and each photograph's classes beside a strength slider
  manifest.json
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aim_plugins.core.settings import add_config, add_options, read_settings
from vision_bench.classification.settings import TopClassesSettings
from vision_bench.demo import resolve

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vision_bench.classification.top_classes import TopClasses
    from vision_bench.models.model import VisionModel

_PHOTOGRAPH_SIDE = 320
"""Longer side of a photograph in the report, in pixels."""


def add_parser(commands: Any) -> None:
    """Adds `top-classes` to the subparsers of `vision-bench`."""
    parser = commands.add_parser(
        "top-classes",
        help="an ImageNet classifier's best classes of photographs, against noise strength",
        description="Classifies the photographs below a folder with an ImageNet classifier and "
        "shows its best classes at every strength of logit noise. No labels are needed.",
    )
    add_config(parser, "config")
    add_options(parser, TopClassesSettings, required=False)
    parser.set_defaults(run=run_top_classes)


def run_top_classes(options: argparse.Namespace) -> int:
    """Writes tables, pictures and the report of a config.

    Returns:
        The exit status 0.

    Raises:
        FileNotFoundError: If there are no photographs.
        ValueError: If a setting is not usable, or the folder holds another sweep.
    """
    from aim_plugins.core.strengths import parse_strengths
    from aim_plugins.modulation.noise import NOISE_VERSION
    from vision_bench.models.load import load_model

    settings = read_settings(
        TopClassesSettings, options.config, options.cfg_options, vars(options), resolve=resolve
    )
    folder = Path(settings.images)
    stds = parse_strengths(settings.noise_std, name="noise_std")
    # Untrained weights too are the same in every run, which goes on where it was.
    model = load_model(settings.model, weights=settings.weights, seed=0)
    names, photographs, logits = _classify(model, folder)
    arguments = {
        "command": "top-classes",
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "images": names,
        "noise_std": stds,
        "noise_version": NOISE_VERSION,
        **{name: getattr(settings, name) for name in ("top", "draws", "seed")},
    }
    _write(Path(settings.output), arguments, options.command, photographs, logits)
    return 0


def _classify(model: VisionModel, folder: Path) -> tuple[list[str], list[Image], Tensor]:
    """Names, photographs and clean logits; damaged files are left out with a line each."""
    import sys

    import torch

    from vision_bench.data.image_folders import image_files, no_images
    from vision_bench.data.images import UnreadableImageError, read_image, to_tensor

    if model.classes != 1000:
        raise ValueError(f"{model.name} has {model.classes} classes, not the 1000 of ImageNet")
    names, photographs, logits = [], [], []
    for name in image_files(folder):
        try:
            photograph = read_image(folder / name)
        except UnreadableImageError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        with torch.no_grad():
            logits.append(model.module(to_tensor(photograph, model.preprocessing)[None]))
        names.append(name)
        photographs.append(photograph)
    if not names:
        raise no_images(folder)
    return names, photographs, torch.cat(logits).float()


def _write(
    output: Path,
    arguments: dict[str, Any],
    command: Sequence[str],
    photographs: Sequence[Image],
    logits: Tensor,
) -> None:
    from importlib.metadata import version

    from aim_plugins.core.files import write_atomic
    from aim_plugins.sweep.plots import plot_curves
    from aim_plugins.sweep.printed import format_points
    from aim_plugins.sweep.report import write_report
    from aim_plugins.sweep.store import SweepStore
    from aim_plugins.sweep.table import pool_draws, write_table
    from vision_bench.classification.top_classes import image_sample, kept_rows, top_classes
    from vision_bench.data.image_folders import imagenet_classes

    stds, seed, names = arguments["noise_std"], arguments["seed"], arguments["images"]
    versions = {package: version(package) for package in ("aim-plugins", "torch", "timm")}
    with SweepStore.open(output, arguments, versions=versions) as store:
        store.update_manifest(command=list(command), model=arguments["model"])
        class_names = imagenet_classes()[1]
        found = top_classes(logits, stds, top=arguments["top"], seed=seed)
        points = pool_draws(
            rows := kept_rows(logits, stds, "photographs", draws=arguments["draws"], seed=seed)
        )
        table = write_table(output / "sweep.csv", rows)
        classes = write_atomic(output / "classes.csv", _class_table(found, names, class_names))
        pictures = plot_curves(points, output / "curves")
        samples = [
            image_sample(name, _thumbnail(photograph), found, image, class_names)
            for image, (name, photograph) in enumerate(zip(names, photographs, strict=True))
        ]
        report = write_report(output, points, store.manifest, images={"photographs": samples})
    print(format_points(points))
    print("", f"table:     {table}", f"classes:   {classes}", sep="\n")
    print(f"pictures:  {pictures[0].parent}", f"report:    {report}", sep="\n")


def _class_table(found: TopClasses, names: Sequence[str], class_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "strength", "rank", "class", "probability", "one_noisy_run"])
    for image, name in enumerate(names):
        for level, std in enumerate(found.stds):
            for rank, index in enumerate(found.classes[image].tolist()):
                drawn = class_names[int(found.drawn[image, level, rank])]
                probability = float(found.probabilities[image, level, rank])
                writer.writerow([name, std, rank + 1, class_names[index], probability, drawn])
    return text.getvalue()


def _thumbnail(photograph: Image) -> bytes:
    small = photograph.copy()
    small.thumbnail((_PHOTOGRAPH_SIDE, _PHOTOGRAPH_SIDE))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return content.getvalue()
