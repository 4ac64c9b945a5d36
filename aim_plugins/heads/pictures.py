"""The pictures: what each component adds, how well that predicts, and what the edit changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from aim_plugins.heads.trials import EditPath, Outcome, outputs_of
from aim_plugins.modulation.components import Components
from aim_plugins.sweep.figures import BLUE, DPI, GREY, INK, SIZE, STYLE, VERMILLION, render
from aim_plugins.sweep.paired import mean_interval

WORDS = {
    "choice_margin": "margin of the right choice",
    "log_likelihood": "log-likelihood of the right choice",
    "mean_token_margin": "mean token margin of the right choice",
}
"""Outputs in words."""

_COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00")
_WIDEST_HEAT_MAP = 64
"""Of more components in a layer each would be too small to see."""


def short_names(components: Components) -> list[str]:
    """The names of sites as short as they tell them apart: the numbers of their layers if possible.

    >>> from aim_plugins.modulation.components import Site
    >>> sites = [Site(f"model.layers.{one}.self_attn", "", 2) for one in (3, 4)]
    >>> short_names(Components(tuple(sites)))
    ['3', '4']
    """
    names = [site.name for site in components.sites]
    found = [re.search(r"\.(\d+)(?:\.|$)", name) for name in names]
    numbers = [one.group(1) if one else name for one, name in zip(found, names, strict=True)]
    return numbers if len(set(numbers)) == len(numbers) else names


def draw_components(
    values: Float[np.ndarray, " components"],
    components: Components,
    marked: Sequence[int],
    words: str,
    title: str,
) -> dict[str, bytes]:
    """Draws what each component adds: a map of layers and heads, or for many of a layer points.

    Args:
        values: The mean over documents, of each component.
        components: The components.
        marked: Those that the edit ablates.
        words: What they add to.
        title: What was attributed.

    Returns:
        The content of the picture's files by suffix.
    """
    widest = max(map(len, components.places))
    with matplotlib.rc_context(STYLE):
        height = max(SIZE[1], 1.6 + 0.22 * widest) if widest <= _WIDEST_HEAT_MAP else SIZE[1]
        width = max(SIZE[0], 1.8 + 0.27 * len(components.sites))
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        if 1 < widest <= _WIDEST_HEAT_MAP:
            _heat_map(axes, values, components, marked, words)
        else:
            _strip(axes, values, components, marked, words)
        axes.set_title(title.replace("$", r"\$"))
        return render(figure)


def _heat_map(
    axes: Axes,
    values: Float[np.ndarray, " components"],
    components: Components,
    marked: Sequence[int],
    words: str,
) -> None:
    sites = len(components.sites)
    grid = np.full((max(site.count for site in components.sites), sites), np.nan)
    for number, value in enumerate(values):
        at, place = _position(components, number)
        grid[place, at] = value
    largest = float(np.nanmax(np.abs(grid))) or 1.0
    norm = TwoSlopeNorm(0.0, -largest, largest)
    mesh = axes.pcolormesh(grid, cmap="RdBu", norm=norm, edgecolors="white", linewidth=0.5)
    for number in marked:
        at, place = _position(components, number)
        frame = Rectangle(
            (at, place), 1, 1, fill=False, edgecolor="black", linewidth=1.8, clip_on=False
        )
        axes.add_patch(frame)
    names = short_names(components)
    axes.set_xticks(np.arange(sites) + 0.5, names, fontsize=8)
    axes.set_yticks(np.arange(len(grid)) + 0.5, [str(one) for one in range(len(grid))], fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.set_xlabel("layer; framed: ablated by the edit" if marked else "layer")
    axes.set_ylabel("head")
    figure: Any = axes.figure
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    bar.set_label(f"adds to the {words}, nats", fontsize=8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _strip(
    axes: Axes,
    values: Float[np.ndarray, " components"],
    components: Components,
    marked: Sequence[int],
    words: str,
) -> None:
    own = [_position(components, number)[0] for number in range(len(components))]
    places = np.array(own, dtype=float)
    # Points of one layer stand side by side, in an order of their own.
    for at, members in enumerate(components.places):
        if len(members) > 1:
            start = components.starts[at]
            places[start : start + len(members)] += np.linspace(-0.35, 0.35, len(members))
    axes.axhline(0, color=GREY, linewidth=0.8)
    single = max(map(len, components.places)) == 1
    if single:
        axes.vlines(places, 0, values, color=BLUE, linewidth=2)
    size, alpha = (30, 1.0) if single else (9, 0.5)
    axes.scatter(places, values, s=size, color=BLUE, alpha=alpha, linewidth=0, rasterized=True)
    if len(marked):
        chosen = list(marked)
        axes.plot(
            places[chosen], values[chosen], "o", color="black", fillstyle="none", markersize=8,
            label="ablated by the edit",
        )  # fmt: skip
        axes.legend(loc="best")
    names = short_names(components)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    if max(map(len, names)) > 3:
        axes.tick_params(axis="x", rotation=60)
    axes.set_xlabel("layer")
    axes.set_ylabel(f"adds to the {words}, nats")


def _position(components: Components, number: int) -> tuple[int, int]:
    """The place of a component's site, and its own in it."""
    site, place = components.site_of(number)
    return components.sites.index(site), place


