"""Scores of neurons as CSV."""

from __future__ import annotations

import csv

import pytest
import torch

from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.relevance.scores_file import read_scores, write_scores

LAYERS = Layers(("features.0", "fc1", "fc2"), (2, 3, 2))
HEADER = "LayerName,NeuronIndex,Score\n"


def test_the_layout_is_that_of_the_wisdom_tool(tmp_path):
    path = write_scores(tmp_path / "scores.csv", LAYERS, torch.arange(7))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["LayerName"], row["NeuronIndex"], row["Score"]) for row in rows] == [
        ("features.0", "0", "0"),
        ("features.0", "1", "1"),
        ("fc1", "0", "2"),
        ("fc1", "1", "3"),
        ("fc1", "2", "4"),
    ]


@pytest.mark.parametrize("exclude_last", [True, False])
def test_what_is_written_is_read(tmp_path, exclude_last):
    scores = torch.rand(7, dtype=torch.float64)
    path = write_scores(tmp_path / "scores.csv", LAYERS, scores, exclude_last)
    if exclude_last:
        scores[5:] = 0
    assert torch.equal(read_scores(path, LAYERS), scores)


def test_lines_come_in_any_order_and_neurons_left_out_have_none(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("\ufeff" + HEADER + "fc1, 2, 1e3\r\n\r\nfeatures.0,1,-4\r\n", encoding="utf-8")
    assert read_scores(path, LAYERS).tolist() == [0, -4, 0, 0, 1000, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line is 'nothing', not 'LayerName,NeuronIndex,Score'"),
        ("layer,index,score\nfc1,0,1\n", "the first line is 'layer,index,score'"),
        (HEADER, "no neuron has a score"),
        (HEADER + "fc11,0,1\n", "line 2: LayerName='fc11' is no layer .* did you mean 'fc1'"),
        (HEADER + "fc1,0,1\nfc1,3,1\n", "line 3: neuron 3 of layer 'fc1': it has 3: the file is"),
        (HEADER + "fc1,-1,1\n", "line 2: NeuronIndex='-1' is no whole number"),
        (HEADER + "fc1,1.0,1\n", "line 2: NeuronIndex='1.0' is no whole number"),
        (HEADER + "fc1,0,high\n", "line 2: Score='high' is no finite number"),
        (HEADER + "fc1,0,nan\n", "line 2: Score='nan' is no finite number"),
        (HEADER + "fc1,0,1\nfc1,1,2\nfc1,0,1\n", "line 4: fc1:0 has a score already, in line 2"),
        (HEADER + "fc1,0\n", "line 2: 2 values, not LayerName,NeuronIndex,Score"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(path, LAYERS)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="csv_file=.*no such file"):
        read_scores(tmp_path / "none.csv", LAYERS)
