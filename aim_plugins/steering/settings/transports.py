"""Settings of the commands that make a transport or look at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aim_plugins.core.files import existing, refuse_filled
from aim_plugins.core.settings import Count, Settings, option
from aim_plugins.modulation.sites import compile_site
from aim_plugins.steering.settings.model import ModelSettings
from aim_plugins.transport.data.text_files import SUFFIXES
from aim_plugins.transport.incremental import Incremental
from aim_plugins.transport.vocabulary import (
    check_method,
    check_pooling,
    check_positions,
    existing_transport,
    parse_support,
    statedict_files,
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


@dataclass(frozen=True, kw_only=True)
class FitSettings(ModelSettings, SentenceSettings):
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
    """Maps that the original implementation saved.

    Attributes:
        folder: Holds *.statedict files, under the name that ml-act gave it.
        output: Folder for the transport.
        method: Needed between gaussian and mean, whose files are alike, unless the folder's name
            says it.
        support: none, minmax or qLO_HI; by default the one in force when they were saved.
        positions: The tokens that the hooks were applied to, which the files do not say.
        pooling: How activations were pooled; by default as the folder's name says.
        incremental: Whether hooks were fitted behind the earlier ones (causal) or atonce; by
            default as the folder's name says.
    """

    folder: Path = option(positional=True, metavar="FOLDER")
    output: Path = option(short="-o", metavar="OUT")
    method: Literal["linear", "gaussian", "mean", "aura"] | None = None
    support: str | None = None
    positions: Literal["all", "last"] = "all"
    pooling: str | None = None
    incremental: Literal["causal", "atonce"] | None = None

    def check_files(self) -> None:
        refuse_filled(self.output)
        statedict_files(self.folder)
