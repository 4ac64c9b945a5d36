"""Claims about the front of a folder: the same files whatever was swept, one strength or two."""

from __future__ import annotations

import json
import re

import pytest

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.front import Front, publish
from aim_plugins.sweep.heat_maps import group_grids, plot_grids
from aim_plugins.sweep.table import Row, pool_draws, read_table

SIGMA = Axis("std", "σ", "noise std", "logits", low=0.0)
LAMBDA = Axis("strength", "λ", "transport strength")
MANIFEST = {"arguments": {"pretrained": "tiny"}}


def accuracy(std, strength):
    return 0.9 - 0.1 * std - 0.02 * strength


def grid_rows(draws=2):
    return [
        Row("quiz", "acc", std, draw, accuracy(std, strength) + 0.01 * draw, 0.03, 100, strength)
        for strength in (-1.0, 0.0, 1.0)
        for std in (0.0, 1.0, 2.0, 4.0)
        for draw in range(draws)
    ]


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_curve_has_table_pictures_and_report(tmp_path, capsys):
    rows = [Row("quiz", "acc", std, 0, accuracy(std, 0), 0.03, 100) for std in (0.0, 1.0)]
    report = publish(tmp_path, Front(rows, [SIGMA], files={"classes.csv": "a,b\n"}), MANIFEST)
    assert read_table(tmp_path / "sweep.csv") == rows
    assert sorted(path.name for path in (tmp_path / "curves").iterdir()) == [
        "quiz-acc.png",
        "quiz-acc.svg",
    ]
    assert (tmp_path / "classes.csv").read_text() == "a,b\n"
    printed = capsys.readouterr().out
    assert printed.startswith("quiz (n=100), [95 % interval]\nstrength ")
    assert printed.splitlines()[-4:] == [
        f"table:    {tmp_path / 'sweep.csv'}",
        f"classes:  {tmp_path / 'classes.csv'}",
        f"pictures: {tmp_path / 'curves'}",
        f"report:   {report}",
    ]


def test_a_headline_stands_first_on_the_page_and_is_printed(tmp_path, capsys):
    rows = [Row("quiz", "acc", std, 0, accuracy(std, 0), 0.03, 100) for std in (0.0, 1.0)]
    report = publish(tmp_path, Front(rows, [SIGMA], headline="Noise <costs> little."), MANIFEST)
    page = report.read_text()
    assert '<p class="summary">Noise &lt;costs&gt; little.</p>' in page
    assert "on 1 task at 2 strengths" not in page
    assert "\n\nNoise <costs> little.\n\ntable:" in capsys.readouterr().out


def test_a_grid_reads_back_from_its_table(tmp_path):
    publish(tmp_path, Front(grid_rows(), [SIGMA, LAMBDA]), MANIFEST)
    assert (tmp_path / "sweep.csv").read_text().splitlines()[0].endswith(",n,second_strength")
    assert read_table(tmp_path / "sweep.csv") == grid_rows()


def test_draws_of_a_grid_are_pooled_in_each_of_its_cells():
    points = pool_draws(grid_rows())
    assert len(points) == 12 and {point.draws for point in points} == {2}
    for point in points:
        wanted = accuracy(point.strength, point.second_strength) + 0.005
        assert point.value == pytest.approx(wanted)


def test_a_grid_s_values_lie_by_both_strengths():
    (grid,) = group_grids(pool_draws(grid_rows(draws=1)))
    assert (grid.strengths, grid.second_strengths) == ([0, 1, 2, 4], [-1, 0, 1])
    for row, strength in zip(grid.values, grid.second_strengths, strict=True):
        assert row == pytest.approx([accuracy(std, strength) for std in grid.strengths])


def test_the_heat_map_names_both_axes_and_writes_its_values(tmp_path):
    written = plot_grids(pool_draws(grid_rows(draws=1)), tmp_path, axes=(SIGMA, LAMBDA))
    assert [path.name for path in written] == ["quiz-acc.png", "quiz-acc.svg"]
    svg = written[1].read_text(encoding="utf-8")
    for text in ("noise std σ (logits)", "transport strength λ", "0.92", "0.48"):
        assert text in svg


def test_the_report_of_a_grid_shows_heat_maps_and_every_number(tmp_path, capsys):
    report = publish(tmp_path, Front(grid_rows(draws=1), [SIGMA, LAMBDA]), MANIFEST)
    page = report.read_text(encoding="utf-8")
    data = data_of(page)
    assert data["curves"] == [] and data["axes"] == [SIGMA.label, LAMBDA.label]
    (grid,) = data["grids"]
    assert (grid["x"], grid["y"], grid["range"]) == (["0", "1", "2", "4"], ["-1", "0", "1"], [0, 1])
    assert grid["z"][0] == pytest.approx([accuracy(std, -1) for std in (0, 1, 2, 4)])
    assert page.count('<th scope="row" data-key=') == 2 * 12
    assert "4 noise stds × 3 transport strengths: acc of quiz lies between" in page
    assert "between 0.480 (σ 4, λ 1) and 0.920 (σ 0, λ -1)" in page
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["std", "strength", "acc"]
    assert lines[2].split()[:3] == ["0", "-1", "0.920"]


def test_pictures_of_a_task_that_is_gone_are_removed(tmp_path):
    publish(tmp_path, Front([Row("old", "acc", 0.0, 0, 0.5, None, 2)], [SIGMA]), MANIFEST)
    publish(tmp_path, Front([Row("new", "acc", 0.0, 0, 0.5, None, 2)], [SIGMA]), MANIFEST)
    assert {path.stem for path in (tmp_path / "curves").iterdir()} == {"new-acc"}
