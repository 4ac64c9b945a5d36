"""`aim-plugins transport fit`: learns a transport from two files of sentences.

aim-plugins transport fit --pretrained M --source a.jsonl --target b.jsonl \\
    --modules '.*layernorm' --method linear --incremental -o DIR
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aim_plugins.transport.artifact import LearnedTransport
    from aim_plugins.transport.fit import FittedSite

_SPLIT_BY_SEED = {"truthfulqa"}
"""Data sets whose `seed` also decides which part is held out for the evaluation."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the command to `aim-plugins transport`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "fit",
        help="learn a transport from two files of sentences",
        description="Learns maps that carry a model's activations on source sentences to those on "
        "target sentences, in one pass over the data. Sentences come from files, or from the "
        "section `data` of a config.",
        allow_abbrev=False,
    )
    parser.add_argument("--pretrained", metavar="MODEL", help="the model: a folder or a hub name")
    _add_sentence_options(parser)
    _add_map_options(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        help="sentences in a forward pass; batches run in lockstep; default 32",
    )
    parser.add_argument(
        "--dtype", default="auto", help="auto (default), float32, bfloat16, float16"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1; default an accelerator if any")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let code that comes with a model run"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the transport"
    )
    parser.set_defaults(run=run, data=None)
    return parser


def _add_sentence_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        metavar="FILE",
        help='sentences to start from: .jsonl with {"text": ...}, or .txt, one a line',
    )
    parser.add_argument("--target", metavar="FILE", help="sentences to arrive at, the same way")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="sentences a side, drawn at random; default all"
    )
    parser.add_argument("--seed", type=int, help="of that draw; default the data's, or 0")
    parser.add_argument(
        "--max-length", type=int, metavar="TOKENS", help="cut sentences; default leave them whole"
    )


def _add_map_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modules",
        nargs="+",
        metavar="REGEX",
        help="modules to transport, by patterns of their whole names, such as '.*layernorm'; "
        "'NAME:K' takes output K of a tuple",
    )
    parser.add_argument(
        "--method", default="linear", help="linear (default), gaussian, mean, aura, actadd, ..."
    )
    parser.add_argument(
        "--pooling", help="mean, min, max, median, last or all tokens; default the method's"
    )
    parser.add_argument(
        "--support", help="where maps act: none, minmax, qLO_HI or clip; default the method's"
    )
    parser.add_argument(
        "--positions", help="tokens to transport: all or last; default the method's"
    )
    parser.add_argument(
        "--incremental",
        action=argparse.BooleanOptionalAction,
        help="fit each module on activations that earlier ones transported; default the method's",
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, help="at which they are transported; default 1"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        ValueError: If an option is not usable, or the output folder is not empty.
        FileNotFoundError: If a file is missing.
    """
    _require(options, "pretrained", "modules")
    refuse_filled(options.output)
    source, target = read_sides(options)

    from aim_plugins.engines.loading import load_engine
    from aim_plugins.transport.fit import fit_transport
    from aim_plugins.transport.plan import plan_fit

    how = {
        name: getattr(options, name)
        for name in ("method", "pooling", "support", "positions", "incremental", "strength")
    }
    sizes = {"batch_size": options.batch_size, "max_length": options.max_length}
    plan_fit(source, target, **how, **sizes)  # before a large model is loaded
    engine = load_engine(
        options.pretrained,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
    )
    sites: list[FittedSite] = []
    started = time.perf_counter()
    transport = fit_transport(
        engine.model,
        engine.tokenizer,
        source,
        target,
        modules=options.modules,
        seed=_seed(options),
        on_site=sites.append,
        **how,
        **sizes,
    )
    seconds = time.perf_counter() - started
    transport.save(options.output)
    print(report(transport, sites, seconds, options.output))
    return 0


def read_sides(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The sentences of both sides, from files or as a config says.

    Raises:
        ValueError: If a side is missing, or a file is malformed.
        FileNotFoundError: If a file is missing.
    """
    from aim_plugins.transport.data.datasets import read_sentences
    from aim_plugins.transport.data.text_files import choose

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"limit={options.limit} is below 1: give the sentences a side")
    given = [name for name in ("source", "target") if getattr(options, name) is not None]
    if len(given) == 1:
        raise ValueError(f"--{given[0]} is there without the other side: give both files")
    if not given and not options.data:
        raise ValueError("the sentences are missing: add --source FILE --target FILE")
    if given:
        sides = read_sentences(options.source), read_sentences(options.target)
    else:
        sides = _configured_sides(options)
    if options.limit is None:
        return sides
    source, target = (
        choose(one, min(options.limit, len(one)), _seed(options), name)
        for one, name in zip(sides, ("source", "target"), strict=True)
    )
    return list(source), list(target)