def draw_prediction(
    predicted: Sequence[float], true: Sequence[float], words: str, title: str
) -> dict[str, bytes]:
    """Draws predicted against true effects of fresh masks, a point for each document and mask."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        every = np.concatenate([predicted, true])
        low, high = float(every.min()), float(every.max())
        axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle="--", label="equal")
        axes.scatter(predicted, true, s=7, color=BLUE, alpha=0.35, linewidth=0, rasterized=True)
        axes.axhline(0, color="#E6E6E6", linewidth=0.8, zorder=0)
        axes.axvline(0, color="#E6E6E6", linewidth=0.8, zorder=0)
        axes.set_xlabel(f"predicted change of the {words}, nats")
        axes.set_ylabel("true change, nats")
        axes.set_title(title)
        axes.legend(loc="upper left")
        return render(figure)


def draw_correlations(
    found: Mapping[str, Mapping[float, Sequence[float]]], learned_at: float
) -> dict[str, bytes]:
    """Draws the correlation of predicted and true outputs against the share ablated.

    Args:
        found: For each method and share, the correlation of each document.
        learned_at: The share that attributions were learned at.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for place, (method, by_share) in enumerate(found.items()):
            shares = sorted(by_share)
            middles = [mean_interval(by_share[one]) for one in shares]
            axes.errorbar(
                shares,
                [one.value for one in middles],
                [
                    [one.value - one.low for one in middles],
                    [one.high - one.value for one in middles],
                ],
                fmt="o-",
                color=_COLOURS[place % len(_COLOURS)],
                markersize=4,
                elinewidth=1,
                label=method,
            )
        axes.axvline(learned_at, color=GREY, linewidth=1, linestyle=":")
        shares = sorted({one for by_share in found.values() for one in by_share})
        axes.set_xticks(shares, [f"{one:g}" for one in shares])
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.0)
        axes.set_xlabel("share of components ablated (dotted: learned at)")
        axes.set_ylabel("correlation, mean over documents")
        axes.set_title("Predicted and true outputs")
        axes.legend(loc="lower left")
        return render(figure)


def draw_path(path: EditPath, words: str, noun: str) -> dict[str, bytes]:
    """Draws the mean output on validation documents against the number of components ablated."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        sizes = [0, *path.sizes]
        found = [mean_interval(outputs_of(one, path.output)) for one in (path.whole, *path.steps)]
        values = [one.value for one in found]
        axes.plot(sizes, values, "o-", color=BLUE, markersize=4)
        axes.fill_between(
            sizes, [one.low for one in found], [one.high for one in found], color=BLUE, alpha=0.15,
            linewidth=0, label="95 % interval over documents",
        )  # fmt: skip
        axes.plot(
            path.size, values[path.chosen + 1], "o", color=BLUE, markersize=11, fillstyle="none",
            label="chosen",
        )  # fmt: skip
        if path.references:
            others = [mean_interval(outputs_of(one, path.output)) for one in path.references]
            middles = [one.value for one in others]
            axes.plot(sizes, middles, "s-", color=GREY, markersize=4, label="references")
            low, high = [one.low for one in others], [one.high for one in others]
            axes.fill_between(sizes, low, high, color=GREY, alpha=0.15, linewidth=0)
        axes.set_xticks(sizes)
        axes.set_xlabel(f"{noun} ablated")
        axes.set_ylabel(f"{words}, nats")
        axes.set_title(f"{len(path.whole.right)} validation documents")
        axes.legend(loc="best")
        return render(figure)


def draw_documents(outcome: Outcome, words: str, ablated: str, size: int) -> dict[str, bytes]:
    """Draws each held-out document's output with the edit against that of the whole model."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        before = outcome.outputs(outcome.whole)
        drawn = (
            (outcome.random_outputs, "x", GREY, f"{size} at random, mean of {len(outcome.random)}"),
            (outcome.outputs(outcome.edited), "o", VERMILLION, f"the edit's {ablated}"),
        )
        ends = [min(before), max(before)]
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--")
        if outcome.output == "choice_margin":
            axes.axhline(0, color=INK, linewidth=0.8, label="right above, wrong below")
        for after, marker, colour, label in drawn:
            axes.plot(before, after, marker, color=colour, markersize=4, alpha=0.8, label=label)
        axes.set_xlabel(f"{words}, whole model, nats")
        axes.set_ylabel("with components ablated, nats")
        axes.set_title(f"{len(before)} held-out documents")
        axes.legend(loc="upper left")
        return render(figure)
