"""`aim-plugins transport show`, `fold` and `convert`: looking at transports, changing their form.

aim-plugins transport show DIR                                       what it does, in numbers
aim-plugins transport fold DIR --pretrained M --strength 0.5 -o OUT  a plain checkpoint
aim-plugins transport convert FOLDER --pretrained M -o DIR           from the original's files
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


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
    parser.add_argument("transport", type=Path, metavar="DIR", help="folder of the transport")
    parser.add_argument("--strength", type=float, required=True, help="such as 0.5")
    _add_model_options(parser, "a new folder for the checkpoint")
    parser.add_argument(
        "--force", action="store_true", help="fold a transport that another model was fitted on"
    )
    parser.set_defaults(run=run_fold)


def _add_convert(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="read the state dicts that the original implementation (ml-act) saved",
        description="Reads a folder of <module>.statedict files without running anything in them.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds *.statedict files")
    _add_model_options(parser, "folder for the transport")
    parser.add_argument(
        "--method",
        choices=("linear", "gaussian", "mean", "aura"),
        help="needed between gaussian and mean, whose files are alike",
    )
    parser.add_argument(
        "--support", help="none, minmax or qLO_HI; default the one in force when they were saved"
    )
    parser.add_argument(
        "--positions",
        choices=("all", "last"),
        default="all",
        help="the tokens that the hooks were applied to, which the files do not say; default all",
    )
    parser.add_argument("--pooling", help="how activations were pooled; default the original's")
    parser.add_argument(
        "--incremental",
        action=argparse.BooleanOptionalAction,
        help="whether hooks were fitted one after another; default the original's",
    )
    parser.set_defaults(run=run_convert)


def _add_model_options(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument(
        "--pretrained", required=True, metavar="MODEL", help="the model: a folder or a hub name"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=output)
    parser.add_argument(
        "--dtype", default="auto", help="auto (default), float32, bfloat16, float16"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1; default an accelerator if any")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let code that comes with a model run"
    )


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
    from aim_plugins.steering.settings import warn_of_unfitted
    from aim_plugins.transport.artifact import LearnedTransport
    from aim_plugins.transport.folding.fold import fold_transport, refuse_existing

    refuse_existing(options.output)
    transport = LearnedTransport.load(options.transport)
    warn_of_unfitted(transport.metadata, [options.strength])
    engine = load_engine(
        options.pretrained,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
    )
    folded = fold_transport(engine.model, transport, options.strength, force=options.force)
    folder = folded.save(options.output, engine.tokenizer)
    added = "".join(f", {name}={value}" for name, value in folded.config_changes.items())
    sites = len(transport.maps.maps)
    print(f"{sites} sites folded at strength {options.strength:g}{added}: {folder}")
    return 0


def run_convert(options: argparse.Namespace) -> int:
    """Writes a transport from the original implementation's state dicts.

    Raises:
        ValueError: If a file holds something else, or the model is another one.
    """
    from aim_plugins.engines.loading import load_engine
    from aim_plugins.transport.convert import convert_statedicts
    from aim_plugins.transport.folding.fold import refuse_existing

    refuse_existing(options.output)
    engine = load_engine(
        options.pretrained,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
    )
    transport = convert_statedicts(
        options.folder,
        engine.model,
        engine.tokenizer,
        method=options.method,
        support=options.support,
        positions=options.positions,
        pooling=options.pooling,
        incremental=options.incremental,
    )
    folder = transport.save(options.output)
    known = transport.metadata
    print(f"{len(known.sites)} maps, method {known.method}, support {known.support}: {folder}")
    return 0
