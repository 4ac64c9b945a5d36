"""Coverage for readers: the terminal's table, and the sections of a report page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aim_plugins.coverage.pictures import draw_comparison, draw_growth, draw_heat_map
from aim_plugins.coverage.results import (
    IMAGES,
    NOISE,
    TRAINING,
    Result,
    Spread,
    Words,
    readings,
    show_value,
)
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Section, Table

Pictures = dict[str, bytes]
"""The content of picture files by name."""


def as_text(title: str, results: Sequence[Result], words: Words = IMAGES) -> str:
    """The results for a terminal."""
    table = result_table([one for one in results if not one.is_part], words)
    return Overview(title, columns=table.columns, rows=table.rows).as_text()


def result_table(results: Sequence[Result], words: Words = IMAGES) -> Table:
    """Criteria with their ceilings, and the random suites that there are."""
    names = {TRAINING: words.training, NOISE: words.noise}
    kinds = [kind for kind in names if any(kind in one.random for one in results)]
    rows = [
        [
            one.label,
            show_value(one.value, one.unit),
            show_value(one.ceiling, one.unit),
            *(_spread(one.random.get(kind), one.unit) for kind in kinds),
        ]
        for one in results
    ]
    return Table(["criterion", "value", "at most", *(names[kind] for kind in kinds)], rows)


def _extended(table: Table, column: str, cells: Sequence[str]) -> Table:
    rows = [[*row, cell] for row, cell in zip(table.rows, cells, strict=True)]
    return Table([*table.columns, column], rows)


def _spread(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "–"
    mean = show_value(spread.mean, unit)
    if not math.isfinite(spread.low):
        return mean
    return f"{mean} [{show_value(spread.low, unit)}, {show_value(spread.high, unit)}]"


def comparison(
    results: Sequence[Result], inputs: int, words: Words = IMAGES
) -> tuple[Section, Pictures]:
    """The section on every criterion, and its picture.

    Args:
        results: The criteria.
        inputs: Size of the suite.
        words: What random suites consist of.
    """
    whole = [one for one in results if not one.is_part]
    drawn = draw_comparison(whole, words)
    counts = [f"{one.summary} ({one.source})" for one in whole]
    note = f"Each line ends at the most that any {inputs} inputs can reach."
    if any(one.random for one in whole):
        note += (
            " In brackets and as bars, where one more random suite of this size would lie with "
            "95 % probability, by Student's law over the suites drawn. Criteria of what "
            f"{words.trained} do not do have none of {words.training}."
        )
    section = Section(
        "Coverage",
        note,
        readings(whole, words),
        {"coverage against random suites": drawn["png"]},
        [_extended(result_table(whole, words), "what it counts", counts)],
    )
    return section, {f"coverage.{kind}": content for kind, content in drawn.items()}


def combinations(
    results: Sequence[Result], words: Words = IMAGES
) -> tuple[Section, Pictures] | None:
    """The section on IDC of layers and classes, and its picture; None where there is none."""
    parts = [one for one in results if one.is_part]
    if not parts:
        return None
    drawn = draw_comparison(parts, words)
    training = ["–" if one.training is None else show_value(one.training) for one in parts]
    section = Section(
        "IDC of layers and classes",
        "The important neurons of each layer, and of the subject layer for each class, on the "
        f"inputs that {words.judged}.",
        readings(parts, words),
        {"IDC of layers and classes": drawn["png"]},
        [_extended(result_table(parts, words), f"all {words.trained}", training)],
    )
    return section, {f"idc.{kind}": content for kind, content in drawn.items()}


def breakdown(
    results: Sequence[Result], noun: str, by: str = "classes, as the model predicts them"
) -> tuple[Section, Pictures] | None:
    """The section on layers or classes, and its picture; None where there is one row at most.

    Args:
        results: The criteria.
        noun: "layer", or "class" or what else `by_class` tells apart.
        by: What that is, in the plural.
    """
    if noun == "layer":
        parts = _layers_only({one.label: one.by_layer for one in results})
    else:
        parts = {one.label: dict(one.by_class) for one in results if one.by_class}
    rows = list(dict.fromkeys(name for values in parts.values() for name in values))
    columns = [label for label, values in parts.items() if values]
    if len(rows) < 2 or not columns:
        return None
    table = [[parts[label].get(name, math.nan) for label in columns] for name in rows]
    drawn = draw_heat_map(rows, columns, table, noun=noun)
    units = {one.label: one.unit for one in results}
    lines = [
        [
            name,
            *(show_value(value, units[label]) for label, value in zip(columns, row, strict=True)),
        ]
        for name, row in zip(rows, table, strict=True)
    ]
    by = "layers" if noun == "layer" else by
    section = Section(
        f"By {noun}",
        f"Coverage of {by}. Colours compare the rows of a column, not columns.",
        pictures={f"coverage by {noun}": drawn["png"]},
        tables=[Table([noun, *columns], lines)],
    )
    return section, {f"coverage-by-{noun}.{kind}": content for kind, content in drawn.items()}


def _layers_only(parts: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By criterion of layers, the values of layers; the IDC of several layers is one column."""
    layers = [name for values in parts.values() if len(values) > 1 for name in values]
    found: dict[str, dict[str, float]] = {}
    for label, values in parts.items():
        own = {name: value for name, value in values.items() if name in layers}
        if own:
            found.setdefault(label.partition(" ")[0], {}).update(own)
    return {label: own for label, own in found.items() if len(own) > 1}


def growing(
    growth: Sequence[Mapping[str, float]], results: Sequence[Result], words: Words = IMAGES
) -> tuple[Section, Pictures] | None:
    """The section on coverage along the suite, and its picture; None of a suite too small."""
    if len(growth) < 3:
        return None
    drawn = draw_growth(growth, results)
    compared = any(TRAINING in one.random for one in results)
    grey = f" Grey: {words.training}, as many as the suite has." if compared else ""
    section = Section(
        "With every input",
        "One random order of the suite, on a logarithmic axis: a straight line means as many new "
        "units from each tenfold, and a curve that stays flat to its end that few are left to find."
        + grey,
        pictures={"coverage against the number of inputs": drawn["png"]},
    )
    return section, {f"growth.{kind}": content for kind, content in drawn.items()}
