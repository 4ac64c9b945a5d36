"""Settings of the comparison of evaluated transports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aim_plugins.core.settings import Names, Settings, bound, option

Growth = Annotated[
    float, bound("a share from 0 upwards, as 0.2 for 20 %", lambda value: value >= 0)
]


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """How evaluated transports are compared.

    Attributes:
        folders: Folders of `transport evaluate`.
        output: Folder for the report.
        labels: A name for each, separated by commas.
        effect: What steering is for, as METRIC or TASK/METRIC.
        cost: The perplexity; by default "perplexity".
        bound: How much it may grow, as a share.
        lower_is_better: The effect should fall, as toxicity.
    """

    folders: Sequence[Path] = option(positional=True, metavar="OUT")
    output: Path = option(short="-o", metavar="FOLDER")
    labels: Names = option((), metavar="NAMES")
    effect: str | None = option(None, metavar="METRIC")
    cost: str | None = option(None, metavar="METRIC")
    bound: Growth = 0.2
    lower_is_better: bool = False

    def check_files(self) -> None:
        for folder in self.folders:
            existing_evaluation(folder)


def existing_evaluation(folder: Path) -> None:
    """Refuses a folder without a finished evaluation."""
    if not (folder / "sweep.csv").is_file() or not (folder / "manifest.json").is_file():
        raise ValueError(
            f"{str(folder)!r} holds no finished evaluation: run `aim-plugins transport evaluate "
            f"... -o {folder}` first"
        )
