"""Components of a model by name: parts of its layers that can be ablated one by one.

A component is a filter of a convolution, a row of a linear layer, an attention head, a neuron of a
feed-forward part, or a whole residual block. Components that one layer holds make a `Site`.

Source: Shah, Ilyas and Madry, "Decomposing and Editing Predictions by Modeling Model Computation",
ICML 2024, arXiv:2404.11534, section 2.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from aim_plugins.core.errors import did_you_mean

ComponentKind = Literal[
    "conv_filters", "linear_rows", "linear_inputs", "attention_heads", "mlp_neurons", "blocks"
]
Side = Literal["outputs", "inputs", "residual"]

IN_PROJECTION, HEADS, OUT_PROJECTION = "in_proj", "heads", "out_proj"
"""Parts of PyTorch's own attention, which are no modules that run."""


@dataclass(frozen=True)
class Site:
    """The components of one layer.

    Attributes:
        name: What they are called by.
        layer: Name of the module at which they act.
        count: How many there are.
        width: Features of each, which lie next to each other.
        side: Where they are multiplied: what the layer makes of them, its bias aside ("outputs"),
            what it reads ("inputs"), or what a block adds to its input ("residual").
        part: Of PyTorch's `MultiheadAttention`, "in_proj", "heads" or "out_proj"; else empty.
    """

    name: str
    layer: str
    count: int
    width: int = 1
    side: Side = "outputs"
    part: str = ""


@dataclass(frozen=True)
class Components:
    """Components of a model, in the order of its layers.

    Attributes:
        sites: The layers that hold them.
        members: Of each site, which of its components are meant, ascending; None for all.

    >>> chosen = Components((Site("conv1", "conv1", 2), Site("conv2", "conv2", 3)))
    >>> len(chosen), chosen.name(2), chosen.index("conv2[0]")
    (5, 'conv2[0]', 2)
    """

    sites: tuple[Site, ...]
    members: tuple[tuple[int, ...] | None, ...] = ()

    @cached_property
    def places(self) -> tuple[range | tuple[int, ...], ...]:
        """Of each site, which of its components are meant."""
        chosen = self.members or (None,) * len(self.sites)
        return tuple(
            range(site.count) if own is None else own
            for site, own in zip(self.sites, chosen, strict=True)
        )

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of the first component of each site, and behind the last one that of all."""
        return tuple(itertools.accumulate(map(len, self.places), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def site_of(self, number: int) -> tuple[Site, int]:
        """The site of a component, and its place there."""
        if not 0 <= number < len(self):
            raise IndexError(f"component {number} of {len(self)}")
        at = bisect_right(self.starts, number) - 1
        return self.sites[at], self.places[at][number - self.starts[at]]

    def name(self, number: int) -> str:
        """Name of a component."""
        site, place = self.site_of(number)
        return site.name if site.side == "residual" else f"{site.name}[{place}]"

    def names(self) -> Iterator[str]:
        """Names of all components."""
        return (self.name(number) for number in range(len(self)))

    def index(self, name: str) -> int:
        """Number of a component.

        Raises:
            ValueError: If there is none of that name; the nearest is shown.
        """
        found = re.fullmatch(r"(.+?)(?:\[(\d+)\])?", name)
        base, text = found.groups() if found else (name, None)
        for at, site in enumerate(self.sites):
            if site.name == base and (text is None) == (site.side == "residual"):
                place = int(text or 0)
                if place in self.places[at]:
                    return self.starts[at] + self.places[at].index(place)
        raise ValueError(f"components: {name!r} is none of the {len(self)}: {self._near(name)}")

    def choose(self, patterns: Sequence[str], setting: str = "patterns") -> Components:
        """Those of which the own name, or that of the site, matches a pattern as a whole.

        Args:
            patterns: Names, or regular expressions. What is a component's name means that one
                alone, and what is a site's all of it, whatever else matches.
            setting: What holds the patterns, for errors.

        Raises:
            ValueError: If a pattern is no regular expression, or matches nothing.
        """
        names = list(self.names())
        chosen: set[int] = set()
        for pattern in patterns:
            found = self._matching(pattern, names)
            if not found:
                raise ValueError(
                    f"{setting}={pattern!r} matches none of the {len(self)} components: "
                    f"{self._near(pattern)}"
                )
            chosen |= found
        return self.take(sorted(chosen))

    def _matching(self, pattern: str, names: Sequence[str]) -> set[int]:
        sites = [site.name for site, own in zip(self.sites, self.places, strict=True) for _ in own]
        for known in (names, sites):
            if found := {number for number, name in enumerate(known) if name == pattern}:
                return found
        matches = compile_pattern(pattern).fullmatch
        return {
            number
            for number, (name, site) in enumerate(zip(names, sites, strict=True))
            if matches(name) or matches(site)
        }

    def take(self, numbers: Sequence[int]) -> Components:
        """Those of some numbers, in the order of the model.

        Raises:
            IndexError: If there is no such component.
        """
        kept: dict[int, list[int]] = {}
        for number in sorted(set(numbers)):
            _, place = self.site_of(number)
            kept.setdefault(bisect_right(self.starts, number) - 1, []).append(place)
        return Components(
            tuple(self.sites[at] for at in kept),
            tuple(
                None if len(own) == self.sites[at].count else tuple(own) for at, own in kept.items()
            ),
        )

    def _near(self, name: str) -> str:
        return did_you_mean(name, [site.name for site in self.sites], cutoff=0)

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON, from which `from_json` makes it again without the model."""
        chosen = self.members or (None,) * len(self.sites)
        return [
            asdict(site) | ({} if own is None else {"members": list(own)})
            for site, own in zip(self.sites, chosen, strict=True)
        ]

    @classmethod
    def from_json(cls, given: Sequence[Mapping[str, Any]]) -> Components:
        """Reads what `to_json` wrote.

        Raises:
            TypeError: If a site lacks something, or has what it should not.
        """
        sites, members = [], []
        for one in given:
            own = dict(one)
            chosen = own.pop("members", None)
            members.append(None if chosen is None else tuple(map(int, chosen)))
            sites.append(Site(**own))
        return cls(tuple(sites), tuple(members))


def compile_pattern(pattern: str, argument: str = "components") -> re.Pattern[str]:
    """The regular expression of names of components.

    Raises:
        ValueError: If it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{argument}={pattern!r} is no regular expression: {error}") from error
