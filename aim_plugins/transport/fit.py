"""Learning a transport in one forward pass over the data.

A hook at every site sees all sentences at once: it pools their activations, fits the site's map
and, in a causal fit, hands the transported activations of both sides on. So the next site is fitted
on activations that all earlier sites have transported, without a pass of its own. Sentences that do
not fit into one batch run as several batches in lockstep, which wait for each other in every hook.

Source: arXiv 2410.23054, section 3.2 and definition 3.2.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aim_plugins.core.devices import model_window
from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.activation_map import ActivationMap
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.hooks import change_outputs, choose_sites, execution_order
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata
from aim_plugins.transport.end_to_end import EndToEndFit
from aim_plugins.transport.forward import forward_of, input_device, transported
from aim_plugins.transport.learning import FittedSite, describe_sites, learn_site
from aim_plugins.transport.lockstep import Lockstep, ThreadSettings
from aim_plugins.transport.plan import FitPlan, plan_fit
from aim_plugins.transport.responses import (
    Responses,
    as_tokens,
    in_order,
    pool,
)
from aim_plugins.transport.sentences import SentenceBatch, sentence_batches, tokenize
from aim_plugins.transport.weights import check_shared_weights


def fit_transport(
    model: Any,
    tokenizer: Any,
    source: Sequence[str],
    target: Sequence[str],
    *,
    modules: str | Sequence[str],
    method: str = "linear",
    pooling: str | None = None,
    support: str | None = None,
    positions: str | None = None,
    incremental: str | None = None,
    strength: float = 1.0,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    seed: int = 0,
    progress: bool = True,
    on_site: Callable[[FittedSite], None] | None = None,
) -> LearnedTransport:
    """Learns the maps that carry activations of source sentences to those of target sentences.

    The result depends neither on the order in which batches run nor on the process. Without a hard
    support it does not depend on `batch_size` either, but for rounding (1e-5). Hard supports
    ("minmax", "qLO_HI") jump at their ends, and so do clusters ("chars"), so that a causal fit
    amplifies the rounding of earlier sites: the same batch size gives the same bits, another one
    visibly other maps.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        source: Sentences to start from.
        target: Sentences to arrive at; there may be more or fewer.
        modules: Regular expressions of the names of modules whose outputs are transported, see
            `choose_sites`.
        method: Name of the method, see `METHODS`.
        pooling: How the tokens of a sentence become one response, see `POOLINGS`. This and the next
            three are the method's own if None.
        support: Where the maps act: "none", "minmax", "qLO_HI" or "clip".
        positions: Tokens to transport: "all" or "last".
        incremental: Which sentences go through the maps learned so far: those of both sides
            ("causal"), of the source ("source") or none ("atonce").
        strength: Strength at which they do.
        options: Options that only this method takes, such as {"steps": 50} of "lineas".
        batch_size: Sentences in a forward pass. The hidden states of all batches are alive at once;
            attention and feed-forward parts need memory for one batch.
        max_length: Tokens that sentences are cut to; None leaves them whole.
        seed: Noted in the metadata. Only "lineas" draws: the batches of its steps.
        progress: Whether to show a progress bar, in sites.
        on_site: Called with the findings at each site.

    Raises:
        ValueError: If a pattern matches nothing, an argument is unknown or a side has too few
            sentences; if a sentence has no tokens, activations are not finite or a module runs
            several times.
        NotImplementedError: If several batches would have to share weights that are offloaded.
    """
    plan = plan_fit(
        source,
        target,
        method=method,
        pooling=pooling,
        support=support,
        positions=positions,
        incremental=incremental,
        strength=strength,
        options=options,
        batch_size=batch_size,
        max_length=max_length,
    )
    model = getattr(model, "_orig_mod", model)  # a compiled graph would run without our hooks
    if model.training:
        raise ValueError("model is in training mode, where dropout is random: call model.eval()")
    sites = choose_sites(model, modules)
    sides = {"source": source, "target": target}
    source_ids, target_ids = tokenize(tokenizer, sides, max_length, model_window(model.config))
    maps: Mapping[str, ActivationMap]
    if plan.method.together:
        together = EndToEndFit(
            plan, model, sites, source_ids, target_ids, batch_size=batch_size, seed=seed
        )
        maps, sites_found = together.run(progress=progress)
        options = plan.method.options
        if on_site is not None:
            for one in sites_found:
                on_site(one)
    else:
        batches = sentence_batches(source_ids, target_ids, batch_size)
        check_shared_weights(model, len(batches))
        fit = _Fit(plan, len(source), batches, on_site)
        fit.run(model, sites, min(source_ids + target_ids, key=len), progress=progress)
        sites_found = fit.found
        separations = {one.site: one.separation or 0.0 for one in sites_found}
        maps, options = plan.method.settled(fit.maps, separations)
    found = describe_sites(
        sites_found, len(source), len(target), inputs="sentences", outputs=TransportMetadata.OUTPUTS
    )
    metadata = TransportMetadata.describe(
        model,
        tokenizer,
        sites=list(maps),
        seed=seed,
        max_length=max_length,
        batch_size=batch_size,
        options=options,
        **found,
        **_described(plan, source, target),
    )
    return LearnedTransport(ActivationMaps(maps, plan.positions), metadata)


def _described(plan: FitPlan, source: Sequence[str], target: Sequence[str]) -> dict[str, Any]:
    """What the metadata say of the plan and the sentences."""
    return {
        "method": plan.method.name,
        "pooling": plan.pooling,
        "positions": plan.positions,
        "incremental": plan.incremental,
        "strength": plan.strength,
        "support": plan.support,
        "n_source": len(source),
        "n_target": len(target),
        "data_sha256": fingerprint([list(source), list(target)]),
    }


class _Fit:
    """The maps fitted so far, and what the hooks of all batches share."""

    def __init__(
        self,
        plan: FitPlan,
        n_source: int,
        batches: Sequence[SentenceBatch],
        on_site: Callable[[FittedSite], None] | None,
    ) -> None:
        self.maps: dict[str, ActivationMap] = {}
        self.found: list[FittedSite] = []
        self._plan = plan
        self._n_source = n_source
        self._batches = batches
        self._on_site = on_site

    def run(
        self, model: torch.nn.Module, sites: Sequence[str], shortest: list[int], *, progress: bool
    ) -> None:
        """Makes the forward pass over all batches.

        Args:
            model: The model.
            sites: The sites in any order.
            shortest: Tokens of a sentence, which show the order.
            progress: Whether to show a progress bar.
        """
        forward = forward_of(model, sites)
        probe = sentence_batches([shortest], [], 1)[0]
        with torch.no_grad():
            sites = execution_order(model, sites, lambda: forward(probe))
        with tqdm(total=len(sites), disable=not progress, desc="Fitting, sites") as bar:
            self._run_batches(model, sites, forward, bar)
        if list(self.maps) != list(sites):
            missed = [site for site in sites if site not in self.maps]
            raise ValueError(
                f"modules: {', '.join(missed[:3]) or 'some'} ran for some sentences only, or in "
                "another order: leave modules that depend on the sentence out of the pattern"
            )

    def _run_batches(
        self,
        model: torch.nn.Module,
        sites: Sequence[str],
        forward: Callable[[SentenceBatch], object],
        bar: tqdm[Any],
    ) -> None:
        def meeting(site: str, responses: list[Responses]) -> list[ActivationMap]:
            learned = self._learn(site, responses)
            bar.update()
            return [learned] * len(responses)

        settings = ThreadSettings(input_device(model))
        running = _Running()
        parts = [
            functools.partial(self._run_batch, index, settings, running, forward)
            for index in range(len(self._batches))
        ]
        lockstep = Lockstep(parts, meeting)
        functions = {
            site: functools.partial(self._at_site, site, lockstep, running) for site in sites
        }
        with change_outputs(model, functions):
            lockstep.run()

    def _run_batch(
        self,
        index: int,
        settings: ThreadSettings,
        running: _Running,
        forward: Callable[[SentenceBatch], object],
    ) -> None:
        running.index = index
        with settings.applied():
            forward(self._batches[index])

    def _at_site(
        self, site: str, lockstep: Lockstep, running: _Running, output: Tensor
    ) -> Tensor | None:
        batch = self._batches[running.index]
        activations = as_tokens(output, batch.mask, site)
        responses = pool(activations, batch.mask, self._plan.pooling)
        learned = lockstep.meet(running.index, site, responses)
        rows = self._transported(batch)
        if not rows:
            return None
        moved = transported(
            learned,
            activations[:rows],
            batch.mask[:rows],
            self._plan.strength,
            self._plan.positions,
        )
        return torch.cat([moved, activations[rows:]]).reshape(output.shape)

    def _learn(self, site: str, parts: list[Responses]) -> ActivationMap:
        responses, sentences = in_order(parts, [batch.sentences for batch in self._batches])
        learned, found = learn_site(
            self._plan.method, self._plan.support, responses, sentences, self._n_source, site
        )
        self.maps[site] = learned.to("cpu")
        self.found.append(found)
        if self._on_site is not None:
            self._on_site(found)
        return learned

    def _transported(self, batch: SentenceBatch) -> int:
        """How many of a batch's first rows go through the maps learned so far."""
        rows = {"causal": len(batch.sentences), "source": batch.n_source, "atonce": 0}
        return rows[self._plan.incremental]


class _Running(threading.local):
    """Number of the batch that the current thread runs."""

    index = 0
