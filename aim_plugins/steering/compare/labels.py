"""Labels in pictures that cover neither lines nor each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from aim_plugins.sweep.figures import DPI

_PAD = 6
"""Distance of a label from what it names, in points."""
_SIDES = (
    *((_PAD, 0, "left", "center"), (0, _PAD, "center", "bottom"), (0, -_PAD, "center", "top")),
    *((-_PAD, 0, "right", "center"), (_PAD, _PAD, "left", "bottom"), (_PAD, -_PAD, "left", "top")),
    *((-_PAD, _PAD, "right", "bottom"), (-_PAD, -_PAD, "right", "top")),
)
"""Where a label may stand: its offset in points and alignment, the most readable first."""
_STEP = 6.0
"""Distance of the boxes that stand for a line when labels look for room, in pixels."""


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Moves rising values apart to a least distance, each group about its own middle.

    >>> spread([0.0, 0.0, 1.0], 0.5)
    [-0.25, 0.25, 1.0]
    """
    groups = [([value], value) for value in values]  # members, and the place of the lowest
    merged = True
    while merged:
        merged = False
        for index in range(len(groups) - 1):
            (low, start), (high, other) = groups[index], groups[index + 1]
            if other - start - gap * len(low) < -1e-12:
                members = low + high
                middle = sum(members) / len(members)
                joined = (members, middle - gap * (len(members) - 1) / 2)
                groups[index : index + 2] = [joined]
                merged = True
                break
    return [start + gap * rank for members, start in groups for rank in range(len(members))]


def cover_line(axes: Axes, points: Sequence[tuple[float, float]]) -> list[Bbox]:
    """Boxes along a line, which labels must not cover.

    Args:
        axes: The line's axes, whose layout is settled.
        points: Its points, in data units.
    """
    places = [axes.transData.transform(point) for point in points]
    boxes = [_box(place, 3.0 * DPI / 72) for place in places]
    for (x, y), (other_x, other_y) in zip(places, places[1:], strict=False):
        steps = math.ceil(math.hypot(other_x - x, other_y - y) / _STEP)
        boxes += [
            _box((x + (other_x - x) * k / steps, y + (other_y - y) * k / steps), _STEP / 2)
            for k in range(1, steps)
        ]
    return boxes


def place_label(
    axes: Axes,
    point: tuple[float, float],
    text: str,
    colour: Any,
    size: float,
    taken: list[Bbox],
) -> None:
    """Writes a label at the first side where it covers no point and no other label, if any."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    inside = axes.get_window_extent()
    for right, up, horizontal, vertical in _SIDES:
        label = axes.annotate(
            text.replace("$", r"\$"),
            point,
            xytext=(right, up),
            textcoords="offset points",
            color=colour,
            fontsize=size,
            ha=horizontal,
            va=vertical,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
        )
        box = label.get_window_extent()
        inside_axes = inside.x0 <= box.x0 and box.x1 <= inside.x1
        inside_axes &= inside.y0 <= box.y0 and box.y1 <= inside.y1
        if inside_axes and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return
        label.remove()


def _box(centre: Any, half: float) -> Bbox:
    x, y = centre
    return Bbox([[x - half, y - half], [x + half, y + half]])
