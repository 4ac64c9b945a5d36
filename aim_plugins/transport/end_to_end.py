"""Learning the maps of all sites together, by gradient descent through the model.

The responses of target sentences in the plain model are read once. Then every step pushes a batch
of source sentences through the maps as they are, and descends the method's loss of their responses
behind the maps, in the maps of all sites at once.

Source: arXiv 2503.10679, algorithm 1.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.freezing import frozen
from aim_plugins.modulation.hooks import change_outputs, execution_order
from aim_plugins.transport.forward import forward_of, transported
from aim_plugins.transport.holdout import moved_spreads
from aim_plugins.transport.learning import FittedSite
from aim_plugins.transport.methods.lineas import LinEAS, Parameters
from aim_plugins.transport.plan import FitPlan
from aim_plugins.transport.responses import as_tokens, pool
from aim_plugins.transport.sentences import SentenceBatch, sentence_batches
from aim_plugins.transport.statistics import constant_neurons

Tokens = Sequence[Sequence[int]]


class EndToEndFit:
    """A fit of all sites at once.

    Args:
        plan: How to fit; its method is one that learns sites together.
        model: The model.
        sites: The sites in any order.
        source: Token ids of the source sentences.
        target: Token ids of the target sentences.
        batch_size: Sentences in a pass without gradients.
        seed: Deals the source sentences into batches, where one does not hold them all.
    """

    def __init__(
        self,
        plan: FitPlan,
        model: torch.nn.Module,
        sites: Sequence[str],
        source: Tokens,
        target: Tokens,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._plan = plan
        self._model = model
        self._source, self._target = source, target
        self._batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._forward = forward_of(model, sites)
        shortest = sentence_batches([min([*source, *target], key=len)], [], 1)[0]
        with torch.no_grad():
            self._sites = execution_order(model, sites, lambda: self._forward(shortest))

    def run(self, *, progress: bool) -> tuple[dict[str, AffineMap], list[FittedSite]]:
        """Learns the maps.

        Args:
            progress: Whether to show a progress bar, in steps.

        Returns:
            The maps in the order of a forward pass, on the CPU, and what was found at each site.

        Raises:
            ValueError: If activations are not finite, or the descent diverges.
        """
        method = self._plan.method
        assert isinstance(method, LinEAS)
        targets = self._plain_responses(self._target)
        sources = self._plain_responses(self._source)
        for site in self._sites:
            try:
                method.check(sources[site], targets[site])
            except ValueError as error:
                raise ValueError(f"module {site!r}: {error}") from error
        batches = self._dealt()
        with (
            frozen(self._model),
            tqdm(total=method.steps, disable=not progress, desc="Fitting, steps") as bar,
        ):
            learned = method.descend(
                lambda parameters: self._push(parameters, next(batches)),
                targets,
                lambda loss: bar.set_postfix(loss=f"{loss:.4g}", refresh=False) or bar.update(),
            )
        maps = {site: AffineMap.everywhere(*learned[site]).to("cpu") for site in self._sites}
        return maps, self._found(maps, sources, targets)

    def _dealt(self) -> Iterator[SentenceBatch]:
        """Batches of source sentences without end: dealt anew whenever all have had their turn."""
        count, size = len(self._source), LinEAS.BATCH
        if count <= size:
            whole = sentence_batches(self._source, [], count)[0]
            while True:
                yield whole
        while True:
            order = torch.randperm(count, generator=self._generator).tolist()
            for start in range(0, count - size + 1, size):
                chosen = [self._source[number] for number in order[start : start + size]]
                yield sentence_batches(chosen, [], size)[0]

    def _push(self, parameters: Parameters, batch: SentenceBatch) -> dict[str, Tensor]:
        """Responses of a batch of source sentences behind the maps as they are."""
        maps = {site: AffineMap.everywhere(*pair) for site, pair in parameters.items()}
        return self._responses(batch, maps)

    def _responses(
        self, batch: SentenceBatch, maps: dict[str, AffineMap] | None = None
    ) -> dict[str, Tensor]:
        """Responses of a batch at each site, behind maps if there are any."""
        responses: dict[str, Tensor] = {}

        def at_site(site: str, output: Tensor) -> Tensor:
            activations = as_tokens(output, batch.mask, site)
            if maps is not None:
                activations = transported(
                    maps[site], activations, batch.mask, self._plan.strength, self._plan.positions
                )
            responses[site] = pool(activations, batch.mask, self._plan.pooling).values
            return activations.reshape(output.shape)

        functions = {site: functools.partial(at_site, site) for site in self._sites}
        with change_outputs(self._model, functions):
            self._forward(batch)
        return responses

    @torch.no_grad()
    def _plain_responses(self, rows: Tokens) -> dict[str, Tensor]:
        """Responses of all sentences of a side in the plain model, at each site."""
        parts = [self._responses(batch) for batch in sentence_batches(rows, [], self._batch_size)]
        return {site: torch.cat([part[site] for part in parts]) for site in self._sites}

    def _found(
        self,
        maps: dict[str, AffineMap],
        sources: dict[str, Tensor],
        targets: dict[str, Tensor],
    ) -> list[FittedSite]:
        """What is known of each site; how far its map moves plain source responses."""
        return [
            FittedSite(
                site,
                int(constant_neurons(sources[site]).sum()),
                moved_spreads(one.to(sources[site].device), sources[site], targets[site]),
                None,
            )
            for site, one in maps.items()
        ]
