"""Focus in words, and what it costs, from counts whose answers are known."""

from __future__ import annotations

import torch

from aim_plugins.modulation.gaussian import GaussianNoise
from vision_bench.focus import class_costs, describe_focus, focus_axis

NAMES = ["crane", "owl", "tern", "kite", "ibis"]


def test_signs_and_names_are_said():
    assert describe_focus({1: 1}, NAMES) == "focus on owl"
    assert describe_focus({1: -1, 2: -1}, NAMES) == "focus away from owl and tern"
    assert describe_focus({2: 1, 0: -1}, NAMES) == "focus on tern, away from crane"
    every = dict.fromkeys(range(5), 1)
    assert describe_focus(every, NAMES) == "focus on crane, owl, tern and 2 more"


def test_utility_modulation_has_no_words_and_the_plain_axis():
    assert describe_focus(None, NAMES) == describe_focus({}, NAMES) == ""
    assert focus_axis(None, NAMES) == GaussianNoise.axis


def test_targets_come_first_and_then_who_loses_most():
    # Of each class, right answers at two strengths; ten documents each but for ibis.
    correct = torch.tensor([[[9, 8, 6, 10, 0], [10, 4, 5, 10, 0]]], dtype=torch.float64)
    predicted = torch.tensor([[[10, 10, 8, 12, 0], [20, 5, 5, 10, 0]]], dtype=torch.float64)
    truth = torch.tensor([10, 10, 10, 10, 0], dtype=torch.float64)
    table = class_costs([0.0, 2.0], correct, truth, predicted, NAMES, {0: 1})
    assert table.columns == [
        "class",
        *("recall σ=0", "recall σ=2", "precision σ=0", "precision σ=2"),
    ]
    assert table.rows == [
        ["crane", "0.900", "1.000", "0.900", "0.500"],
        ["owl", "0.800", "0.400", "0.800", "0.800"],
        ["tern", "0.600", "0.500", "0.750", "1.000"],
        ["kite", "1.000", "1.000", "0.833", "1.000"],
    ]
    assert "Focus on crane" in table.note


def test_draws_are_averaged_as_in_the_table():
    correct = torch.tensor([[[4.0, 4.0]], [[2.0, 0.0]]])
    predicted = torch.tensor([[[8.0, 4.0]], [[2.0, 0.0]]])
    truth = torch.tensor([4.0, 4.0])
    table = class_costs([1.0], correct, truth, predicted, NAMES[:2], {0: 1})
    # Precision of draws: 4/8 and 2/2; where a class is no answer, that draw has none.
    assert table.rows == [["crane", "0.750", "0.750"], ["owl", "0.500", "1.000"]]


def test_the_classes_left_out_are_counted():
    correct = torch.ones(1, 1, 11, dtype=torch.float64)
    names = [str(index) for index in range(11)]
    table = class_costs([0.0], correct, correct[0, 0], correct, names, {0: 1})
    assert len(table.rows) == 9 and "; 2 more lose less." in table.note
