"""Methods at choices of sites: learned on all sentences, and kept in the study's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.errors import first_few
from aim_plugins.core.files import safe_name
from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.columns import Column
from aim_plugins.steering.calibration.costs import Changed
from aim_plugins.steering.calibration.sites import SiteChoice
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import Transport
from aim_plugins.transport.fit import fit_transport
from aim_plugins.transport.vocabulary import OPTIONS

TRANSPORTS = "transports"


@dataclass(frozen=True)
class Candidate:
    """A transport that may be run at any strength.

    Attributes:
        method: Name of the method, or of the given folder.
        sites: Name of the choice of sites.
        learned: The transport.
        folder: Where it lies.
    """

    method: str
    sites: str
    learned: LearnedTransport
    folder: Path

    def at(self, strength: float, prefix: tuple[int, ...] = ()) -> Changed:
        """The model under it, at a strength and behind a prompt."""
        change = Transport(
            strength, self.learned.fingerprint, self.learned.maps, self.learned, str(self.folder)
        )
        return Changed(Column((change,)), prefix)


@dataclass(frozen=True)
class Sentences:
    """What transports are learned from.

    Attributes:
        source: Sentences to start from.
        target: Sentences to arrive at.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]

    def part(self, place: int) -> Sentences:
        """Those at even places (0) or odd ones (1); partners stay together."""
        return Sentences(self.source[place::2], self.target[place::2])


def learn(
    engine: HuggingFaceEngine,
    sentences: Sentences,
    method: str,
    patterns: Sequence[str],
    *,
    batch_size: int,
    incremental: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> LearnedTransport:
    """Learns a transport with a method's own defaults.

    Args:
        engine: Runs the model.
        sentences: What to learn from.
        method: Name of the method.
        patterns: Modules.
        batch_size: Sentences in a pass.
        incremental: As of `fit_transport`.
        options: Options of methods; each takes its own.
    """
    own = OPTIONS.get(method, ())
    return fit_transport(
        engine.model,
        engine.tokenizer,
        sentences.source,
        sentences.target,
        modules=patterns,
        method=method,
        incremental=incremental,
        options={name: value for name, value in (options or {}).items() if name in own},
        batch_size=batch_size,
        max_length=engine.max_length,
        progress=False,
    )


def candidate_at(
    engine: HuggingFaceEngine,
    sentences: Sentences,
    method: str,
    choice: SiteChoice,
    output: Path,
    *,
    batch_size: int,
    options: Mapping[str, Any] | None = None,
) -> Candidate:
    """A method at a choice of sites, from the folder where an earlier run has left it.

    Args:
        engine: Runs the model.
        sentences: What to learn from.
        method: Name of the method.
        choice: The sites.
        output: The study's folder.
        batch_size: Sentences in a pass.
        options: Options of methods; each takes its own.
    """
    folder = output / TRANSPORTS / safe_name(f"{method}-{choice.name}")
    if (folder / "transport.json").is_file():
        learned = LearnedTransport.load(folder)
    else:
        learned = learn(
            engine, sentences, method, choice.patterns, batch_size=batch_size, options=options
        )
        learned.save(folder)
        # As a resumed run reads it.
        learned = LearnedTransport.load(folder)
    return Candidate(method, choice.name, learned, folder)


def given_candidates(
    engine: HuggingFaceEngine, folders: Sequence[Path], taken: Sequence[str], *, force: bool
) -> list[Candidate]:
    """Transports that are there, named by their folders.

    Args:
        engine: Runs the model.
        folders: Where they lie.
        taken: Names of other lines of the table.
        force: Whether to take one that another model was fitted on.

    Raises:
        ValueError: If one is damaged or of another model, or two have one name.
    """
    names = [folder.resolve().name for folder in folders]
    if len({*names, *taken}) < len(names) + len(taken):
        raise ValueError(
            f"transports={first_few([str(one) for one in folders])} repeat a name, which the table "
            "needs: rename a folder"
        )
    found = []
    for name, folder in zip(names, folders, strict=True):
        learned = LearnedTransport.load(folder)
        learned.check_model(engine.model, engine.tokenizer, force=force)
        found.append(Candidate(name, f"{len(learned.maps.maps)} sites", learned, folder))
    return found
