"""Modulations as nouns: a column of a table is an ordered tuple of changes, each with a strength.

A *kind of change* is one small class, derived from `Change`, and one registration. It says what it
is called, what its strength measures, what it acts on and how it reads its arguments; engines,
harnesses, sweeps and pictures ask it and know no kind by name:

    @register
    @dataclass(frozen=True)
    class Temperature(Change):
        name = "temperature"
        axis = Axis("temperature", "τ", "temperature", low=0.01)
        acts_on = "logits"
        arguments = {"logit_temperature": "what logits are divided by"}
        neutral = 1.0
        strength: float

        def modulate(self, logits, keys, scratch):
            return logits / self.strength

`lm_eval --model aim_hf --model_args pretrained=MODEL,logit_temperature=0.5:2:0.25` then sweeps it,
and a request to vLLM asks for it with `aim_temperature`.
A package that is installed registers its kinds by an entry point of the group
`aim_plugins.changes`, so that every process of a harness knows them.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, TypeVar

from aim_plugins.core.errors import nearest
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import Axis

Target = Literal["logits", "activations", "weights"]

SEED, DRAWS = "noise_seed", "noise_draws"
"""Arguments of all kinds together: the seed of the first draw, and the draws of every strength."""

REQUEST_SEED = "aim_seed"
"""Argument of a vLLM request for the seed of whatever its changes draw."""

ENTRY_POINTS = "aim_plugins.changes"

_kinds: dict[str, type[Change] | str] = {
    "noise": "aim_plugins.modulation.gaussian:GaussianNoise",
    "transport": "aim_plugins.transport.change:Transport",
}
"""Kinds by name, in the order in which they act; a text is "module:Class", loaded when needed."""


class Scratch:
    """What the changes of one block of logits share, so that it is computed and allocated once."""

    def __init__(self) -> None:
        self._draws: dict[str, tuple[Any, Any]] = {}
        self._buffer: Any = None

    def draw(self, kind: str, key: Any, make: Callable[[], Any]) -> Any:
        """What a kind drew last, made anew where `key` is another one."""
        if kind not in self._draws or self._draws[kind][0] != key:
            self._draws[kind] = key, make()
        return self._draws[kind][1]

    def buffer(self, logits: Any) -> Any:
        """A tensor like `logits` to write into; it may be `logits` itself."""
        if self._buffer is None or self._buffer.shape != logits.shape:
            self._buffer = logits.new_empty(logits.shape)
        return self._buffer


class Change(abc.ABC):
    """One change of a frozen model at one strength: an instance is a frozen dataclass.

    Attributes:
        name: What the kind is called.
        axis: What its strength measures.
        acts_on: "logits" change without a forward pass of their own, "activations" row by row of
            one batch, "weights" for a whole pass.
        arguments: Arguments that harnesses take, with their meaning; the first is the strength's.
        neutral: The strength that leaves the model as it is.
        strength: The one scalar.
        fingerprint: Of what it was learned as, whatever the strength; empty where nothing was.
        seed: Seed of whatever it draws; 0 of kinds that draw nothing.
        positions: Of activations: "all" tokens change, or "last", the prompt's last one and every
            token after it, so that what was read of the prompt before stays as it is.
        maps: Of activations: the `ActivationMaps` that it applies, where that is all it does. vLLM
            runs those alone, as it compiles what changes activations into the model.
        learned: What was learned on a model, with its metadata, where it is that.
        folder: Where `learned` was read from, if anywhere.
        force: Whether it may change another model than it was learned on.
        request_limit: Largest strength, either way, that a server takes of a client.
    """

    name: ClassVar[str]
    axis: ClassVar[Axis]
    acts_on: ClassVar[Target]
    arguments: ClassVar[Mapping[str, str]]
    neutral: ClassVar[float] = 0.0
    draws: ClassVar[bool] = False
    request_limit: ClassVar[float] = 1e4

    strength: float
    fingerprint = ""
    seed = 0
    positions: str = "all"
    maps: Any = None
    learned: Any = None
    folder: str = ""
    force: bool = False

    # What it is -----------------------------------------------------------------------------------

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> tuple[Change, ...]:
        """Reads the kind's own arguments: a change for each strength.

        Args:
            given: Those of `arguments` that were given, at least one.

        Raises:
            ValueError: If one is malformed, or one is missing.
        """
        (name,) = cls.arguments
        return tuple(cls(strength) for strength in cls.axis.parse(given[name], name))  # type: ignore[call-arg]

    def drawn(self, seed: int) -> Change:
        """The change as another draw of it."""
        return dataclasses.replace(self, seed=seed) if self.draws else self  # type: ignore[type-var]

    @property
    def is_identity(self) -> bool:
        """Whether it leaves the model as it is, to the bit."""
        return self.strength == self.neutral

    @property
    def identity(self) -> Any:
        """JSON that tells it from every other change: in cache keys, records and manifests."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"kind": self.name} | {f.name: getattr(self, f.name) for f in fields if f.compare}

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that ask for it, as results record them."""
        return {next(iter(self.arguments)): self.strength}

    def check_model(self, model: Any, tokenizer: Any) -> None:  # noqa: B027
        """Refuses a model that it was not made for.

        Raises:
            ValueError: If it was made for another one.
        """

    # Logits ---------------------------------------------------------------------------------------

    def modulate(self, logits: Any, keys: Any, scratch: Scratch) -> Any:
        """Changes logits [rows, vocab] that follow prefixes of the keys [rows].

        Args:
            logits: The logits, in float32 where tokens are scored.
            keys: Key of the prefix of each row.
            scratch: Shared with the other columns of these logits.

        Returns:
            The modulated logits; `logits` stays as it is unless it is the scratch's own buffer.
        """
        raise NotImplementedError(f"{self.name} acts on {self.acts_on}, not on logits")

    @classmethod
    def modulate_rows(
        cls,
        logits: Any,
        keys: Any,
        changes: Sequence[Any],
        *,
        rows: Sequence[int] | None = None,
        compiled: bool | None = None,
    ) -> Any:
        """Changes rows of logits, each by a change of its own, none of them the identity.

        Args:
            logits: Logits [rows, vocab] of one decoding step.
            keys: Key of the prefix of each changed row.
            changes: One for each changed row.
            rows: Which rows these are, ascending; they are changed in place. None changes all rows
                of a copy.
            compiled: Whether to compile what can be; None decides by the device.
        """
        if rows is None:
            logits, rows = logits.clone(), range(len(changes))
        places: dict[Any, list[int]] = {}
        for place, change in enumerate(changes):
            places.setdefault(change, []).append(place)
        for change, members in places.items():
            own = [rows[place] for place in members]
            changed = change.modulate(logits[own].float(), keys[members], Scratch())
            logits[own] = changed.to(logits.dtype)
        return logits

    def argmax_law(self, logits: Any) -> Any | None:
        """The exact probability of each class to be the argmax, where it is known.

        Args:
            logits: Clean logits [documents, classes] in float64.

        Returns:
            Probabilities of that shape, or None where no law is known.
        """
        return None

    # Activations and weights ----------------------------------------------------------------------

    @classmethod
    def applied(
        cls, model: Any, changes: Sequence[Any], starts: Any = None
    ) -> contextlib.AbstractContextManager[None]:
        """Changes the model while the block runs, and restores it exactly.

        Args:
            model: The model.
            changes: Of activations, one for each row of a batch or one for all; None or the
                identity leaves its row as it is. Of weights, a single one.
            starts: Of `positions` "last", the first changed position of each row; None changes the
                last position only, as a decoding step on left-padded prompts does.
        """
        raise NotImplementedError(f"{cls.name} acts on {cls.acts_on}")

    # Servers --------------------------------------------------------------------------------------

    @classmethod
    def request_names(cls) -> tuple[str, ...]:
        """Arguments of its own in a vLLM request; the first is the strength's."""
        return (f"aim_{cls.axis.name}",)

    @property
    def request(self) -> dict[str, Any]:
        """The arguments that ask for it."""
        seed = {REQUEST_SEED: self.seed} if self.draws else {}
        return {self.request_names()[0]: self.strength} | seed

    @classmethod
    def of_request(cls, given: Mapping[str, Any]) -> Change | None:
        """Reads what a request asks for; a seed is set afterwards, by `drawn`.

        Args:
            given: All arguments of the request, of whatever type a client sends.

        Returns:
            The change, or None where the request does not ask for this kind.

        Raises:
            ValueError: If an argument is malformed or out of range.
        """
        (name,) = cls.request_names()
        if name not in given:
            return None
        return cls(cls.axis.check(given[name], name, limit=cls.request_limit))  # type: ignore[call-arg]


