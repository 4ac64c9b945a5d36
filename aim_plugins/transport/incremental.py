"""Which sentences go through the maps learned so far, while the map of the next site is learned.

With C and D the activations of source and target sentences at a site, T its map and f what the
model computes up to the next site, "causal" is the rule of the AcT paper and of its code,

    T = T(.; C, D),  C <- f(T(C)),  D <- f(T(D)).

"source" leaves D plain, D <- f(D): every map then aims at what the model does on target sentences
by itself. It is this package's. "atonce" leaves both plain.

Source: arXiv 2410.23054, section 3.2 and definition 3.2 (causal), appendix C (at once); at
github.com/apple/ml-act `learn_intervention_all_incremental` runs both sides behind the hooks that
it has learned.
"""

from __future__ import annotations

from typing import Literal

Incremental = Literal["causal", "source", "atonce"]

TITLES: dict[str, str] = {
    "causal": "causal",
    "source": "causal on the source side alone",
    "atonce": "at once",
}
"""What summaries call them."""


def check_incremental(incremental: str) -> None:
    """Refuses an unknown rule.

    Raises:
        ValueError: Naming those that there are.
    """
    if incremental not in TITLES:
        raise ValueError(
            f"incremental={incremental!r} is unknown: choose one of {', '.join(TITLES)}"
        )
