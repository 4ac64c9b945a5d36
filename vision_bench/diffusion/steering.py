"""Maps of a denoiser's activations, applied while a pipeline runs, at a strength for each image."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aim_plugins.core.errors import first_few
from aim_plugins.modulation.activations import AffineMap, fingerprint_of
from aim_plugins.modulation.hooks import OutputFunction, change_outputs, find_module
from aim_plugins.modulation.sites import split_site
from aim_plugins.modulation.token_weights import read_strengths
from vision_bench.diffusion.layout import (
    check_prompts_last,
    check_row_axis,
    check_rows,
    check_tiled,
    images_counted,
    over_rows,
)
from vision_bench.diffusion.neurons import neurons_axis
from vision_bench.diffusion.pipelines import as_module, check_steerable
from vision_bench.diffusion.placement import Mover, RowStrengths, check_pooling, place
from vision_bench.diffusion.timesteps import RunningCall, nearest_timestep

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TimedMaps = Mapping[float | None, AffineMap]
"""Maps of a site by the timestep that they were fitted at; a single one at None serves them all."""


class ImageMaps:
    """Affine maps of chosen modules of a denoiser, ready to run in a pipeline.

    Args:
        maps: The maps of each site, by timestep.
        pooling: One of `POOLINGS`, what they were fitted on.
        rows: One of `ROWS`: with "conditional", guidance in one batch leaves the negative prompts'
            rows as they are.

    Raises:
        ValueError: If `pooling` or `rows` is unknown, or a site has no map, or one for all
            timesteps beside others.
    """

    def __init__(
        self, maps: Mapping[str, TimedMaps], pooling: str = "mean", rows: str = "both"
    ) -> None:
        check_pooling(pooling)
        check_rows(rows)
        for site, timed in maps.items():
            if not timed or (None in timed and len(timed) > 1):
                raise ValueError(
                    f"maps: site {site!r} has maps at the timesteps {list(timed)}: give one at "
                    "None, for all timesteps, or one for each timestep"
                )
        self.maps = {site: dict(timed) for site, timed in maps.items()}
        self._on: dict[tuple[str, float | None, torch.device], AffineMap] = {}
        self.pooling = pooling
        self.rows = rows

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over sites, timesteps, values, pooling and rows, as 64 hexadecimal digits."""
        return fingerprint_of(self.named, f"{self.pooling}|{self.rows}")

    @property
    def named(self) -> dict[str, AffineMap]:
        """The maps by their names, see `map_name`."""
        return {
            map_name(site, timestep): one
            for site, timed in self.maps.items()
            for timestep, one in timed.items()
        }

    def on(self, site: str, key: float | None, device: torch.device) -> AffineMap:
        """The map of a site and timestep, or None, on a device, where it stays."""
        kept = (site, key, device)
        if kept not in self._on:
            self._on[kept] = self.maps[site][key].to(device)
        return self._on[kept]

    @contextlib.contextmanager
    def applied(
        self, pipe: DiffusionPipeline, strengths: Float[Tensor, " images"] | Sequence[float]
    ) -> Iterator[None]:
        """Transports the denoiser's activations while the block runs.

        What shares the denoiser, such as a pipeline made by `from_pipe`, is transported too.

        Args:
            pipe: The pipeline the maps were learned on.
            strengths: Strength λ of each image of the pipeline's calls: of each prompt in turn,
                `num_images_per_prompt` times. Images of strength 0 keep every bit. Where all are
                0, nothing is attached. The layout is checked in the first call of the denoiser, and
                again where its number of rows changes.

        Raises:
            ValueError: If hooks would not run in the denoiser (see `check_steerable`), or it lacks
                a module; in the pipeline's call, if that has another number of images or lays them
                out in another way (with rows="conditional", in one that is not known), if a module
                has another width or is left out at a step.
        """
        images = read_strengths(strengths)
        if not len(images):
            raise ValueError("strengths is empty: give one for each image of the pipeline's call")
        component, denoiser = check_steerable(pipe)
        check_within(component, list(self.maps))
        if not bool((images != 0).any()):
            yield
            return
        root = as_module(pipe)
        steered = _Steered(self, images, pipe)
        functions = {site: steered.function(root, site) for site in self.maps}
        with contextlib.ExitStack() as attached:
            attached.enter_context(images_counted(pipe, len(images)))
            attached.enter_context(steered.watching(denoiser))
            attached.enter_context(change_outputs(root, functions))
            yield


