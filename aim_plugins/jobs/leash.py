"""Runs a command that ends when the process that started it does, whatever ends that.

    python -m aim_plugins.jobs.leash PARENT WORD ...

An engine may kill a worker outright; the command of its job would go on without it, on GPUs that
the engine takes for free.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that the kernel sends once the parent is gone; exec keeps it."""


def main() -> None:
    """Becomes the command."""
    parent, *words = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel was told
        sys.exit(1)
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
