"""`vision-bench`: the command line.

vision-bench classify CONFIG           a classifier's accuracy against noise strength
vision-bench classify-logits FILE ...  the same from logits cached elsewhere
vision-bench segment ...               segmentation: evaluate a data set, draw images
vision-bench top-classes CONFIG        an ImageNet classifier's answers to photographs
vision-bench demo-models               trains small models once, and prints where they lie
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from aim_plugins.core.commands import guarded, join_negative_values
from aim_plugins.sweep.manifest import redact
from vision_bench.classification.commands import NEGATIVE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 2 for bad input, 1 for a failure, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(join_negative_values(arguments, NEGATIVE))
    options.command = redact(["vision-bench", *arguments])  # it goes into the results
    return guarded(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    """Each command's module adds its own parser, which sets `run`, and imports torch only there."""
    from vision_bench.classification import commands as classify_command
    from vision_bench.classification import photographs as top_classes_command
    from vision_bench.demo import command as demo_command
    from vision_bench.segmentation import commands as segment_command

    parser = argparse.ArgumentParser(
        prog="vision-bench", description="Measure what modulating a frozen vision model costs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    classify_command.add_parser(commands)
    segment_command.add_parser(commands)
    top_classes_command.add_parser(commands)
    demo_command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
