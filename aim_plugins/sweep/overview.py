"""What a report shows before its curves, where it compares several sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Overview:
    """Pictures and a table above the curves of a report.

    Attributes:
        title: What they show.
        note: How to read them.
        pictures: The content of PNG files, by what each shows.
        columns: Headings of the table.
        rows: Its lines, as text; the first cell names the line.
        data: What was compared on which data, for the head of the page.
        noun: What stands in the place of the tasks.
    """

    title: str
    note: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    data: str = ""
    noun: str = "task"

    def as_text(self) -> str:
        """Title, note and table for a terminal.

        >>> print(Overview("Ships", columns=["name", "masts"], rows=[["Aurora", "3"]]).as_text())
        Ships
        name    masts
        Aurora      3
        """
        lines = [list(self.columns), *map(list, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join(filter(None, [self.title, self.note, *table]))
