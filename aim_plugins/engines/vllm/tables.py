"""Numbers of requests in one table, so that those of a step are looked up at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int


class RequestTable:
    """Numbers of each request.

    Args:
        shape: Of the numbers of one request.
        dtype: Their type.

    Attributes:
        values: All of them, [rows, *shape]; an array of its own after requests have come.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.float64) -> None:
        self.values = np.zeros((16, *shape), dtype)
        self._rows: dict[Hashable, int] = {}
        self._free = list(range(len(self.values)))

    def __contains__(self, name: Hashable) -> bool:
        return name in self._rows

    def __setitem__(self, name: Hashable, values: np.ndarray) -> None:
        if name not in self._rows:
            if not self._free:
                self._free = list(range(len(self.values), 2 * len(self.values)))
                self.values = np.concatenate([self.values, np.zeros_like(self.values)])
            self._rows[name] = self._free.pop()
        self.values[self._rows[name]] = values

    def __delitem__(self, name: Hashable) -> None:
        if (row := self._rows.pop(name, None)) is not None:
            self._free.append(row)

    def rows(self, names: Sequence[Hashable]) -> Int[np.ndarray, " names"]:
        """The row of each request, -1 for one that is unknown."""
        return np.array([self._rows.get(name, -1) for name in names], dtype=np.intp)

    def of(self, names: Sequence[Hashable]) -> np.ndarray:
        """The numbers of requests; one that is unknown would be left unsteered, and is an error."""
        rows = np.fromiter(map(self._rows.__getitem__, names), np.intp, len(names))
        return self.values[rows]
