"""Receipts in OpenCompass's predictions: of each document, one for each answer that it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from aim_plugins.core.errors import ReceiptError
from aim_plugins.core.files import write_atomic
from aim_plugins.modulation.receipts import KEY, Receipt


def add_receipts(path: Path, receipts: Sequence[Receipt]) -> None:
    """Writes the receipts of all answers into a predictions file.

    Args:
        path: The file, as an inferencer of OpenCompass writes it.
        receipts: Those of the answers, in the order in which the inferencer asked: all documents
            with their first choice, all with the second, and so on.

    Raises:
        ReceiptError: If they are not as many for each document.
    """
    predictions = json.loads(path.read_bytes())
    count = len(predictions)
    if count and (not receipts or len(receipts) % count):
        raise ReceiptError(
            f"{path.name}: {len(receipts)} answers with a receipt for {count} documents: others "
            "came past the engine, maybe from a file of an earlier run: remove it"
        )
    for document in range(count):
        own = [one.to_json() for one in receipts[document::count]]
        predictions[str(document)][KEY] = own
    write_atomic(path, json.dumps(predictions, indent=4, ensure_ascii=False))
