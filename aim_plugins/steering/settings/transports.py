"""Settings of the commands that make a transport or look at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from aim_plugins.core.files import existing, existing_folder, refuse_filled
from aim_plugins.core.settings import Count, Natural, NonNegative, Positive, Settings, option
from aim_plugins.modulation.sites import compile_site
from aim_plugins.steering.settings.model import ModelSettings
from aim_plugins.transport.data.text_files import SUFFIXES
from aim_plugins.transport.incremental import Incremental
from aim_plugins.transport.vocabulary import (
    PAIRED_METHODS,
    WRITTEN_SUFFIXES,
    check_method,
    check_options,
    check_pooling,
    check_positions,
    check_vectors,
    existing_transport,
    intervention_files,
    parse_support,
)


@dataclass(frozen=True, kw_only=True)
class SentenceSettings(Settings):
    """The sentences that transports are learned from.

    Attributes:
        source: Sentences to start from: .jsonl with {"text": ...}, or .txt, one a line.
        target: Sentences to arrive at, the same way.
        data: What `load_sides` reads instead of two files.
        limit: Sentences a side, drawn at random; by default all.
    """

    source: str | None = option(None, metavar="FILE")
    target: str | None = option(None, metavar="FILE")
    data: Mapping[str, Any] = field(default_factory=dict)
    limit: Count | None = None

    def check(self) -> None:
        super().check()
        if (self.source is None) != (self.target is None):
            given = "target" if self.source is None else "source"
            raise ValueError(f"--{given} is there without the other side: give both files")

    def check_files(self) -> None:
        super().check_files()
        for name, side in (("source", self.source), ("target", self.target)):
            if side is not None:
                existing(side, name, SUFFIXES)

    @property
    def has_sentences(self) -> bool:
        """Whether any are named."""
        return self.source is not None or bool(self.data)

    @property
    def why_unpaired(self) -> str:
        """Why sentences at the same places of both sides are no partners; empty if they may be."""
        if self.limit is not None:
            return "--limit draws each side by itself"
        if self.source is not None:
            return ""
        if drawn := [name for name in ("n_source", "n_target") if self.data.get(name) is not None]:
            return f"{' and '.join(drawn)} in data draws each side by itself"
        name = self.data.get("name")
        return "" if name == "files" else f"data of name={name!r} has none"


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Settings):
    """Options that only some methods take, each with the method's own default.

    Attributes:
        steps: Of lineas: steps of descent, each a pass forward and back; by default 1000.
        learning_rate: Of lineas: length of the first steps; by default 0.1.
        sparsity: Of lineas: weight of a penalty that leaves neurons and modules alone; by default
            0.
        direction_site: Of ablation and angular: the module whose direction all of them take; by
            default the one that tells the sides apart best, or whose direction is most like others.
        clusters: Of chars: clusters of each side; by default 4.
        components: Of chars: principal components that their shifts keep; by default all.
    """

    steps: Count | None = None
    learning_rate: Positive | None = None
    sparsity: NonNegative | None = None
    direction_site: str | None = option(None, metavar="NAME")
    clusters: Count | None = None
    components: Natural | None = None

    @property
    def method_options(self) -> dict[str, Any]:
        """Those that were given, by name."""
        given = {one.name: getattr(self, one.name) for one in fields(MethodOptions)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class FitSettings(ModelSettings, SentenceSettings, MethodOptions):
    """How a transport is learned.

    Attributes:
        output: Folder for the transport.
        modules: Modules to transport, by patterns of their whole names, such as '.*layernorm';
            'NAME:K' takes output K of a tuple.
        seed: Of that draw; by default the data's, or 0.
        max_length: Cuts sentences, in tokens; by default they stay whole.
        batch_size: Sentences in a forward pass; batches run in lockstep.
        method: linear, gaussian, mean, aura, actadd, ...
        pooling: mean, min, max, median, last or all tokens; by default the method's.
        support: Where maps act: none, minmax, qLO_HI or clip; by default the method's.
        positions: Tokens to transport: all or last; by default the method's.
        incremental: Which sentences go through the maps of earlier modules while a module's is
            learned: those of both sides (causal, as the paper), of the source, or none (atonce); by
            default the method's.
        strength: At which they are transported.
    """

    output: Path = option(short="-o", metavar="DIR")
    modules: Sequence[str] = option(metavar="REGEX")
    seed: int | None = None
    max_length: int | None = None
    batch_size: Count = 32
    method: str = "linear"
    pooling: str | None = None
    support: str | None = None
    positions: str | None = None
    incremental: Incremental | None = None
    strength: float = 1.0

    def check(self) -> None:
        super().check()
        if not self.has_sentences:
            raise ValueError("the sentences are missing: add --source FILE --target FILE")
        check_method(self.method)
        check_options(self.method_options, [self.method])
        if self.method in PAIRED_METHODS and (reason := self.why_unpaired):
            raise ValueError(
                f"{reason}, and --method {self.method} takes pairs: give two files, partners at "
                "the same lines, and shorten both alike"
            )
        if self.pooling is not None:
            check_pooling(self.pooling)
        if self.support is not None:
            parse_support(self.support)
        if self.positions is not None:
            check_positions(self.positions)
        for pattern in self.modules:
            compile_site(pattern)

    def check_files(self) -> None:
        super().check_files()
        refuse_filled(self.output)


@dataclass(frozen=True, kw_only=True)
class ShowSettings(Settings):
    """A look at a transport.

    Attributes:
        transport: Folder of the transport.
        json: Whether to print JSON.
    """

    transport: Path = option(positional=True, metavar="DIR")
    json: bool = False

    def check_files(self) -> None:
        existing_transport(self.transport)


@dataclass(frozen=True, kw_only=True)
class FoldSettings(ModelSettings):
    """A checkpoint that carries a transport.

    Attributes:
        transport: Folder of the transport.
        output: A new folder for the checkpoint.
        strength: Such as 0.5.
        force: Whether to fold a transport that another model was fitted on.
    """

    transport: Path = option(positional=True, metavar="DIR")
    output: Path = option(short="-o", metavar="OUT")
    strength: float
    force: bool = False

    def check_files(self) -> None:
        refuse_filled(self.output)
        existing_transport(self.transport)


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(ModelSettings):
    """Maps or vectors that another tool saved.

    Attributes:
        vectors: A folder of ml-act (*.statedict, under its own name) or of pyreft (intkey_*.bin);
            or a file: control vectors (.gguf), vectors by module or block, or a sparse autoencoder
            (.safetensors), lm-eval's steering (.pt, .csv), or those of steering-vectors (.pt).
        output: Folder for the transport.
        positions: The tokens that they act on: all or last; by default as the file says, or all.
        feature: Of a sparse autoencoder, the number of the feature to add.
        site: The module whose output it is added to, such as model.layers.14.
        coefficient: What the feature's direction is multiplied by.
        method: Of ml-act; needed between gaussian and mean, whose files are alike, unless the
            folder's name says it.
        support: Of ml-act: none, minmax or qLO_HI; by default the one in force when they were
            saved.
        pooling: Of ml-act: how activations were pooled; by default as the folder's name says.
        incremental: Of ml-act: whether hooks were fitted behind the earlier ones (causal) or
            atonce; by default as the folder's name says.
    """

    vectors: Path = option(positional=True, metavar="PATH")
    output: Path = option(short="-o", metavar="OUT")
    positions: Literal["all", "last"] | None = None
    feature: int | None = None
    site: str | None = None
    coefficient: float = 1.0
    method: Literal["linear", "gaussian", "mean", "aura"] | None = None
    support: str | None = None
    pooling: str | None = None
    incremental: Literal["causal", "atonce"] | None = None

    def check(self) -> None:
        if (self.feature is None) != (self.site is None):
            missing = "site" if self.site is None else "feature"
            raise ValueError(f"--{missing} is missing: a feature is added to one module's output")
        if self.feature is None and self.coefficient != 1.0:
            raise ValueError("--coefficient is of a --feature: leave it out, strength scales maps")

    def check_files(self) -> None:
        refuse_filled(self.output)
        check_vectors(self.vectors)
        if self.feature is not None:
            existing(self.vectors, "vectors", [".safetensors"])
        for name in ("method", "support", "pooling", "incremental"):
            if getattr(self, name) is not None and not self.is_of_ml_act:
                raise ValueError(f"--{name} is of ml-act's folders alone: leave it out")

    @property
    def is_of_ml_act(self) -> bool:
        """Whether it is a folder of the original implementation's."""
        return self.vectors.is_dir() and not intervention_files(self.vectors)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Vectors for another tool.

    Attributes:
        transport: Folder of the transport.
        output: A new file: .gguf for llama.cpp and repeng, or .safetensors.
        strength: What the vectors are multiplied by.
    """

    transport: Path = option(positional=True, metavar="DIR")
    output: Path = option(short="-o", metavar="FILE")
    strength: float = 1.0

    def check(self) -> None:
        if self.output.suffix not in WRITTEN_SUFFIXES:
            raise ValueError(
                f"output={str(self.output)!r}: the suffix is {self.output.suffix!r}, not one of "
                f"{' '.join(WRITTEN_SUFFIXES)}"
            )

    def check_files(self) -> None:
        existing_transport(self.transport)
        existing_folder(self.output.parent, "output")
        if self.output.exists():
            raise ValueError(f"output={str(self.output)!r} is there: choose a new file")
