"""What criteria know of the training set: ranges, traces, moments, and important neurons.

A reference is learned once from the training inputs and kept on disk, so that suites measured in
different runs, on different machines, are held against the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.identity import fingerprint
from aim_plugins.coverage.criteria.combinations import ImportantNeurons
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.criteria.surprise import ClassTraces
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.moments import ClassMoments, Moments
from aim_plugins.coverage.settings import OF_TRACES, CriteriaSettings

_NOT_ASKED_AGAIN = ("criteria", "train_limit", "importance_file", "importance_sha256")
"""What of a reference's settings need not be said again where it is used."""


@dataclass(frozen=True)
class ReferenceMetadata(ArtifactMetadata):
    """What a reference was learned from.

    Attributes:
        sizes: Number of neurons of each site.
        inputs: Number of training inputs.
        data: Name of the training data.
        classes: Names of the classes.
        settings: The settings that it depends on.
        surprise_layer: The layer whose activations surprise looks at.
        important: Labels of the sets of important neurons, each with the class it is of, if any.
    """

    KIND: ClassVar[str] = "reference"
    FORCIBLE: ClassVar[bool] = False
    MADE_BY: ClassVar[str] = "`coverage run`"

    sizes: Sequence[int] = ()
    inputs: int = 0
    data: str = ""
    classes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    surprise_layer: str = ""
    important: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class Reached:
    """The combinations that training inputs reach.

    Attributes:
        codes: Them, as IDC numbers them, ascending.
        counts: How many inputs reach each.
        examples: The first input that reaches each, by its position in the training set.
    """

    codes: Int[Tensor, " combinations"]
    counts: Int[Tensor, " combinations"]
    examples: Int[Tensor, " combinations"]


