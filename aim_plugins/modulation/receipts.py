"""Receipts: what was in fact changed of one answer, which goes with it wherever it is kept.

An engine writes a receipt from what it has seen of the change itself (`witness`), and refuses an
answer of which too little was changed. Whoever keeps answers refuses one without a receipt, or with
that of another modulation, so that no answer of the plain model is taken for a modulated one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from aim_plugins.core.errors import ReceiptError
from aim_plugins.core.strengths import format_strength
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column

if TYPE_CHECKING:
    from aim_plugins.modulation.conditions import Condition

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
        held: Whether its condition held of the prompt; None where it has none.
        similarity: By what that was decided; None where there was no prompt.
    """

    kind: str
    strength: float
    sites: int
    tokens: int
    held: bool | None = None
    similarity: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in asdict(self).items() if value is not None}


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
        """The receipt of an answer that was computed in parts under one column.

        Each part is decided by itself: of a change with a condition, those that it acted on count.
        """
        changes = []
        for own in zip(*(part.changes for part in parts), strict=True):
            acted = [one for one in own if one.held is not False] or own
            sites, tokens = min(one.sites for one in acted), sum(one.tokens for one in acted)
            changes.append(replace(acted[0], sites=sites, tokens=tokens))
        return cls(parts[0].modulation, tuple(changes))

    @classmethod
    def of_nothing(cls, column: Column) -> Receipt:
        """The receipt of an answer for which the model had nothing to read."""
        changes = (
            Changed(one.name, one.strength, 0, 0, None if one.condition is None else False)
            for one in column.effective.changes
        )
        return cls(column.fingerprint, tuple(changes))

    @classmethod
    def of_decided(
        cls, column: Column, left: Receipt, similarities: Mapping[Condition, float]
    ) -> Receipt:
        """The receipt of an answer under a column that has conditions.

        Args:
            column: The column that was asked for.
            left: The receipt of the column that its conditions left of it.
            similarities: By what each condition was decided.
        """
        acted, changes = iter(left.changes), []
        for one in column.effective.changes:
            if one.condition is None:
                changes.append(next(acted))
                continue
            similarity = similarities[one.condition]
            held = one.condition.holds(similarity)
            found = next(acted) if held else Changed(one.name, one.strength, 0, 0)
            changes.append(replace(found, held=held, similarity=similarity))
        return cls(column.fingerprint, tuple(changes))

    @classmethod
    def from_json(cls, value: Any) -> Receipt | None:
        """The receipt that `to_json` wrote; None of anything else."""
        try:
            return cls(value["modulation"], tuple(Changed(**one) for one in value["changes"]))
        except (KeyError, TypeError):
            return None

    def to_json(self) -> dict[str, Any]:
        """The receipt as JSON."""
        return {"modulation": self.modulation, "changes": [one.to_json() for one in self.changes]}


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
    for change, one in zip(column.effective.changes, receipt.changes, strict=True):
        if one.tokens and not one.sites:
            raise ReceiptError(
                f"{label}: asked for {described(column)}, and the {one.kind} acted nowhere"
            )
        if change.condition is not None and (reason := _contradiction(change, one)):
            raise ReceiptError(f"{label}: asked for {described(column)}, {reason}")


def _contradiction(change: Change, found: Changed) -> str:
    """What a receipt says of a change with a condition that cannot be; empty if nothing."""
    if found.held is None:
        return "and nothing shows whether its condition holds of the prompt"
    if found.similarity is not None and found.held is not change.condition.holds(found.similarity):
        does = "held" if found.held else "did not hold"
        return (
            f"and its condition {does} at the similarity {found.similarity:.4g}, "
            f"against what was asked for ({change.condition})"
        )
    if not found.held and (found.sites or found.tokens):
        return f"and it changed {found.tokens} tokens though its condition did not hold"
    if found.held and change.certain and change.positions == "all" and not found.tokens:
        # A text that ends before its first token was decoded by a changed pass all the same.
        return "" if found.sites else "and it changed nothing though its condition held"
    return ""


def described(column: Column) -> str:
    """The changes of a column and their strengths, for errors."""
    changes = column.effective.changes
    return ", ".join(f"{one.name} {format_strength(one.strength)}" for one in changes) or (
        "the plain model"
    )