Kind = TypeVar("Kind", bound=type[Change])


def register(kind: Kind) -> Kind:
    """Makes a kind of change known; a class of the same name takes its place."""
    _kinds[kind.name] = kind
    return kind


def kinds() -> tuple[type[Change], ...]:
    """All kinds of change, in the order in which they act."""
    _load_entry_points()
    return tuple(kind_of(name) for name in _kinds)


def kind_of(name: str) -> type[Change]:
    """The kind of a name."""
    found = _kinds[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        _kinds[name] = found
    return found


@functools.cache
def _load_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        _kinds.setdefault(point.name, point.value)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the table: what is changed of the frozen model, in this order.

    Attributes:
        changes: The changes; those that are the identity are asked for but do nothing.
        seed: Seed of the draw: of what the changes draw, and of sampled tokens.
    """

    changes: tuple[Change, ...] = ()
    seed: int = 0

    @functools.cached_property
    def effective(self) -> Column:
        """The representative of all columns that give the same answers, but for sampled tokens."""
        return Column(tuple(change for change in self.changes if not change.is_identity))

    @property
    def is_identity(self) -> bool:
        """Whether the column is the unmodulated model."""
        return not self.effective.changes

    def acting_on(self, *targets: Target) -> tuple[Change, ...]:
        """Its changes of logits, activations or weights that are not the identity."""
        return tuple(change for change in self.effective.changes if change.acts_on in targets)

    @property
    def forward(self) -> tuple[Change, ...]:
        """What gives it a forward pass of its own."""
        return self.acting_on("activations", "weights")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies what is changed, in cache keys, records and manifests."""
        return fingerprint([change.identity for change in self.effective.changes])

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that ask for it."""
        found = {name: value for one in self.changes for name, value in one.settings.items()}
        return found | {SEED: self.seed}

    @property
    def has_argmax_law(self) -> bool:
        """Whether the exact law of the argmax is known."""
        changes = self.acting_on("logits")
        return not changes or (
            len(changes) == 1 and type(changes[0]).argmax_law is not Change.argmax_law
        )

    def argmax_law(self, logits: Any) -> Any | None:
        """The exact law of the argmax; see `Change.argmax_law`."""
        if not self.has_argmax_law:
            return None
        if changes := self.acting_on("logits"):
            return changes[0].argmax_law(logits)
        from aim_plugins.modulation.ordering import argmax_probabilities

        return argmax_probabilities(logits, 0.0)

    def strength_of(self, kind: type[Change]) -> float:
        """Its strength of a kind, the neutral one where it has no change of it."""
        own = (change.strength for change in self.changes if change.name == kind.name)
        return next(own, kind.neutral)


def split_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sorts the arguments of modulations from all others.

    Args:
        given: Arguments of a model of a harness.

    Returns:
        The modulations' and the others.

    Raises:
        ValueError: If one of the others is nearly one of the modulations', which its own reader
            would only call unknown.
    """
    known = argument_names()
    ours = {name: value for name, value in given.items() if name in known}
    rest = {name: value for name, value in given.items() if name not in known}
    for name, value in rest.items():
        if near := _meant(name):
            raise ValueError(f"{name}={value!r} is unknown: did you mean {near[0]}=?")
    return ours, rest


def _meant(name: str) -> list[str]:
    """The arguments that a name was meant for which is none of them, if any."""
    known = argument_names()
    within = [one for one in known if name.endswith(one)]
    # Whatever starts as a kind calls its arguments, such as noise_sigma, is meant for one of them.
    claimed = any(
        name.startswith(kind.name) and one.startswith(kind.name)
        for kind in kinds()
        for one in kind.arguments
    )
    return within or nearest(name, known, cutoff=0.0 if claimed else 0.8)


def argument_names() -> tuple[str, ...]:
    """Names of the arguments of all modulations."""
    return (*itertools.chain.from_iterable(kind.arguments for kind in kinds()), SEED, DRAWS)


def read_columns(given: Mapping[str, Any]) -> tuple[Column, ...]:
    """Spells out the columns of a table: every combination of strengths, draws innermost.

    Args:
        given: Arguments of modulations. A strength is a number, several, or a grid such as
            "0:3:0.25".

    Returns:
        The columns; the strengths of the kind that acts last are outermost.

    Raises:
        ValueError: If an argument is malformed, or no argument of a modulation.
    """
    if unknown := [name for name in given if name not in argument_names()]:
        raise ValueError(f"{unknown[0]}={given[unknown[0]]!r} is no argument of a modulation")
    seed, draws = _seed(given.get(SEED, 0)), _draws(given.get(DRAWS, 1))
    if seed + draws > 2**63:
        raise ValueError(f"{SEED}={seed} does not fit into 64 bits with {draws} draws")
    changes: list[tuple[Change, ...]] = []
    for kind in kinds():
        own = {name: given[name] for name in kind.arguments if name in given}
        if own:
            changes.append(kind.read(own))
    return tuple(
        Column(tuple(change.drawn(seed + draw) for change in reversed(combination)), seed + draw)
        for combination in itertools.product(*reversed(changes))
        for draw in range(draws)
    )


def columns_of(**given: Any) -> tuple[Column, ...]:
    """`read_columns` by keyword, such as `columns_of(noise_std="0:3:0.25", noise_draws=2)`."""
    return read_columns(given)


def swept_kinds(columns: Sequence[Column], named: Iterable[str] = ()) -> tuple[type[Change], ...]:
    """The kinds along which columns vary; where none does, the one that acts last.

    Args:
        columns: All columns of a table.
        named: Arguments that were named as what varies, be it by one strength.
    """
    names = {change.name for column in columns for change in column.changes}
    present = [kind for kind in kinds() if kind.name in names] or list(kinds()[:1])
    varying = [
        kind
        for kind in present
        if len({column.strength_of(kind) for column in columns}) > 1
        or next(iter(kind.arguments)) in named
    ]
    return tuple(varying or present[-1:])


def describe_columns(columns: Sequence[Column]) -> dict[str, Any]:
    """What determines the columns of a table, as arguments and for manifests.

    Returns:
        The strengths of each kind by their argument, the seed of the first draw, the number of
        draws, and as `changes` what else tells each kind from others, such as the fingerprint of
        maps: a folder's name may agree while the maps in it were fitted anew.
    """
    described: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for kind in kinds():
        own = [one for column in columns for one in column.changes if one.name == kind.name]
        if not own:
            continue
        described |= own[0].settings
        strengths = dict.fromkeys(column.strength_of(kind) for column in columns)
        described[next(iter(kind.arguments))] = list(strengths)
        identities = [change.identity for change in own]
        changes[kind.name] = {
            name: value
            for name, value in identities[0].items()
            if name not in ("kind", "seed", kind.axis.name)
            and all(identity[name] == value for identity in identities)
        }
    seeds = list(dict.fromkeys(column.seed for column in columns))
    return {**described, SEED: seeds[0], DRAWS: len(seeds), "changes": changes}


def by_forward(columns: Sequence[Column]) -> dict[tuple[Change, ...], list[int]]:
    """Indices of columns that share a forward pass, by the changes of that pass."""
    members: dict[tuple[Change, ...], list[int]] = {}
    for index, column in enumerate(columns):
        members.setdefault(column.forward, []).append(index)
    return members


def by_kind(
    rows: Sequence[Sequence[Change]],
) -> Iterator[tuple[type[Change], list[Change | None]]]:
    """The steps that change every row in the order of its own changes, a kind at a time.

    Yields:
        A kind, and for each row its change of it, or None.
    """
    for place in range(max(map(len, rows), default=0)):
        here = [row[place] if place < len(row) else None for row in rows]
        for kind in dict.fromkeys(type(change) for change in here if change is not None):
            yield kind, [change if type(change) is kind else None for change in here]


@contextlib.contextmanager
def applied(model: Any, rows: Sequence[Sequence[Change]], starts: Any = None) -> Iterator[None]:
    """Changes activations and weights while the block runs, each row of a batch by its own changes.

    Args:
        model: The model.
        rows: Changes of each row, or of all rows; those of weights are the same in all.
        starts: As in `Change.applied`.
    """
    with contextlib.ExitStack() as stack:
        for kind, own in by_kind(rows):
            stack.enter_context(kind.applied(model, own, starts))
        yield


def distinct_columns(columns: Sequence[Column]) -> tuple[list[Column], list[int]]:
    """Columns with answers of their own where nothing is sampled, and for each column its index."""
    distinct = list(dict.fromkeys(column.effective for column in columns))
    place = {column: index for index, column in enumerate(distinct)}
    return distinct, [place[column.effective] for column in columns]


def _seed(value: Any) -> int:
    if _whole(value) is None or not -(2**63) <= int(value) < 2**63:
        raise ValueError(f"{SEED}={value} is no 64-bit integer: give a whole number such as 0")
    return int(value)


def _draws(value: Any) -> int:
    if (_whole(value) or 0) < 1:
        raise ValueError(f"{DRAWS}={value} must be a whole number of at least 1")
    return int(value)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return int(value) if int(value) == float(value) else None
    except (TypeError, ValueError, OverflowError):
        return None
