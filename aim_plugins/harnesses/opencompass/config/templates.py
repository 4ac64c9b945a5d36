"""Fields of prompt templates that the data lack: OpenCompass sends their braces as they stand."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opencompass.datasets.custom import make_custom_dataset_config, parse_example_dataset
from opencompass.utils import dataset_abbr_from_cfg

from aim_plugins.core.errors import did_you_mean

_TEMPLATES = ("prompt_template", "ice_template")
_LATEX = re.compile(r"[\\\a\b\f\r\t\v][A-Za-z]+(?:\{[^{}]*\})+|[\^_]\{\w+\}")
"""\\frac{a}{b}, which without an r before its string begins with a form feed, and x^{n}."""
_FIELD = re.compile(r"(?<!\{)\{([A-Za-z_]\w*)\}(?!\})")


def check_fields(data_set: Mapping[str, Any], columns: Iterable[str]) -> None:
    """Refuses a data set whose prompt template asks for what the data do not have.

    Args:
        data_set: The data set.
        columns: The columns of its data.

    Raises:
        ValueError: With the field and the nearest column. A name among the `input_columns` of the
            data set passes, whatever the data have.
    """
    columns = list(columns)
    infer = data_set.get("infer_cfg") or {}
    declared = (data_set.get("reader_cfg") or {}).get("input_columns") or []
    declared = declared.split() if isinstance(declared, str) else list(declared)
    # An inferencer may fill in a field of its own, which its settings name.
    own = [value for value in (infer.get("inferencer") or {}).values() if isinstance(value, str)]
    known = {*columns, *declared, *own}
    for kind in _TEMPLATES:
        for text in _texts(infer.get(kind)):
            for field in _FIELD.findall(_LATEX.sub("", text)):
                if field not in known:
                    raise ValueError(
                        f"datasets: {dataset_abbr_from_cfg(data_set)}: its {kind} has {{{field}}}, "
                        f"and the data have no such column: {did_you_mean(field, columns)}; braces "
                        f"that are to be sent as they stand: name {field!r} in input_columns too"
                    )


def check_custom_fields(data_set: Mapping[str, Any], place: Path) -> None:
    """Refuses a custom data set whose prompt template asks for what its first line does not have.

    Args:
        data_set: The data set, filled in by OpenCompass or as the config has it.
        place: The file of its data.

    Raises:
        ValueError: As `check_fields` does, or if the file has no first line.
    """
    abbr = data_set.get("abbr", "a custom data set")
    try:
        columns = parse_example_dataset({"path": str(place)})["input_columns"]
        if "type" not in data_set:
            data_set = make_custom_dataset_config(copy.deepcopy({**data_set, "path": str(place)}))
    except (ValueError, StopIteration, AttributeError) as error:
        raise ValueError(
            f"datasets: {abbr}: {place} does not start with a line of data ({error}): mend it"
        ) from error
    check_fields(data_set, [*columns, "answer"])


def _texts(template: Any) -> Iterator[str]:
    """Every text of a template: of its labels, turns and messages."""
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        if template.get("format_variables", True):
            for value in template.values():
                yield from _texts(value)
    elif isinstance(template, list | tuple):
        for value in template:
            yield from _texts(value)
