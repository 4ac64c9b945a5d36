"""`vision-bench demo-models`: makes the demo's models and data, and says where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aim_plugins.core.commands import CommandParser, keeping_finished_work
from vision_bench.demo.names import ON_DEMAND, PREFIX, WORDS, resolve
from vision_bench.demo.store import read_record


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
        "results by words such as demo:resnet20. A ResNet-20 with a backdoor is trained when it is "
        "named alone.",
    )
    help_text = "print what this one stands for alone"
    parser.add_argument("name", nargs="?", choices=WORDS, help=help_text)
    options = parser.parse_args(arguments)
    if options.name:
        print(resolve(PREFIX + options.name))
        return 0
    for name in WORDS:
        if name in ON_DEMAND:
            continue
        with keeping_finished_work():
            value = resolve(PREFIX + name)
        print(f"{PREFIX}{name:12} {value}")
        if name in ("resnet20", "lenet5", "segformer"):
            folder = Path(value) if name == "segformer" else Path(value).parent
            notes = read_record(folder)["notes"]
            print(" " * 18, ", ".join(f"{key} {round(figure, 4)}" for key, figure in notes.items()))
    return 0
