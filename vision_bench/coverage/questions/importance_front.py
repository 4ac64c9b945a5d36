"""What `coverage importance` shows: terminal, files, picture, and the report page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from aim_plugins.coverage.importance_pictures import draw_effects, spread_text
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.effects import Drop, Effect, tell_effect
from aim_plugins.coverage.relevance.relevance import Relevance, top_neurons
from aim_plugins.coverage.relevance.wisdom import Wisdom
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page

_COLUMNS = (
    "attributor", "neurons", "drop of accuracy", "random, same layers", "random, network", "p",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ImportanceFindings:
    """What the study found.

    Attributes:
        layers: The neurons.
        effects: What each attributor's neurons are worth, at every number of them.
        drops: The drop of every choice, by kind, attributor, number of neurons and draw.
        scores: A score of each neuron by attributor.
        relevance: Relevance by class, of attributors that have it.
        classes: Names of the classes.
        most: How many neurons are named at most of a class.
        accuracy: With all neurons.
        inputs: Size of the suite.
        data: What a person calls it.
        wisdom: The vote, where it was held.
        silent: Why attributors had none, by name.
    """

    layers: Layers
    effects: Sequence[Effect]
    drops: Mapping[tuple[str, str, int, int], Drop]
    scores: Mapping[str, Float[Tensor, " neurons"]]
    relevance: Mapping[str, Relevance]
    classes: Sequence[str]
    most: int
    accuracy: float
    inputs: int
    data: str
    wisdom: Wisdom | None
    silent: Mapping[str, str]


def publish(folder: Path, found: ImportanceFindings, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Raises:
        OSError: If a file cannot be written.
    """
    drawn = draw_effects(found.effects)
    files = {
        "importance.json": json.dumps(importance_json(found), indent=1) + "\n",
        "ablation.csv": ablation_csv(found),
    }
    sentences = _sentences(found)
    title = str(manifest.get("model", "A model"))
    rows = [_row(one) for one in found.effects]
    first = Section(
        "Without its important neurons",
        "The most relevant neurons are set to zero. In brackets 95 % intervals: of an attributor's "
        "neurons over images, each its own control; of random ones the least and the largest drop. "
        "p: how likely one of the random choices of the same layers would do as much, if the "
        "attributor's were one of them. In the picture points are single random choices, and bars "
        "the 95 % intervals of attributors over images and of means over choices.",
        sentences,
        {"drop of accuracy against neurons taken out": drawn["png"]},
        [
            Table(
                [*_COLUMNS, "where they are"], [[*_row(one), _where(one)] for one in found.effects]
            )
        ],
    )
    sections = [first, _places(found)]
    if found.wisdom is not None:
        sections.append(_votes(found.wisdom, found.silent))
    summary = f"With all neurons {found.accuracy:.1%} of {found.inputs} images are right."
    return publish_page(
        folder,
        Page("Importance", title, found.data, f"{summary} {sentences[0]}", sections),
        manifest,
        files=files,
        pictures={f"ablation.{suffix}": picture for suffix, picture in drawn.items()},
        table=Overview(f"{title} on {found.data}", columns=_COLUMNS, rows=rows).as_text(),
        sentences=[summary, *sentences],
        others=["scores/"],
    )


def _row(one: Effect) -> list[str]:
    drop = one.drop
    return [
        one.attributor,
        str(one.neurons),
        f"{drop.value:.3f} [{drop.low:.3f}, {drop.high:.3f}]",
        spread_text(one.matched),
        spread_text(one.random),
        f"{one.chance:.2f}",
    ]


def _where(one: Effect) -> str:
    return ", ".join(f"{layer} {count}" for layer, count in one.places.items())


def _sentences(found: ImportanceFindings) -> list[str]:
    """A sentence for each attributor, of the number of neurons at which it gains most."""
    return [
        tell_effect(max(own, key=lambda one: one.drop.value - max(one.random)))
        for own in _by_attributor(found.effects).values()
    ]


def _by_attributor(effects: Sequence[Effect]) -> dict[str, list[Effect]]:
    found: dict[str, list[Effect]] = {}
    for one in effects:
        found.setdefault(one.attributor, []).append(one)
    return found


