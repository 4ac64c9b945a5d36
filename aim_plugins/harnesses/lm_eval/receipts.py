"""Receipts in lm-evaluation-harness: they travel on the answers, and end in the samples.

The harness keeps what a model answers as it is: in every sample (`resps`), in its cache, between
processes. Answers are therefore the harness's texts, numbers and pairs, carrying a receipt besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.receipts import KEY, Receipt, check_receipt


class _Carrying:
    """An answer that carries a receipt."""

    receipt: Receipt | None = None


class _Text(_Carrying, str): ...


class _Pair(_Carrying, tuple): ...


class _Number(_Carrying, float): ...


class _Whole(_Carrying, int): ...


_KINDS: dict[type, type] = {str: _Text, tuple: _Pair, float: _Number, int: _Whole}


def carrying(answer: Any, receipt: Receipt | None) -> Any:
    """An answer of the harness that carries a receipt and is otherwise what it was.

    >>> pair = carrying((-1.5, True), Receipt("ab12"))
    >>> pair == (-1.5, True), receipt_of(pair)
    (True, Receipt(modulation='ab12', changes=()))
    """
    carrier = _KINDS[type(answer)](answer)
    carrier.receipt = receipt
    return carrier


def receipt_of(answer: Any) -> Receipt | None:
    """The receipt that an answer carries, if any."""
    return getattr(answer, "receipt", None)


def file_receipts(samples: Mapping[str, Sequence[dict[str, Any]]], column: Column) -> None:
    """Writes the receipt of every answer into the harness's samples, beside `resps`.

    Args:
        samples: The harness's samples of each task.
        column: The column that was asked for.

    Raises:
        ReceiptError: If an answer carries none, or another column's.
    """
    for task, own in samples.items():
        for sample in own:
            label = f"document {sample['doc_id']} of {task}"
            found = [[receipt_of(one) for one in answers] for answers in sample["resps"]]
            for receipt in (one for answers in found for one in answers):
                check_receipt(receipt, column, label)
            sample[KEY] = [[one and one.to_json() for one in answers] for answers in found]
