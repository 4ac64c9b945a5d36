"""Logits that are no numbers: noticed at every step of decoding, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.logits import refuse_nan


class FaultyLogits(LogitsProcessor):
    """Notes the rows whose logits are broken, from which any token would be taken.

    They are noted on the device, where `FaultyEnd` ends the decoding, and read when it has ended.

    Args:
        changes: What changes the forward pass of any row.

    Attributes:
        scores: Those of the present step, before anything has changed them.
        calls: Steps so far.
    """

    def __init__(self, changes: Sequence[Change]) -> None:
        self.names = " and ".join(dict.fromkeys(f"the {change.name}" for change in changes))
        self.rows: Tensor | None = None
        self.scores: Tensor | None = None
        self.calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        # A maximum propagates NaN.
        largest = scores.amax(dim=1)
        faulty = ~(largest < torch.inf) if self.names else largest.isnan()
        self.rows = faulty if self.rows is None else self.rows | faulty
        self.scores = scores
        return scores

    def refuse(self) -> None:
        """Raises the error of rows that were noted.

        Raises:
            ValueError: If there are any.
        """
        if self.rows is None:
            return
        if not self.names:
            refuse_nan(self.rows)
        elif bool(self.rows.any()):
            raise ValueError(
                f"{self.names} breaks the model, which returns NaN or infinite logits: take "
                "smaller strengths"
            )


class FaultyEnd(StoppingCriteria):
    """Ends all rows once one is faulty."""

    def __init__(self, faulty: FaultyLogits) -> None:
        self.faulty = faulty

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.faulty.rows is None:  # whoever decodes has left it out, which receipts will show
            return input_ids.new_zeros(len(input_ids), dtype=torch.bool)
        return self.faulty.rows.any().to(input_ids.device).expand(len(input_ids))
