"""An edit of a model: chosen components, ablated as far as a strength says.

At strength s every component of the edit is multiplied by 1 - s: 0 leaves the model as it is, to
the bit, and 1 ablates them as COAR-Edit does.

Source: arXiv:2404.11534, section 5 (COAR-Edit).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata, file_states
from aim_plugins.core.files import existing_folder
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.components import Components

FULL_STRENGTH = 1.0
"""Ablates the components; what an edit without an `edit_strength` asks for."""


@dataclass(frozen=True)
class EditMetadata(ArtifactMetadata):
    """What an edit is of, and how it was chosen.

    Attributes:
        components: The ablated components, as `Components.to_json` writes them.
        targets: Names of the examples that it is meant to change.
        references: Names of those that it is meant to leave.
        settings: How it was chosen.
    """

    KIND: ClassVar[str] = "edit"
    MADE_BY: ClassVar[str] = "`vision-bench attribute edit` or `aim-plugins attribute`"

    components: Sequence[Mapping[str, Any]] = ()
    targets: Sequence[str] = ()
    references: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentEdit:
    """Components of a model that are ablated together.

    Attributes:
        components: The components.
        metadata: What is known of them.
        scores: What each was chosen by, such as its t-statistic; empty if nothing was.
    """

    components: Components
    metadata: EditMetadata
    scores: Sequence[float] = ()

    @classmethod
    def of_model(
        cls, model: Any, components: Components, *, scores: Sequence[float] = (), **fields: Any
    ) -> ComponentEdit:
        """An edit of a loaded model.

        Args:
            model: The model.
            components: The components that it ablates.
            scores: What each was chosen by.
            **fields: Further ones of `EditMetadata`; `method` is one of them.

        Raises:
            ValueError: If there are no components, or not as many scores.
        """
        if not len(components):
            raise ValueError("components: an edit of none changes nothing: give at least one")
        if len(scores) not in (0, len(components)):
            raise ValueError(
                f"scores has {len(scores)} values for {len(components)} components: give one for "
                "each, or none"
            )
        metadata = EditMetadata.of_model(
            model,
            sites=dict.fromkeys(site.layer for site in components.sites),
            components=components.to_json(),
            **fields,
        )
        return cls(components, metadata, tuple(map(float, scores)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the components."""
        return fingerprint(self.components.to_json())

    def save(self, folder: str | Path) -> Path:
        """Writes it into a folder, and returns that.

        Raises:
            OSError: If a file cannot be written.
        """
        import torch

        scores = torch.tensor(self.scores, dtype=torch.float64)
        return artifact.save(folder, {"scores": scores}, self.metadata)

    @classmethod
    def load(cls, folder: str | Path) -> ComponentEdit:
        """Reads the edit of a folder.

        Raises:
            ValueError: If a file is missing, damaged, or of another kind.
        """
        tensors, metadata = artifact.load(folder, EditMetadata)
        try:
            components = Components.from_json(metadata.components)
        except TypeError as error:
            raise ValueError(f"edit={str(folder)!r} names no components ({error})") from error
        return cls(components, metadata, tuple(tensors["scores"].tolist()))

    def check_model(self, model: Any, *, force: bool = False) -> None:
        """Checks that a model is the one it was made for.

        Raises:
            ValueError: If it is another one, unless forced.
        """
        self.metadata.check_model(model, force=force)

    @contextlib.contextmanager
    def applied(
        self,
        model: Any,
        strengths: float | Sequence[float] = FULL_STRENGTH,
        *,
        force: bool = False,
    ) -> Iterator[None]:
        """Edits the model while the block runs, and restores it exactly.

        Args:
            model: The model.
            strengths: Strength of each row of a batch, or one for all of them, in [0, 1].
            force: Whether the model may be another one than the edit was made for.

        Raises:
            ValueError: If a strength is out of range, the model is another one, lacks a layer, or
                has it in another size.
        """
        import numpy as np

        rows = [EditedComponents.axis.check(one) for one in np.ravel(strengths).tolist()]
        self.check_model(model, force=force)
        with self._multiplied(model, rows):
            yield

    def _multiplied(
        self, model: Any, strengths: Sequence[float]
    ) -> contextlib.AbstractContextManager[Any]:
        import torch

        from aim_plugins.modulation.ablation import multiplied

        rows = torch.tensor(strengths, dtype=torch.float32)[:, None]
        return multiplied(model, self.components, (1 - rows).expand(-1, len(self.components)))