def _places(found: ImportanceFindings) -> Section:
    sizes = dict(zip(found.layers.names, found.layers.sizes, strict=True))
    rows = [
        [one.attributor, str(count), str(sizes[name]), f"{count / sizes[name]:.1%}", name]
        for one in (own[-1] for own in _by_attributor(found.effects).values())
        for name, count in one.places.items()
    ]
    columns = ["attributor", "taken out", "of", "share", "layer"]
    note = (
        "Layers of the most neurons that were taken out. The narrower a layer, the more of all "
        "that passes is lost with each."
    )
    return Section("Where they are", note, tables=[Table(columns, rows)])


def _votes(wisdom: Wisdom, silent: Mapping[str, str]) -> Section:
    heard = max(1, wisdom.batches - wisdom.silent)
    rows = []
    for name, weight in wisdom.weights.items():
        failures = wisdom.failures[name]
        missed = f"in {failures} of {wisdom.batches} votes" if failures else ""
        rows.append([name, f"{weight / heard:.3f}", missed])
    rows += [[name, "–", reason] for name, reason in silent.items()]
    note = (
        f"Mean weight of each attributor over {heard} votes; {wisdom.silent} more were undecided, "
        "as no attributor's neurons mattered."
    )
    return Section("The vote", note, tables=[Table(["attributor", "weight", "has no vote"], rows)])


def importance_json(found: ImportanceFindings) -> dict[str, Any]:
    """The neurons of each layer in order of relevance, and the most relevant ones of each class."""
    attributors: dict[str, Any] = {}
    for name, scores in found.scores.items():
        attributors[name] = {"all": _ranked(found.layers, scores, None)}
        if (relevance := found.relevance.get(name)) is None:
            continue
        counts = relevance.counts.tolist()
        attributors[name] |= {
            "inputs": relevance.inputs,
            "correct": sum(counts),
            "classes": {
                label: _ranked(found.layers, relevance.scores[index], found.most)
                for index, label in enumerate(found.classes)
                if counts[index]
            },
        }
    return {
        "data": found.data,
        "inputs": found.inputs,
        "accuracy": found.accuracy,
        "layers": found.layers.to_json(),
        "attributors": attributors,
        "votes": None if found.wisdom is None else _votes_json(found.wisdom, found.silent),
        "effects": [_effect_json(one) for one in found.effects],
    }


def _ranked(
    layers: Layers, scores: Float[Tensor, " neurons"], most: int | None
) -> dict[str, dict[str, list]]:
    found = {}
    for name, size, place in zip(layers.names, layers.sizes, layers.slices, strict=True):
        columns = top_neurons(scores, layers, min(most or size, size), layer=name)
        found[name] = {
            "neurons": [column - place.start for column in columns],
            "scores": scores[columns].tolist(),
        }
    return found


def _votes_json(wisdom: Wisdom, silent: Mapping[str, str]) -> dict[str, Any]:
    return {
        "batches": wisdom.batches,
        "undecided": wisdom.silent,
        "weights": wisdom.weights,
        "failures": wisdom.failures,
        "cannot_vote": dict(silent),
    }


def _effect_json(one: Effect) -> dict[str, Any]:
    return {
        "attributor": one.attributor,
        "neurons": one.neurons,
        "layers": dict(one.places),
        "drop": one.drop.value,
        "interval": [one.drop.low, one.drop.high],
        "random_same_layers": list(one.matched),
        "random_network": list(one.random),
        "p": one.chance,
    }


def ablation_csv(found: ImportanceFindings) -> str:
    """A line for each choice of neurons, with the paired interval over images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["choice", "attributor", "neurons", "draw", "accuracy", "drop", "low", "high"])
    for (kind, attributor, neurons, draw), drop in found.drops.items():
        numbers = [
            repr(one) for one in (found.accuracy - drop.value, drop.value, drop.low, drop.high)
        ]
        writer.writerow([kind, attributor, neurons, draw, *numbers])
    return text.getvalue()
