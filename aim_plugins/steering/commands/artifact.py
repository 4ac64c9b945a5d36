"""`aim-plugins transport show`, `fold` and `convert`: looking at transports, changing their form.

aim-plugins transport show DIR                                       what it does, in numbers
aim-plugins transport fold DIR --pretrained M --strength 0.5 -o OUT  a plain checkpoint
aim-plugins transport convert FOLDER --pretrained M -o DIR           from the original's files
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aim_plugins.core.settings import add_options, read_settings
from aim_plugins.steering.settings import ConvertSettings, FoldSettings


def add_parser(subparsers: Any) -> None:
    """Adds the three commands to `aim-plugins transport`."""
    _add_show(subparsers)
    _add_fold(subparsers)
    _add_convert(subparsers)


def _add_show(subparsers: Any) -> None:
    parser = subparsers.add_parser("show", help="summarise a learned transport", allow_abbrev=False)
    parser.add_argument("transport", type=Path, metavar="DIR", help="folder of the transport")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_show)


def _add_fold(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "fold",
        help="write a checkpoint whose weights carry a transport at one strength",
        description="Folds a transport into the weights where that is exact, and names the "
        "modules where it is not. Any tool loads the checkpoint, without hooks.",
        allow_abbrev=False,
    )
    add_options(parser, FoldSettings)
    parser.set_defaults(run=run_fold)


def _add_convert(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="read the state dicts that the original implementation (ml-act) saved",
        description="Reads a folder of <module>.statedict files without running anything in them.",
        allow_abbrev=False,
    )
    add_options(parser, ConvertSettings)
    parser.set_defaults(run=run_convert)


def run_show(options: argparse.Namespace) -> int:
    """Prints a summary of a transport.

    Raises:
        ValueError: If the folder holds no whole transport.
    """
    import json

    from aim_plugins.transport.artifact import LearnedTransport
    from aim_plugins.transport.summary import summarise, summary_text

    summary = summarise(LearnedTransport.load(options.transport))
    print(json.dumps(summary, indent=2) if options.json else summary_text(summary))
    return 0


def run_fold(options: argparse.Namespace) -> int:
    """Writes a checkpoint with a transport in its weights.

    Raises:
        ValueError: If the transport belongs to another model or cannot be folded exactly, or the
            output exists.
    """
    from aim_plugins.engines.loading import load_engine
    from aim_plugins.steering.study import warn_of_unfitted
    from aim_plugins.transport.artifact import LearnedTransport
    from aim_plugins.transport.folding.fold import fold_transport, refuse_existing

    settings = read_settings(FoldSettings, given=vars(options))
    refuse_existing(settings.output)
    transport = LearnedTransport.load(settings.transport)
    warn_of_unfitted(transport.metadata, [settings.strength])
    engine = load_engine(settings.pretrained, **settings.loading)
    folded = fold_transport(engine.model, transport, settings.strength, force=settings.force)
    folder = folded.save(settings.output, engine.tokenizer)
    added = "".join(f", {name}={value}" for name, value in folded.config_changes.items())
    sites = len(transport.maps.maps)
    print(f"{sites} sites folded at strength {settings.strength:g}{added}: {folder}")
    return 0


def run_convert(options: argparse.Namespace) -> int:
    """Writes a transport from the original implementation's state dicts.

    Raises:
        ValueError: If a file holds something else, or the model is another one.
    """
    from aim_plugins.engines.loading import load_engine
    from aim_plugins.transport.convert import convert_statedicts
    from aim_plugins.transport.folding.fold import refuse_existing

    settings = read_settings(ConvertSettings, given=vars(options))
    refuse_existing(settings.output)
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
    print(f"{len(known.sites)} maps, method {known.method}, support {known.support}: {folder}")
    return 0
