"""`aim-plugins transport generate`: what a steered model writes, at every strength.

OUT/
  generations.jsonl     one line for each strength and prompt
  manifest.json
  records/              finished batches, from which an interrupted run goes on
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aim_plugins.engines.engine import Modulation
    from aim_plugins.steering.texts import Decoding
    from aim_plugins.transport.artifact import LearnedTransport

GENERATIONS = "generations.jsonl"


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the command to `aim-plugins transport`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "generate",
        help="write texts with a steered model, at every strength",
        description="Continues prompts at every strength of a transport, all strengths in one "
        "batch. Greedy unless --do-sample is given.",
        allow_abbrev=False,
    )
    add_model_options(parser)
    parser.add_argument(
        "--prompts", metavar="FILE", help='prompts: .jsonl with {"text": ...}, or .txt, one a line'
    )
    parser.add_argument(
        "--strength", metavar="GRID", help='"0:1:0.1", "0,0.5,1" or a number; default 0:1:0.1'
    )
    parser.add_argument(
        "--noise-std", default="0", metavar="STD", help="noise on the logits beside it; default 0"
    )
    parser.add_argument("--noise-seed", type=int, default=0, help="seed of the noise; default 0")
    add_decoding_options(parser)
    parser.set_defaults(run=run)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what runs, and where results go."""
    parser.add_argument("transport", type=Path, metavar="DIR", help="folder of the transport")
    parser.add_argument("--pretrained", metavar="MODEL", help="the model: a folder or a hub name")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="folder for results; an interrupted run goes on when it is started again",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="in a forward pass; default 8")
    parser.add_argument("--max-length", type=int, help="tokens; default the model's window")
    parser.add_argument(
        "--dtype", default="auto", help="auto (default), float32, bfloat16, float16"
    )
    parser.add_argument("--device", help="such as cpu or cuda:1; default an accelerator if any")
    parser.add_argument(
        "--force", action="store_true", help="apply a transport that another model was fitted on"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let code that comes with a model run"
    )


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how texts are decoded."""
    parser.add_argument("--max-new-tokens", type=int, default=32, help="default 32")
    parser.add_argument("--do-sample", action="store_true", help="draw tokens at random")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the draws; default 1")
    parser.add_argument("--top-k", type=int, default=0, help="of the draws; default 0, all")
    parser.add_argument("--top-p", type=float, default=1.0, help="of the draws; default 1")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; default 0")


def read_decoding(options: argparse.Namespace) -> Decoding:
    """The decoding that options ask for.

    Raises:
        ValueError: If an option is out of its range.
    """
    from aim_plugins.steering.texts import Decoding

    return Decoding(
        max_new_tokens=options.max_new_tokens,
        do_sample=options.do_sample,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )


def require_options(options: argparse.Namespace, *names: str) -> None:
    """Refuses to go on without options that a config may give instead of the command line.

    Raises:
        ValueError: If one is missing.
    """
    for name in names:
        if getattr(options, name, None) is None:
            raise ValueError(f"{name} is missing: add --{name.replace('_', '-')}, or a --config")


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        ValueError: If an option is not usable, the transport belongs to another model, or the
            folder holds another run.
    """
    require_options(options, "pretrained", "prompts", "output")
    from aim_plugins.engines.engine import modulation_columns
    from aim_plugins.steering import settings, texts
    from aim_plugins.steering import study as evaluation
    from aim_plugins.sweep.store import SweepStore
    from aim_plugins.transport.artifact import LearnedTransport
    from aim_plugins.transport.data.datasets import load_prompts

    prompts, decoding = load_prompts(options.prompts), read_decoding(options)
    settings.check_batch_size(options.batch_size)
    transport = LearnedTransport.load(options.transport)
    columns = modulation_columns(
        options.noise_std,
        noise_seed=options.noise_seed,
        strength=settings.DEFAULT_STRENGTHS if options.strength is None else options.strength,
        transport=transport.fingerprint,
    )
    strengths = [column.transport_strength for column in columns]
    settings.warn_of_unfitted(transport.metadata, strengths)
    arguments = _arguments(options, transport, columns, prompts, decoding)
    SweepStore.check(options.output, arguments)
    engine = evaluation.load_steered(options, transport)
    texts.encode_prompts(engine, prompts, decoding)  # before a folder is made for them
    with evaluation.open_store(options.output, arguments) as store:
        store.update_manifest(command=list(getattr(options, "command", [])))
        evaluation.keep_in(store, engine)
        written = texts.generate_texts(
            engine, prompts, columns, decoding, batch_size=options.batch_size
        )
        path = texts.write_generations(options.output / GENERATIONS, written)
    print(f"{len(written)} texts, {len(prompts)} prompts at {len(columns)} strengths: {path}")
    return 0


def _arguments(
    options: argparse.Namespace,
    transport: LearnedTransport,
    columns: Sequence[Modulation],
    prompts: Sequence[str],
    decoding: Decoding,
) -> dict[str, Any]:
    """What determines the texts, for the manifest."""
    from aim_plugins.core.identity import fingerprint

    return {
        "command": "transport generate",
        "pretrained": options.pretrained,
        "transport": transport.fingerprint,
        "method": transport.metadata.method,
        "strength": [column.transport_strength for column in columns],
        "noise_std": [column.std for column in columns],
        "noise_seed": options.noise_seed,
        "prompts": fingerprint(list(prompts)),
        "decoding": decoding.record,
        "dtype": options.dtype,
        "max_length": options.max_length,
    }
