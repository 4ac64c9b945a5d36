"""A cheap screen of sites: what strength promises at each, from one backward pass for all maps.

At λ = 0 every map is the identity, so one pass of the plain model tells the slope of a
log-likelihood in the λ of every site of every method: with x a site's output and T(x) - x what its
map adds, it is sum <d log p / d x, T(x) - x>. A choice of sites that share one λ has the sum of
their slopes. Two of them make a promise:

- g, the slope of what steering is for: how much likelier held-out target texts become than source
  texts, in nats per token;
- I, the Fisher information about λ on plain texts, from the slopes of tokens that the model itself
  draws: KL(λ) = I λ² / 2 to second order, in nats per token.

So at a small budget B of KL the choice is run at λ = sqrt(2 B / I), and gains g λ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from aim_plugins.engines.huggingface import HuggingFaceEngine
from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.freezing import frozen
from aim_plugins.modulation.hooks import change_outputs
from aim_plugins.transport.responses import as_tokens

Tokens = Sequence[int]
Maps = Mapping[str, ActivationMap]
Slopes = dict[str, dict[str, Float64[Tensor, " texts"]]]
"""Slope of each text's log-likelihood in the strength of each site, by name of the maps."""


@dataclass(frozen=True)
class Promise:
    """What a choice of sites promises, to first order in its strength.

    Attributes:
        slope: Growth of the log-likelihood of target against source texts, nats per token and λ.
        information: Fisher information about λ on plain texts, per token.
    """

    slope: float
    information: float

    def gain(self, budget: float) -> float:
        """Growth of the log-likelihood at a budget of KL, both in nats per token.

        >>> Promise(slope=3.0, information=4.0).gain(0.5)
        1.5
        """
        return self.slope * self.strength(budget) if self.information else 0.0

    def strength(self, budget: float) -> float:
        """The strength that spends a budget of KL, in nats per token.

        >>> Promise(slope=3.0, information=4.0).strength(0.5)
        0.5
        """
        return math.sqrt(2 * budget / self.information) if self.information else math.inf


@dataclass(frozen=True)
class ScreenTexts:
    """What a screen looks at, as token ids.

    Attributes:
        source: Source texts that no map was learned from.
        target: Target texts that none was.
        plain: Plain texts.
    """

    source: Sequence[Tokens]
    target: Sequence[Tokens]
    plain: Sequence[Tokens]


class Screen:
    """The slopes of one set of texts, for any choice of sites.

    Args:
        engine: Runs the plain model.
        texts: The texts.
        maps: Maps by a name of theirs, each by site.
        seed: Seed of the tokens that the model draws.
        batch_size: Texts in a pass.
    """

    def __init__(
        self,
        engine: HuggingFaceEngine,
        texts: ScreenTexts,
        maps: Mapping[str, Maps],
        *,
        seed: int = 0,
        batch_size: int = 8,
    ) -> None:
        def of(rows: Sequence[Tokens], generator: torch.Generator | None = None) -> Slopes:
            return text_slopes(engine, rows, maps, drawn=generator, batch_size=batch_size)

        self._counts = {
            side: sum(len(row) - 1 for row in getattr(texts, side))
            for side in ("source", "target", "plain")
        }
        self._source, self._target = of(texts.source), of(texts.target)
        self._plain = of(texts.plain, torch.Generator().manual_seed(seed))

    def promise(self, name: str, sites: Sequence[str]) -> Promise:
        """What maps promise at some of their sites, under one strength.

        Args:
            name: Name of the maps.
            sites: The sites.
        """

        def along(slopes: Slopes) -> Tensor:
            return torch.stack([slopes[name][site] for site in sites]).sum(0)

        counts = self._counts
        gap = along(self._target).sum() / counts["target"]
        gap = gap - along(self._source).sum() / counts["source"]
        information = along(self._plain).square().sum() / counts["plain"]
        return Promise(float(gap), float(information))


def text_slopes(
    engine: HuggingFaceEngine,
    rows: Sequence[Tokens],
    maps: Mapping[str, Maps],
    *,
    drawn: torch.Generator | None = None,
    batch_size: int = 8,
) -> Slopes:
    """Slopes of each text's log-likelihood in the strength of each site, at strength 0.

    Args:
        engine: Runs the plain model.
        rows: Token ids of each text, at least two.
        maps: Maps by a name of theirs, each by site.
        drawn: Draws the tokens that are scored in place of the texts' own, from the model's
            distribution given the text before.
        batch_size: Texts in a pass.
    """
    slopes: Slopes = {
        name: {site: torch.zeros(len(rows), dtype=torch.float64) for site in own}
        for name, own in maps.items()
    }
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    with frozen(engine.model):
        for start in range(0, len(order), batch_size):
            members = order[start : start + batch_size]
            _add_slopes(engine, rows, members, maps, slopes, drawn)
    return slopes


def _add_slopes(
    engine: HuggingFaceEngine,
    rows: Sequence[Tokens],
    members: Sequence[int],
    maps: Mapping[str, Maps],
    slopes: Slopes,
    drawn: torch.Generator | None,
) -> None:
    own = [torch.tensor(list(rows[index])) for index in members]
    padded = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    lengths = torch.tensor([len(row) for row in own])[:, None]
    mask = torch.arange(padded.shape[1])[None] < lengths
    sites = dict.fromkeys(site for one in maps.values() for site in one)
    where = torch.tensor(members)

    def note(site: str, output: Tensor, grad: Tensor) -> None:
        for name, one in maps.items():
            if site in one:
                moves = one[site].displacement_on(output.device)(output.float())
                products = as_tokens(grad.float() * moves, mask, site)
                slopes[name][site][where] += products.flatten(1).double().sum(1).cpu()

    def watch(site: str) -> Callable[[Tensor], Tensor]:
        def watched(output: Tensor) -> Tensor:
            # The first site of all is where gradients begin.
            output = output if output.requires_grad else output.detach().requires_grad_()
            kept = output.detach()
            output.register_hook(lambda grad: note(site, kept, grad))
            return output

        return watched

    with torch.enable_grad(), change_outputs(engine.model, {site: watch(site) for site in sites}):
        logits = engine.model(padded.to(engine.device)).logits[:, -padded.shape[1] :]
        counted = mask[:, 1:].to(logits.device)
        scores = logits[:, :-1][counted].float().log_softmax(-1)
        labels = padded[:, 1:].to(logits.device)[counted]
        if drawn is not None:
            chances = scores.detach().exp().cpu()
            labels = torch.multinomial(chances, 1, generator=drawn)[:, 0].to(logits.device)
        scores.gather(1, labels[:, None]).sum().backward()
