"""A model under a change, beside the model as it is: every image its own control."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from aim_plugins.core.strengths import Axis, format_strength
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.paired import Interval, in_points, show_p
from aim_plugins.sweep.table import table_cell

_COLUMNS = "strength,images,value,low,high,difference,difference_low,difference_high,p"


@dataclass(frozen=True)
class Beside:
    """What a change does without noise.

    Attributes:
        strength: Its strength.
        value: A share under it, such as the accuracy.
        difference: By how much that is above the share of the model as it is.
        p: How likely a difference as large is by chance.
        n: Number of images.
    """

    strength: float
    value: Interval
    difference: Interval
    p: float
    n: int

    @property
    def cells(self) -> list[float | int]:
        """Its line in a table of all."""
        value, gain = self.value, self.difference
        return [
            *(self.strength, self.n, value.value, value.low, value.high),
            *(gain.value, gain.low, gain.high, self.p),
        ]


def differences_csv(found: Sequence[Beside]) -> str:
    """Every comparison as CSV, whose floats read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS.split(","))
    writer.writerows(map(table_cell, one.cells) for one in found)
    return text.getvalue()


def show_beside(
    found: Sequence[Beside], axis: Axis, metric: str, how: str, *, std: float = 0.0
) -> Overview:
    """The comparisons for report and terminal.

    Args:
        found: The comparisons.
        axis: What the strengths are.
        metric: What was compared, in words.
        how: Which intervals and tests these are.
        std: Of the noise beside the change.
    """
    noise = f"at noise std σ = {format_strength(std)}" if std else "without noise"
    return Overview(
        f"{metric[:1].upper()}{metric[1:]} along the {axis.quantity}, {noise}",
        f"{found[0].n} images. Differences are from the model as it is, image by image; intervals "
        f"are 95 % ({how}), each p is for itself.",
        columns=[f"{axis.quantity} {axis.symbol}", metric, "difference", "p"],
        rows=[
            [
                format_strength(one.strength),
                _percent(one.value),
                in_points(one.difference),
                show_p(one.p),
            ]
            for one in found
        ],
    )


def _percent(one: Interval) -> str:
    return f"{100 * one.value:.1f} % [{100 * one.low:.1f}, {100 * one.high:.1f}]"
