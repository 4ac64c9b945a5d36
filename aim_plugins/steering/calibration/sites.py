"""Where a transport may act: all modules of a pattern, each third of the depth, single modules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aim_plugins.modulation.sites import split_site

_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
ALL = "all"
LAYERS = "layers"
THIRDS = ("early", "middle", "late")


@dataclass(frozen=True)
class SiteChoice:
    """Some sites of a model under one name.

    Attributes:
        name: "all", "early", "middle", "late", "layers", or the name of a single site.
        sites: The sites.
    """

    name: str
    sites: tuple[str, ...]

    @property
    def patterns(self) -> list[str]:
        """Expressions that match these sites alone."""
        return [_pattern(site) for site in self.sites]


def site_choices(grouped: Sequence[str], single: Sequence[str]) -> list[SiteChoice]:
    """The choices of sites that are screened.

    Args:
        grouped: Sites that are taken all together and by thirds of the layers that they stand in; a
            site in no layer, such as a model's last norm, belongs to all alone.
        single: Sites that are taken one by one.

    >>> [one.name for one in site_choices(["h.0.n", "h.1.n", "h.2.n", "n"], ["h.1"])]
    ['all', 'early', 'middle', 'late', 'h.1']
    """
    choices = [SiteChoice(ALL, tuple(grouped))] if grouped else []
    layers = sorted({layer for site in grouped if (layer := depth_of(site)) is not None})
    if len(layers) >= len(THIRDS):
        for place, name in enumerate(THIRDS):
            start, end = (len(layers) * part // len(THIRDS) for part in (place, place + 1))
            own = set(layers[start:end])
            choices.append(SiteChoice(name, tuple(one for one in grouped if depth_of(one) in own)))
    choices += [SiteChoice(site, (site,)) for site in single]
    return choices


def kept_choices(
    choices: Sequence[SiteChoice], gains: Mapping[str, float], kept: int
) -> list[SiteChoice]:
    """The choices that a method runs: all modules, and those that promise most.

    Args:
        choices: All that there are.
        gains: What each promises, by name.
        kept: How many run beside all modules.
    """
    every = [one for one in choices if one.name == ALL]
    ranked = sorted(choices, key=lambda one: -gains[one.name])
    if not every:
        return ranked[: kept + 1]
    return every + [one for one in ranked if one.name != ALL][:kept]


def joint_choice(choices: Sequence[SiteChoice], *, stream: bool) -> SiteChoice:
    """The choice of a method whose sites are learned together or settled with each other.

    Args:
        choices: All that there are.
        stream: Whether it acts in the residual stream, so that the modules that are taken one by
            one are its sites, if there are any.
    """
    every = [one for one in choices if one.name == ALL]
    single = [one.sites[0] for one in choices if one.name == one.sites[0]]
    if single and (stream or not every):
        return SiteChoice(LAYERS, tuple(single))
    return every[0]


def depth_of(site: str) -> int | None:
    """The number of the layer that a site stands in, by the first number of its name.

    >>> depth_of("model.layers.14.input_layernorm"), depth_of("model.norm")
    (14, None)
    """
    found = _NUMBER.search(site)
    return int(found[1]) if found else None


def _pattern(site: str) -> str:
    name, output = split_site(site)
    return re.escape(name) + (f":{output}" if output else "")
