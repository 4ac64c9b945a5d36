"""What an edit is said to be worth: differences from rivals, and when there is no telling."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from vision_bench.attribution.editing import findings
from vision_bench.attribution.editing.choice import Choice, Trial
from vision_bench.attribution.editing.choices import EDITED, RANDOM, WHOLE
from vision_bench.attribution.editing.findings import WORST, Findings, is_clear
from vision_bench.attribution.editing.front import summarise, tell
from vision_bench.attribution.editing.goal import Examined, Goal, Score
from vision_bench.attribution.editing.problem import Problem
from vision_bench.data.classification import ArrayImages, ClassificationData


def found(parts: dict[str, list[int]], arms: dict[str, list[list[int]]], goal: Goal) -> Findings:
    """Findings of images of class 0, by the numbers that each arm answers them with."""
    count = len(next(iter(parts.values())))
    images = ArrayImages(np.zeros((count, 8, 8, 3), np.uint8))
    data = ClassificationData("made-up", images, [0] * count, ("ant", "bee"))
    examined = Examined(data, {name: torch.tensor(one).bool() for name, one in parts.items()})
    (edited,) = arms["edit"]
    whole = torch.tensor(arms.get("model", [[0] * count])[0])
    return Findings(
        problem=Problem("raise", data, data, goal, examined, examined),
        tested=findings.Tested(
            whole,
            {0.0: whole, 1.0: torch.tensor(edited)},
            [torch.tensor(one) for one in arms["random"]],
            None,
        ),
        trials=[Trial("statistic", [0])],
        choice=Choice(["1 by statistic"], [Score(1.0, 1.0)], Score(0.0, 1.0), 0.02),
        tuning=None,
        components=["layer.0"],
        scores=[1.0],
        total=4,
        layers={"layer": (1, 4)},
        passes=10.0,
    )


def test_each_random_edit_has_a_worst_group_of_its_own() -> None:
    groups = {"a": [1] * 4 + [0] * 4, "b": [0] * 4 + [1] * 4}
    # One draw ruins the one group, the other the other: each has a worst group of 0 %, though
    # their answers on average are half right in both.
    one = found(
        groups,
        {"edit": [[0, 0, 0, 1] * 2], "random": [[1] * 4 + [0] * 4, [0] * 4 + [1] * 4]},
        Goal(["a", "b"], ["a"], worst=True),
    )
    assert one.of_random(WORST).value == 0
    assert one.compare(WORST, EDITED, RANDOM).value == pytest.approx(0.75)
    assert one.compare(WORST, EDITED, WHOLE).value == pytest.approx(-0.25)


def test_images_that_made_the_edit_are_not_held_against_the_model() -> None:
    one = found(
        {"own": [1, 1, 0, 0], "rest": [0, 0, 1, 1]},
        {"edit": [[0, 0, 0, 0]], "model": [[1, 1, 0, 0]], "random": [[1, 0, 0, 0]]},
        Goal(["own"], ["rest"]),
    )
    seen = dataclasses.replace(one.problem, seen={"own": "not held out"})
    marked = dataclasses.replace(one, problem=seen)
    assert "own 0.0 % → 100.0 % (+100.0 points" in summarise(one)
    assert "own (not held out) 0.0 % → 100.0 %; rest" in summarise(marked)
    differences = json.loads(marked.to_json())["differences"]
    assert list(differences["edit less model"]) == ["rest"]
    assert list(differences["edit less random edits"]) == ["own", "rest"]
    assert json.loads(marked.to_json())["seen"] == {"own": "not held out"}


def test_nothing_is_clear_of_one_image() -> None:
    goal = Goal(["own"], ["rest"])
    one = found(
        {"own": [1, 0, 0, 0], "rest": [0, 1, 1, 1]},
        {"edit": [[0, 0, 0, 0]], "random": [[0, 0, 0, 0]] + [[1, 0, 0, 0]] * 4},
        goal,
    )
    difference = one.compare("own", EDITED, RANDOM)
    assert difference.value == pytest.approx(0.8)
    assert math.isnan(difference.low) and not is_clear(difference)
    assert "own cannot be told apart, +80.0 points, of too few images" in tell(one)[0]
    worst = dataclasses.replace(
        one, problem=dataclasses.replace(one.problem, goal=Goal(["own", "rest"], [], worst=True))
    )
    assert not is_clear(worst.compare(WORST, EDITED, RANDOM))
    # Two images that all draws get wrong and the edit right differ by 1, up to what is not seen.
    two = found(
        {"own": [1, 1, 0], "rest": [0, 0, 1]},
        {"edit": [[0, 0, 0]], "random": [[1, 1, 0], [1, 1, 0]]},
        goal,
    )
    assert two.compare("own", EDITED, RANDOM).value == 1


def test_random_edits_have_an_interval_over_images_of_some_width() -> None:
    goal = Goal(["own"], ["rest"])
    parts = {"own": [1] * 20 + [0] * 10, "rest": [0] * 20 + [1] * 10}
    one = found(parts, {"edit": [[1] * 30], "random": [[0] * 25 + [1] * 5]}, goal)
    # Of one edit it is the interval of any other model, by Wilson's formula.
    z = 1.959964
    assert one.of_random("own").low == pytest.approx(20 / (20 + z**2))
    middle, half = 0.5, z / 2 / math.sqrt(10 + z**2)
    assert one.of_random("rest").low == pytest.approx(middle - half)
    assert one.of_random("rest").high == pytest.approx(middle + half)
    # Several that answer alike say nothing of images not seen.
    alike = found(parts, {"edit": [[1] * 30], "random": [[0] * 25 + [1] * 5] * 4}, goal)
    assert alike.of_random("own").low == pytest.approx(20 / (20 + z**2))
    assert alike.of_random("rest").high - alike.of_random("rest").low == pytest.approx(2 * half)


def test_a_worst_group_without_a_wrong_answer_has_an_interval_of_some_width() -> None:
    groups = {"a": [1] * 20 + [0] * 20, "b": [0] * 20 + [1] * 20}
    goal = Goal(["a", "b"], ["a"], worst=True)
    one = found(groups, {"edit": [[0] * 40], "random": [[0] * 40, [0] * 40]}, goal)
    least = 20 / (20 + 1.959964**2)
    for interval in (one.measure(WORST, one.tested.whole), one.of_random(WORST)):
        assert (interval.value, interval.high) == (1, 1)
        assert interval.low == pytest.approx(least)
    difference = one.compare(WORST, EDITED, WHOLE)
    assert difference.value == 0 and not is_clear(difference)
    assert difference.high == pytest.approx(1 - least) and difference.low == -difference.high
