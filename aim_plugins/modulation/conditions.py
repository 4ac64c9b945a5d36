"""Conditions: of which prompts a change of activations acts at all.

The states of a prompt at one site are held against a direction that was learned, before anything
is changed: a change with a condition acts on the whole of a prompt and of what follows it, or on
nothing. So the decision is made of a prompt's own tokens, whatever else is in its batch, but for
rounding, which in bfloat16 moves similarities by 1e-3 from batch to batch.

Source: CAST, arXiv 2409.05907, section 3 (similarity, comparison) and its authors' code
github.com/IBM/activation-steering, `LeashLayer._process_single_condition` (tanh, mean over the
prompt, decided once). There states are those before a layer, which the layers before may have moved
already; here they are those of the plain model.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.artifact import ArtifactMetadata

Summary = Literal["mean", "last"]
"""How the states of a prompt become one: their mean, or that of its last token."""

SUMMARIES: tuple[Summary, ...] = ("mean", "last")

_TEXT = re.compile(r"(?P<negated>not\s+)?(?P<named>.*?)(?:\s*(?P<side>[<>])\s*(?P<bound>[^<>]*))?")


@dataclass(frozen=True)
class ConditionText:
    """A condition as an argument asks for it: what was learned, and how it is compared.

    Attributes:
        named: The folder of a learned condition, or the name that an engine knows it by.
        negated: Whether it has not to hold.
        above: Whether the similarity has to lie above `threshold`, instead of below; None keeps
            what was learned.
        threshold: What the similarity is compared with; None keeps what was learned.
    """

    named: str
    negated: bool = False
    above: bool | None = None
    threshold: float | None = None

    @classmethod
    def read(cls, text: Any, name: str = "condition") -> ConditionText:
        """Reads what an argument asks for.

        >>> ConditionText.read("not DIR")
        ConditionText(named='DIR', negated=True, above=None, threshold=None)
        >>> ConditionText.read("harmful>0.04")
        ConditionText(named='harmful', negated=False, above=True, threshold=0.04)

        Raises:
            ValueError: If it is none.
        """
        found = _TEXT.fullmatch(str(text).strip())
        if found is None or not found["named"].strip():
            raise ValueError(
                f"{name}={text!r} names no condition: write it as in {name}=DIR, "
                f"{name}='not DIR' or {name}='DIR>0.04'"
            )
        bound = found["bound"]
        try:
            threshold = None if bound is None else float(bound)
        except ValueError:
            threshold = math.nan
        if threshold is not None and not -1 <= threshold <= 1:
            raise ValueError(
                f"{name}={text!r}: {bound!r} is no cosine: write a number from -1 to 1 behind "
                f"{found['side']}"
            )
        above = None if bound is None else found["side"] == ">"
        return cls(found["named"].strip(), bool(found["negated"]), above, threshold)

    def of(self, learned: Condition) -> Condition:
        """What a learned condition becomes by it."""
        above = learned.above if self.above is None else self.above
        threshold = learned.threshold if self.threshold is None else self.threshold
        return replace(learned, above=above is not self.negated, threshold=threshold, asked=self)

    def __str__(self) -> str:
        bound = "" if self.threshold is None else f"{'>' if self.above else '<'}{self.threshold!r}"
        return f"{'not ' if self.negated else ''}{self.named}{bound}"


@dataclass(frozen=True, eq=False)
class Condition:
    """A direction that the states of a prompt are held against, at one site.

    Attributes:
        site: Module whose output is looked at, see `hooks`.
        direction: The direction c; its length is of no meaning.
        threshold: The similarity θ at which it begins to hold.
        above: Whether it holds above θ, instead of at θ and below.
        summary: How the states of a prompt become one.
        asked: How an argument asked for it, if one did.
        metadata: What is known of the model that it was learned on, if anything.
    """

    site: str
    direction: Float[Tensor, " neurons"]
    threshold: float
    above: bool = True
    summary: Summary = "mean"
    asked: ConditionText | None = None
    metadata: ArtifactMetadata | None = None

    def __post_init__(self) -> None:
        """Refuses what no similarity can be told by.

        Raises:
            ValueError: If the direction is zero, or it or the threshold is no number.
        """
        usable = bool(self.direction.isfinite().all()) and bool(self.direction.any())
        if not usable or math.isnan(self.threshold):
            values = ", ".join(f"{one:.3g}" for one in self.direction.flatten()[:3].tolist())
            raise ValueError(
                f"condition at {self.site!r}: direction [{values}, …], threshold "
                f"{self.threshold}: give finite numbers, and a direction that is not 0"
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all of it, as 64 hexadecimal digits."""
        setting = f"{self.measure}|{float(self.threshold)!r}|{self.above}"
        return hashlib.sha256(setting.encode()).hexdigest()

    @functools.cached_property
    def measure(self) -> str:
        """SHA-256 over what a similarity depends on, which is all but how it is compared."""
        values = self.direction.detach().cpu().float().numpy().astype("<f4").tobytes()
        return hashlib.sha256(f"{self.site}|{self.summary}|".encode() + values).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def watched(self) -> tuple[str, Summary]:
        """What has to be known of a prompt: a site, and how its states become one."""
        return self.site, self.summary

    def similarity(self, states: Float[Tensor, "*batch neurons"]) -> Float[Tensor, "*batch"]:
        """The cosine of states and of what the direction makes of them, cos(h, tanh(ccᵀ/(c·c) h)).

        Args:
            states: The states h, one for each prompt.

        Raises:
            ValueError: If they have another width than the direction, or are no numbers.
        """
        # In float64, since float32 rounds otherwise from batch to batch.
        exact, along = states.double(), self.direction.to(states.device).double()
        if exact.shape[-1] != len(along):
            raise ValueError(
                f"module {self.site!r} has {exact.shape[-1]} neurons, the condition's direction "
                f"{len(along)}: it was learned on another model"
            )
        lengths = (exact @ along) / (along @ along)
        found = torch.cosine_similarity(exact, torch.tanh(lengths[..., None] * along), dim=-1)
        if not bool(found.isfinite().all()):
            raise ValueError(
                f"condition: the states of a prompt at {self.site} are no finite numbers: try "
                "dtype=float32"
            )
        return found

    def holds(self, similarity: float) -> bool:
        """Whether a prompt of a similarity meets it."""
        return bool(similarity > self.threshold) is self.above

    def __str__(self) -> str:
        side = ">" if self.above else "≤"
        return f"similarity at {self.site} {side} {self.threshold:.4g}"
