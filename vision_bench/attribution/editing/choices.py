"""Words of the settings of edits, and what is compared."""

from __future__ import annotations

from typing import Literal

WRONG, TRIGGERED, TYPOGRAPHIC = "wrong", "triggered", "typographic"
WORST_GROUP = "worst-group"
"""Targets that are neither classes nor a file."""

Kind = Literal["classes", "images", "wrong", "triggered", "typographic", "worst-group"]

STATISTIC, MARGINS = "statistic", "margins"
ORDERS = (STATISTIC, MARGINS)
"""In which order components are ablated."""

WHOLE, EDITED, RANDOM, TUNED = "model", "edit", "random edits", "fine-tuned"
ARMS = {
    WHOLE: "the model as it is",
    EDITED: "the components chosen by attribution are ablated",
    RANDOM: "as many components, drawn at random, are ablated",
    TUNED: "the last layer is fine-tuned on the targets and references",
}
"""What is compared, by name."""
