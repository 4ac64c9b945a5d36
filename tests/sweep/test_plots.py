"""Claims about the pictures of curves."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from aim_plugins.sweep.plots import draw_curve, group_curves, plot_curves
from aim_plugins.sweep.table import Point

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
    return draw_curve(curve, **options)["svg"].decode()


def texts_of(svg: str) -> list[str]:
    tree = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in tree.iter() if node.tag.endswith("}text")]


def test_every_task_and_family_has_a_png_and_an_svg(tmp_path):
    written = plot_curves(
        points() + exact() + points("acc_norm") + points(task="cities"), tmp_path / "curves"
    )
    assert sorted(path.name for path in written) == [
        f"{stem}.{suffix}"
        for stem in ("capitals-acc", "capitals-acc_norm", "cities-acc")
        for suffix in ("png", "svg")
    ]
    assert sorted(written) == sorted((tmp_path / "curves").iterdir())


def test_the_same_points_give_the_same_bytes(tmp_path):
    first = plot_curves(points() + exact(), tmp_path / "a", chance={("capitals", "acc"): 0.25})
    again = plot_curves(points() + exact(), tmp_path / "b", chance={("capitals", "acc"): 0.25})
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
        svg_of(points(), strength_label="transport strength λ")
    )


def test_pictures_have_two_hundred_dots_an_inch():
    (curve,) = group_curves(points())
    image = Image.open(io.BytesIO(draw_curve(curve)["png"]))
    assert image.size == (1200, 760)


def test_a_wider_interval_paints_more_of_the_picture():
    def painted(stderr):
        (curve,) = group_curves(points(stderr=stderr))
        pixels = np.asarray(Image.open(io.BytesIO(draw_curve(curve)["png"])).convert("RGB"))
        # The band is a light blue; a grey pixel has no more blue than red.
        return int((pixels[..., 2].astype(int) - pixels[..., 0] > 20).sum())

    assert painted(0.08) > 1.5 * painted(0.03) > painted(None)


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
    assert ElementTree.fromstring(draw_curve(curve)["svg"]) is not None


def test_a_single_strength_is_a_picture_too():
    assert "0.0" in " ".join(texts_of(svg_of(points()[:1])))


def test_names_with_dollars_and_slashes_are_drawn_as_they_are(tmp_path):
    odd = "math/$x_{1}$ & <b>"
    written = plot_curves(points(task=odd), tmp_path)
    assert {path.parent for path in written} == {tmp_path}
    assert odd in texts_of(written[1].read_text(encoding="utf-8"))


def test_pictures_of_similar_names_do_not_overwrite_each_other(tmp_path):
    written = plot_curves(points("c", task="a-b") + points("b-c", task="a"), tmp_path)
    assert len(set(written)) == 4


def test_no_points_are_refused(tmp_path):
    with pytest.raises(ValueError, match="points is empty"):
        plot_curves([], tmp_path / "curves")
    assert not (tmp_path / "curves").exists()
