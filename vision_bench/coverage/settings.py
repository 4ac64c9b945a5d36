"""Settings of the coverage commands, as configs and options give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing, existing_folder
from aim_plugins.core.settings import Names, Natural, Shard, option, read_shard
from aim_plugins.coverage.settings import (
    CRITERIA,
    GINI,
    CriteriaSettings,
    ImportanceSettings,
    NeuronSettings,
    SuiteSettings,
)
from vision_bench.classifiers.settings import TrainingSettings


@dataclass(frozen=True)
class TrainedSettings(NeuronSettings, TrainingSettings):
    """A classifier, the inputs it was trained on, and the suite it is tried on.

    Attributes:
        num_samples: Images of the suite, drawn at random by the seed; 0 for all.
        idc_test_all: Measures all images of the suite, whatever num_samples says.
    """

    num_samples: Natural = 0
    idc_test_all: bool = False

    @property
    def needs_training(self) -> bool:
        """Whether training images are looked at."""
        return True


@dataclass(frozen=True)
class CoverageSettings(ImportanceSettings, CriteriaSettings, TrainedSettings):
    """A classifier whose coverage is measured.

    Attributes:
        reference: Folder of a reference that another run learned; by default one is learned.
    """

    reference: str | None = None

    def check_files(self) -> None:
        super().check_files()
        if self.reference is not None:
            existing_folder(self.reference, "reference")
        if self.importance_file is not None:
            existing(self.importance_file, "importance_file", [".csv"])

    @property
    def needs_training(self) -> bool:
        return self.reference is None


@dataclass(frozen=True)
class RunSettings(SuiteSettings, CoverageSettings):
    """What `vision-bench coverage run` measures.

    Attributes:
        part: Measures a part of the suite alone, such as 1/4; `coverage combine` joins the parts.
        report_classes: Names or indices of classes that are measured apart; by default all of up to
            ten.
        prioritize: Lists so many inputs of the candidates that are worth labelling first.
        prioritize_by: The order: DeepGini, or a criterion that counts units; by default DeepGini
            where that finds the model's mistakes better, else KMNC or the first that counts units.
        candidates: Folder of images, with or without labels, to be prioritised; by default those of
            the suite, which are then ranked from nothing.
        fail_under: Least coverage, such as 0.6 (of IDC or else the first criterion) or
            KMNC=0.4,IDC=0.5; below it the command ends with status 1.
        output: Folder of results; by default runs/coverage/DATASET_MODEL.
    """

    part: Shard | None = None
    report_classes: Sequence[str | int] = option((), metavar="CLASS")
    prioritize: Natural = 0
    prioritize_by: str | None = None
    candidates: str | None = None
    fail_under: Names = option((), metavar="LEAST")
    output: str | None = None

    def check(self) -> None:
        super().check()
        _ = self.least
        if self.prioritize_by not in (None, GINI, *self.criteria):
            known = [GINI, *(one for one in self.criteria if one != "NLC")]
            hint = did_you_mean(self.prioritize_by, known)
            raise ValueError(f"prioritize_by={self.prioritize_by!r} is not measured: {hint}")
        only = self.prioritize and set(self.criteria) == {"NLC"}
        if only or self.prioritize_by == "NLC":
            raise ValueError(
                "prioritize_by='NLC' counts no units that an input could add: name another, such "
                "as KMNC or IDC"
            )
        if self.candidates is not None and not self.prioritize:
            raise ValueError(
                f"candidates={self.candidates!r} are ranked only on request: add prioritize, the "
                "number of inputs to list (--prioritize 20)"
            )

    def check_files(self) -> None:
        super().check_files()
        if self.candidates is not None:
            existing_folder(self.candidates, "candidates")

    @property
    def folder(self) -> Path:
        """Folder of results."""
        return self.results("coverage", self.output)

    @property
    def share(self) -> tuple[int, int]:
        """The part that is measured, counted from 0, and of how many."""
        return read_shard(self.part)

    @property
    def least(self) -> dict[str, float]:
        """The least coverage by criterion."""
        return read_least(self.fail_under, self.criteria)


def read_least(entries: Sequence[str], criteria: Sequence[str]) -> dict[str, float]:
    """The least coverage by criterion.

    Args:
        entries: Numbers, of IDC or else of the first criterion, or NAME=NUMBER.
        criteria: What is measured.

    Raises:
        ValueError: If an entry is neither, or its criterion is not measured.

    >>> read_least(["0.5", "KMNC=0.4"], ["KMNC", "IDC"])
    {'IDC': 0.5, 'KMNC': 0.4}
    """
    least = {}
    for entry in entries:
        name, equals, number = entry.rpartition("=")
        name = name if equals else "IDC" if "IDC" in criteria else criteria[0]
        least[name] = _number(number)
        if not math.isfinite(least[name]):
            raise ValueError(
                f"fail_under={entry!r}: give a number, or NAME=NUMBER such as KMNC=0.4"
            )
        if name not in criteria:
            hint = did_you_mean(name, [one for one in CRITERIA if one in criteria])
            raise ValueError(f"fail_under={entry!r}: {name} is not measured; {hint}")
    return least


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
