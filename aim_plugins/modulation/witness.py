"""What changes did to forward passes, seen at the places where they act.

While a pass runs nothing asks what was meant: hooks note that they ran, and how the output that
they hand on differs from the one they got. `Witness.settle` holds these notes against what was
asked for when the passes are over, and only then reads what lies on the device: the host waits for
it once for all passes, not once for each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.errors import ReceiptError, first_few
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.parameters import Traits, differing, to_host, traits

MAPS = ""
"""Under what the sites of maps are noted."""

_watching: ContextVar[Witness | None] = ContextVar("watching", default=None)


def is_looked_at(call: int) -> bool:
    """Whether a call, counted from 1, is one whose effect is looked at: the 1st, 2nd, 4th, 8th …

    >>> [call for call in range(1, 20) if is_looked_at(call)]
    [1, 2, 4, 8, 16]
    """
    return not call & (call - 1)


def current() -> Witness | None:
    """Whoever watches the passes that are about to run."""
    return _watching.get()


@contextlib.contextmanager
def watched(model: Any) -> Iterator[Witness]:
    """Watches a model's forward passes, and the changes that are applied within the block."""
    witness = Witness(model)
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    token = _watching.set(witness)
    handle = None if embeddings is None else embeddings.register_forward_hook(witness.note_pass)
    try:
        yield witness
    finally:
        _watching.reset(token)
        if handle is not None:
            handle.remove()
    witness.read()


class AppliedStrengths(Protocol):
    """The strengths that maps multiplied their displacements with, as they lay on the device."""

    @property
    def sites(self) -> Sequence[str]:
        """The sites."""

    def calls(self) -> Sequence[int]:
        """How often each site was reached."""

    def tokens(self, strengths: Sequence[float]) -> Int[np.ndarray, "sites rows"]:
        """Tokens of each row that each site moved at that row's strength."""


class SiteNotes:
    """What is noted of one site.

    Attributes:
        calls: How often it was reached.
        moved: For some of the calls, whether each row came out otherwise at its last token.
    """

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.calls = 0
        self.moved: list[Tensor] = []

    def note(self, before: Tensor | None = None, after: Tensor | None = None) -> None:
        """Notes a call, and of those that are looked at what it changed, where that is known.

        Each compares the last tokens alone, so that comparing costs little beside the change.
        """
        self.calls += 1
        if before is None or after is None or not is_looked_at(self.calls):
            return
        if after is not before and after.shape == before.shape:
            last = self._witness.last_tokens
            self.moved.append((last(after) != last(before)).flatten(1).any(1))


class Witness:
    """Watches passes of a model; see `watched`.

    Attributes:
        passes: Rows and tokens of each pass, as the embeddings saw them.
        first: Token ids that the first pass read.
        sites: Notes of each site, by kind of change.
        applied: Strengths that maps were applied with, by the maps' fingerprint and window.
        parameters: Names of the parameters that each kind of change of weights has changed.
        moved: By kind, whether calls that were looked at changed each row, [calls, sites, rows].
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kind = ""
        self.passes: list[tuple[int, int]] = []
        self.first: Tensor | None = None
        self.sites: dict[str, dict[str, SiteNotes]] = {}
        self.applied: dict[tuple[str, str], AppliedStrengths] = {}
        self.parameters: dict[str, list[str]] = {}
        self._traits: Traits = {}
        self.moved: dict[str, np.ndarray] = {}

    def note_pass(self, module: Any, inputs: Any, embedded: Tensor) -> None:
        """Hook of the input embeddings."""
        if not self.passes:
            self.first = inputs[0] if inputs else None
        self.passes.append((embedded.shape[0], embedded.shape[1]))

    @contextlib.contextmanager
    def entering(self, kind: type[Change] | None = None) -> Iterator[None]:
        """Changes of a kind are attached within the block, and sites that are noted are theirs.

        Args:
            kind: The kind; None of maps, which act together whatever kinds they are of.
        """
        before = traits(self.model) if kind is not None and kind.acts_on == "weights" else None
        self._kind = MAPS if kind is None else kind.name
        yield
        if kind is not None and before is not None:
            self._traits = traits(self.model)
            self.parameters[kind.name] = differing(before, self._traits)

    def site(self, name: str) -> SiteNotes:
        """The notes of a site of the kind that is being attached."""
        return self.sites.setdefault(self._kind, {}).setdefault(name, SiteNotes(self))

    def share(self, site: str, names: Sequence[str]) -> None:
        """Lets other names of a site have its notes."""
        notes = self.site(site)
        self.sites[self._kind].update(dict.fromkeys(names, notes))

    def last_tokens(self, features: Tensor) -> Tensor:
        """The last token of each row, as far as the shape tells rows from tokens."""
        rows, tokens = self.passes[-1] if self.passes else (0, 0)
        if features.ndim > 2 and tuple(features.shape[:2]) == (rows, tokens):
            return features[:, -1:]
        if features.ndim == 2 and features.shape[0] == rows * tokens:
            return features.view(rows, tokens, -1)[:, -1]
        return features if features.ndim > 1 else features[:, None]

    def leaving(self) -> None:
        """Refuses weights that are no more as they were changed, before they are restored.

        Raises:
            ReceiptError: If there are any.
        """
        if self.parameters and (undone := differing(self._traits, traits(self.model))):
            raise ReceiptError(
                f"{first_few(undone)} were written to while the model ran, so that what was "
                "changed of them is lost"
            )

    def read(self) -> None:
        """Reads from the device what was noted there."""
        for kind, sites in self.sites.items():
            calls = min((len(one.moved) for one in sites.values()), default=0)
            flags = [one.moved[call] for call in range(calls) for one in sites.values()]
            if flags and len({len(one) for one in flags}) == 1:
                self.moved[kind] = np.stack(to_host(flags)).reshape(calls, len(sites), -1)
