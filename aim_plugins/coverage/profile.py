"""What a suite of inputs has exercised: the state of every criterion, which merges.

Profiles of parts of a suite, measured on several machines or by several jobs, combine to that of
the whole: to the bit where units are counted, and to rounding where moments are gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.core.errors import first_few
from aim_plugins.coverage.criteria.criterion import Batch, Criterion

ALL = "all"
"""The scope of every input, beside those of classes."""

Maker = Callable[[], dict[str, Criterion]]


@dataclass(frozen=True)
class ProfileMetadata(ArtifactMetadata):
    """What a profile was measured with, and on what.

    Attributes:
        reference: Fingerprint of the reference.
        settings: Constants of the criteria.
        scopes: Names of the scopes: all inputs, and classes.
        labels: Labels of the criteria.
        inputs: Inputs that each scope's criteria have seen, by scope.
        parts: SHA-256 of the names and contents of each part of the suite.
        data: Names of the suites.
        position: Inputs of the last part that were read, for a run that goes on.
    """

    KIND: ClassVar[str] = "profile"
    MADE_BY: ClassVar[str] = "`coverage run`"

    reference: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scopes: Mapping[str, int] = field(default_factory=dict)
    labels: Sequence[str] = ()
    parts: Sequence[str] = ()
    data: Sequence[str] = ()
    position: int = 0


class Profile:
    """Criteria of all inputs and of those of some classes.

    Args:
        make: Makes criteria that have seen nothing.
        metadata: Where the profile comes from.
        classes: Classes, as the model predicts them, that are measured apart besides, by name.

    Attributes:
        scopes: Criteria by label, by scope.
        metadata: Where the profile comes from; what was seen is filled in by `save`.
    """

    def __init__(
        self,
        make: Maker,
        metadata: ProfileMetadata,
        classes: Mapping[int, str] | None = None,
    ) -> None:
        self._make, self._classes = make, dict(classes or {})
        self.metadata = metadata
        self.scopes: dict[str, dict[str, Criterion]] = {ALL: make()}
        self.scopes |= {scope_of(name): _of_class(make) for name in self._classes.values()}

    @property
    def criteria(self) -> dict[str, Criterion]:
        """Criteria of all inputs, by label."""
        return self.scopes[ALL]

    @property
    def inputs(self) -> int:
        """Number of inputs seen."""
        return max((one.inputs for one in self.criteria.values()), default=0)

    def update(self, batch: Batch) -> None:
        """Takes inputs in."""
        for criterion in self.criteria.values():
            criterion.update(batch)
        for index, name in self._classes.items():
            chosen = batch.classes == index
            if not chosen.any():
                continue
            part = Batch(batch.neurons[chosen], batch.classes[chosen])
            for criterion in self.scopes[scope_of(name)].values():
                criterion.update(part)

    def combine(self, other: Profile) -> None:
        """Takes in what another profile has seen, of other inputs.

        Raises:
            ValueError: If it was measured with another reference or settings, or on inputs that
                this one has seen too.
        """
        check_alike(self.metadata, other.metadata)
        refuse_shared(self.metadata, other.metadata)
        if self.scopes.keys() != other.scopes.keys():
            raise ValueError(
                f"profiles with classes {_names(self.scopes)} and {_names(other.scopes)}: measure "
                "both with the same report_classes"
            )
        for name, criteria in self.scopes.items():
            for label, criterion in criteria.items():
                criterion.combine(other.scopes[name][label])
        self.metadata = replace(
            self.metadata,
            parts=[*self.metadata.parts, *other.metadata.parts],
            data=list(dict.fromkeys([*self.metadata.data, *other.metadata.data])),
        )

    def save(self, folder: str | Path, *, position: int = 0) -> Path:
        """Writes it into a folder; returns that.

        Raises:
            OSError: If a file cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        scopes = {}
        for place, (name, criteria) in enumerate(self.scopes.items()):
            scopes[name] = max((one.inputs for one in criteria.values()), default=0)
            for number, criterion in enumerate(criteria.values()):
                state = criterion.state()
                tensors |= {f"{place}.{number}.{key}": one for key, one in state.items()}
        metadata = replace(
            self.metadata, scopes=scopes, labels=list(self.criteria), position=position
        )
        return artifact.save(folder, tensors, metadata)

    @classmethod
    def load(cls, folder: str | Path, make: Maker, metadata: ProfileMetadata) -> Profile:
        """Reads what `save` wrote.

        Args:
            folder: Where it lies.
            make: Makes criteria that have seen nothing, as those of the profile were made.
            metadata: What it is expected to be measured with.

        Raises:
            ValueError: If a file is missing or altered, or it was measured with another reference
                or settings.
        """
        tensors, found = artifact.load(folder, ProfileMetadata)
        check_alike(metadata, found)
        profile = cls(make, found)
        profile.scopes = {name: make() if name == ALL else _of_class(make) for name in found.scopes}
        if list(profile.criteria) != list(found.labels):
            raise ValueError(
                f"profile={str(folder)!r} holds {first_few(list(found.labels))}, not "
                f"{first_few(list(profile.criteria))}: measure it again"
            )
        for place, (name, inputs) in enumerate(found.scopes.items()):
            for number, criterion in enumerate(profile.scopes[name].values()):
                prefix = f"{place}.{number}."
                criterion.load_state(
                    {
                        key.removeprefix(prefix): one
                        for key, one in tensors.items()
                        if key.startswith(prefix)
                    }
                )
                criterion.inputs = inputs
        return profile

    def with_classes(self, classes: Mapping[int, str]) -> Profile:
        """The same profile, which goes on to measure classes apart, by their index."""
        self._classes = dict(classes)
        return self


def read_metadata(folder: str | Path) -> ProfileMetadata:
    """What is known of a profile on disk.

    Raises:
        ValueError: If a file is missing or altered.
    """
    return artifact.load(folder, ProfileMetadata)[1]


def check_alike(one: ProfileMetadata, other: ProfileMetadata) -> None:
    """Refuses profiles that cannot be combined.

    Raises:
        ValueError: If they were measured with other models, references or settings.
    """
    if one.model_signature != other.model_signature:
        raise ValueError(
            f"profiles of {one.learned_on} and of another model, {other.learned_on}: measure both "
            "with one model"
        )
    for name in sorted({*one.settings, *other.settings}):
        mine, theirs = one.settings.get(name), other.settings.get(name)
        if mine != theirs:
            raise ValueError(f"profiles with {name}={mine!r} and {theirs!r}: measure both alike")
    if one.reference != other.reference:
        raise ValueError(
            "profiles with other references: measure both with one, given as reference "
            "(--reference)"
        )


def refuse_shared(one: ProfileMetadata, other: ProfileMetadata) -> None:
    """Refuses profiles that were measured on the same inputs.

    Raises:
        ValueError: If they have a part in common.
    """
    if shared := set(one.parts) & set(other.parts):
        raise ValueError(
            f"{len(shared)} part of {first_few(list(other.data))} is in both profiles: combine "
            "each once"
        )


def scope_of(name: str) -> str:
    """The scope of a class."""
    return f"class {name}"


def _of_class(make: Maker) -> dict[str, Criterion]:
    """The criteria of a class: all but NLC, whose covariances would outgrow memory by class."""
    return {label: one for label, one in make().items() if label != "NLC"}


def _names(scopes: Collection[str]) -> str:
    return first_few([name.removeprefix("class ") for name in scopes if name != ALL]) or "none"
