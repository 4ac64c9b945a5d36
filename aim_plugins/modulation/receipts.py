"""Receipts: what was in fact changed of one answer, which goes with it wherever it is kept.

An engine writes a receipt from what it has seen of the change itself (`witness`), and refuses an
answer of which too little was changed. Whoever keeps answers refuses one without a receipt, or with
that of another modulation, so that no answer of the plain model is taken for a modulated one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aim_plugins.core.errors import ReceiptError
from aim_plugins.core.strengths import format_strength
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column

KEY = "receipts"
"""Where samples and predictions hold the receipts of their answers."""


@dataclass(frozen=True)
class Changed:
    """What one change did to an answer.

    Attributes:
        kind: The kind of change.
        strength: Its strength.
        sites: Places at which it acted: modules of activations, parameters of weights, 1 of logits.
        tokens: Tokens that it acted on, prompt and answer; of logits, the answer's alone.
    """

    kind: str
    strength: float
    sites: int
    tokens: int


@dataclass(frozen=True)
class Receipt:
    """What was in fact changed of one answer.

    Attributes:
        modulation: Fingerprint of the column.
        changes: What each change did, of those that are not the identity.

    >>> receipt = Receipt("ab12", (Changed("noise", 0.5, 1, 8),))
    >>> Receipt.from_json(receipt.to_json()) == receipt
    True
    """

    modulation: str
    changes: tuple[Changed, ...] = ()

    @classmethod
    def of(
        cls, column: Column, sites: Mapping[Change, int], tokens: Mapping[Change, int]
    ) -> Receipt:
        """The receipt of an answer under a column.

        Args:
            column: The column.
            sites: Places at which each of its changes acted; 1 for those of logits if left out.
            tokens: Tokens that each acted on.
        """
        of_logits = dict.fromkeys(column.acting_on("logits"), 1)
        counts = {**dict.fromkeys(column.effective.changes, 0), **of_logits, **sites}
        changes = (
            Changed(one.name, one.strength, counts[one], tokens[one])
            for one in column.effective.changes
        )
        return cls(column.fingerprint, tuple(changes))

    @classmethod
    def together(cls, parts: Sequence[Receipt]) -> Receipt:
        """The receipt of an answer that was computed in parts under one column."""
        changes = (
            Changed(
                one.kind,
                one.strength,
                min(part.changes[place].sites for part in parts),
                sum(part.changes[place].tokens for part in parts),
            )
            for place, one in enumerate(parts[0].changes)
        )
        return cls(parts[0].modulation, tuple(changes))

    @classmethod
    def of_nothing(cls, column: Column) -> Receipt:
        """The receipt of an answer for which the model had nothing to read."""
        nothing = dict.fromkeys(column.effective.changes, 0)
        return cls.of(column, nothing, nothing)

    @classmethod
    def from_json(cls, value: Any) -> Receipt | None:
        """The receipt that `to_json` wrote; None of anything else."""
        try:
            return cls(value["modulation"], tuple(Changed(**one) for one in value["changes"]))
        except (KeyError, TypeError):
            return None

    def to_json(self) -> dict[str, Any]:
        """The receipt as JSON."""
        return {"modulation": self.modulation, "changes": [asdict(one) for one in self.changes]}


def check_receipts(
    receipts: Sequence[Receipt | None], columns: Sequence[Column], label: str
) -> None:
    """Refuses answers without receipts of their columns.

    Args:
        receipts: The receipt of each column's answer.
        columns: The columns.
        label: What was asked, for the error.

    Raises:
        ReceiptError: If one is missing, or another column's.
    """
    if len(receipts) != len(columns):
        raise ReceiptError(f"{label}: {len(receipts)} receipts for {len(columns)} answers")
    for receipt, column in zip(receipts, columns, strict=True):
        check_receipt(receipt, column, label)


def check_receipt(receipt: Receipt | None, column: Column, label: str) -> None:
    """Refuses an answer without a receipt of its column; see `check_receipts`."""
    if receipt is None:
        raise ReceiptError(
            f"{label}: the answer came without a receipt, so that nothing shows that it is that of "
            f"{described(column)}: let it be computed by an engine of aim-plugins"
        )
    asked = [(one.name, one.strength) for one in column.effective.changes]
    found = [(one.kind, one.strength) for one in receipt.changes]
    if receipt.modulation != column.fingerprint or asked != found:
        given = ", ".join(f"{kind} {format_strength(one)}" for kind, one in found) or "nothing"
        raise ReceiptError(
            f"{label}: asked for {described(column)}, and the receipt is of {given} "
            f"({receipt.modulation[:12]}): the answer is another column's"
        )
    for one in receipt.changes:
        if one.tokens and not one.sites:
            raise ReceiptError(
                f"{label}: asked for {described(column)}, and the {one.kind} acted nowhere"
            )


def described(column: Column) -> str:
    """The changes of a column and their strengths, for errors."""
    changes = column.effective.changes
    return ", ".join(f"{one.name} {format_strength(one.strength)}" for one in changes) or (
        "the plain model"
    )