def baked(
    model: Any, edit: ComponentEdit, strength: float = FULL_STRENGTH, *, force: bool = False
) -> Any:
    """A copy of a model with an edit in its weights: a plain checkpoint.

    Args:
        model: The model; it stays as it is.
        edit: The edit.
        strength: How far its components are ablated, in [0, 1].
        force: Whether the model may be another one than the edit was made for.

    Raises:
        ValueError: If the strength is out of range, the model is another one, or a component is
            no part of a weight of its own; see `scale_weights`.
    """
    import torch

    from aim_plugins.modulation.baking import scale_weights

    strength = EditedComponents.axis.check(strength)
    edit.check_model(model, force=force)
    edited = copy.deepcopy(model)
    scale_weights(edited, edit.components, torch.full((len(edit.components),), 1 - strength))
    return edited


@dataclass(frozen=True)
class EditedComponents(Change):
    """An edit at one strength.

    Attributes:
        strength: How far the components are ablated: they are multiplied by 1 - s.
        fingerprint: Fingerprint of the components.
        learned: The edit.
        folder: Where it was read from.
        force: Whether it may act on another model than it was made for.
    """

    name = "edit"
    axis = Axis("edit_strength", "s", "edit strength", low=0.0, high=1.0)
    acts_on = "activations"
    arguments = {
        "edit_strength": "strengths of the edit, from 0 to 1, which ablates its components "
        "(default 1)",
        "edit": "folder of an edit that `aim-plugins attribute` wrote",
        "force_edit": "let the edit act on other weights than it was made for",
    }

    strength: float
    fingerprint: str = ""
    learned: ComponentEdit | None = field(default=None, compare=False, repr=False)
    folder: str = field(default="", compare=False)
    force: bool = field(default=False, compare=False)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> tuple[EditedComponents, ...]:
        strengths = cls.axis.parse(given.get("edit_strength", FULL_STRENGTH), "edit_strength")
        force = str(given.get("force_edit", False))
        if force not in ("True", "False"):
            raise ValueError(f"force_edit={force!r} is neither True nor False: write one")
        named = given.get("edit")
        if named is None or named == "":
            raise ValueError(
                "edit= is missing: name the folder of an edit that `aim-plugins attribute` wrote, "
                "as in edit=DIR"
            )
        edit, folder = (
            (named, "") if isinstance(named, ComponentEdit) else (read_edit(named), str(named))
        )
        return tuple(cls(one, edit.fingerprint, edit, folder, force == "True") for one in strengths)

    @property
    def settings(self) -> dict[str, Any]:
        return {"edit_strength": self.strength, "edit": self.folder}

    def sites(self, model: Any) -> Sequence[str]:
        return () if self.learned is None else [one.name for one in self.learned.components.sites]

    def check_model(self, model: Any, tokenizer: Any) -> None:
        if self.learned is not None:
            self.learned.check_model(model, force=self.force)

    @classmethod
    @contextlib.contextmanager
    def applied(
        cls, model: Any, changes: Sequence[EditedComponents | None], layout: Any = None
    ) -> Iterator[None]:
        edits = {one.fingerprint: one.learned for one in changes if one and one.learned}
        with contextlib.ExitStack() as stack:
            for known, edit in edits.items():
                strengths = [
                    one.strength if one and one.fingerprint == known else 0.0 for one in changes
                ]
                # The model was checked when it was loaded, and this runs at every step.
                stack.enter_context(edit._multiplied(model, strengths))
            yield


def read_edit(folder: str | Path) -> ComponentEdit:
    """Reads an edit, once for each state of its files.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a file is missing, damaged, or of another kind.
    """
    place = existing_folder(folder, "edit")
    return _read(place, file_states(place, EditMetadata))


@lru_cache(maxsize=16)
def _read(folder: Path, _states: tuple[tuple[int, int], ...]) -> ComponentEdit:
    return ComponentEdit.load(folder)