def map_name(site: str, timestep: float | None) -> str:
    """What a map is called in files and findings.

    >>> map_name("unet.mid_block", None), map_name("unet.mid_block", 999.0)
    ('unet.mid_block', 'unet.mid_block@999')
    """
    return site if timestep is None else f"{site}@{repr(float(timestep)).removesuffix('.0')}"


def check_within(component: str, sites: Sequence[str]) -> None:
    """Refuses sites outside of the denoiser.

    Raises:
        ValueError: Naming them.
    """
    outside = [site for site in sites if split_site(site)[0].split(".")[0] != component]
    if outside:
        raise ValueError(
            f"modules: {first_few(outside)} lie outside of {component!r}, the network that runs at "
            f"every step: choose modules '{component}.…'"
        )


class _Steered:
    """One steering of a pipeline: strengths laid out over the rows of the running call.

    Args:
        maps: The maps.
        strengths: Strength of each image.
        pipe: The pipeline.
    """

    def __init__(self, maps: ImageMaps, strengths: Float[Tensor, " images"], pipe: Any) -> None:
        self._maps = maps
        self._strengths = strengths
        self._pipe = pipe
        self._call = RunningCall()
        self._missed: set[str] = set()
        self._known: set[int] = set()
        self._rows: dict[tuple[int, torch.device], RowStrengths] = {}
        self._placed: dict[str, tuple[Any, Mover]] = {}

    @contextlib.contextmanager
    def watching(self, denoiser: nn.Module) -> Iterator[None]:
        """Checks each call of the denoiser while the block runs: its layout, and all sites ran."""
        with contextlib.ExitStack() as attached:
            attached.enter_context(self._call.watching(denoiser))
            for handle in (
                denoiser.register_forward_pre_hook(self._begin),
                denoiser.register_forward_hook(self._end),
            ):
                attached.callback(handle.remove)
            yield

    def function(self, root: nn.Module, site: str) -> OutputFunction:
        """What moves the outputs at a site."""
        timed = self._maps.maps[site]
        module = find_module(root, split_site(site)[0])

        def move(output: Tensor) -> Tensor:
            check_row_axis(output, self._call.rows, site)
            self._missed.discard(site)
            # A map for all steps needs no timestep, which would wait for an accelerator.
            key = None if None in timed else _key(timed, self._call.timestep)
            # Tables of the running step alone are kept: those of all steps would be large.
            wanted = key, len(output), output.dim(), output.device
            made_for, mover = self._placed.get(site, (None, None))
            if mover is None or made_for != wanted:
                axis = neurons_axis(module, output, site)
                mover = self._place(site, key, output, axis)
                self._placed[site] = wanted, mover
            return mover(output)

        return move

    def _place(self, site: str, key: float | None, output: Tensor, axis: int) -> Mover:
        one = self._maps.on(site, key, output.device)
        one.check_width(site, output.shape[axis])
        rows = len(output), output.device
        if rows not in self._rows:
            weights = over_rows(self._strengths, len(output), self._maps.rows)
            self._rows[rows] = RowStrengths(weights, output.device)
        return place(one, self._rows[rows], self._maps.pooling, output, axis)

    def _begin(self, denoiser: nn.Module, given: Any) -> None:
        self._missed = set(self._maps.maps)
        # Once for each number of rows: to compare them waits for an accelerator.
        if self._call.rows in self._known:
            return
        check_tiled(self._call.batch, len(self._strengths))
        if self._maps.rows == "conditional" and self._call.rows > len(self._strengths):
            check_prompts_last(self._pipe)
        self._known.add(self._call.rows)

    def _end(self, denoiser: nn.Module, given: Any, output: Any) -> None:
        if self._missed:
            missed = [site for site in self._maps.maps if site in self._missed]
            raise ValueError(
                f"modules: {first_few(missed)} did not run in a call of the denoiser, so that its "
                "images would not be transported: leave the modules out, or switch off what skips "
                "them (a cache, skip-layer guidance)"
            )


def _key(timed: TimedMaps, timestep: float) -> float | None:
    if None in timed:
        return None
    return nearest_timestep([one for one in timed if one is not None], timestep)
