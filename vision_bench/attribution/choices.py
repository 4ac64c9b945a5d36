"""What attribution offers to choose from, and what its stages and files are called."""

from __future__ import annotations

from typing import Literal

OutputFunction = Literal["margin", "log_likelihood"]

BASELINES = (
    "leave_one_out",
    "gradient_times_parameter",
    "neuron_conductance",
    "internal_influence",
)
"""Attributions that others make, in the order of the paper's table."""

DATASET, ATTRIBUTIONS, EVALUATION = "dataset", "attributions", "evaluation"
"""Folders that the stages write, in turn."""