def _configured_sides(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The sentences that a config's section `data` describes, drawn with --seed if it is given."""
    from aim_plugins.transport.data.datasets import load_sides
    from aim_plugins.transport.data.text_files import choose

    data = dict(options.data)
    for name in ("name", "root"):
        if name not in data:
            raise ValueError(f"the config's section 'data' has no {name!r}: add it")
    if options.seed is None or data["name"] not in _SPLIT_BY_SEED:
        loaded = load_sides(**data if options.seed is None else data | {"seed": options.seed})
        return list(loaded.source), list(loaded.target)
    # Tasks ask the questions that the data's own seed holds out: another draw must not move them.
    counts = data.pop("n_source", None), data.pop("n_target", None)
    loaded = load_sides(**data)
    places = f"{data['root']}: source", f"{data['root']}: target"
    source, target = (
        choose(side, count, options.seed, place)
        for side, count, place in zip((loaded.source, loaded.target), counts, places, strict=True)
    )
    return list(source), list(target)


def refuse_filled(folder: Path) -> None:
    """Refuses to write a transport over another, or among files that are none.

    Raises:
        ValueError: If the folder is a file, or is not empty.
    """
    from aim_plugins.core.artifact import artifact_files
    from aim_plugins.transport.artifact import TransportMetadata

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output={str(folder)!r} is a file: choose a folder")
    if artifact_files(folder, TransportMetadata)[1].is_file():
        raise ValueError(
            f"output={str(folder)!r} holds a transport already: choose another folder, or remove it"
        )
    if not folder.exists():
        return
    if foreign := sorted(path.name for path in folder.iterdir()):
        raise ValueError(
            f"output={str(folder)!r} holds files but no transport (first: {foreign[0]!r}): choose "
            "a new or empty folder"
        )


def report(
    transport: LearnedTransport, sites: list[FittedSite], seconds: float, folder: Path
) -> str:
    """What was fitted, in a few lines."""
    metadata = transport.metadata
    mean = sum(site.relative_distance for site in sites) / len(sites)
    most = max(sites, key=lambda site: site.relative_distance)
    constant = sum(metadata.constant_neurons.values())
    return "\n".join(
        [
            f"{len(sites)} sites fitted ({metadata.method}, "
            f"{'incremental' if metadata.incremental else 'at once'}) on {metadata.n_source} + "
            f"{metadata.n_target} sentences in {seconds:.1f} s: {folder}",
            f"source responses move by {mean:.1%} of their length on average, most at {most.site} "
            f"({most.relative_distance:.1%}, a distance of {most.distance:.3g})",
            f"constant neurons: {constant}",
        ]
    )


def _require(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if not getattr(options, name):
            raise ValueError(f"{name} is missing: add --{name}, or a --config that holds it")


def _seed(options: argparse.Namespace) -> int:
    """The seed of whatever was drawn."""
    if options.seed is not None:
        return options.seed
    drawn = options.data and options.source is None
    return int(options.data.get("seed", 0)) if drawn else 0
