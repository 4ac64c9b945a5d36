"""`aim-plugins transport generate`: what a steered model writes, at every strength.

OUT/
  generations.jsonl     one line for each strength and prompt
  manifest.json
  records/              finished batches, from which an interrupted run goes on
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aim_plugins.core.settings import add_config, add_options
from aim_plugins.steering.settings import GenerateSettings, read_sections

if TYPE_CHECKING:
    from aim_plugins.engines.engine import Modulation
    from aim_plugins.transport.artifact import LearnedTransport

GENERATIONS = "generations.jsonl"


def add_parser(subparsers: Any) -> None:
    """Adds the command to `aim-plugins transport`."""
    parser = subparsers.add_parser(
        "generate",
        help="write texts with a steered model, at every strength",
        description="Continues prompts at every strength of a transport, all strengths in one "
        "batch. Greedy unless --do-sample is given.",
        allow_abbrev=False,
    )
    add_config(parser, "--config")
    add_options(parser, GenerateSettings, required=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        ValueError: If an option is not usable, the transport belongs to another model, or the
            folder holds another run.
    """
    settings = read_sections(GenerateSettings, options, "generate")
    from aim_plugins.engines.engine import modulation_columns
    from aim_plugins.steering import study, texts
    from aim_plugins.sweep.store import SweepStore
    from aim_plugins.transport.artifact import LearnedTransport
    from aim_plugins.transport.data.datasets import load_prompts

    prompts = load_prompts(settings.prompts)
    transport = LearnedTransport.load(settings.transport)
    columns = modulation_columns(
        settings.noise_std,
        noise_seed=settings.noise_seed,
        strength=settings.strength,
        transport=transport.fingerprint,
    )
    strengths = [column.transport_strength for column in columns]
    study.warn_of_unfitted(transport.metadata, strengths)
    arguments = _arguments(settings, transport, columns, prompts)
    SweepStore.check(settings.output, arguments)
    engine = study.load_steered(settings, transport)
    texts.encode_prompts(engine, prompts, settings)  # before a folder is made for them
    with study.open_store(settings.output, arguments) as store:
        store.update_manifest(command=options.command)
        study.keep_in(store, engine)
        written = texts.generate_texts(
            engine, prompts, columns, settings, batch_size=settings.batch_size
        )
        path = texts.write_generations(settings.output / GENERATIONS, written)
    print(f"{len(written)} texts, {len(prompts)} prompts at {len(columns)} strengths: {path}")
    return 0


def _arguments(
    settings: GenerateSettings,
    transport: LearnedTransport,
    columns: Sequence[Modulation],
    prompts: Sequence[str],
) -> dict[str, Any]:
    """What determines the texts, for the manifest."""
    from aim_plugins.core.identity import fingerprint

    return {
        "command": "transport generate",
        "pretrained": settings.pretrained,
        "transport": transport.fingerprint,
        "method": transport.metadata.method,
        "strength": [column.transport_strength for column in columns],
        "noise_std": [column.std for column in columns],
        "noise_seed": settings.noise_seed,
        "prompts": fingerprint(list(prompts)),
        "decoding": settings.decoding_record,
        "dtype": settings.dtype,
        "max_length": settings.max_length,
    }
