"""A learned transport: maps of activations, and what they were learned on.

On disk it is an artifact as in `core.artifact`, whose tensors are float32 vectors `<site>.scale`,
`.shift`, `.support_min` and `.support_max`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from aim_plugins.core import artifact
from aim_plugins.core.artifact import ArtifactMetadata
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import format_strength
from aim_plugins.modulation.activations import ActivationMaps, AffineMap
from aim_plugins.modulation.hooks import find_module, split_site

logger = logging.getLogger(__name__)

_VECTORS = ("scale", "shift", "support_min", "support_max")


@dataclass(frozen=True)
class TransportMetadata(ArtifactMetadata):
    """What a transport was learned on, and how.

    Attributes:
        method: "linear", "gaussian", "mean", "aura", "actadd", "caa" or "iti".
        sites: Module outputs with a map, in the order in which a forward pass reaches them.
        data_sha256: SHA-256 of the sentences of both sides.
        tokenizer_sha256: SHA-256 of the tokenizer's vocabulary and rules.
        pooling: How the activations of a sentence were pooled over its tokens.
        positions: Which tokens are transported: "all" or "last".
        incremental: Which sentences the earlier maps transported while a map was fitted: those of
            both sides ("causal"), of the source ("source") or none ("atonce").
        strength: Strength at which they did that.
        support: Where the maps act: "none", "minmax", "qLO_HI" or "clip".
        clipped: Sites whose map clips; noted when the maps are saved.
        n_source: Source sentences.
        n_target: Target sentences.
        constant_neurons: For each site, neurons whose activations never changed, where any.
        moved: How far the maps move source responses, in units of their spread; the mean over
            sites, see `holdout`.
        held: The share of it that holds on sentences held out from the fit.
        max_length: Longest sentence in tokens; None leaves them whole.
        batch_size: Sentences in a forward pass.
    """

    KIND: ClassVar[str] = "transport"
    SCHEMA_VERSION: ClassVar[int] = 2
    MADE_BY: ClassVar[str] = "`aim-plugins transport fit`"

    tokenizer_sha256: str = ""
    pooling: str = "mean"
    positions: str = "all"
    incremental: str = "atonce"
    strength: float = 1.0
    support: str = "none"
    clipped: Sequence[str] = field(default=(), compare=False)
    n_source: int = 0
    n_target: int = 0
    constant_neurons: Mapping[str, int] = field(default_factory=dict)
    moved: float | None = None
    held: float | None = None
    max_length: int | None = None
    batch_size: int | None = None

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

    @property
    def learned_strengths(self) -> tuple[float, float]:
        """Lowest and highest strength that the maps were learned for.

        Between 0 and 1 a map interpolates. Where later maps were learned on activations that
        earlier ones transported more strongly, or backwards, that strength was learned for as well.
        """
        reached = 0.0 if self.incremental == "atonce" else self.strength
        return min(0.0, reached), max(1.0, reached)

    def warning_of(self, strengths: Iterable[float]) -> str:
        """What to warn of, given strengths to run at; empty where all were learned for."""
        low, high = self.learned_strengths
        outside = [one for one in dict.fromkeys(strengths) if not low <= one <= high]
        if not outside:
            return ""
        return (
            f"strength={', '.join(map(format_strength, outside))} lies outside {low:g} to {high:g},"
            " the strengths that the transport was learned for: its maps are extrapolated, and "
            "texts may break down"
        )


@dataclass(frozen=True)
class LearnedTransport:
    """Learned maps of activations together with where they come from.

    Attributes:
        maps: What an engine takes.
        metadata: What they were learned on.

    Raises:
        ValueError: If the two name different sites or positions, or a map is not a finite one of
            vectors of one length.
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
            _check_vectors(site, {name: getattr(one, name) for name in _VECTORS})

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sites, values and positions of the maps."""
        return self.maps.fingerprint

    def save(self, folder: str | Path) -> Path:
        """Writes the transport into a folder, replacing one that is there; returns the folder."""
        tensors = {
            f"{site}.{name}": getattr(one, name).float()
            for site, one in self.maps.maps.items()
            for name in _VECTORS
        }
        clipped = [site for site, one in self.maps.maps.items() if one.clip]
        return artifact.save(folder, tensors, replace(self.metadata, clipped=clipped))

    @classmethod
    def load(cls, folder: str | Path) -> LearnedTransport:
        """Reads a transport and checks that it is whole.

        Raises:
            ValueError: If a file is missing, cut short or altered, of another version of the
                format, or holds something else than finite maps of the sites it names.
        """
        tensors, metadata = artifact.load(folder, TransportMetadata)
        expected = {f"{site}.{name}" for site in metadata.sites for name in _VECTORS}
        if differing := sorted(expected ^ tensors.keys()):
            raise ValueError(
                f"{folder}: its files name different sites (first: {differing[0]!r}): they belong "
                "to different transports"
            )
        maps = {}
        try:
            for site in metadata.sites:
                vectors = {name: tensors[f"{site}.{name}"].float() for name in _VECTORS}
                _check_vectors(site, vectors)
                maps[site] = AffineMap(**vectors, clip=site in metadata.clipped)
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
        learned_on = f"the transport was learned on {self.metadata.learned_on}"
        for site, one in self.maps.maps.items():
            name, output = split_site(site)
            try:
                module = find_module(model, name)
            except ValueError as error:
                raise ValueError(f"{learned_on}: {error}") from error
            width = _output_width(module) if output == 0 else None
            if width not in (None, len(one.scale)):
                raise ValueError(
                    f"module {site!r} has {width} neurons, its map {len(one.scale)}: {learned_on}"
                )


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


def _check_vectors(site: str, vectors: Mapping[str, Tensor]) -> None:
    shapes = {name: list(one.shape) for name, one in vectors.items()}
    first = shapes["scale"]
    if len(first) != 1 or not first[0] or any(shape != first for shape in shapes.values()):
        raise ValueError(f"the map of {site!r} needs vectors of one length, not {shapes}")
    for name in ("scale", "shift"):
        if not bool(vectors[name].isfinite().all()):
            raise ValueError(
                f"{name} of {site!r} is not finite: fit the transport again without that site"
            )
    if not bool((vectors["support_min"] <= vectors["support_max"]).all()):
        raise ValueError(
            f"support of {site!r}: support_min must not exceed support_max, and neither may be NaN"
        )


def _output_width(module: torch.nn.Module) -> int | None:
    """Neurons of a module's output where its attributes tell: linear layers, embeddings, norms."""
    for attribute in ("out_features", "nf", "embedding_dim"):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 1 and weight.numel() > 1:
        return weight.numel()
    return None
