"""A learned transport: maps of activations, and what they were learned on.

On disk it is an artifact as in `core.artifact`, whose tensors are those of `vectors`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from aim_plugins.core import artifact
from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.transport.metadata import MapsMetadata
from aim_plugins.transport.vectors import (
    check_map,
    check_widths,
    clipped_names,
    map_tensors,
    read_maps,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransportMetadata(MapsMetadata):
    """What a transport was learned on, and how.

    Attributes:
        method: "linear", "gaussian", "mean", "aura", "actadd", "caa", "iti", "pca", "lineas",
            "ablation", "angular" or "chars"; "imported" for vectors that another tool wrote, of
            whose making nothing is known.
        options: Options that only this method takes, such as its steps.
        sites: Module outputs with a map, in the order in which a forward pass reaches them.
        data_sha256: SHA-256 of the sentences of both sides.
        tokenizer_sha256: SHA-256 of the tokenizer's vocabulary and rules.
        positions: Which tokens are transported: "all" or "last".
        max_length: Longest sentence in tokens; None leaves them whole.
    """

    KIND: ClassVar[str] = "transport"
    SCHEMA_VERSION: ClassVar[int] = 3
    MADE_BY: ClassVar[str] = "`aim-plugins transport fit`"
    INPUTS: ClassVar[str] = "sentences"
    OUTPUTS: ClassVar[str] = "texts"

    options: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_sha256: str = ""
    positions: str = "all"
    max_length: int | None = None

    @property
    def fitted(self) -> str:
        own = [f"{name} {value}" for name, value in self.options.items()]
        return ", ".join([super().fitted, *own])

    @property
    def applied(self) -> str:
        return f"to {self.positions} tokens, support {self.support}"

    @classmethod
    def describe(cls, model: Any, tokenizer: Any, **fields: Any) -> TransportMetadata:
        """Describes a transport learned on a loaded model.

        Args:
            model: The model; its name, architecture and a sample of its weights are noted.
            tokenizer: Its tokenizer, of which a checksum is noted; None where there is none.
            **fields: Further attributes; `method` and `sites` are needed.
        """
        rules = "" if tokenizer is None else tokenizer_sha256(tokenizer)
        return cls.of_model(model, tokenizer_sha256=rules, **fields)


@dataclass(frozen=True)
class LearnedTransport:
    """Learned maps of activations together with where they come from.

    Attributes:
        maps: What an engine takes.
        metadata: What they were learned on.

    Raises:
        ValueError: If the two name different sites or positions, or the parts of a map are not
            finite or do not fit each other.
    """

    maps: ActivationMaps
    metadata: TransportMetadata

    def __post_init__(self) -> None:
        if list(self.metadata.sites) != list(self.maps.maps):
            raise ValueError(
                f"metadata.sites={list(self.metadata.sites)[:3]}... are not the maps' sites "
                f"{list(self.maps.maps)[:3]}... in the same order"
            )
        if self.metadata.positions != self.maps.positions:
            raise ValueError(
                f"metadata.positions={self.metadata.positions!r} is not the maps' "
                f"{self.maps.positions!r}"
            )
        if not self.maps.maps:
            raise ValueError("the transport has no sites: choose modules to transport")
        for site, one in self.maps.maps.items():
            check_map(site, one)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sites, values and positions of the maps."""
        return self.maps.fingerprint

    def save(self, folder: str | Path) -> Path:
        """Writes the transport into a folder, replacing one that is there; returns the folder."""
        clipped = clipped_names(self.maps.maps)
        tensors = map_tensors(self.maps.maps)
        return artifact.save(folder, tensors, replace(self.metadata, clipped=clipped))

    @classmethod
    def load(cls, folder: str | Path) -> LearnedTransport:
        """Reads a transport and checks that it is whole.

        Raises:
            ValueError: If a file is missing, cut short or altered, of another version of the
                format, or holds something else than finite maps of the sites it names.
        """
        tensors, metadata = artifact.load(folder, TransportMetadata)
        try:
            maps = read_maps(tensors, metadata.sites, metadata.clipped)
            return cls(ActivationMaps(maps, positions=metadata.positions), metadata)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def check_model(self, model: Any, tokenizer: Any = None, *, force: bool = False) -> None:
        """Checks that a model is the one the transport was learned on, and has its sites.

        Args:
            model: The model.
            tokenizer: Its tokenizer; another one than at the fit is warned of.
            force: Warns instead of refusing another architecture or other weights, such as those
                of a fine-tune.

        Raises:
            ValueError: If the model lacks a site or a site has another width, whatever `force`
                says; or if architecture or weights differ.
        """
        self.check_sites(model)
        self.metadata.check_model(model, force=force)
        if tokenizer is not None:
            self.check_tokenizer(tokenizer)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Warns of another tokenizer than that of the fit."""
        known = self.metadata.tokenizer_sha256
        if known and tokenizer_sha256(tokenizer) != known:
            logger.warning("the transport was fitted with another tokenizer than this model's")

    def check_sites(self, model: Any) -> None:
        """Checks that a model has the transport's sites, with the widths of its maps.

        Raises:
            ValueError: If it lacks a site, or a site has another width. Modules whose width their
                own attributes do not tell are checked when they run.
        """
        widths = {site: one.neurons for site, one in self.maps.maps.items()}
        check_widths(model, widths, self.metadata.learned_on)


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 of what makes a tokenizer split text as it does.

    Padding and truncation are left out: they change whenever a harness calls the tokenizer.
    """
    rules: dict[str, Any] = {"vocabulary": sorted(tokenizer.get_vocab().items())}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        state = json.loads(backend.to_str())
        rules |= {name: state.get(name) for name in ("normalizer", "pre_tokenizer", "model")}
    return fingerprint(rules)
