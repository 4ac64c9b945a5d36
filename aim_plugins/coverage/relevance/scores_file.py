"""Scores of neurons as CSV: `LayerName,NeuronIndex,Score`, the layout of the WISDOM tool."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing, write_atomic
from aim_plugins.coverage.layers import Layers

HEADER = ["LayerName", "NeuronIndex", "Score"]


def write_scores(
    path: str | Path,
    layers: Layers,
    scores: Shaped[Tensor, " neurons"],
    exclude_last: bool = True,
) -> Path:
    """Writes a score for each neuron.

    Args:
        path: The file.
        layers: The neurons.
        scores: Their scores, whole numbers or others.
        exclude_last: Leaves the last layer out, as the WISDOM tool does.

    Returns:
        The path.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    written = len(layers.names) - (1 if exclude_last and len(layers.names) > 1 else 0)
    for name, place in list(zip(layers.names, layers.slices, strict=True))[:written]:
        writer.writerows([name, index, score] for index, score in enumerate(scores[place].tolist()))
    return write_atomic(path, text.getvalue())


def read_scores(path: str | Path, layers: Layers) -> Shaped[Tensor, " neurons"]:
    """Reads a score for each neuron, in float64; one that the file leaves out has 0.

    Args:
        path: The file.
        layers: The neurons of the model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its header or a line is another one, a neuron is none of `layers` or has two
            scores, a score is no number, or no line follows the header.
    """
    path = existing(path, "csv_file")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    if not rows or [one.strip() for one in rows[0]] != HEADER:
        found = ",".join(rows[0]) if rows else "nothing"
        raise ValueError(f"{path}: the first line is {found!r}, not {','.join(HEADER)!r}")
    scores = torch.zeros(layers.neurons, dtype=torch.float64)
    lines: dict[int, int] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        place = f"{path}, line {number}"
        column, score = _read_row(row, layers, place)
        if column in lines:
            raise ValueError(
                f"{place}: {layers.neuron_name(column)} has a score already, in line "
                f"{lines[column]}: keep one of them"
            )
        lines[column] = number
        scores[column] = score
    if not lines:
        raise ValueError(f"{path}: no neuron has a score")
    return scores


def _read_row(row: list[str], layers: Layers, place: str) -> tuple[int, float]:
    if len(row) != len(HEADER):
        raise ValueError(f"{place}: {len(row)} values, not {','.join(HEADER)}")
    name, index, score = (one.strip() for one in row)
    if name not in layers.names:
        raise ValueError(
            f"{place}: LayerName={name!r} is no layer of this model: "
            f"{did_you_mean(name, layers.names)}"
        )
    if not index.isdecimal():
        raise ValueError(f"{place}: NeuronIndex={index!r} is no whole number from 0 on")
    try:
        number = float(score)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place}: Score={score!r} is no finite number")
    try:
        return layers.column(name, int(index)), number
    except ValueError as error:
        raise ValueError(f"{place}: {error}: the file is of another model") from error
