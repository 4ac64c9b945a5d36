"""The hooks of a fit: what each site of the denoiser learns in the calls of one denoising run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from aim_plugins.core.devices import machine_memory
from aim_plugins.core.identity import seed_of
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.hooks import (
    change_outputs,
    execution_order,
    find_module,
    split_site,
)
from aim_plugins.transport.learning import FittedSite, learn_site
from aim_plugins.transport.lockstep import Lockstep, ThreadSettings
from aim_plugins.transport.maps import fit_map
from aim_plugins.transport.responses import Responses, in_order
from vision_bench.diffusion.denoising import Denoising, EnoughSeenError, PromptBatch
from vision_bench.diffusion.layout import check_prompts_last, check_row_axis, over_rows
from vision_bench.diffusion.neurons import as_places, neurons_axis
from vision_bench.diffusion.pipelines import as_module, denoiser_of
from vision_bench.diffusion.placement import RowStrengths, place
from vision_bench.diffusion.plan import ImageFitPlan
from vision_bench.diffusion.steering import map_name
from vision_bench.diffusion.timesteps import RunningCall

PLACES = 256
"""Places of an image that the pooling "all" makes responses of, at most.

Neighbours tell little more, and all of them are too many: SDXL has 16,384 places at 1024 pixels,
of which 64 + 64 prompts would have 2.7 GB of responses at a module with 320 neurons.
"""

_Brought = tuple[str, float, Responses]
"""What a batch brings to a meeting: the site, the timestep and its responses."""


class ImageFit:
    """The maps fitted so far, and what the hooks of all batches share.

    Args:
        pipe: The pipeline.
        plan: How to fit.
        denoising: How the pipeline is called.
        batches: The prompts.
        n_source: How many are of the source.
        on_site: Called with the findings of each map.

    Attributes:
        maps: The maps of each site by their timestep, or by None where one serves all.
        found: What was found of each map.
        timesteps: Timesteps that were fitted, in their order.
    """

    def __init__(
        self,
        pipe: Any,
        plan: ImageFitPlan,
        denoising: Denoising,
        batches: Sequence[PromptBatch],
        n_source: int,
        on_site: Callable[[FittedSite], None] | None,
    ) -> None:
        self.maps: dict[str, dict[float | None, AffineMap]] = {}
        self.found: list[FittedSite] = []
        self.timesteps: list[float] = []
        self._pipe = pipe
        self._root = as_module(pipe)
        _, self._denoiser = denoiser_of(pipe)
        self._plan = plan
        self._denoising = denoising
        self._batches = batches
        self._numbers = [torch.tensor(batch.numbers) for batch in batches]
        self._n_source = n_source
        prompts = sum(len(batch.prompts) for batch in batches)
        self._strengths = plan.strengths(n_source, prompts - n_source)
        self._steps = denoising.argument("num_inference_steps") or 1
        self._on_site = on_site
        self._call = _FitCall()
        self._order: list[str] = []
        self._modules: dict[str, nn.Module] = {}
        self._acting: dict[str, tuple[float, AffineMap | None]] = {}
        self._rows: dict[tuple[int, int, torch.device], RowStrengths] = {}
        self._kept: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def run(self, sites: Sequence[str], *, progress: bool) -> None:
        """Makes the denoising run.

        Args:
            sites: The sites in any order.
            progress: Whether to show a progress bar.
        """
        settings = ThreadSettings(self._pipe._execution_device)
        self._modules = {one: find_module(self._root, split_site(one)[0]) for one in sites}
        try:
            with settings.applied():
                if self._plan.timesteps == "pooled":
                    self._check_memory(sites)
                self._order = execution_order(self._root, sites, self._probe)
            steps = 1 if self._plan.timesteps == "first" else self._steps
            with tqdm(total=len(sites) * steps, disable=not progress, desc="Fitting, maps") as bar:
                self._run_batches(settings, bar)
        finally:
            self._denoising.free()
        if self._plan.timesteps == "pooled":
            self._learn_kept()

    def _probe(self) -> None:
        """Runs the first call of the denoiser for one prompt."""
        batch = PromptBatch(self._batches[0].prompts[:1], 0)

        def stop(*_: object) -> None:
            self._check_rows(1)
            over_rows([0.0], self._call.rows, self._plan.rows)  # refuses rows that there are not
            raise EnoughSeenError

        handle = self._denoiser.register_forward_hook(stop)
        try:
            with self._call.watching(self._denoiser):
                self._denoising.run(batch)
        finally:
            handle.remove()

    def _check_memory(self, sites: Sequence[str]) -> None:
        """Refuses a fit of responses of all sites and steps together that no memory holds."""
        kept = 0

        def count(site: str, output: Tensor) -> None:
            nonlocal kept
            check_row_axis(output, self._call.rows, site)
            axis = neurons_axis(self._modules[site], output, site)
            kept += pool_places(output[-1:], axis, self._plan.pooling).values.nbytes

        functions = {site: functools.partial(count, site) for site in sites}
        with change_outputs(self._root, functions):
            self._probe()
        prompts = sum(len(batch.prompts) for batch in self._batches)
        needed, held = kept * prompts * self._steps, machine_memory()
        if needed > held:
            raise ValueError(
                f"timesteps='pooled' keeps the responses of all steps and modules, with "
                f"pooling={self._plan.pooling!r} {needed / 1e9:.0f} GB of {prompts} prompts, and "
                f"this machine has {held / 1e9:.0f} GB: write timesteps='first' or 'each', which "
                "keep those of one module at a time, or pooling='mean', or give fewer prompts"
            )

    def _run_batches(self, settings: ThreadSettings, bar: tqdm[Any]) -> None:
        def meeting(name: str, brought: list[_Brought]) -> list[AffineMap | None]:
            site, timestep, _ = brought[0]
            learned = self._learn(site, timestep, [responses for *_, responses in brought])
            bar.update()
            return [learned] * len(brought)

        parts = [
            functools.partial(self._run_batch, index, settings)
            for index in range(len(self._batches))
        ]
        lockstep = Lockstep(parts, meeting)
        functions = {site: functools.partial(self._at_site, site, lockstep) for site in self._order}
        with self._checking_calls(), change_outputs(self._root, functions):
            lockstep.run()

    def _run_batch(self, index: int, settings: ThreadSettings) -> None:
        self._call.index = index
        with settings.applied():
            self._denoising.run(self._batches[index])

    @contextlib.contextmanager
    def _checking_calls(self) -> Iterator[None]:
        """Checks that each call of the denoiser reaches all sites in their order."""

        def begin(*_: object) -> None:
            self._check_rows(len(self._batches[self._call.index].prompts))
            self._call.reached = []

        def end(*_: object) -> None:
            self._check_reached()

        with contextlib.ExitStack() as attached:
            attached.enter_context(self._call.watching(self._denoiser))
            for handle in (
                self._denoiser.register_forward_pre_hook(begin),
                self._denoiser.register_forward_hook(end),
            ):
                attached.callback(handle.remove)
            yield

    def _check_rows(self, images: int) -> None:
        rows = self._call.rows
        if rows == images:
            return
        check_prompts_last(self._pipe)
        if rows != 2 * images:
            raise ValueError(
                f"pipeline: its denoiser runs {rows} rows for {images} prompts, where one for each "
                "prompt is known, or two, those of negative prompts first: switch off what adds "
                "rows, such as perturbed-attention guidance"
            )

    def _check_reached(self) -> None:
        reached = self._call.reached
        if reached == self._order:
            return
        odd = [site for site in self._order if reached.count(site) != 1] or reached
        raise ValueError(
            f"modules: {', '.join(odd[:3])} ({len(odd)} in all) did not run once and in the same "
            f"order as before in the call at timestep {self._call.timestep:g}: leave modules that "
            "only some steps use out of the pattern"
        )

    def _at_site(self, site: str, lockstep: Lockstep, output: Tensor) -> Tensor | None:
        self._call.reached.append(site)
        batch, timestep = self._batches[self._call.index], self._call.timestep
        check_row_axis(output, self._call.rows, site)
        axis = neurons_axis(self._modules[site], output, site)
        fitted, learned = self._acting.get(site, (None, None))
        if fitted != timestep:  # the second call of a step is only transported
            # Under guidance the prompts' rows are the last.
            prompts = output[-len(batch.prompts) :]
            responses = pool_places(prompts, axis, self._plan.pooling, self._denoising.seed)
            step = map_name(site, timestep)
            learned = lockstep.meet(self._call.index, step, (site, timestep, responses))
        if self._plan.timesteps == "first" and site == self._order[-1]:
            self._check_reached()
            raise EnoughSeenError
        if not self._strengths or learned is None:
            return None
        rows = self._row_strengths(len(output), output.device)
        return place(learned, rows, self._plan.pooling, output, axis)(output)

    def _row_strengths(self, count: int, device: torch.device) -> RowStrengths:
        """Strengths of the rows of the running call."""
        key = (self._call.index, count, device)
        if key not in self._rows:
            numbers = self._batches[self._call.index].numbers
            strengths = over_rows([self._strengths[one] for one in numbers], count, self._plan.rows)
            self._rows[key] = RowStrengths(strengths, device)
        return self._rows[key]

    def _learn(self, site: str, timestep: float, parts: list[Responses]) -> AffineMap | None:
        """Fits the map that acts at a site and timestep; None if none acts before the end."""
        plan = self._plan
        responses, owners = in_order(parts, self._numbers)
        if timestep not in self.timesteps:
            self.timesteps.append(timestep)
        learned: AffineMap | None
        if plan.timesteps == "pooled":
            learned = self._learn_so_far(site, responses, owners)
        else:
            key, measure = None, True
            if plan.timesteps == "each":
                # At one step a site, at another one from site to site: it takes as long as a step.
                turn = self._order.index(site) % self._steps
                key, measure = timestep, turn == len(self.timesteps) - 1
            name = map_name(site, key)
            learned, found = self._learn_map(responses, owners, name, measure=measure)
            self.maps.setdefault(site, {})[key] = learned.to("cpu")
            self._note(found)
        self._acting[site] = timestep, learned
        return learned

    def _learn_map(
        self, responses: Tensor, owners: Tensor, name: str, *, measure: bool = True
    ) -> tuple[AffineMap, FittedSite]:
        how = self._plan.method, self._plan.support
        learned, found = learn_site(*how, responses, owners, self._n_source, name, measure=measure)
        assert isinstance(learned, AffineMap)  # of all methods that a plan takes
        return learned, found

    def _learn_so_far(self, site: str, responses: Tensor, owners: Tensor) -> AffineMap | None:
        """The map of the responses of all steps so far, which transports this one."""
        self._kept.setdefault(site, []).append((responses.cpu(), owners))
        if not self._strengths:
            return None
        together, owners = self._together(site)
        count = int((owners < self._n_source).sum())
        sides = together[:count], together[count:]
        learned = fit_map(self._plan.method, self._plan.support, *sides, site)
        assert isinstance(learned, AffineMap)
        return learned

    def _learn_kept(self) -> None:
        """Fits the map of each site to the responses of all steps."""
        for site in self._order:
            learned, found = self._learn_map(*self._together(site), site)
            self.maps[site] = {None: learned}
            self._note(found)

    def _together(self, site: str) -> tuple[Tensor, Tensor]:
        """Responses of a site at all steps so far, in the order of the prompts."""
        values, owners = (torch.cat(parts) for parts in zip(*self._kept[site], strict=True))
        ordered, order = owners.sort(stable=True)
        return values[order], ordered

    def _note(self, found: FittedSite) -> None:
        self.found.append(found)
        if self._on_site is not None:
            self._on_site(found)


class _FitCall(RunningCall):
    """The call of the denoiser that the current thread runs.

    Attributes:
        index: Number of its batch.
        reached: The sites that it has reached.
    """

    index = 0

    def __init__(self) -> None:  # runs in each thread that uses it
        self.reached: list[str] = []


def pool_places(
    output: Float[Tensor, "images ..."], axis: int, pooling: str, seed: int = 0
) -> Responses:
    """Pools a module's output over its places, at least in float32.

    Args:
        output: The output, a row for each image.
        axis: Axis of its neurons.
        pooling: "mean" over the places, or "all": each place is a response, of more than `PLACES`
            so many that are drawn, the same ones of every image.
        seed: Decides which.
    """
    dtype = torch.promote_types(output.dtype, torch.float32)
    counts = torch.ones(len(output), dtype=torch.long)
    places = [one for one in range(1, output.dim()) if one != axis % output.dim()]
    if pooling == "mean" and places:
        return Responses(output.mean(places, dtype=dtype), counts)
    every = as_places(output, axis)
    if every.shape[1] > PLACES:
        every = every[:, _drawn_places(every.shape[1], seed).to(every.device)]
    return Responses(every.to(dtype).flatten(0, 1), counts * every.shape[1])


@functools.cache
def _drawn_places(count: int, seed: int) -> Tensor:
    order = torch.Generator().manual_seed(seed_of(seed, "places", count))
    return torch.randperm(count, generator=order)[:PLACES].sort().values
