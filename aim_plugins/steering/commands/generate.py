"""`aim-plugins transport generate`: what a steered model writes, at every strength.

OUT/
  generations.jsonl     one line for each strength and prompt
  manifest.json
  records/              finished batches, from which an interrupted run goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from aim_plugins.core.commands import keeping_finished_work
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import format_strength
from aim_plugins.modulation.arguments import columns_of
from aim_plugins.steering.settings.evaluation import GENERATIONS, GenerateSettings
from aim_plugins.steering.study import (
    EvaluationStudy,
    keep_in,
    load_steered,
    shorten,
    steering_record,
)
from aim_plugins.steering.texts import (
    Generation,
    encode_prompts,
    generate_texts,
    write_generations,
)
from aim_plugins.sweep.store import SweepStore
from aim_plugins.transport.change import read_transport
from aim_plugins.transport.data.datasets import load_prompts

_SHOWN_PROMPTS, _SHOWN_STRENGTHS, _SHOWN_LETTERS = 3, 5, 80


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
        # Each as it was given: of a grid the columns are every pair of both.
        **{
            name: list(dict.fromkeys(column.settings[name] for column in columns))
            for name in ("strength", "noise_std")
        },
        "noise_seed": settings.noise_seed,
        "prompts": fingerprint(prompts),
        "decoding": settings.decoding_record,
    }
    SweepStore.check(settings.output, arguments)
    engine = load_steered(settings, transport)
    encode_prompts(engine, prompts, settings)  # before a folder is made for them
    versions = {name: version(name) for name in EvaluationStudy.packages}
    opened = SweepStore.open(
        settings.output, arguments, versions=versions, axes=EvaluationStudy.axes
    )
    with keeping_finished_work(), opened as store:
        store.update_manifest(command=list(command))
        keep_in(store, engine)
        written = generate_texts(engine, prompts, columns, settings, batch_size=settings.batch_size)
        path = write_generations(settings.output / GENERATIONS, written)
    print(f"{len(written)} texts, {len(prompts)} prompts at {len(columns)} strengths: {path}")
    print(samples(written))


def samples(written: Sequence[Generation]) -> str:
    """The first prompts' texts beside their strengths, of which a few are taken evenly."""
    texts: dict[str, dict[tuple[float, float], str]] = {}
    for one in written:
        key = one.strength, one.noise_std
        texts.setdefault(one.prompt, {}).setdefault(key, one.text)
    keys = list(dict.fromkeys((one.strength, one.noise_std) for one in written))
    count = min(_SHOWN_STRENGTHS, len(keys))
    chosen = [keys[round(place * (len(keys) - 1) / max(count - 1, 1))] for place in range(count)]
    noisy = any(noise for _, noise in keys)
    labels = [
        f"λ={format_strength(strength)}" + f" σ={format_strength(noise)}" * noisy
        for strength, noise in chosen
    ]
    width = max(map(len, labels))
    return "\n".join(
        "\n".join(
            ["", shorten(prompt, _SHOWN_LETTERS)]
            + [
                f"  {label:{width}}  {shorten(texts[prompt][key], _SHOWN_LETTERS)}"
                for label, key in zip(labels, chosen, strict=True)
            ]
        )
        for prompt in list(texts)[:_SHOWN_PROMPTS]
    )
