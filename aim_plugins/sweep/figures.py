"""How every picture looks, and its files: the same figure gives the same bytes."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's palette, which people with any colour vision tell apart.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#6E6E6E"
INK = "#222222"
# The palette without its yellow, which is too pale for a line on white; with a marker for each, so
# that lines are told apart in print as well. Wine, brown and a light grey follow, for many lines.
_LOOKS = (
    *((BLUE, "o"), (VERMILLION, "s"), ("#009E73", "^"), ("#CC79A7", "D")),
    *(("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X")),
    *(("#882255", "<"), ("#8C6D31", ">"), ("#999999", "p")),
)

STYLE: Any = {
    # Text stays text: searchable, and editable in a drawing program.
    "svg.fonttype": "none",
    # Element names are otherwise random, and no two files equal.
    "svg.hashsalt": "aim-plugins",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.labelcolor": "#222222",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 9,
}
"""For `matplotlib.rc_context`."""
SIZE = (6.0, 3.8)  # inches
DPI = 200
_LABEL_WIDTH = 60


def look(index: int) -> tuple[str, str]:
    """Colour and marker of a line among several; beyond the palette markers change.

    >>> look(0), look(10)
    (('#0072B2', 'o'), ('#0072B2', 's'))
    """
    count = len(_LOOKS)
    return _LOOKS[index % count][0], _LOOKS[(index + index // count) % count][1]


def wrap_label(text: str, separator: str = "\n") -> str:
    """Breaks an axis's label into lines that a picture is wide enough for."""
    return separator.join(textwrap.wrap(text, _LABEL_WIDTH))


def label_decades(axis: Axis) -> None:
    """Labels a logarithmic axis at 1, 2 and 5 of each decade, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def render(figure: Figure) -> dict[str, bytes]:
    """The content of a picture's files by their suffix, `png` and `svg`; call it under `STYLE`."""
    png, svg = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    figure.set_layout_engine("none")  # what it has arranged stays, and is not arranged again
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}
