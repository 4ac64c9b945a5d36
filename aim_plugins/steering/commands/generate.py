"""`aim-plugins transport generate`: what a steered model writes, at every strength.

OUT/
  generations.jsonl     one line for each strength and prompt
  manifest.json
  records/              finished batches, from which an interrupted run goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.steering.settings import GENERATIONS, GenerateSettings
from aim_plugins.steering.study import EvaluationStudy, keep_in, load_steered, steering_record
from aim_plugins.steering.texts import encode_prompts, generate_texts, write_generations
from aim_plugins.sweep.store import SweepStore
from aim_plugins.transport.change import read_transport
from aim_plugins.transport.data.datasets import load_prompts


def generate(settings: GenerateSettings, command: Sequence[str]) -> None:
    """Writes texts, or what an interrupted run left of them.

    Raises:
        ValueError: If the transport belongs to another model, a prompt is too long, or the folder
            holds another run.
    """
    prompts = load_prompts(settings.prompts)
    transport = read_transport(settings.transport)[0]
    columns = columns_of(
        strength=settings.strength,
        transport=transport,
        noise_std=settings.noise_std,
        noise_seed=settings.noise_seed,
    )
    arguments = {
        "command": "transport generate",
        **steering_record(settings, transport),
        "strength": [column.settings["strength"] for column in columns],
        "noise_std": [column.settings["noise_std"] for column in columns],
        "noise_seed": settings.noise_seed,
        "prompts": fingerprint(prompts),
        "decoding": settings.decoding_record,
    }
    SweepStore.check(settings.output, arguments)
    engine = load_steered(settings, transport)
    encode_prompts(engine, prompts, settings)  # before a folder is made for them
    versions = {name: version(name) for name in EvaluationStudy.packages}
    with SweepStore.open(
        settings.output, arguments, versions=versions, axes=EvaluationStudy.axes
    ) as store:
        store.update_manifest(command=list(command))
        keep_in(store, engine)
        written = generate_texts(engine, prompts, columns, settings, batch_size=settings.batch_size)
        path = write_generations(settings.output / GENERATIONS, written)
    print(f"{len(written)} texts, {len(prompts)} prompts at {len(columns)} strengths: {path}")
