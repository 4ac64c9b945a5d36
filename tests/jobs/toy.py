"""A study of a moment: it writes a table, and may wait, fail or kill itself on the way."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from aim_plugins.sweep.table import Row, write_table


def rows(seed: int) -> list[Row]:
    """What a seed measures."""
    return [
        Row(f"task{seed}", "acc", strength, 0, ((seed + 1) * 0.37 / (1 + strength)) % 1, 0.01, 50)
        for strength in (0.0, 0.5, 1.0)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--marks", type=Path, help="a folder that gets a line for each start")
    parser.add_argument("--wait", action="store_true", help="until its file `gate` is there")
    parser.add_argument("--die", choices=("once", "always"))
    parser.add_argument("--status", type=int, default=0)
    words = parser.parse_args()
    first = True
    if words.marks:
        name, starts = f"{words.seeds}", words.marks / "starts.txt"
        first = name not in (starts.read_text() if starts.exists() else "")
        with open(starts, "a") as file:
            file.write(f"{name} {os.getpid()}\n")
    while words.wait and not (words.marks / "gate").exists():
        time.sleep(0.02)
    print("measuring", flush=True)
    if words.die == "always" or (words.die == "once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if words.status:
        sys.exit(words.status)
    words.output.mkdir(parents=True, exist_ok=True)
    write_table(words.output / "sweep.csv", [row for seed in words.seeds for row in rows(seed)])


if __name__ == "__main__":
    main()
