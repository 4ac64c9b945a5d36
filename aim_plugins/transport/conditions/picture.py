"""A picture of how similar the prompts of both sides are to a condition's direction, by site."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from aim_plugins.sweep.figures import BLUE, DPI, GREY, STYLE, VERMILLION, render
from aim_plugins.transport.conditions.fit import FittedCondition

_APART = 0.17
"""Of the distance between sites, how far the sides of one lie apart from its middle."""


def draw_similarities(fitted: FittedCondition) -> dict[str, bytes]:
    """Draws the similarity of every prompt at every site, and the threshold at the chosen one."""
    condition, sites = fitted.condition, list(fitted.similarities)
    width = min(10.0, 2.2 + 0.26 * len(sites))
    sides = (("should not hold", VERMILLION, -_APART), ("should hold", BLUE, _APART))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(width, 4.2), 3.6), dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        for side, (label, colour, shift) in enumerate(sides):
            own = [similar[side] for similar in fitted.similarities.values()]
            places = np.repeat(np.arange(len(sites)) + shift, [len(one) for one in own])
            axes.plot(
                places, np.concatenate(own), "o", color=colour, markersize=2.5, alpha=0.5,
                markeredgewidth=0, label=label,
            )  # fmt: skip
        at = sites.index(condition.site)
        axes.axvspan(at - 0.5, at + 0.5, color=GREY, alpha=0.15, linewidth=0)
        axes.hlines(condition.threshold, at - 0.5, at + 0.5, color="black", linewidth=1.5)
        axes.set_xticks(range(len(sites)), sites, rotation=90, fontsize=7)
        axes.set_xlim(-0.7, len(sites) - 0.3)
        axes.set_ylabel("similarity")
        axes.set_title(f"holds where the {condition}")
        axes.legend(markerscale=2)
        return render(figure)
