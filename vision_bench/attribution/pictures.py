"""Pictures of attributions: how well they predict, and what images and classes rest on."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from aim_plugins.sweep.figures import (
    BLUE,
    DPI,
    GREY,
    INK,
    SIZE,
    STYLE,
    VERMILLION,
    label_decades,
    render,
)
from vision_bench.attribution.findings import (
    COAR,
    LEAST_SQUARES,
    NAMES,
    RIDGE,
    SHARED,
    Example,
    Findings,
    Method,
    percent,
)

_GREEN, _PURPLE, _ORANGE, _SKY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
_MARKS = {
    COAR: (BLUE, "o"),
    RIDGE: (_SKY, "s"),
    LEAST_SQUARES: (VERMILLION, "D"),
    NAMES["leave_one_out"]: (_GREEN, "^"),
    NAMES["gradient_times_parameter"]: (_ORANGE, "v"),
    NAMES["neuron_conductance"]: (_PURPLE, "P"),
    NAMES["internal_influence"]: (GREY, "X"),
}
_CLASSES = 12
"""Classes that one picture shows; of more, those of most images."""
_NAMED = 10
"""Components of an image that are marked."""


def draw_budget(found: Findings) -> dict[str, bytes]:
    """Draws the correlation against what attributions cost.

    Returns:
        The content of the picture's files by suffix.
    """
    alpha = found.shown_alpha
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.6), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        series = {name: list(curve) for name, curve in found.curves.items()}
        series |= {one.name: [one] for one in found.methods if one.name not in series}
        for name, curve in series.items():
            _draw_curve(axes, [one.passes for one in curve], curve, [alpha] * len(curve), name)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xscale("log")
        label_decades(axes.xaxis)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_xlabel("forward passes over all images, logarithmic")
        axes.set_ylabel(f"correlation with true outputs,\n{percent(alpha)} ablated")
        figure.legend(loc="outside upper left", ncols=3)
        return render(figure)


def draw_alphas(found: Findings) -> dict[str, bytes]:
    """Draws the correlation of every method against the share of ablated components.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.4), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for one in found.methods:
            _draw_curve(axes, found.alphas, [one] * len(found.alphas), found.alphas, one.name)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(found.alpha, color=GREY, linewidth=1, linestyle=":")
        axes.annotate(
            "learned at", (found.alpha, 0), xycoords=("data", "axes fraction"), xytext=(3, 3),
            textcoords="offset points", fontsize=8, color=GREY,
        )  # fmt: skip
        axes.set_xlabel("share of the components that fresh masks ablate")
        axes.set_ylabel("correlation with true outputs")
        figure.legend(loc="outside upper left", ncols=3)
        return render(figure)


def _draw_curve(
    axes: Axes, across: Sequence[float], curve: Sequence[Method], alphas: Sequence[float], name: str
) -> None:
    ends = [one.at(alpha) for one, alpha in zip(curve, alphas, strict=True)]
    values = [one.value for one in ends]
    reach = [[one.value - one.low for one in ends], [one.high - one.value for one in ends]]
    colour, mark = _MARKS.get(name, (INK, "."))
    axes.errorbar(
        across, values, yerr=np.nan_to_num(reach), fmt=f"{mark}-", color=colour, markersize=5,
        linewidth=1.2, elinewidth=1, capsize=2, label=name,
    )  # fmt: skip


def draw_example(found: Findings, example: Example) -> dict[str, bytes]:
    """Draws an image, what each layer adds to its output, and predictions beside what is true.

    Returns:
        The content of the picture's files by suffix.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 1.4), dpi=DPI, layout="constrained")
        parts = figure.subplot_mosaic(
            [["image", "scatter"], ["layers", "layers"]],
            width_ratios=(1.0, 1.3),
            height_ratios=(1.0, 1.2),
        )
        _draw_image(parts["image"], example)
        _draw_scatter(parts["scatter"], example)
        _draw_layers(parts["layers"], found, example)
        return render(figure)


def _draw_image(axes: Axes, example: Example) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(example.picture)) as image:
        axes.imshow(np.asarray(image.convert("RGB")), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(example.label.replace("$", r"\$"), fontsize=10)


def _draw_layers(axes: Axes, found: Findings, example: Example) -> None:
    """Bars of what each layer's components add and take, and a dot for each of the highest."""
    weights = found.weights[example.place]
    components = found.components
    places = list(zip(components.starts, components.starts[1:], strict=False))
    above = [float(weights[start:end].clamp(min=0).sum()) for start, end in places]
    below = [float(weights[start:end].clamp(max=0).sum()) for start, end in places]
    layers = range(len(places))
    axes.bar(layers, above, color=BLUE, alpha=0.35, label="all that raise it")
    axes.bar(layers, below, color=VERMILLION, alpha=0.35, label="all that lower it")
    count = min(_NAMED, len(components))
    for highest, colour in ((True, BLUE), (False, VERMILLION)):
        chosen = weights.topk(count, largest=highest).indices.tolist()
        chosen = [one for one in chosen if (float(weights[one]) > 0) == highest]
        across = [next(at for at, (_, end) in enumerate(places) if one < end) for one in chosen]
        axes.plot(
            across, [float(weights[one]) for one in chosen], "o", color=colour, markersize=4,
            markeredgecolor="white", markeredgewidth=0.5,
            label=f"the {count} {'highest' if highest else 'lowest'}",
        )  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.8)
    step = -(-len(places) // 12)
    names = [site.name for site in components.sites]
    axes.set_xticks(list(layers)[::step], names[::step], rotation=40, ha="right", fontsize=7)
    axes.set_ylabel("added to the output")
    axes.legend(fontsize=7, ncols=2, loc="best")


def _draw_scatter(axes: Axes, example: Example) -> None:
    axes.plot(example.predicted, example.true, "o", color=BLUE, markersize=3, alpha=0.6)
    ends = [
        min(*example.predicted, *example.true),
        max(*example.predicted, *example.true),
    ]
    axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xlabel("predicted output")
    axes.set_ylabel("true output")
    axes.set_title(f"r = {example.correlation:.2f}", fontsize=10)


def draw_classes(found: Findings) -> dict[str, bytes]:
    """Draws what the highest components of each class add to the images of every class.

    Returns:
        The content of the picture's files by suffix.
    """
    means = found.class_means()
    sizes = {one: int((found.labels == one).sum()) for one in means}
    shown = sorted(sorted(means, key=lambda one: (-sizes[one], one))[:_CLASSES])
    chosen = sorted({top[0] for one in shown for top in found.class_tops(one, SHARED)})
    values = np.array([[float(means[one][number]) for one in shown] for number in chosen])
    names = [found.components.name(number) for number in chosen]
    titles = [found.classes[one].replace("$", r"\$") for one in shown]
    limit = max(float(np.abs(values).max()), 1e-12)
    with matplotlib.rc_context(STYLE):
        height = min(14.0, 1.6 + 0.26 * len(names))
        figure = Figure(figsize=(SIZE[0] + 0.6, height), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        mesh = axes.pcolormesh(values, cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit))
        axes.set_xticks(
            [one + 0.5 for one in range(len(shown))], titles, rotation=30, ha="right", fontsize=8
        )
        axes.set_yticks([one + 0.5 for one in range(len(names))], names, fontsize=7)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
        bar.set_label("added to the output, on average")
        return render(figure)
