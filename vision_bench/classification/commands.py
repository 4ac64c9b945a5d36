"""The classification commands of `vision-bench`, and `python -m vision_bench.classification`.

vision-bench classify CONFIG           a model by name on a data set by name
vision-bench classify-logits FILE      logits that any other program cached
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import guarded, join_negative_values
from aim_plugins.sweep.manifest import redact
from vision_bench.config_file import add_config_options

_GRID = 'strengths in logit units: "0:20:0.2" (20 included), "0,0.5,1" or a number'


def add_parser(commands: Any) -> None:
    """Adds `classify` and `classify-logits` to the subparsers of `vision-bench`."""
    classify = commands.add_parser(
        "classify",
        help="accuracy, calibration and entropy against noise strength",
        description="Measures a classifier on a labelled data set at many strengths of logit "
        "noise, exact and sampled, from one pass of the model. A killed run goes on when it is "
        "started again.",
    )
    add_config_options(classify)
    classify.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for results; default: the config's"
    )
    classify.set_defaults(run=run_config)

    logits = commands.add_parser(
        "classify-logits",
        help="the same from logits cached elsewhere",
        description="Measures a classifier at many strengths of logit noise: exact, and sampled "
        "with noise that all strengths share. FILE is a .npz or .safetensors file with the arrays "
        "logits [documents, classes] and labels [documents].",
    )
    logits.add_argument("file", type=Path, metavar="FILE")
    logits.add_argument("--noise-std", required=True, metavar="GRID", help=_GRID)
    _add_noise_options(logits)
    logits.add_argument("--task", help="name in table and pictures; default: the file's name")
    logits.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for results"
    )
    logits.set_defaults(run=run_logits)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m vision_bench.classification`; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    negative = {"--noise-std", "--perturb-step", "--num-perturb-steps"}
    options = _flag_parser().parse_args(join_negative_values(arguments, negative))
    options.command = redact(["python", "-m", "vision_bench.classification.curve", *arguments])
    return guarded(lambda: run_flags(options))


def run_config(options: argparse.Namespace) -> int:
    """Measures what a config says; returns the exit status."""
    from vision_bench.classification.settings import read_settings
    from vision_bench.classification.study import classify

    settings = read_settings(options.config, options.cfg_options, output=options.output)
    return classify(settings, command=options.command)


def run_flags(options: argparse.Namespace) -> int:
    """Measures what flags say; returns the exit status."""
    from vision_bench.classification.settings import ClassifySettings
    from vision_bench.classification.study import classify

    given = {name: value for name, value in vars(options).items() if name != "command"}
    return classify(ClassifySettings(**given), command=options.command)


def run_logits(options: argparse.Namespace) -> int:
    """Measures logits of a file; returns the exit status."""
    from aim_plugins.core.strengths import parse_strengths
    from vision_bench.classification.settings import NoisePlan
    from vision_bench.classification.study import classify_file

    # Everything is checked before the first file is written.
    stds = parse_strengths(options.noise_std, name="--noise-std")
    if options.draws < 1:
        raise ValueError(f"--draws={options.draws} is below 1: give the sampled runs per strength")
    plan = NoisePlan(
        stds, options.draws, options.seed, tuple(options.focus_target), options.focus_negative
    )
    return classify_file(
        options.file, plan, options.output, task=options.task, command=options.command
    )


def _flag_parser() -> argparse.ArgumentParser:
    """Flags named as in AIM's val.py; without a flag a setting keeps its default."""
    parser = argparse.ArgumentParser(
        prog="python -m vision_bench.classification",
        description="Accuracy, calibration and entropy of a classifier against noise strength, "
        "from one pass of the model. Under `accelerate launch` all processes share the pass.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--dataset",
        required=True,
        help="cifar10, cifar100, imagenet, fashion-mnist, digits, folder",
    )
    parser.add_argument(
        "--model", required=True, help="resnet56, cifar10_vgg16_bn, torchvision:NAME, timm:NAME"
    )
    parser.add_argument(
        "--weights", help='file, "hub" to download, the default on CIFAR, or "random"'
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of the data set; default for CIFAR: data"
    )
    parser.add_argument("--split", help="default: the one to evaluate on")
    parser.add_argument(
        "--labels", metavar="FILE", help="labels of ImageNet's images in one folder"
    )
    parser.add_argument("--limit", type=int, help="number of images; default: all")
    parser.add_argument(
        "--num-perturb-steps", type=int, metavar="N", help="number of strengths; default 101"
    )
    parser.add_argument(
        "--perturb-step", metavar="STEP", help="from one strength to the next; default 0.2"
    )
    parser.add_argument("--noise-std", metavar="GRID", help=f"in the place of these two, {_GRID}")
    parser.set_defaults(plot=False)
    parser.add_argument("--plot", action="store_true", help="draw the curves as pictures")
    _add_noise_options(parser)
    parser.add_argument("--batch-size", type=int, help="images in a forward pass; default 128")
    parser.add_argument("--workers", type=int, help="processes that read images; default 0")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--logits-cache", metavar="DIR", help="default: runs/logits")
    parser.add_argument("--output", metavar="DIR", help="default: runs/DATASET_MODEL")
    return parser


def _add_noise_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=1, help="draws per strength; default 1")
    parser.add_argument(
        "--seed", type=int, default=0, help="draw d has the seed SEED + d; default 0"
    )
    parser.add_argument(
        "--focus-target",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="focus modulation: names or indices of the classes made more likely",
    )
    parser.add_argument(
        "--focus-negative", action="store_true", default=False, help="make them less likely"
    )
