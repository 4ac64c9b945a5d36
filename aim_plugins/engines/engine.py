"""The contract between a harness and whoever runs the model: an N x S table.

N requests meet S modulations (the columns: one for each strength and draw) and one call returns
every answer. Logit noise never changes the forward pass, so an engine serves all columns from one
forward; a single strength is the case S = 1. Harness adapters translate requests into token rows
and replay columns; they compute nothing themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from jaxtyping import Int
from torch import Tensor

from aim_plugins.modulation.noise import NOISE_VERSION
from aim_plugins.sweep.strengths import parse_strengths

BatchSize = int | Callable[[int, Sequence[tuple[None, Sequence[int], Sequence[int]]]], int]
"""Contexts in a forward pass, or a function of the next context's index and of all of them."""


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """One column of the table: keyed Gaussian noise on the logits of a model.

    Attributes:
        std: Standard deviation in logit units (nats); 0 leaves the model as it is.
        mean: Mean of the noise in logit units; without effect where `std` is 0.
        seed: Seed of the noise. Draws of a sweep differ in nothing but their seed.

    Source: arXiv 2603.12755, utility modulation.
    """

    std: float = 0.0
    mean: float = 0.0
    seed: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether the column is the unmodulated model."""
        return self.std == 0

    @property
    def effective(self) -> GaussianNoise:
        """The representative of all columns that give the same answers as this one."""
        return GaussianNoise() if self.is_identity else self

    @property
    def fingerprint(self) -> str:
        """Identifies the modulation in cache keys, records and manifests."""
        return fingerprint(
            {"method": "gaussian_noise", "version": NOISE_VERSION, **asdict(self.effective)}
        )


def noise_columns(
    noise_std: object, noise_mean: float = 0.0, noise_seed: int = 0, noise_draws: int = 1
) -> tuple[GaussianNoise, ...]:
    """Spells out the columns of a sweep, strengths outside, draws inside.

    Args:
        noise_std: A strength, several, or a grid such as "0:3:0.25", in logit units.
        noise_mean: Mean of the noise in logit units.
        noise_seed: Seed of the first draw; draw d has seed `noise_seed + d`.
        noise_draws: Draws of the noise for every strength.

    Raises:
        ValueError: If a strength is negative or not finite, strengths are missing or given twice,
            or the number of draws is not positive.
    """
    stds = parse_strengths(noise_std, name="noise_std")  # type: ignore[arg-type]
    draws, seed, mean = int(noise_draws), int(noise_seed), float(noise_mean)
    if draws != float(noise_draws) or draws < 1:
        raise ValueError(f"noise_draws={noise_draws!r} must be a whole number of at least 1")
    if not -(2**63) <= seed < 2**63 - draws:
        raise ValueError(f"noise_seed={noise_seed!r} does not fit into 64 bits")
    if not abs(mean) < float("inf"):
        raise ValueError(f"noise_mean={noise_mean!r} must be a finite number")
    return tuple(GaussianNoise(std, mean, seed + draw) for std in stds for draw in range(draws))


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Tokens whose log-likelihood is asked for.

    Attributes:
        context: Token ids the continuation is conditioned on; at least one.
        continuation: Token ids to score; at least one.
        label: How errors name the request.
    """

    context: Sequence[int]
    continuation: Sequence[int]
    label: str = "a request"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row of a scoring table: a request under every column.

    Attributes:
        log_likelihoods: log p(continuation | context) of each column, in nats.
        is_greedy: Whether greedy decoding would produce the continuation, for each column.
        clean: Log-likelihood without modulation, from a float32 softmax whatever the model's
            dtype. Differences of it between single-token continuations of one context are the
            differences of the clean logits, which the exact laws need.
        context_key: Prefix key of the first scored position.
        tokens: The continuation's token ids.
    """

    log_likelihoods: Sequence[float]
    is_greedy: Sequence[bool]
    clean: float
    context_key: int
    tokens: Sequence[int]


class Journal(Protocol):
    """Where an engine keeps the finished batches of a run that may be interrupted."""

    def read_batch(self, key: str) -> dict[str, Any] | None:
        """Returns what was written under `key`, or None."""

    def write_batch(self, key: str, payload: dict[str, Any]) -> None:
        """Stores a finished batch atomically."""


@dataclass(frozen=True)
class Prompts:
    """Left-padded prompts.

    Attributes:
        token_ids: Token ids.
        mask: 1 for tokens, 0 for padding.
    """

    token_ids: Int[Tensor, "prompts tokens"]
    mask: Int[Tensor, "prompts tokens"]

    def __getitem__(self, rows: slice) -> Prompts:
        """Some of the prompts, padded as they are."""
        return Prompts(self.token_ids[rows], self.mask[rows])

    def unpadded(self) -> list[Tensor]:
        """The token ids of each prompt without its padding."""
        return [row[mask.bool()].cpu() for row, mask in zip(self.token_ids, self.mask, strict=True)]


class Engine(Protocol):
    """Runs a model for N requests under S modulations.

    Attributes:
        journal: Keeps finished batches, so that an interrupted run goes on where it was.
    """

    journal: Journal | None

    @property
    def fingerprint(self) -> str:
        """Identifies the model and the numeric options that shape its answers."""

    def score(
        self,
        requests: Sequence[ScoreRequest],
        columns: Sequence[GaussianNoise],
        *,
        batch_size: BatchSize,
        progress: bool = True,
        on_row: Callable[[int, ScoreRow], None] | None = None,
    ) -> list[ScoreRow]:
        """Scores continuations: one row for each request, in the order of the requests."""

    def generate(
        self,
        prompts: Prompts,
        columns: Sequence[GaussianNoise],
        *,
        max_length: int,
        stop: Sequence[str] = (),
        occurrence: int = 0,
        **options: Any,
    ) -> list[list[list[int]]]:
        """Continues prompts: new token ids for each prompt and column.

        Sampling answers each `occurrence` of the same prompts anew.
        """

    def probe(self, batch_size: int, length: int, columns: int, *, generation: bool) -> None:
        """Takes the memory that one batch needs, or fails as the batch itself would."""
