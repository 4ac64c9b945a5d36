"""Settings of `aim-plugins jobs`, as a config and options give them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import safe_name
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.settings import Count, Natural, NonNegative, Positive, Settings

Word = str | int | float

PROGRAMS = {
    "aim-plugins": "aim_plugins.cli",
    "vision-bench": "vision_bench.cli",
    "lm_eval": "lm_eval",
    "opencompass": "opencompass.cli.main",
    "accelerate": "accelerate.commands.accelerate_cli",
}
"""What a job may call, and the module that is it in any environment."""
_OURS = ("aim-plugins", "vision-bench")

JOBS, OUTPUT = "{jobs}", "{output}"
"""In a job's words, the folder of all jobs, and that of its own results."""
RESULTS = "results"


@dataclass(frozen=True)
class Job(Settings):
    """One job.

    Attributes:
        command: Its words.
        options: Options by name, which are written behind the command.
        name: Names its folder; by default made of its words.
        gpus: How many it gets to itself.
        cpus: The same of CPU cores.
        memory_gb: Main memory.
        minutes: Longest time.
    """

    command: str | Sequence[Word]
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    gpus: NonNegative | None = None
    cpus: Count | None = None
    memory_gb: Positive | None = None
    minutes: Count | None = None

    def check(self) -> None:
        if not self.words or self.words[0] not in PROGRAMS:
            hint = did_you_mean(self.words[0] if self.words else "", PROGRAMS)
            raise ValueError(f"command={self.command!r} calls no program that can be a job: {hint}")
        if self.words[:2] == ("aim-plugins", "jobs"):
            raise ValueError(f"command={self.command!r} starts jobs itself: list these jobs here")
        if self.name is not None and safe_name(self.name) != self.name:
            raise ValueError(
                f"name={self.name!r} cannot name a folder: give letters, digits, -_.,="
            )

    @property
    def words(self) -> tuple[str, ...]:
        """Command and options."""
        split = shlex.split(self.command) if isinstance(self.command, str) else self.command
        words = [str(word) for word in split]
        for name, value in self.options.items():
            words += _option_words(name.replace("_", "-") if words[0] in _OURS else name, value)
        return tuple(words)

    @property
    def label(self) -> str:
        """Its name, or one that its words alone determine, so that it keeps it in a longer list."""
        if self.name is not None:
            return self.name
        called = []
        for word in self.words[1:3]:
            if word.startswith("-") or "/" in word or "." in word:
                break
            called.append(word)
        return "-".join([*(called or self.words[:1]), fingerprint(list(self.words))[:8]])


def _option_words(name: str, value: Any) -> list[str]:
    """The words of an option: a list has several values, None leaves it out."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    # argparse takes a value that starts with a minus for an option.
    joined = str(value).startswith("-")
    return [f"--{name}={value}"] if joined else [f"--{name}", str(value)]


@dataclass(frozen=True)
class JobsSettings(Settings):
    """Which jobs run where.

    Attributes:
        jobs: The jobs.
        then: Jobs that start once all of the first have succeeded, such as what merges shards.
        output: Folder of all jobs, whose results lie in OUTPUT/NAME/results.
        on: Who runs them: slurm, ray, or local, this machine.
        retries: How often a job that failed or was lost is started again; one that refuses its
            arguments never is.
        at_once: Jobs at the same time, on local (by default 1) or in an array of Slurm; Ray runs as
            many as it has room for.
        gpus: How many GPUs a job gets that does not say so itself.
        cpus: The same of CPU cores.
        memory_gb: The same of main memory; by default what Slurm or Ray give.
        minutes: Longest time of such a job; by default a day on Slurm, and any on the others.
        slurm: Parameters of submitit's AutoExecutor.update_parameters, such as slurm_partition.
        ray: Arguments of ray.init, such as address.
    """

    jobs: Sequence[Job]
    output: Path
    then: Sequence[Job] = ()
    on: Literal["slurm", "ray", "local"] = "local"
    retries: Natural = 1
    at_once: Count | None = None
    gpus: NonNegative = 0.0
    cpus: Count = 1
    memory_gb: Positive | None = None
    minutes: Count | None = None
    slurm: Mapping[str, Any] = field(default_factory=dict)
    ray: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        if not self.jobs:
            raise ValueError("jobs is empty: list at least one command")
        if self.on == "ray" and self.at_once is not None:
            raise ValueError(
                f"at_once={self.at_once} on ray, which runs as many as there is room for: leave it "
                "out, and say what each job needs by gpus, cpus and memory_gb"
            )
        every = (*self.jobs, *self.then)
        names: dict[str, Job] = {}
        for job in every:
            if (other := names.setdefault(job.label.lower(), job)) is not job:
                same = "the same words" if other.words == job.words else "other words"
                raise ValueError(
                    f"two jobs are called {job.label!r}, the second with {same}: "
                    "give each a name of its own, or leave one out"
                )
            gpus = self.gpus if job.gpus is None else job.gpus
            if self.on == "slurm" and gpus % 1:
                raise ValueError(
                    f"gpus={gpus:g} of {job.label!r}: Slurm gives whole ones; take Ray, or 1"
                )
            if self.on == "local" and gpus and (self.at_once or 1) > 1:
                raise ValueError(
                    f"at_once={self.at_once} on local would give jobs the same GPUs: take "
                    "--on ray, which gives each its own, or at_once=1"
                )


def as_jobs(value: Any) -> Any:
    """A list of jobs whose commands are lists, as mappings."""
    if not isinstance(value, list | tuple):
        return value
    return [{"command": one} if isinstance(one, list | tuple) else one for one in value]
