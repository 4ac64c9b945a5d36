"""Strengths, results and curves of a sweep; knows no harness and no model.

A sweep evaluates one frozen model at several strengths of a modulation. The modules follow the life
of its results:

- `strengths`: what to evaluate (`"0:3:0.25"`, lists, numbers).
- `records`: finished batches of an engine, so that an interrupted run goes on where it was.
- `store`, `cells`: the sweep's folder, safe against kills, resumable.
- `table`: the tidy table and the points of a curve.
- `paired`: whether two models' answers to the same questions can be told apart.
- `plots`, `report`: pictures, and one self-contained HTML page.

Only `strengths` and `table` are imported here, because they need the standard library alone.
"""

from aim_plugins.core.strengths import format_strength, parse_strengths, validate_strength
from aim_plugins.sweep.table import Point, Row, pool_draws, read_table, write_table

__all__ = [
    "Point",
    "Row",
    "format_strength",
    "parse_strengths",
    "pool_draws",
    "read_table",
    "validate_strength",
    "write_table",
]
