"""Kinds of change: what is changed of a frozen model, each with a strength.

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
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, TypeVar

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
    "mask": "aim_plugins.modulation.retained:RetainedWeights",
    "edit": "aim_plugins.modulation.edits:EditedComponents",
    "ablation": "aim_plugins.modulation.random_ablation:RandomAblation",
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
        words: Texts that stand for strengths which only what was learned knows.
        neutral: The strength that leaves the model as it is.
        several: Whether changes of the kind may act side by side, each under a name, see
            `named_kinds`.
        label: That name; empty where there is none.
        strength: The one scalar.
        fingerprint: Of what it was learned as, whatever the strength; empty where nothing was.
        seed: Seed of whatever it draws; 0 of kinds that draw nothing.
        positions: Of activations: the tokens that change, a window of `windows`: "all", "prompt",
            "generation", "last", the prompt's last one and every token after it, or "0-15".
        window: The tokens that were asked for; empty where nothing was, so that others decide.
        condition: Of which prompts it acts at all, a `conditions.Condition`; None for all of them.
        maps: Of activations: the `ActivationMaps` that it applies, where that is all it does. vLLM
            runs those alone, as it compiles what changes activations into the model.
        learned: What was learned on a model, with its metadata, where it is that.
        folder: Where `learned` was read from, if anywhere.
        force: Whether it may change another model than it was learned on.
        certain: Whether it changes every row of logits, or every token at some site, so that a row
            without any change was not modulated.
        request_limit: Largest strength, either way, that a server takes of a client.
    """

    name: ClassVar[str]
    axis: ClassVar[Axis]
    acts_on: ClassVar[Target]
    arguments: ClassVar[Mapping[str, str]]
    words: ClassVar[Sequence[str]] = ()
    neutral: ClassVar[float] = 0.0
    draws: ClassVar[bool] = False
    several: ClassVar[bool] = False
    label: ClassVar[str] = ""
    request_limit: ClassVar[float] = 1e4

    strength: float
    fingerprint = ""
    seed = 0
    positions: str = "all"
    window: str = ""
    condition: Any = None
    maps: Any = None
    learned: Any = None
    folder: str = ""
    force: bool = False
    certain: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "axis" in vars(cls):  # whoever holds results against the plain model finds it there
            cls.axis = dataclasses.replace(cls.axis, neutral=cls.neutral)

    # What it is -----------------------------------------------------------------------------------

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> tuple[Change, ...]:
        """Reads the kind's own arguments: a change for each strength.

        Args:
            given: Those of `arguments` that were given, at least one.

        Raises:
            ValueError: If one is malformed, or one is missing.
        """
        if len(cls.arguments) != 1:
            raise NotImplementedError(f"{cls.__name__} takes several arguments: define its read")
        (name,) = cls.arguments
        return tuple(cls(strength) for strength in cls.axis.parse(given[name], name))  # type: ignore[call-arg]

    def drawn(self, seed: int) -> Change:
        """The change as another draw of it."""
        return dataclasses.replace(self, seed=seed) if self.draws else self  # type: ignore[type-var]

    @property
    def is_identity(self) -> bool:
        """Whether it leaves the model as it is, to the bit."""
        return self.strength == self.neutral

    def decided(self, held: bool) -> Change | None:
        """What it does to a prompt of which its condition holds or not: None where nothing."""
        return dataclasses.replace(self, condition=None) if held else None  # type: ignore[type-var]

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
        import torch  # the module is read wherever arguments are

        from aim_plugins.modulation.placement import placed

        if rows is None:
            logits, rows = logits.clone(), range(len(changes))
        places: dict[Any, list[int]] = {}
        for place, change in enumerate(changes):
            places.setdefault(change, []).append(place)
        for change, members in places.items():
            own = placed([rows[place] for place in members], torch.int64, logits.device)
            index = placed(members, torch.int64, keys.device)
            changed = change.modulate(logits[own].float(), keys[index], Scratch())
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
        cls, model: Any, changes: Sequence[Any], layout: Any = None
    ) -> contextlib.AbstractContextManager[None]:
        """Changes the model while the block runs, and restores it exactly.

        Args:
            model: The model.
            changes: Of activations, one for each row of a batch or one for all; None or the
                identity leaves its row as it is. Of weights, a single one.
            layout: The `token_weights.Layout` of the rows, which says where their prompts end; None
                where nothing is known of it.
        """
        raise NotImplementedError(f"{cls.name} acts on {cls.acts_on}")

    def sites(self, model: Any) -> Sequence[str] | None:
        """Names of the places in a model at which it acts; None if only hooks tell.

        An answer's receipt counts them, and one at which nothing was changed makes it refused.
        """
        return None

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
    found = tuple(kind_of(name) for name in list(_kinds))
    _refuse_collisions(found)
    return found


@functools.lru_cache(maxsize=16)
def _refuse_collisions(found: tuple[type[Change], ...]) -> None:
    owners: dict[str, str] = {}
    for kind in found:
        for name in (*kind.arguments, *kind.request_names()):
            if owners.setdefault(name, kind.name) != kind.name:
                raise ValueError(
                    f"the kinds of change {owners[name]!r} and {kind.name!r} both take {name}: "
                    "name the argument, or the axis, of one of them otherwise"
                )


def kind_of(name: str) -> type[Change]:
    """The kind of a name."""
    found = _kinds[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if found.name != name:
            raise ValueError(
                f"the kind of change at {module}:{attribute} is called {found.name!r}, but "
                f"registered as {name!r}: give its entry point the same name"
            )
        _kinds[name] = found
    return found


@functools.cache
def _load_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        _kinds.setdefault(point.name, point.value)
