"""What is told and drawn of findings that are made up, with intervals known otherwise."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from aim_plugins.modulation.components import Components, Site
from aim_plugins.sweep.paired import mean_interval
from vision_bench.attribution.findings import (
    COAR,
    LEAST_SQUARES,
    Example,
    Findings,
    Method,
    RankTest,
)
from vision_bench.attribution.front import correlations_csv, publish, tell

ALPHAS = (0.025, 0.1)


def method(name: str, passes: float, *values: float) -> Method:
    return Method(name, passes, {alpha: list(values) for alpha in ALPHAS})


def picture() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(content, format="PNG")
    return content.getvalue()


def findings(images: int = 4, classes: int = 3, layers: int = 2, **others: Any) -> Findings:
    """Findings of made-up weights, components and correlations."""
    components = Components(tuple(Site(f"layer{one}", f"layer{one}", 3) for one in range(layers)))
    draws = torch.Generator().manual_seed(0)
    values = [0.9 - 0.1 * (place % 4) for place in range(images)]
    first = method(COAR, 50.0, *values)
    worse = method("leave one out", 7.0, *(one / 2 for one in values))
    example = Example(0, "a/0.png", "kind $0", 1.5, picture(), [1.0, 2.0], [1.5, 1.0], -1.0)
    given: dict[str, Any] = {
        "title": "made-up",
        "output": "margin",
        "alpha": 0.1,
        "fresh": 30,
        "components": components,
        "weights": torch.randn(images, len(components), generator=draws),
        "labels": torch.arange(images) % classes,
        "classes": [f"kind ${one}" for one in range(classes)],
        "methods": [first, worse],
        "curves": {COAR: [first]},
        "rank": RankTest(2, values, [one / 4 for one in values], 0.03),
        "examples": [example],
    }
    return Findings(**given | others)


def test_intervals_are_student_s() -> None:
    values = [0.2, 0.9, 0.4, 0.7, 0.65]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx(
        (np.mean(values), low, high), abs=0.003
    )


def test_methods_are_compared_image_by_image() -> None:
    """Both vary a lot between images, and differ by nearly the same on each."""
    one, other = method("one", 1.0, 0.9, 0.1, 0.5), method("other", 1.0, 0.8, 0.01, 0.39)
    gain = one.against(other, 0.1)
    assert gain.value == pytest.approx(0.1) and 0 < gain.low < gain.high < 0.2
    assert one.at(0.1).low < other.at(0.1).value


def test_sentences_say_the_shares_as_they_are() -> None:
    told = tell(findings(alpha=0.025))
    assert "0.75 [0.54, 0.96] where fresh masks ablate 2.5% of the 6 components" in told[0]
    assert "Against leave one out of 7 passes (0.38" in told[1]
    assert "better by +0.38 [+0.27, +0.48]" in told[1]
    assert "falls by 0.75, without as many random ones by 0.188" in told[2]
    assert "p = 0.03" in told[2]


def test_fewer_passes_are_counted_against_least_squares_at_their_best() -> None:
    """Where masks are about as many as components, least squares collapse."""
    curves = {
        COAR: [method(COAR, 30.0, 0.4, 0.4), method(COAR, 50.0, 0.6, 0.6)],
        LEAST_SQUARES: [
            method(LEAST_SQUARES, 100.0, 0.5, 0.5),
            method(LEAST_SQUARES, 200.0, 0.1, 0.1),
        ],
    }
    found = findings(curves=curves)
    assert [one.passes for one in found.fewer_passes() or ()] == [50.0, 100.0]
    told = " ".join(tell(found))
    assert "better with 50 passes than least squares with 100" in told
    assert "by +0.10 [+0.10, +0.10]: 2.0 times fewer" in told
    # Fewer masks than components are no fair trial of it, and the page says so.
    assert "no contest" not in told
    short = " ".join(tell(findings(curves=curves, layers=67)))
    assert "no contest: least squares had at most 200 masks for 201 components" in short
    # A higher mean that may be chance, as the images do not agree, is not better.
    unsure = {**curves, COAR: [method(COAR, 50.0, 0.9, 0.3), method(COAR, 70.0, 0.7, 0.69)]}
    assert [one.passes for one in findings(curves=unsure).fewer_passes() or ()] == [70.0, 100.0]
    slower = {**curves, COAR: [method(COAR, 300.0, 0.6, 0.6)]}
    assert findings(curves=slower).fewer_passes() is None


def test_the_table_has_each_point_of_a_curve_once() -> None:
    table = list(csv.DictReader(io.StringIO(correlations_csv(findings()))))
    assert [(row["method"], row["alpha"]) for row in table] == [
        ("COAR", "0.025"), ("COAR", "0.1"), ("leave one out", "0.025"), ("leave one out", "0.1"),
    ]  # fmt: skip


def test_highest_components_of_a_class_are_those_of_its_images() -> None:
    weights = torch.tensor([[3.0, 0, 1, 0, 0, 0], [1.0, 2, 0, 0, 0, 0], [0, 0, 0, 9.0, 0, 0]])
    found = findings(3, weights=weights, labels=torch.tensor([1, 1, 0]))
    assert found.class_tops(1, 2) == [(0, 2.0, 1.0), (1, 1.0, 0.5)]


@pytest.mark.parametrize(
    "given",
    [
        {"images": 1, "classes": 1, "rank": RankTest(1, [0.5], [0.1], float("nan"))},
        {"images": 60, "classes": 30, "layers": 50},
        {"examples": [], "rank": None, "left_out": 2},
        {"weights": torch.zeros(4, 6)},
    ],
    ids=["one image", "many classes and layers", "no examples", "no effects"],
)
def test_a_page_is_made_of_anything(given: dict[str, Any], tmp_path: Path, capsys) -> None:
    report = publish(tmp_path, findings(**given), {"model": "net"})
    assert "What classes share" in report.read_text()
    assert "COAR" in capsys.readouterr().out
    assert (tmp_path / "curves" / "budget.svg").is_file()
