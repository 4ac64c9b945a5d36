"""`aim-plugins transport show`, `fold`, `convert` and `export`: transports in other forms.

aim-plugins transport show DIR                                       what it does, in numbers
aim-plugins transport fold DIR --pretrained M --strength 0.5 -o OUT  a plain checkpoint
aim-plugins transport convert PATH --pretrained M -o DIR             from another tool's files
aim-plugins transport export DIR -o FILE.gguf                        vectors for another tool
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from aim_plugins.engines.loading import load_engine
from aim_plugins.steering.settings.transports import (
    ConvertSettings,
    ExportSettings,
    FoldSettings,
    ShowSettings,
)
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import warn_once
from aim_plugins.transport.exchange.ml_act import convert_statedicts
from aim_plugins.transport.exchange.reading import read_vectors
from aim_plugins.transport.exchange.writing import write_vectors
from aim_plugins.transport.folding.fold import fold_transport
from aim_plugins.transport.incremental import TITLES
from aim_plugins.transport.summary import summarise, summary_text


def show(settings: ShowSettings, command: Sequence[str]) -> None:
    """Prints a summary of a transport.

    Raises:
        ValueError: If the folder holds no whole transport.
    """
    learned = LearnedTransport.load(settings.transport)
    summary = summarise(learned.metadata, learned.maps.maps, learned.fingerprint)
    as_text = summary_text(summary, learned.metadata)
    print(json.dumps(summary, indent=2) if settings.json else as_text)


def fold(settings: FoldSettings, command: Sequence[str]) -> None:
    """Writes a checkpoint with a transport in its weights.

    Raises:
        ValueError: If the transport belongs to another model or cannot be folded exactly, or the
            output exists.
    """
    transport = LearnedTransport.load(settings.transport)
    if warning := transport.metadata.warning_of([settings.strength]):
        warn_once(warning)
    engine = load_engine(settings.pretrained, **settings.loading)
    folded = fold_transport(engine.model, transport, settings.strength, force=settings.force)
    folder = folded.save(settings.output, engine.tokenizer)
    added = "".join(f", {name}={value}" for name, value in folded.config_changes.items())
    sites = len(transport.maps.maps)
    print(f"{sites} sites folded at strength {settings.strength:g}{added}: {folder}")


def convert(settings: ConvertSettings, command: Sequence[str]) -> None:
    """Writes a transport from maps or vectors that another tool saved.

    Raises:
        ValueError: If they are malformed or no maps of each neuron, or the model is another one.
    """
    engine = load_engine(settings.pretrained, **settings.loading)
    if settings.is_of_ml_act:
        transport = convert_statedicts(
            settings.vectors,
            engine.model,
            engine.tokenizer,
            method=settings.method,
            support=settings.support,
            positions=settings.positions or "all",
            pooling=settings.pooling,
            incremental=settings.incremental,
        )
    else:
        transport = read_vectors(
            settings.vectors,
            engine.model,
            engine.tokenizer,
            positions=settings.positions,
            feature=settings.feature,
            site=settings.site,
            coefficient=settings.coefficient,
        )
    folder = transport.save(settings.output)
    known = transport.metadata
    fitted = f"{TITLES[known.incremental]}, support {known.support}, " * settings.is_of_ml_act
    print(
        f"{len(known.sites)} maps, method {known.method}, {fitted}{known.positions} tokens: "
        f"{folder}"
    )


def export(settings: ExportSettings, command: Sequence[str]) -> None:
    """Writes the vectors of a transport for another tool.

    Raises:
        ValueError: If a map does more than add, or the file has no place for one.
    """
    transport = LearnedTransport.load(settings.transport)
    written = write_vectors(transport, settings.output, settings.strength)
    scaled = "" if settings.strength == 1 else f", times {settings.strength:g}"
    print(f"{len(transport.maps.maps)} vectors{scaled}: {written}")
