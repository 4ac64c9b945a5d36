"""Settings of `vision-bench reengineer compose`, as configs and options give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.files import existing_folder
from aim_plugins.core.settings import Count, option
from vision_bench.reengineering.composition.modules import mask_folder
from vision_bench.reengineering.settings import HeadSettings


@dataclass(frozen=True)
class ComposeSettings(HeadSettings):
    """Modules of one classifier, and how they are composed.

    Attributes:
        modules: Folders that `reengineer run` wrote, or their folders mask/; two or more, of one
            model and one granularity.
        n_epochs: Epochs that the new head is trained for at most; it stops where it gets no better.
        round_to: Of channels, what their number is a multiple of in every layer of what is written.
        runtimes: Writes the composed model as a network of its own too, with its ONNX file.
        output: Folder of results; by default runs/compose/DATASET_MODEL.
    """

    modules: Sequence[str] = option((), metavar="DIR")
    n_epochs: Count = 50
    round_to: Count = 8
    runtimes: bool = True
    output: str | None = None

    def check(self) -> None:
        super().check()
        if len(self.modules) < 2:
            raise ValueError(
                f"modules={list(self.modules)!r} names {len(self.modules)} of at least two: give "
                "the folders of the modules that are composed"
            )

    def check_files(self) -> None:
        super().check_files()
        for folder in self.modules:
            place = mask_folder(existing_folder(folder, "modules"))
            if not (place / "mask.json").is_file():
                raise FileNotFoundError(
                    f"modules={folder!r} holds no mask/mask.json: name folders that "
                    "`vision-bench reengineer run` wrote"
                )

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("compose", self.output)
