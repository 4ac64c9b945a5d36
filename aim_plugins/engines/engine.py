"""The contract between a harness and whoever runs the model: an N x S table.

N requests meet S modulations (the columns: one for each strength and draw) and one call returns
every answer. Logit noise never changes the forward pass, so an engine serves all its columns from
one forward; activation transport does, so its strengths become passes or rows of one batch. A
single strength is the case S = 1. Harness adapters translate requests into token rows and replay
columns; they compute nothing themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import parse_strengths
from aim_plugins.modulation.noise import NOISE_VERSION

BatchSize = int | Callable[[int, Sequence[tuple[None, Sequence[int], Sequence[int]]]], int]
"""Contexts in a forward pass, or a function of the next context's index and of all of them."""


@dataclass(frozen=True, slots=True)
class Modulation:
    """One column of the table: what is changed of the frozen model, and how strongly.

    Attributes:
        std: Standard deviation of keyed Gaussian noise on the logits, in logit units (nats); 0
            leaves them as they are.
        mean: Mean of the noise in logit units; without effect where `std` is 0.
        seed: Seed of the noise. Draws of a sweep differ in nothing but their seed.
        transport_strength: Strength of the engine's activation transport; 0 leaves activations as
            they are, 1 applies the maps as they were learned.
        transport: Fingerprint of that transport.

    Source: arXiv 2603.12755, utility modulation; arXiv 2410.23054, eq. 4.
    """

    std: float = 0.0
    mean: float = 0.0
    seed: int = 0
    transport_strength: float = 0.0
    transport: str = ""

    @property
    def has_noise(self) -> bool:
        """Whether the column adds noise to the logits."""
        return self.std != 0

    @property
    def is_identity(self) -> bool:
        """Whether the column is the unmodulated model."""
        return self.std == 0 and self.transport_strength == 0

    @property
    def noise(self) -> Modulation:
        """What the column does to logits, in the one form that all equal noise has."""
        return Modulation(self.std, self.mean, self.seed) if self.has_noise else Modulation()

    @property
    def effective(self) -> Modulation:
        """The representative of all columns that give the same answers as this one."""
        if self.transport_strength == 0:
            return self.noise
        return replace(
            self.noise, transport_strength=self.transport_strength, transport=self.transport
        )

    @property
    def fingerprint(self) -> str:
        """Identifies the modulation in cache keys, records and manifests."""
        noise = {name: getattr(self.noise, name) for name in ("std", "mean", "seed")}
        parts: dict[str, Any] = {"method": "gaussian_noise", "version": NOISE_VERSION, **noise}
        if self.transport_strength != 0:
            parts["transport"] = [self.transport, self.transport_strength]
        return fingerprint(parts)


def modulation_columns(
    noise_std: object = 0.0,
    noise_mean: float = 0.0,
    noise_seed: int = 0,
    noise_draws: int = 1,
    *,
    strength: object = 0.0,
    transport: str = "",
) -> tuple[Modulation, ...]:
    """Spells out the columns of a sweep, strengths outside, draws inside.

    Args:
        noise_std: A strength of the noise, several, or a grid such as "0:3:0.25", in logit units.
        noise_mean: Mean of the noise in logit units.
        noise_seed: Seed of the first draw; draw d has seed `noise_seed + d`.
        noise_draws: Draws of the noise for every strength.
        strength: A strength of the transport, several, or a grid such as "0:1:0.1".
        transport: Fingerprint of the transport.

    Raises:
        ValueError: If a strength is not finite, the noise's is negative, strengths are missing or
            given twice, both modulations have several, or the number of draws is not positive.
    """
    stds = parse_strengths(noise_std, name="noise_std")  # type: ignore[arg-type]
    strengths = parse_strengths(strength, name="strength", signed=True)  # type: ignore[arg-type]
    if len(stds) > 1 and len(strengths) > 1:
        raise ValueError(
            f"noise_std={noise_std!r} and strength={strength!r} both hold several strengths: "
            "a curve has one strength that varies; fix the other one"
        )
    draws, seed, mean = int(noise_draws), int(noise_seed), float(noise_mean)
    if draws != float(noise_draws) or draws < 1:
        raise ValueError(f"noise_draws={noise_draws!r} must be a whole number of at least 1")
    if not -(2**63) <= seed < 2**63 - draws:
        raise ValueError(f"noise_seed={noise_seed!r} does not fit into 64 bits")
    if not abs(mean) < float("inf"):
        raise ValueError(f"noise_mean={noise_mean!r} must be a finite number")
    return tuple(
        Modulation(std, mean, seed + draw, transport_strength, transport)
        for transport_strength in strengths
        for std in stds
        for draw in range(draws)
    )


def by_transport(columns: Sequence[Modulation]) -> dict[float, list[int]]:
    """Indices of columns, by the strength of their transport."""
    members: dict[float, list[int]] = {}
    for index, column in enumerate(columns):
        members.setdefault(column.transport_strength, []).append(index)
    return members


SweptName = Literal["std", "transport_strength"]


def swept_strength(columns: Sequence[Modulation]) -> SweptName:
    """Names the attribute of the columns that is the strength of their curve."""
    if len({column.std for column in columns}) == 1 and any(
        column.transport_strength or column.transport for column in columns
    ):
        return "transport_strength"
    return "std"


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
        clean: Log-likelihood without noise, under the first column's transport, from a float32
            softmax whatever the model's dtype. Differences of it between single-token continuations
            of one context are the differences of the clean logits, which the exact laws need.
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
        columns: Sequence[Modulation],
        *,
        batch_size: BatchSize,
        progress: bool = True,
        on_row: Callable[[int, ScoreRow], None] | None = None,
    ) -> list[ScoreRow]:
        """Scores continuations: one row for each request, in the order of the requests."""

    def generate(
        self,
        prompts: Prompts,
        columns: Sequence[Modulation],
        *,
        max_length: int,
        stop: Sequence[str] = (),
        occurrences: Sequence[int] | None = None,
        **options: Any,
    ) -> list[list[list[int]]]:
        """Continues prompts: new token ids for each prompt and column.

        Sampling answers a prompt anew for each of its `occurrences`, the number of times it was
        asked before; none was if left out.
        """

    def probe(self, batch_size: int, length: int, columns: int, *, generation: bool) -> None:
        """Takes the memory that one batch needs, or fails as the batch itself would."""
