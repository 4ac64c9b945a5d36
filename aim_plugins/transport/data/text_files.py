"""Reads texts from files, and tells the file and line of what it cannot read.

JSON lines, JSON, CSV and plain text, in UTF-8. Errors are one line each and begin with the place.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.files import existing

if TYPE_CHECKING:
    from _typeshed import SupportsRichComparisonT as _Text

SUFFIXES = (".jsonl", ".txt", ".json")


def read_sentences(path: str | Path, *, field: str = "text") -> list[str]:
    """Reads sentences: one a line, or one an element; blank lines are skipped.

    Args:
        path: A file of JSON lines (`.jsonl`: objects with `field`, or strings), plain text
            (`.txt`), or a JSON list (`.json`) of such objects or strings.
        field: What an object's sentence is called.

    Returns:
        The sentences in the file's order, without white space around them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is another, a line cannot be read, or there is no sentence.
    """
    path = existing(path, suffixes=SUFFIXES)
    if path.suffix == ".txt":
        sentences = [line for _, line in lines(path)]
    elif path.suffix == ".jsonl":
        sentences = [
            _sentence_of(value, field, f"{path} line {number}")
            for number, value in json_lines(path)
        ]
    else:
        values = read_json(path)
        if not isinstance(values, list):
            raise ValueError(f"{path} holds a JSON {type(values).__name__}: give a list")
        sentences = [
            _sentence_of(value, field, f"{path} element {number}")
            for number, value in enumerate(values, start=1)
        ]
    if not sentences:
        raise ValueError(f"{path} holds no sentence")
    return sentences


def file_in(root: str | Path, *names: str) -> Path:
    """`root` itself if it is a file, else the first of the names that is a file in it.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Path(root)
    if root.is_file():
        return root
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} holds no {' or '.join(names)}")


def lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, stripped, with their numbers from 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not UTF-8.
    """
    path = existing(path)
    # In bytes, since a text file's reader cannot say which line was not UTF-8.
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                # An editor's byte order mark is no part of the first sentence.
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} line {number} is not UTF-8: {error.reason}") from error
            if line:
                yield number, line


def json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Values of a file of JSON lines, with their line numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no JSON, for instance because the file was cut.
    """
    for number, line in lines(path):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is no JSON: {error.msg}") from error


def read_json(path: str | Path) -> Any:
    """Value of a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON in UTF-8.
    """
    path = existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno} is no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason}") from error


def csv_columns(path: str | Path) -> list[str]:
    """Names of the columns of a CSV file with a header; none if it is empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the header is not UTF-8.
    """
    header = next(lines(path), None)
    return [] if header is None else next(csv.reader([header[1]]))


def csv_rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a header, each with the number of its last line.

    Args:
        path: The file; a cell in quotation marks may hold line breaks.
        columns: Those that must be there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a row has too few or too many cells, or the file is not
            UTF-8.
    """
    path = existing(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            header = reader.fieldnames or []
            for column in columns:
                if column not in header:
                    hint = did_you_mean(column, header)
                    raise ValueError(f"{path} has no column {column!r}; {hint}")
            for row in reader:
                # DictReader gathers surplus cells under None, and fills missing ones with None.
                if None in row or None in row.values():
                    raise ValueError(
                        f"{path} line {reader.line_num}: the row does not have {len(header)} cells"
                    )
                yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path} near line {reader.line_num} is no CSV: {error}") from error
        except UnicodeDecodeError as error:
            # The file is decoded in blocks ahead of the reader, so the line is not known.
            raise ValueError(f"{path} is not UTF-8: {error.reason}") from error


def choose(texts: Sequence[_Text], n: int | None, seed: int, name: str) -> tuple[_Text, ...]:
    """Draws texts without replacement, the same ones whatever the order they came in.

    Args:
        texts: What to draw from: texts, or what is sorted as they are.
        n: How many; None keeps all, in their order.
        seed: Seed of the draw.
        name: What they are, for errors.

    Raises:
        ValueError: If there are none, or fewer than `n`.
    """
    if not texts:
        raise ValueError(f"{name} holds no text")
    if n is None:
        return tuple(texts)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(texts):
        raise ValueError(
            f"{name}: n={n!r}, but there are {len(texts)} texts; give 1 to {len(texts)}, "
            "or leave it out to take all"
        )
    return tuple(random.Random(seed).sample(sorted(texts), n))


def _sentence_of(value: Any, field: str, place: str) -> str:
    if isinstance(value, dict):
        if field not in value:
            raise ValueError(f"{place} has no field {field!r}; {did_you_mean(field, value)}")
        value = value[field]
    if not isinstance(value, str):
        raise ValueError(f"{place}: a sentence is a text, not {json.dumps(value)[:60]}")
    if not value.strip():
        raise ValueError(f"{place}: the sentence is empty")
    return value.strip()
