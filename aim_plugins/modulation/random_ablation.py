"""Random ablation as a change: what a model is worth without a share α of its components.

The curve over α says how much a model leans on all of its heads, neurons or filters, and what the
datasets of component attribution are drawn at.

Source: arXiv:2404.11534, section 2 and appendix C (the choice of α).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.identity import fingerprint
from aim_plugins.core.strengths import Axis
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.components import ComponentKind, Components, compile_pattern


@dataclass(frozen=True)
class RandomAblation(Change):
    """Components of a kind, each ablated with the same probability.

    What is ablated at a small share is so at every larger one of the same seed too.

    Attributes:
        strength: The probability α to be ablated, in [0, 1].
        components: The kind of components, or kind:pattern.
        seed: Seed of the draw.
    """

    name = "ablation"
    axis = Axis("ablated_share", "α", "ablated share", low=0.0, high=1.0, shared_draws=True)
    acts_on = "activations"
    arguments = {
        "ablated_share": "shares of components that are ablated, drawn anew for each seed",
        "ablated_components": f"which: {', '.join(get_args(ComponentKind))}, or kind:pattern of "
        "names, as in attention_heads:.*layers.0.*",
    }
    draws = True

    strength: float
    components: str = ""
    seed: int = 0

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> tuple[RandomAblation, ...]:
        named = str(given.get("ablated_components") or "")
        if not named:
            raise ValueError(
                "ablated_components= is missing: name a kind, as in "
                "ablated_components=attention_heads"
            )
        kind, _, pattern = named.partition(":")
        if kind not in get_args(ComponentKind):
            near = did_you_mean(kind, get_args(ComponentKind))
            raise ValueError(f"ablated_components={named!r} is of no kind that is known: {near}")
        compile_pattern(pattern, "ablated_components")
        if given.get("ablated_share") in (None, ""):
            raise ValueError("ablated_share= is missing: give one, or several as in 0:0.2:0.1")
        shares = cls.axis.parse(given["ablated_share"], "ablated_share")
        return tuple(cls(one, named) for one in shares)

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Of the components, whatever the share."""
        return fingerprint([self.name, self.components])

    @property
    def settings(self) -> dict[str, Any]:
        return {"ablated_share": self.strength, "ablated_components": self.components}

    def sites(self, model: Any) -> Sequence[str]:
        from aim_plugins.modulation.ablation import ablation_mask

        found = components_of(model, self.components)
        ablated = ablation_mask(len(found), self.strength, self.seed)
        bounds = zip(found.sites, found.starts, found.starts[1:], strict=False)
        return [site.name for site, start, end in bounds if ablated[start:end].any()]

    def check_model(self, model: Any, tokenizer: Any) -> None:
        components_of(model, self.components)

    @classmethod
    @contextlib.contextmanager
    def applied(
        cls, model: Any, changes: Sequence[RandomAblation | None], layout: Any = None
    ) -> Iterator[None]:
        import numpy as np
        import torch

        from aim_plugins.modulation.ablation import ablation_mask, multiplied

        with contextlib.ExitStack() as stack:
            for named in dict.fromkeys(one.components for one in changes if one):
                found = components_of(model, named)
                kept = np.ones((len(changes), len(found)), dtype=bool)
                for row, one in zip(kept, changes, strict=True):
                    if one and one.components == named:
                        row[:] = ~ablation_mask(len(found), one.strength, one.seed)
                stack.enter_context(multiplied(model, found, torch.from_numpy(kept).float()))
            yield


_found: weakref.WeakKeyDictionary[Any, dict[str, Components]] = weakref.WeakKeyDictionary()
"""Components by model, since decoding asks for them at every pause."""


def components_of(model: Any, named: str) -> Components:
    """The components of a model that `ablated_components` names.

    Raises:
        ValueError: If it has none of the kind, or the pattern matches nothing.
    """
    from aim_plugins.modulation.component_kinds import find_components

    known = _found.setdefault(model, {})
    if named not in known:
        kind, _, pattern = named.partition(":")
        try:
            known[named] = find_components(
                model, kind, [pattern] if pattern else (), setting="components"
            )
        except ValueError as error:
            raise ValueError(str(error).replace("components=", "ablated_components=", 1)) from error
    return known[named]
