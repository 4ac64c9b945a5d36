"""Settings of `vision-bench coverage importance`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aim_plugins.core.files import existing
from aim_plugins.core.settings import Count, Counts, Names, bound, option
from aim_plugins.coverage.settings import VoteSettings, check_attributor
from vision_bench.coverage.settings import TrainedSettings

FILE = "file"
"""What the scores of a file are called beside those of attributors."""


@dataclass(frozen=True)
class ImportanceQuestion(VoteSettings, TrainedSettings):
    """Whether important neurons matter more than others.

    Attributes:
        attr: What scores neurons, one or several: lrp-epsilon (gradient times activation),
            captum's attributors lrp, lc, la, ii, ldl, ldls, lgs and lig, or wisdom, their vote.
        importance_file: A CSV of scores, LayerName,NeuronIndex,Score, that is compared with them.
        top_m_neurons: How many of the most important neurons are taken out, in turn.
        layer_index: The layer that all neurons are taken from, counted from 1, or from the end by
            negative numbers; by default every layer but the last.
        draws: Random choices of as many neurons: of the network, and of the same layers.
        output: Folder of results; by default runs/coverage-importance/DATASET_MODEL.
    """

    attr: Names = option(("lrp-epsilon",), metavar="NAMES")
    importance_file: str | None = None
    top_m_neurons: Counts = option((6, 8, 10, 15, 20), metavar="NUMBERS")
    layer_index: Annotated[int, bound("a number other than 0", lambda one: one != 0)] | None = None
    draws: Annotated[int, bound("a whole number from 2 upwards", lambda one: one >= 2)] = 10
    output: str | None = None

    def check(self) -> None:
        super().check()
        for name in self.attr:
            check_attributor(name)
        for name, values in (("attr", self.attr), ("top_m_neurons", self.top_m_neurons)):
            if len(set(values)) < len(values):
                text = ",".join(map(str, values))
                raise ValueError(f"{name}={text!r} names one twice: leave it out")
        if not self.attr and self.importance_file is None:
            raise ValueError("attr is empty: name an attributor, or give an importance_file")

    def check_files(self) -> None:
        super().check_files()
        if self.importance_file is not None:
            existing(self.importance_file, "importance_file", [".csv"])

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("coverage-importance", self.output)

    @property
    def numbers(self) -> list[int]:
        """How many neurons are taken out, ascending."""
        return sorted(self.top_m_neurons)

    @property
    def most(self) -> Count:
        """The largest of these numbers."""
        return max(self.top_m_neurons)
