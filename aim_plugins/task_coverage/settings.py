"""Settings of `aim-plugins coverage`, as a config and options give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing, existing_folder, sha256_of
from aim_plugins.core.settings import Count, Names, Natural, option
from aim_plugins.coverage.settings import (
    CRITERIA,
    CriteriaSettings,
    ImportanceSettings,
    SuiteSettings,
)
from aim_plugins.modulation.sites import compile_site
from aim_plugins.task_questions.settings import TaskSettings

LRP_EPSILON = "lrp-epsilon"
DEFAULT_CRITERIA = tuple(name for name in CRITERIA if name != "NLC")
"""All but NLC, whose covariances of every layer outgrow memory where hidden states are wide."""


@dataclass(frozen=True, kw_only=True)
class TaskCoverageSettings(SuiteSettings, ImportanceSettings, CriteriaSettings, TaskSettings):
    """What `aim-plugins coverage` measures.

    Attributes:
        tasks: Tasks whose documents are the suite, separated by commas.
        reference_tasks: Tasks whose documents the ranges, traces and important neurons are learned
            from; by default the first of the tasks.
        reference: Folder of a reference that another run learned, instead.
        classes: What surprise compares documents within: those with the same place of the right
            answer (answer), or all of them (one).
        directions: Folder of a transport that shifts activations (mean, caa, iti, ...):
            measures coverage along its directions besides.
        direction_k: Of TKNC and TKNP along directions, how many of the strongest count.
        adds_to: One of the tasks: lists the documents of the others that add most to it.
        prioritize: How many documents that list has.
        prioritize_by: The criterion that says what a document adds; by default KMNC, or else the
            first of those measured that counts units.
        criteria: Names of criteria, by default all but NLC: NC,KMNC,NBC,SNAC,TKNC,TKNP,CC,LSC,DSC,
            MDSC and IDC.
        modules: Regular expressions of the modules whose outputs are looked at; by default what
            attention and feed-forward part of each block add to the hidden states.
        kmnc_buckets: Of KMNC, the buckets k of a neuron's range over the reference documents.
        batch_size: Documents in a pass.
    """

    runs: ClassVar[str] = "coverage"

    reference_tasks: Names = option((), metavar="NAMES")
    reference: str | None = option(None, metavar="DIR")
    classes: Literal["answer", "one"] = "answer"
    directions: str | None = option(None, metavar="DIR")
    direction_k: Count = 3
    adds_to: str | None = option(None, metavar="TASK")
    prioritize: Natural = 20
    prioritize_by: str | None = None
    criteria: Names = option(DEFAULT_CRITERIA, metavar="NAMES")
    modules: Sequence[str] = option((), metavar="PATTERN")
    kmnc_buckets: Count = 100
    batch_size: Count = 16

    def check(self) -> None:
        super().check()
        if not self.tasks:
            raise ValueError("tasks is empty: name at least one, `lm-eval ls tasks` lists them")
        for name in ("tasks", "reference_tasks"):
            named = getattr(self, name)
            if len(set(named)) < len(named):
                raise ValueError(f"{name}={','.join(named)!r} names a task twice: name each once")
        if self.compat != "none":
            raise ValueError(f"compat={self.compat!r} is about classifiers of images: leave it out")
        self._check_importance()
        self._check_additions()
        for pattern in self.modules:
            compile_site(pattern)

    def _check_importance(self) -> None:
        if self.attr != LRP_EPSILON:
            raise ValueError(
                f"attr={self.attr!r} is for classifiers: a language model has {LRP_EPSILON} "
                "alone, started at the log-probability of the answer; or give importance_file"
            )
        if self.reference is not None and self.reference_tasks:
            raise ValueError(
                f"reference={self.reference!r} stands in the place of reference_tasks: give one "
                "of them"
            )

    def _check_additions(self) -> None:
        if self.adds_to is not None:
            if self.adds_to not in self.tasks:
                hint = did_you_mean(self.adds_to, self.tasks)
                raise ValueError(f"adds_to={self.adds_to!r} is none of the tasks: {hint}")
            if len(self.tasks) < 2:
                raise ValueError(
                    f"adds_to={self.adds_to!r} is the only task: name another whose documents "
                    "may add to it, as in --tasks A,B --adds-to A"
                )
        by = self.prioritize_by
        if by is not None and self.adds_to is None:
            raise ValueError(f"prioritize_by={by!r} orders nothing: add adds_to (--adds-to TASK)")
        if by is not None and by not in self.criteria:
            hint = did_you_mean(by, self.criteria)
            raise ValueError(f"prioritize_by={by!r} is not measured: {hint}")
        if self.adds_to is not None and (by or ",".join(self.criteria)) == "NLC":
            raise ValueError(
                f"adds_to={self.adds_to!r}: NLC counts no units that a document could add; "
                "measure another criterion, such as KMNC or TKNC"
            )

    def check_files(self) -> None:
        super().check_files()
        for name in ("reference", "directions"):
            if (folder := getattr(self, name)) is not None:
                existing_folder(folder, name)
        if self.importance_file is not None:
            existing(self.importance_file, "importance_file", [".csv"])

    @property
    def learned_from(self) -> tuple[str, ...]:
        """Tasks that a reference is learned from; none if one is given."""
        if self.reference is not None:
            return ()
        return tuple(self.reference_tasks) or (self.tasks[0],)

    @property
    def learned_with(self) -> dict[str, Any]:
        """The settings that a reference depends on, as JSON."""
        importance = {one.name: getattr(self, one.name) for one in fields(ImportanceSettings)}
        if self.importance_file is not None:
            # The same file may hold other scores another day.
            importance["importance_sha256"] = sha256_of(self.importance_file)
        return importance | {
            "criteria": sorted(self.criteria),
            "surprise_inputs": self.surprise_inputs,
            "surprise_layer": self.surprise_layer,
            "classes": self.classes,
            "modules": list(self.modules),
        }

    @property
    def constants(self) -> dict[str, Any]:
        """Constants of the criteria, as JSON."""
        own = {one.name: getattr(self, one.name) for one in fields(CriteriaSettings)}
        own |= {"criteria": list(self.criteria), "modules": list(self.modules)}
        return own | {"direction_k": self.direction_k}
