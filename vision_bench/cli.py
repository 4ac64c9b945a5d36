"""`vision-bench`: the command line, whose systems stand in `systems`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aim_plugins.core.commands import run_system, speak_plainly
from vision_bench.systems import SYSTEMS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 2 for bad input, 1 for a failure, 130 for Ctrl-C."""
    if argv is None:
        speak_plainly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    about = "Measure what modulating a frozen vision model costs, and what tests exercise of one."
    return run_system("vision-bench", about, SYSTEMS, arguments)


if __name__ == "__main__":
    sys.exit(main())
