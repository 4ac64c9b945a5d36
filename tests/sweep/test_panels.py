"""Claims about tasks that are parts of another: one panel under their task."""

from __future__ import annotations

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from aim_plugins.core.strengths import Axis
from aim_plugins.sweep.front import Front, publish
from aim_plugins.sweep.panels import MANY, Parts, draw_panel, split_panels
from aim_plugins.sweep.plots import group_curves
from aim_plugins.sweep.table import Row, pool_draws

SIGMA = Axis("std", "σ", "noise std", "logits", low=0.0)
STRENGTHS = (0.0, 1.0, 2.0)


def rows_of(count, metrics=("acc", "acc_expected")):
    """A task, and as many classes, the later the worse."""
    levels = {"digits": 0.6} | {f"digits.c{k}": 0.9 - 0.8 * k / count for k in range(count)}
    return [
        Row(task, metric, std, 0 if metric == "acc" else None, level * (1 - std / 4), 0.02, 50)
        for task, level in levels.items()
        for metric in metrics
        for std in STRENGTHS
    ]


def front_of(count, **options):
    rows = rows_of(count)
    parts = Parts("class", {row.task: "digits" for row in rows if row.task != "digits"})
    return Front(rows, [SIGMA], parts=parts, **options)


def panel_of(front):
    _, (panel,) = split_panels(group_curves(pool_draws(front.rows)), front.parts)
    return panel


def texts_of(svg):
    tree = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in tree.iter() if node.tag.endswith("}text")]


def test_ten_classes_are_one_task_with_one_panel(tmp_path, capsys):
    page = publish(tmp_path, front_of(10), {"model": "tiny"}).read_text(encoding="utf-8")
    assert "tiny on 1 task at 3 strengths from 0 to 2: acc of digits falls" in page
    assert page.count("<figure") == 2 and page.count('data-panel="0"') == 10
    assert 'digits</strong> <span class="quiet">acc by class</span>' in page
    pictures = {path.stem for path in (tmp_path / "curves").iterdir()}
    assert pictures == {"digits-acc", "digits-acc-by-class"}
    # The numbers: one table of the task, and one of its classes for samples and law each.
    assert re.findall(r'<span class="quiet">([^<]*)</span></summary>', page) == [
        "n = 50",
        "acc by class, n = 50",
        "acc_expected by class, n = 50",
    ]
    assert page.count(">c9</button>") == 2


def test_small_pictures_share_their_axes_and_name_their_class():
    (panel,) = [panel_of(front_of(7))]
    texts = texts_of(draw_panel(panel, SIGMA)["svg"])
    assert "digits: acc by class" in texts and "noise std σ (logits)" in texts
    assert [text for text in texts if re.fullmatch(r"c\d", text)] == [f"c{k}" for k in range(7)]
    assert texts.count("1.0") == 2  # one vertical axis for each line of pictures
    assert panel.limits == (0.0, pytest.approx(1.02, abs=0.05))


def test_pictures_of_a_panel_share_the_strengths_of_all_their_classes(tmp_path):
    """A class that is predicted under noise alone has no precision at strength 0."""
    front = front_of(3)
    front.rows[:] = [row for row in front.rows if row.strength or row.task != "digits.c1"]
    page = publish(tmp_path, front, {}).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    (panel,) = data["panels"]
    low, high = panel["span"]
    assert len(panel["curves"]) == 3 and -0.2 < low < 0 and 2 < high < 2.2


def test_many_classes_are_a_heat_map_whose_colours_follow_the_law(tmp_path):
    front = front_of(MANY + 1)
    panel = panel_of(front)
    picture = draw_panel(panel, SIGMA)["png"]
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    best, worst = (pixels[int(pixels.shape[0] * share), 300] for share in (0.08, 0.85))
    assert best[0] > 150 and worst[0] < 90  # viridis is yellow at 1 and dark violet at 0
    page = publish(tmp_path, front, {}).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    (drawn,) = data["panels"]
    assert (drawn["x"], drawn["y"][0], drawn["range"]) == (["0", "1", "2"], "c0", [0, 1])
    laws = [point for point in pool_draws(front.rows) if point.metric == "acc_expected"]
    assert drawn["z"][5] == [point.value for point in laws if point.task == "digits.c5"]
    assert "by class, n" not in page


def test_a_class_that_lacks_a_strength_leaves_a_gap():
    """A segmenter may predict a class that has no ground truth at some strengths only."""
    front = front_of(MANY + 1)
    rows = [row for row in front.rows if (row.task, row.strength) != ("digits.c3", 0.0)]
    panel = panel_of(Front(rows, [SIGMA], parts=front.parts))
    assert math.isnan(panel.lines["c3"][0].value) and len(panel.lines["c3"]) == 3
    assert draw_panel(panel, SIGMA).keys() == {"png", "svg"}


def test_tasks_that_are_no_parts_stay_as_they_are(tmp_path):
    page = publish(tmp_path, Front(rows_of(2), [SIGMA]), {"model": "tiny"}).read_text("utf-8")
    assert "tiny on 3 tasks" in page and "data-panel" not in page.split("<script>")[0]
