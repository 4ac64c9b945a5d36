"""Settings of `vision-bench coverage combine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.files import existing_folder
from aim_plugins.core.settings import Names, Settings, option
from aim_plugins.coverage.settings import CRITERIA
from vision_bench.coverage.settings import read_least


@dataclass(frozen=True)
class CombineSettings(Settings):
    """Parts of a suite, and where what they exercise together goes.

    Attributes:
        folders: Folders that `coverage run --part` wrote, or `coverage combine`.
        output: Folder of results.
        fail_under: Least coverage, such as 0.6 (of IDC or else the first criterion) or
            KMNC=0.4,IDC=0.5; below it the command ends with status 1.
    """

    folders: Sequence[str] = option(positional=True, metavar="FOLDER")
    output: Path = option(short="-o", metavar="DIR")
    fail_under: Names = option((), metavar="LEAST")

    def check(self) -> None:
        read_least(self.fail_under, CRITERIA)

    def check_files(self) -> None:
        for folder in self.folders:
            place = existing_folder(folder, "folder")
            if not (place / "profile" / "profile.json").is_file():
                raise FileNotFoundError(
                    f"folder {folder!r} holds no profile/profile.json: name folders that "
                    "`coverage run` wrote"
                )
