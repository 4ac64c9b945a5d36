"""`vision-bench demo-models`: makes the demo's models and data, and says where they lie."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aim_plugins.core.commands import CommandParser, keeping_finished_work
from vision_bench.demo.names import ON_DEMAND, PREFIX, WORDS, resolve
from vision_bench.demo.store import read_record

_IN_FOLDERS = ("segformer", "clip", "text-to-image")
_MEASURED = ("resnet20", "lenet5", "backdoored", *_IN_FOLDERS)
"""Words whose record notes the measured quality; it lies in the folder, or beside the weights."""


def main(arguments: Sequence[str]) -> int:
    """Prints each of the demo's words with what it stands for, and the measured quality.

    Returns:
        The exit status 0.
    """
    parser = CommandParser(
        prog="vision-bench demo-models",
        description="Trains a ResNet-20 and a LeNet-5 on Fashion-MNIST (or digits, where Debian's "
        "package dataset-fashion-mnist is not installed) and a small SegFormer on made scenes: a "
        "few minutes on a CPU, once. AIM_PLUGINS_CACHE chooses the folder. Configs name the "
        "results by words such as demo:resnet20. A ResNet-20 with a backdoor (backdoored), and a "
        "Stable Diffusion and a CLIP of tinted garments (text-to-image, clip; ten minutes), are "
        "trained when they are named alone.",
    )
    help_text = "print what this one stands for alone"
    parser.add_argument("name", nargs="?", choices=WORDS, help=help_text)
    options = parser.parse_args(arguments)
    if options.name:
        value = resolve(PREFIX + options.name)
        print(value)
        # Apart from the path, which scripts read.
        print(_quality(options.name, value), end="", file=sys.stderr)
        return 0
    for name in WORDS:
        if name in ON_DEMAND:
            continue
        with keeping_finished_work():
            value = resolve(PREFIX + name)
        print(f"{PREFIX}{name:12} {value}")
        print(_quality(name, value), end="")
    return 0


def _quality(name: str, value: Any) -> str:
    """A line of what was measured of a model; empty for what is none."""
    if name not in _MEASURED:
        return ""
    notes = read_record(Path(value) if name in _IN_FOLDERS else Path(value).parent)["notes"]
    figures = ", ".join(f"{key} {round(figure, 4)}" for key, figure in notes.items())
    return f"{'':18} {figures}\n"
