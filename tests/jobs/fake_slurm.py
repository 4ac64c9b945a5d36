"""What submitit asks of Slurm, played by processes of this machine.

The commands are this file under the names sbatch, srun, squeue and scancel. Their state is
the folder FAKE_SLURM: a file for each job, or element of an array, with its process.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

NAMES = ("sbatch", "srun", "squeue", "scancel")


def install(folder: Path) -> Path:
    """Writes the commands into a folder for PATH."""
    for name in NAMES:
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        command.chmod(0o755)
    return folder


def state() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def is_alive(job: str) -> bool:
    number = (state() / job).read_text()
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    (state() / "scripts").mkdir(exist_ok=True)
    number = 100 + len(list((state() / "scripts").iterdir()))
    (state() / "scripts" / f"{number}.sh").write_text(text)
    array = re.search(r"--array=0-(\d+)%", text)
    for element in range(int(array[1]) + 1) if array else [None]:
        job = f"{number}" if element is None else f"{number}_{element}"
        given = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
        if element is not None:
            given |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(element)}
        process = subprocess.Popen(
            ["bash", script],
            env=os.environ | given,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (state() / job).write_text(str(process.pid))
    print(f"Submitted batch job {number}")


def srun(*words: str) -> None:
    rest = list(words)
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in ("--output", "--error"):
            name = rest.pop(0).replace("%t", "0")
            name = name.replace("%j", os.environ["SLURM_JOB_ID"])
            for tag, key in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID")):
                name = name.replace(tag, os.environ.get(key, ""))
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1 if option == "--output" else 2)
    os.execvp(rest[0], rest)


def squeue(*words: str) -> None:
    assert set(words) == {"--me", "--noheader", "--array", "--format=%i"}, words
    for job in state().iterdir():
        if job.is_file() and is_alive(job.name):
            print(job.name)


def scancel(job: str) -> None:
    if is_alive(job):  # all processes of a job are one group here
        os.killpg(int((state() / job).read_text()), signal.SIGKILL)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
