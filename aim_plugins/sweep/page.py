"""A report that is no curve over strengths: one page of sentences, pictures, tables and galleries.

It looks as the report of a sweep does, needs no other file, and allows itself neither a request nor
a script.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aim_plugins.core.files import safe_name, write_atomic
from aim_plugins.sweep.figures import DPI
from aim_plugins.sweep.front import CURVES
from aim_plugins.sweep.report import command_of, environment, flatten, read_template
from aim_plugins.sweep.report_data import data_uri

_NUMBER = re.compile(r"(p = |(p )?< )?[+-]?(\d|nan\b)|–?$")
"""What the cell of a number begins with: a figure, a p, or a dash for none."""
_LONG = 44
"""Characters above which a cell may be broken into lines."""
_PIXELS_PER_INCH = 112
"""Of a picture on the page, which makes its text about as large as the text around it."""


class Link(str):
    """A cell that leads to a file beside the page.

    Args:
        text: What the cell says.
        path: The file, relative to the page's folder.
    """

    href: str

    def __new__(cls, text: str, path: Path) -> Link:
        link = super().__new__(cls, text)
        link.href = urllib.parse.quote(path.as_posix())
        return link


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: Headings; the first column names the line.
        rows: Its lines.
        title: What it shows; empty where the section says it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    @property
    def looks(self) -> list[str]:
        """Of each column, how it stands: numbers to the right, texts to the left, in lines if long.

        >>> Table(["head", "adds", "edit"], [["3", "+2.5 [+1.5, +3.4]", "ablated"]]).looks
        ['words', 'number', 'words']
        """
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        return ["words", *map(_look, columns[1:])]


def _look(cells: Sequence[str]) -> str:
    if max(map(len, cells), default=0) > _LONG:
        return "long"
    return "number" if any(cells) and all(map(_NUMBER.match, cells)) else "words"


@dataclass(frozen=True)
class Exhibit:
    """One or two small pictures with what there is to say of them.

    Attributes:
        pictures: The content of PNG or JPEG files, by what each shows.
        title: In a few words.
        text: Below the title.
    """

    pictures: Mapping[str, bytes]
    title: str
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page, with any of what may stand in it, in this order.

    Attributes:
        title: Its heading.
        note: How to read it.
        sentences: What follows from it.
        pictures: The content of PNG files, by what each shows.
        tables: Tables.
        exhibits: Small pictures in a row.
    """

    title: str
    note: str = ""
    sentences: Sequence[str] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    exhibits: Sequence[Exhibit] = ()

    @property
    def anchor(self) -> str:
        """Its address on the page."""
        return safe_name(self.title.lower().replace(" ", "-"))


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        kicker: What kind of report it is.
        title: The model, as a rule.
        subject: What was measured on what.
        summary: The result in a sentence or two.
        sections: Its parts.
    """

    kicker: str
    title: str
    subject: str
    summary: str
    sections: Sequence[Section]


def publish_page(
    folder: Path,
    page: Page,
    manifest: Mapping[str, Any],
    *,
    files: Mapping[str, str],
    pictures: Mapping[str, bytes],
    table: str,
    sentences: Sequence[str],
    others: Sequence[str] = (),
) -> Path:
    """Writes a study's page with the files and pictures beside it, and says where they lie.

    Pictures that a former run left and this one lacks are removed.

    Args:
        folder: The study's folder.
        page: What it shows.
        manifest: Its manifest.
        files: The content of files by name.
        pictures: The content of pictures by name, in `curves`.
        table: What the terminal shows.
        sentences: What follows from it, shown below.
        others: Names of what was written before, which are said too.

    Returns:
        The path of the page.

    Raises:
        OSError: If a file cannot be written.
    """
    for name, content in files.items():
        write_atomic(folder / name, content)
    curves = folder / CURVES
    curves.mkdir(exist_ok=True)
    written = [write_atomic(curves / name, content) for name, content in pictures.items()]
    for old in set(curves.iterdir()) - set(written):
        old.unlink()
    report = write_page(folder, page, manifest)
    print("\n".join([table, *(f"  {sentence}" for sentence in sentences), ""]))
    for name in [*files, *others, f"{CURVES}/", report.name]:
        print(folder / name)
    return report


def write_page(folder: str | Path, page: Page, manifest: Mapping[str, Any]) -> Path:
    """Writes `report.html`.

    Args:
        folder: Where to.
        page: What it shows.
        manifest: The study's manifest, which is shown whole; `command` as what repeats it.

    Returns:
        The path. The same input gives the same bytes.

    Raises:
        ValueError: If a picture is of an unknown format.
        OSError: If it cannot be written.
    """
    provenance = {name: value for name, value in manifest.items() if name != "command"}
    text = (
        environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            command=command_of(manifest),
            provenance=flatten(provenance),
            style=Markup(read_template("report.css.j2")),
            uri=data_uri,
            width=_width,
        )
    )
    return write_atomic(Path(folder) / "report.html", text)


def _width(picture: bytes) -> int:
    """How wide a PNG of ours is shown at most, in pixels of the page."""
    return int.from_bytes(picture[16:20], "big") * _PIXELS_PER_INCH // DPI
