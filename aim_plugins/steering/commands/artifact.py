"""`aim-plugins transport show`, `fold` and `convert`: looking at transports, changing their form.

aim-plugins transport show DIR                                       what it does, in numbers
aim-plugins transport fold DIR --pretrained M --strength 0.5 -o OUT  a plain checkpoint
aim-plugins transport convert FOLDER --pretrained M -o DIR           from the original's files
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from aim_plugins.engines.loading import load_engine
from aim_plugins.steering.settings.transports import ConvertSettings, FoldSettings, ShowSettings
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.change import warn_once
from aim_plugins.transport.exchange.ml_act import convert_statedicts
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
    """Writes a transport from the original implementation's state dicts.

    Raises:
        ValueError: If a file holds something else, or the model is another one.
    """
    engine = load_engine(settings.pretrained, **settings.loading)
    transport = convert_statedicts(
        settings.folder,
        engine.model,
        engine.tokenizer,
        method=settings.method,
        support=settings.support,
        positions=settings.positions,
        pooling=settings.pooling,
        incremental=settings.incremental,
    )
    folder = transport.save(settings.output)
    known = transport.metadata
    print(
        f"{len(known.sites)} maps, method {known.method}, {TITLES[known.incremental]}, support "
        f"{known.support}: {folder}"
    )