@dataclass(frozen=True, eq=False)
class ImportantSet:
    """Important neurons with their clusters, and what training inputs reach of them.

    Attributes:
        neurons: The neurons.
        reached: The combinations that training inputs reach, of the class if it is of one.
        class_index: The class whose inputs alone count; None where all do.
    """

    neurons: ImportantNeurons
    reached: Reached
    class_index: int | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """What criteria know of the training set.

    Attributes:
        layers: The neurons.
        low: Least activation of each neuron.
        high: Largest one.
        traces: Activations of the surprise layer; None where no criterion asks for them.
        moments: Their means and covariances by class; None where no criterion asks for them.
        important: Sets of important neurons.
        metadata: Where all of it comes from.
    """

    layers: Layers
    low: Float[Tensor, " neurons"]
    high: Float[Tensor, " neurons"]
    traces: ClassTraces | None
    moments: ClassMoments | None
    important: tuple[ImportantSet, ...]
    metadata: ReferenceMetadata

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it was learned from and with."""
        plain = json.loads(json.dumps(vars(self.metadata), default=dict))
        return fingerprint({name: plain[name] for name in plain if name != "versions"})

    @property
    def identity(self) -> str:
        """SHA-256 of that and of everything it knows, which another machine may have rounded."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for name, one in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(one.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Writes it into a folder; returns that.

        Raises:
            OSError: If a file cannot be written.
        """
        return artifact.save(folder, self._tensors(), self.metadata)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"low": self.low, "high": self.high}
        if self.traces is not None:
            tensors |= {f"traces.{name}": one for name, one in vars(self.traces).items()}
        if self.moments is not None:
            tensors["moments.columns"] = self.moments.columns
            for one, moments in self.moments.by_class.items():
                tensors |= moments.state(f"moments.{one}")
        for place, important in enumerate(self.important):
            state = important.neurons.to_tensors()
            state |= {f"reached.{name}": one for name, one in vars(important.reached).items()}
            tensors |= {f"important.{place}.{name}": one for name, one in state.items()}
        return tensors

    @classmethod
    def load(cls, folder: str | Path) -> Reference:
        """Reads what `save` wrote.

        Raises:
            ValueError: If a file is missing, altered, or of another kind or version.
        """
        tensors, metadata = artifact.load(folder, ReferenceMetadata)
        return cls(
            Layers(tuple(metadata.sites), tuple(metadata.sizes)),
            tensors["low"],
            tensors["high"],
            _read_traces(tensors),
            _read_moments(tensors),
            tuple(
                _read_important(_below(tensors, f"important.{place}."), one)
                for place, one in enumerate(metadata.important)
            ),
            metadata,
        )

    def check_model(self, model: nn.Module) -> None:
        """Refuses another model than the one it was learned on.

        Raises:
            ValueError: If so.
        """
        self.metadata.check_model(model)

    def check_settings(self, asked: Mapping[str, Any], name: str) -> None:
        """Refuses settings that it was not learned with, which it would overrule.

        Args:
            asked: What would be learned with, as its metadata notes it.
            name: What the reference is called, for errors.

        Raises:
            ValueError: If one differs.
        """
        held = self.metadata.settings
        names = [setting for setting in asked if setting not in _NOT_ASKED_AGAIN]
        for setting in sorted(names, key="compat".__ne__):
            if held.get(setting) != asked[setting]:
                raise ValueError(
                    f"{setting}={asked[setting]!r}: the reference {name!r} was learned with "
                    f"{held.get(setting)!r}; give that, or learn another reference"
                )


class ReferenceBuilder:
    """Gathers what a reference needs of training inputs, batch by batch.

    Args:
        layers: The neurons.
        settings: The criteria that will be measured.
        total: Number of training inputs that will come.
    """

    def __init__(self, layers: Layers, settings: CriteriaSettings, total: int) -> None:
        self.layers, self.settings, self.total = layers, settings, total
        self.surprise_layer = surprise_layer(layers, settings)
        # The library that compat follows looks at all layers at once.
        every = torch.arange(layers.neurons)
        own = settings.compat == "none"
        self.columns: Int[Tensor, " neurons"] = every[layers[self.surprise_layer]] if own else every
        self.low = torch.full((layers.neurons,), torch.inf)
        self.high = -self.low
        self.inputs = 0
        self._every = -(-total // settings.surprise_inputs)
        compat, criteria = settings.compat != "none", set(settings.criteria)
        self._keeps_traces = bool((OF_TRACES | ({"MDSC"} if compat else set())) & criteria)
        self._traces: list[Tensor] = []
        self._classes: list[Tensor] = []
        moments = "MDSC" in criteria and not compat
        self._moments = ClassMoments(self.columns) if moments else None

    def update(self, batch: Batch) -> None:
        """Takes training inputs in, in the order of the data set.

        Raises:
            ValueError: If the moments of the surprise layer take too much memory.
        """
        self.low = torch.minimum(self.low, batch.neurons.amin(0))
        self.high = torch.maximum(self.high, batch.neurons.amax(0))
        looked_at = batch.neurons[:, self.columns]
        if self._keeps_traces:
            kept = (self.inputs + torch.arange(len(batch))) % self._every == 0
            self._traces.append(looked_at[kept])
            self._classes.append(batch.classes[kept])
        if self._moments is not None:
            self._moments.update(looked_at, batch.classes)
        self.inputs += len(batch)

    def finish(self, important: Sequence[ImportantSet], metadata: ReferenceMetadata) -> Reference:
        """The reference.

        Args:
            important: Sets of important neurons.
            metadata: What else is known of it.

        Raises:
            ValueError: If there was no training input.
        """
        if not self.inputs:
            raise ValueError("the training set holds no usable input: give one")
        traces = None
        if self._traces:
            traces = ClassTraces(self.columns, torch.cat(self._traces), torch.cat(self._classes))
        return Reference(
            self.layers,
            self.low,
            self.high,
            traces,
            self._moments,
            tuple(important),
            metadata,
        )


def surprise_layer(layers: Layers, settings: CriteriaSettings) -> str:
    """The layer that surprise looks at.

    Raises:
        ValueError: If there is none of the name that is asked for.
    """
    if settings.surprise_layer is None:
        return layers.names[max(0, len(layers.names) - 2)]
    if settings.surprise_layer not in layers.names:
        hint = did_you_mean(settings.surprise_layer, layers.names, count=3, cutoff=0.5)
        raise ValueError(f"surprise_layer={settings.surprise_layer!r}: {hint}")
    return settings.surprise_layer


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)
    }


def _read_important(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> ImportantSet:
    return ImportantSet(
        ImportantNeurons.from_tensors(state, about["label"]),
        Reached(**_below(state, "reached.")),
        about["class_index"],
    )


def _read_traces(tensors: Mapping[str, Tensor]) -> ClassTraces | None:
    found = _below(tensors, "traces.")
    return ClassTraces(**found) if found else None


def _read_moments(tensors: Mapping[str, Tensor]) -> ClassMoments | None:
    if "moments.columns" not in tensors:
        return None
    names = {name.split(".")[1] for name in tensors if name.endswith(".scatter")}
    by_class = {int(one): Moments.from_state(tensors, f"moments.{one}") for one in sorted(names)}
    return ClassMoments(tensors["moments.columns"], by_class)
