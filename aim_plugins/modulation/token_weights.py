"""The strength of each token of a batch: that of its row, at the tokens that it reaches."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.modulation.applied_strengths import AppliedWeights
from aim_plugins.modulation.windows import window_bounds


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each row lie in the forward passes of a model, padding counted.

    Attributes:
        prompts: One past the position of the last token of each row's prompt.
        firsts: Position of each row's first token, after its padding; 0 where there is none.
        cached: Positions that the model has in its cache before the first pass.
        whole: Whether every pass computes all positions anew, as without a cache.
    """

    prompts: Int[Tensor, " rows"]
    firsts: Int[Tensor, " rows"] | int = 0
    cached: int = 0
    whole: bool = False


def read_strengths(
    strengths: Float[Tensor, " rows"] | Sequence[float] | float,
) -> Float[Tensor, " rows"]:
    """Strengths as a vector on the CPU.

    Raises:
        ValueError: If one is no finite number.
    """
    rows = torch.as_tensor(strengths, dtype=torch.float32).reshape(-1).cpu()
    if not bool(rows.isfinite().all()):
        raise ValueError(f"strengths={strengths!r} must be finite numbers")
    return rows


class TokenWeights:
    """The strength of each activation of a batch, broadcast over neurons.

    Attributes:
        partial: Whether some activations are to stay as they are.

    Raises:
        ValueError: If the window needs a layout.
    """

    def __init__(self, rows: Float[Tensor, " rows"], window: str, layout: Layout | None) -> None:
        self._rows = rows
        self._layout = layout
        self._everywhere = window == "all"
        self.partial = not self._everywhere or bool((rows == 0).any())
        if layout is not None:
            bounds = window_bounds(window, layout.prompts, layout.firsts)
            self._starts, self._stops = (torch.as_tensor(one).reshape(-1).cpu() for one in bounds)
        elif window not in ("all", "last"):
            raise ValueError(
                f"window={window!r} asks where prompts end: give a layout, or take 'all' or 'last'"
            )
        self._batch: tuple[int, int] | None = None
        self._next = 0 if layout is None else layout.cached
        self._first = self._next
        self._of_pass: dict[Any, Any] = {}
        self._kept: dict[Any, Tensor] = {}
        self._uses: dict[str, Counter[Any]] = defaultdict(Counter)

    @contextlib.contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Notes the rows and tokens of each batch, which modules may lay out in one dimension."""
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
        if self._everywhere or embeddings is None:
            yield
            return

        def note(module: Any, inputs: Any, embedded: Tensor) -> None:
            self._batch = (embedded.shape[0], embedded.shape[1])
            if self._layout is not None and not self._layout.whole:
                self._first, self._next = self._next, self._next + embedded.shape[1]
            self._of_pass.clear()

        handle = embeddings.register_forward_hook(note)
        try:
            yield
        finally:
            handle.remove()

    def of(self, activations: Tensor, site: str = "") -> Tensor:
        """Strengths of activations [rows, (tokens,) neurons], in a shape that broadcasts.

        Args:
            activations: The activations.
            site: Where they are, of which `applied` tells.
        """
        key = (activations.shape[:-1], activations.device)
        if key not in self._of_pass:
            weights = self._spread(activations.shape)
            # Decoding steps are mostly like the one before, and copying waits for the device.
            value = (key[0], weights.shape, weights.numpy().tobytes(), activations.device)
            if value not in self._kept:
                self._kept[value] = weights.to(activations.device)
            self._of_pass[key] = value
        self._uses[site][self._of_pass[key]] += 1
        return self._kept[self._of_pass[key]]

    def applied(self) -> AppliedWeights:
        """What was applied, after all passes."""
        return AppliedWeights(self._kept, self._uses)

    def _spread(self, shape: torch.Size) -> Tensor:
        if self._everywhere:
            if len(self._rows) == 1:
                return self._rows
            return self._repeat(self._rows, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        flat = self._batch is not None and shape[:-1] == (self._batch[0] * self._batch[1],)
        rows, tokens = self._batch if flat and self._batch else shape[:2]
        if len(shape) < 3 and not flat:
            raise ValueError(
                f"windows cannot tell rows from tokens in outputs of the shape {tuple(shape)}: "
                "leave such modules out of the pattern, or take positions='all'"
            )
        weights = self._repeat(self._rows, rows)[:, None] * self._chosen(rows, tokens)
        if flat:
            return weights.reshape(-1, 1)
        return weights.reshape(rows, tokens, *[1] * (len(shape) - 2))

    def _chosen(self, rows: int, tokens: int) -> Tensor:
        """Which positions of each row the window reaches."""
        if self._layout is None:
            return (torch.arange(tokens) == tokens - 1)[None]
        # Prompt tuning lets tokens of its own run before those of the row.
        virtual = 0 if self._batch is None else tokens - self._batch[1]
        position = torch.arange(tokens)[None] + self._first - virtual
        starts, stops = (self._repeat(one, rows)[:, None] for one in (self._starts, self._stops))
        return (starts <= position) & (position < stops)

    @staticmethod
    def _repeat(values: Tensor, count: int) -> Tensor:
        if len(values) == 1:
            return values.expand(count)
        if count % len(values):
            raise ValueError(
                f"strengths has {len(values)} rows, and a module's output {count}: give one for "
                "each row of the batch"
            )
        return values.repeat_interleave(count // len(values))
