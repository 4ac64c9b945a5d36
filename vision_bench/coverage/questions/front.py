"""What a question shows: terminal, files, pictures and the report page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from aim_plugins.coverage.learning import END2END
from aim_plugins.coverage.registry import idc_label
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, publish_page
from aim_plugins.sweep.paired import Interval

_SIDE = 120
"""Longest side of a shown image, in pixels."""


@dataclass(frozen=True)
class Answer:
    """What a question found, for readers.

    Attributes:
        name: The question, which names the files.
        title: The question in words.
        data: What a person calls the suite.
        summary: The result in a sentence or two.
        columns: Headings of the terminal's table.
        rows: Its lines.
        sections: Parts of the page; the sentences of the first are printed too.
        pictures: The content of picture files by name.
        header: Headings of the CSV.
        lines: Its lines.
        content: Everything, as JSON.
    """

    name: str
    title: str
    data: str
    summary: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    sections: Sequence[Section]
    pictures: Mapping[str, bytes]
    header: Sequence[str]
    lines: Sequence[Sequence[object]]
    content: Mapping[str, Any] = field(default_factory=dict)


def publish(folder: Path, answer: Answer, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Raises:
        OSError: If a file cannot be written.
    """
    content = json.dumps(plain({"data": answer.data, **answer.content}), indent=2) + "\n"
    model = str(manifest.get("model", "A model"))
    table = Overview(f"{model}: {answer.title}", columns=answer.columns, rows=answer.rows)
    return publish_page(
        folder,
        Page(f"Coverage of {model}", answer.title, answer.data, answer.summary, answer.sections),
        manifest,
        files={
            f"{answer.name}.json": content,
            f"{answer.name}.csv": csv_text([answer.header, *answer.lines]),
        },
        pictures=answer.pictures,
        table=table.as_text(),
        sentences=[answer.summary, *answer.sections[0].sentences],
    )


def shown_labels(labels: Iterable[str]) -> list[str]:
    """The criteria that tables and pictures show: of IDC's sets, the first and all layers' one.

    The other sets stand in the CSV.
    """
    whole = idc_label(1, END2END)
    return [one for one in labels if not one.startswith("IDC ") or one == whole]


def show_interval(one: Interval) -> str:
    """A value with its interval, for readers: three digits of the largest of the numbers.

    >>> show_interval(Interval(0.5, 0.25, 0.75)), show_interval(Interval(-0.0, -0.001, 0.002))
    ('0.500 [0.250, 0.750]', '0 [-0.00100, 0.00200]')
    """
    texts = _with_digits([x for x in vars(one).values() if math.isfinite(x)])
    if not math.isfinite(one.value):
        return "–"
    return texts[0] if len(texts) < 3 else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def show_number(value: float) -> str:
    """A number with three digits.

    >>> show_number(0.01234), show_number(5469.7)
    ('0.0123', '5470')
    """
    return _with_digits([value])[0] if math.isfinite(value) else "–"


def _with_digits(numbers: Sequence[float]) -> list[str]:
    """Numbers with as many decimals as give the largest three digits."""
    scale = max(map(abs, numbers), default=0.0)
    decimals = min(max(2 - math.floor(math.log10(scale)), 0), 6) if scale else 0
    if all(float(one).is_integer() for one in numbers):
        decimals = 0
    return ["0" if not round(one, decimals) else f"{one:.{decimals}f}" for one in numbers]


def show_percent(one: Interval) -> str:
    """A share with its interval in percent, for readers.

    >>> show_percent(Interval(0.5, 0.25, 0.75))
    '50 % [25, 75]'
    """
    if not math.isfinite(one.value):
        return "–"
    return f"{100 * one.value:.0f} % [{100 * one.low:.0f}, {100 * one.high:.0f}]"


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; numbers are written whole, and those that are none stay empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([_cell(one) for one in row])
    return text.getvalue()


def plain(value: Any) -> Any:
    """A value as JSON, whose numbers that are none are null."""
    if isinstance(value, Interval):
        return plain({"value": value.value, "low": value.low, "high": value.high})
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def picture_of(pixels: UInt8[Tensor, "3 height width"]) -> bytes:
    """A PNG of an image; small ones are enlarged by whole pixels."""
    image = Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).numpy())
    factor = max(1, _SIDE // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    return value
