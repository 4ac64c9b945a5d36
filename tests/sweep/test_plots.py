"""Claims about the pictures of curves."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import Normalize
from PIL import Image

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep import plots
from aim_plugins.sweep.heat_maps import draw_heat_map, draw_matrix
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.plots import (
    draw_curve,
    group_curves,
    logarithmic,
    plot_curves,
)
from aim_plugins.sweep.table import Point

AXIS = Axis("std", "σ", "noise std", "logits", low=0.0)
STRENGTHS = [0.0, 1.0, 2.0, 3.0]
VERMILLION = "#d55e00"


def points(metric="acc", values=(0.8, 0.6, 0.4, 0.3), *, task="capitals", stderr=0.03, draws=3):
    return [
        Point(task, metric, strength, value, stderr, 240, draws)
        for strength, value in zip(STRENGTHS, values, strict=True)
    ]


def exact():
    return points("acc_expected", draws=0)


def svg_of(some_points, **options) -> str:
    (curve,) = group_curves(some_points)
    return draw_curve(curve, options.pop("axis", AXIS), **options)["svg"].decode()


def texts_of(svg: str) -> list[str]:
    tree = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in tree.iter() if node.tag.endswith("}text")]


def test_every_task_and_family_has_a_png_and_an_svg(tmp_path):
    written = plot_curves(
        points() + exact() + points("acc_norm") + points(task="cities"),
        tmp_path / "curves",
        axis=AXIS,
    )
    assert sorted(path.name for path in written) == [
        f"{stem}.{suffix}"
        for stem in ("capitals-acc", "capitals-acc_norm", "cities-acc")
        for suffix in ("png", "svg")
    ]
    assert sorted(written) == sorted((tmp_path / "curves").iterdir())


def test_the_same_points_give_the_same_bytes(tmp_path):
    first = plot_curves(
        points() + exact(), tmp_path / "a", chance={("capitals", "acc"): 0.25}, axis=AXIS
    )
    again = plot_curves(
        points() + exact(), tmp_path / "b", chance={("capitals", "acc"): 0.25}, axis=AXIS
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_text_in_the_svg_is_text():
    texts = texts_of(svg_of(points() + exact(), chance=0.25))
    for expected in (
        "capitals",
        "acc",
        "noise std σ (logits)",
        "exact expectation",
        "chance",
        "n = 240, 3 draws",
    ):
        assert expected in texts


def test_the_exact_law_is_drawn_only_where_there_is_one():
    assert VERMILLION in svg_of(points() + exact()).lower()
    assert VERMILLION not in svg_of(points()).lower()


def test_the_chance_level_is_drawn_only_where_it_is_known():
    assert "chance" not in texts_of(svg_of(points()))


def test_the_strength_may_be_another_modulations():
    assert "transport strength λ" in texts_of(
        svg_of(points(), axis=Axis("strength", "λ", "transport strength"))
    )


def test_pictures_have_two_hundred_dots_an_inch():
    (curve,) = group_curves(points())
    image = Image.open(io.BytesIO(draw_curve(curve, AXIS)["png"]))
    assert image.size == (1200, 760)


def test_a_wider_interval_paints_more_of_the_picture():
    def painted(stderr):
        (curve,) = group_curves(points(stderr=stderr))
        pixels = np.asarray(Image.open(io.BytesIO(draw_curve(curve, AXIS)["png"])).convert("RGB"))
        # The band is a light blue; a grey pixel has no more blue than red.
        return int((pixels[..., 2].astype(int) - pixels[..., 0] > 20).sum())

    assert painted(0.08) > 1.5 * painted(0.03) > painted(None)


def test_answers_that_are_all_wrong_have_an_interval_all_the_same():
    def painted(values):
        some = [Point("quiz", "acc", x, y, 0.0, 40, 1) for x, y in enumerate(values)]
        (curve,) = group_curves(some)
        pixels = np.asarray(Image.open(io.BytesIO(draw_curve(curve, AXIS)["png"])).convert("RGB"))
        return int((pixels[..., 2].astype(int) - pixels[..., 0] > 20).sum())

    # Of 0/40 Wilson's interval ends at 0.088, which is most of this picture's height.
    assert painted([0.0, 0.0]) > 100_000


def axis_and_intervals(some_points, monkeypatch):
    """The vertical axis of a picture, and all ends of intervals and values that it should hold."""
    (curve,) = group_curves(some_points)
    limits = []
    monkeypatch.setattr(
        plots, "render", lambda figure: limits.append(figure.axes[0].get_ylim()) or {}
    )
    draw_curve(curve, AXIS, log=logarithmic([curve])[0])
    ends = [end for pair in point_intervals(curve.sampled) for end in pair]
    return limits[0], ends + [point.value for point in curve.points]


@pytest.mark.parametrize(
    ("metric", "values", "stderr", "n"),
    [
        ("sentiment", (0.0, 0.1, 0.03, 0.3), 0.275, 4),
        ("sentiment", (0.0, 0.1, 0.03, 0.3), 0.0, 4),
        ("score", (0.0, 0.1, 0.03, 0.3), 0.275, 4),
        ("sentiment", (-0.5, 0.1, 0.03, 0.9), 0.1, 40),
        ("acc", (0.0, 0.0, 0.0, 0.0), 0.0, 4),
        ("acc", (1.0, 1.0, 1.0, 1.0), 0.0, 49),
        ("acc", (0.9, 0.5, 0.05, 0.02), 0.02, 40),
        ("perplexity", (20.0, 30.0, 500.0, 9000.0), 30.0, 4),
        ("nll", (0.5, 3.0, 500.0, 9000.0), 300.0, 4),
        ("length", (40.0, 40.0, 40.0, 40.0), 0.0, 4),
    ],
)
@pytest.mark.parametrize("law", [False, True])
def test_no_axis_hides_a_value_or_cuts_an_interval(metric, values, stderr, n, law, monkeypatch):
    some = [Point("t", metric, x, y, stderr, n, 1) for x, y in enumerate(values)]
    if law:
        some += [replace(one, metric=f"{metric}_expected", stderr=None) for one in some]
    (low, high), shown = axis_and_intervals(some, monkeypatch)
    assert all(low <= value <= high for value in shown if math.isfinite(value))


def test_a_share_is_drawn_from_zero(monkeypatch):
    (low, high), _ = axis_and_intervals(points(values=(0.6, 0.6, 0.55, 0.58)), monkeypatch)
    assert low == 0 and 0.66 < high < 0.8


@pytest.mark.parametrize("stderr", [None, math.nan])
def test_unknown_errors_draw_no_interval(stderr):
    assert "95 % interval" in texts_of(svg_of(points()))
    assert "95 % interval" not in texts_of(svg_of(points(stderr=stderr)))
    assert "sampled" in texts_of(svg_of(points(stderr=stderr) + exact()))


@pytest.mark.parametrize(
    "values",
    [
        (math.inf, 1.0, math.nan, 3.0),
        (math.nan,) * 4,
        (0.0,) * 4,
        (-3.0, -2.0, 0.0, 5.0),
        (12.0, 80.0, 9e4, 1e30),
    ],
)
def test_no_value_breaks_a_picture(values):
    (curve,) = group_curves(points(values=values))
    assert ElementTree.fromstring(draw_curve(curve, AXIS)["svg"]) is not None


def test_a_single_strength_is_a_picture_too():
    assert "0.0" in " ".join(texts_of(svg_of(points()[:1])))


def test_names_with_dollars_and_slashes_are_drawn_as_they_are(tmp_path):
    odd = "math/$x_{1}$ & <b>"
    written = plot_curves(points(task=odd), tmp_path, axis=AXIS)
    assert {path.parent for path in written} == {tmp_path}
    assert odd in texts_of(written[1].read_text(encoding="utf-8"))


def test_pictures_of_similar_names_do_not_overwrite_each_other(tmp_path):
    written = plot_curves(points("c", task="a-b") + points("b-c", task="a"), tmp_path, axis=AXIS)
    assert len(set(written)) == 4


def test_no_points_are_refused(tmp_path):
    with pytest.raises(ValueError, match="points is empty"):
        plot_curves([], tmp_path / "curves", axis=AXIS)
    assert not (tmp_path / "curves").exists()


BLUE = "#0072b2"


def crowd(metric="acc", count=101):
    return [
        Point(task="capitals", metric=metric, strength=k / 5, value=0.5, stderr=0.02, n=9, draws=1)
        for k in range(count)
    ]


def markers_of(svg: str) -> int:
    """Markers are drawn by reference to one shape."""
    return svg.lower().count("<use")


def test_many_points_have_no_markers_that_would_hide_the_law():
    few, many = crowd(count=20), crowd()
    law = [crowd("acc_expected", count) for count in (20, 101)]
    ticks = markers_of(svg_of(crowd("acc_expected")))
    assert markers_of(svg_of(few + law[0])) >= ticks + 19
    assert markers_of(svg_of(many + law[1])) <= ticks + 2
    # Both are still there, told apart by colour, and the law lies above.
    svg = svg_of(many + law[1]).lower()
    assert svg.rindex(f"stroke: {BLUE}", 0, svg.index("legend")) < svg.rindex(
        f"stroke: {VERMILLION}", 0, svg.index("legend")
    )


def test_published_figures_are_marked_in_the_same_picture():
    reported = points("acc_published", (0.7, 0.5, 0.3, 0.2), stderr=None, draws=0)
    texts = texts_of(svg_of(points() + reported))
    assert "published" in texts and "n = 240, 3 draws" in texts
    assert markers_of(svg_of(points() + reported)) > markers_of(svg_of(points())) + 3
    assert "published" not in texts_of(svg_of(points()))


def heat_map(tmp_path, rows, **options):
    """The picture of {name: values}, as pixels."""
    cells = [
        point
        for name, values in rows.items()
        for point in points(values=values, task=f"digits.{name}")
    ]
    drawn = draw_heat_map(cells, title="digits: $a$", **{"axis": AXIS} | options)
    picture = Image.open(io.BytesIO(drawn["png"]))
    return np.asarray(picture.convert("RGB")).astype(int), texts_of(drawn["svg"].decode())


def test_a_heat_map_shows_each_task_in_a_row_of_its_own(tmp_path):
    pixels, texts = heat_map(tmp_path, {"one": (1, 1, 1, 1), "two": (0, 0, 0, 0)})
    assert {"one", "two", "digits: $a$", "noise std σ (logits)"} <= set(texts)
    # Left of the middle of the picture; viridis is yellow at 1 and dark violet at 0.
    upper, lower = (pixels[int(pixels.shape[0] * share), 500] for share in (0.3, 0.65))
    assert upper[0] > 200 and upper[1] > 200 and lower[0] < 90 and lower[1] < 30


def test_a_heat_map_s_strengths_run_to_the_right(tmp_path):
    pixels, _ = heat_map(tmp_path, {"one": (1, 1, 0, 0)})
    left, right = (pixels[300, column] for column in (300, 850))
    assert left[0] > 200 and right[0] < 90


@pytest.mark.parametrize(
    ("strengths", "ticks"),
    [([0.0, 4.0, 8.0], [0, 4, 8]), ([1.5], [1.5]), ([step / 10 for step in range(3, 98)], None)],
)
def test_a_heat_map_has_ticks_only_where_something_was_measured(strengths, ticks):
    cells = [Point("t.a", "recall", one, 0.5, 0.1, 10, 1) for one in strengths]
    texts = texts_of(draw_heat_map(cells, axis=AXIS, title="t")["svg"].decode())
    # Those of the bar of colours come last.
    numbers = [float(one.replace("−", "-")) for one in texts if one[-1].isdigit()][:-6]
    assert numbers == ticks if ticks else min(numbers) >= 0.3 and max(numbers) <= 9.7


def test_a_heat_map_names_some_of_many_rows(tmp_path):
    _, texts = heat_map(tmp_path, {f"c{index}": (1, 0.5, 0.2, 0) for index in range(1000)})
    named = [text for text in texts if text.startswith("c") and text[1:].isdigit()]
    assert len(named) == 40 and "c0" in named


def test_a_matrix_names_its_sides_as_they_are_and_some_of_many_rows():
    values = np.array([[0.25, math.nan]] * 100)
    rows = [f"row-{place}" for place in range(100)]
    drawn = draw_matrix(
        values, rows, ["a $ b", "c"], title="shares", note="of all", norm=Normalize(0, 1)
    )
    text = drawn["svg"].decode()
    named = [row for row in rows if f">{row}<" in text]
    assert 20 <= len(named) <= 40 and named[0] == "row-0"
    assert ">a $ b<" in text


def test_a_heat_map_of_one_strength_or_uneven_ones_is_drawn(tmp_path):
    for strengths in ([2.0], [0.0, 1.0, 10.0]):
        cells = [Point("a.b", "acc", std, 0.5, None, 5, 1) for std in strengths]
        assert draw_heat_map(cells, axis=AXIS, title="x").keys() == {"png", "svg"}


@pytest.mark.parametrize("cells", [[], points()[:3] + points(task="other")])
def test_a_heat_map_needs_the_same_strengths_everywhere(tmp_path, cells):
    with pytest.raises(ValueError, match="give a whole sweep"):
        draw_heat_map(cells, axis=AXIS, title="x")


def costs(task, metric, values):
    return [Point(task, metric, x, y, 0.1, 40, 1) for x, y in enumerate(values)]


def test_curves_of_one_quantity_have_the_same_kind_of_axis():
    curves = group_curves(
        costs("a", "perplexity", (20.0, 2000.0))
        + costs("b", "perplexity", (20.0, 40.0))
        + costs("b", "text_perplexity", (30.0, math.inf))
        + costs("b", "length", (3.0, 40.0))
        + costs("b", "acc", (0.001, 1.0))
        + costs("c", "perplexity", (-1.0, 40.0))
        + costs("d", "perplexity", (math.nan, math.nan))
    )
    assert logarithmic(curves) == [True, True, True, False, False, False, False]
    assert logarithmic(curves[1:3]) == [False, False]


def test_pictures_of_one_quantity_have_the_same_kind_of_axis(tmp_path):
    def picture(folder, some):
        plot_curves(some, folder, axis=AXIS)
        return (folder / "b-perplexity.svg").read_bytes()

    short = costs("b", "perplexity", (20.0, 30.0, 40.0))
    alone = picture(tmp_path / "alone", short)
    beside = picture(tmp_path / "beside", short + costs("a", "perplexity", (20.0, 30.0, 2000.0)))
    assert alone != beside
    again = picture(tmp_path / "again", short + costs("a", "perplexity", (20.0, 30.0, 40.0)))
    assert alone == again
