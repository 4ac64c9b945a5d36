"""A learned transport of a text-to-image pipeline: maps of activations, and where they come from.

On disk it is an artifact as in `aim_plugins.core.artifact`, whose tensors are float32 vectors
`<site>.scale`, `.shift`, `.support_min` and `.support_max`, or `<site>@<timestep>.scale` and so on
where each timestep has a map of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from torch import nn

from aim_plugins.core import artifact
from aim_plugins.core.signature import model_signature
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.metadata import MapsMetadata
from aim_plugins.transport.vectors import (
    affine_maps,
    check_map,
    check_widths,
    clipped_names,
    map_tensors,
    read_maps,
)
from vision_bench.diffusion.denoising import scheduler_config
from vision_bench.diffusion.pipelines import as_module, check_steerable, denoiser_of
from vision_bench.diffusion.plan import TIMESTEPS
from vision_bench.diffusion.steering import ImageMaps, map_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTransportMetadata(MapsMetadata):
    """What an image transport was learned on, and how.

    Attributes:
        method: "linear", "gaussian", "mean", "aura" or "iti".
        sites: Outputs of the denoiser's modules with maps, in the order in which it reaches them.
        base_model: Name or folder of the pipeline.
        model_signature: The denoiser's architecture and a sample of its weights.
        data_sha256: SHA-256 of the prompts of both sides.
        seed: Seed of the noise that the images started from.
        pooling: How the places of an image became responses: "mean" or "all".
        timesteps: Which denoising steps the maps were learned at: "first", "each" or "pooled".
        fitted_timesteps: The denoiser's timesteps at those steps.
        rows: Which rows are transported under guidance: "both" or "conditional".
        pipeline: Class of the pipeline.
        component: Name of the denoiser among its components.
        num_inference_steps: Denoising steps.
        guidance_scale: Guidance scale; None where the pipeline knows none.
        height: Height of the images in pixels; None where the pipeline does not tell.
        width: Their width.
        scheduler: The scheduler's class and configuration.
        call: Further arguments of the pipeline's call.
    """

    KIND: ClassVar[str] = "image_transport"
    IN_HARNESSES: ClassVar[bool] = False
    MADE_BY: ClassVar[str] = "`vision-bench images fit`"
    INPUTS: ClassVar[str] = "prompts"
    OUTPUTS: ClassVar[str] = "images"
    PACKAGES: ClassVar[Sequence[str]] = (*MapsMetadata.PACKAGES, "diffusers")

    timesteps: str = "first"
    fitted_timesteps: Sequence[float] = ()
    rows: str = "both"
    pipeline: str = ""
    component: str = "unet"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)

    @property
    def applied(self) -> str:
        rows = {"both": "prompts and negative prompts", "conditional": "prompts alone"}[self.rows]
        return f"to {rows}, support {self.support}"

    @property
    def fitted(self) -> str:
        settings = {
            "steps": self.num_inference_steps,
            "guidance": self.guidance_scale,
            "size": None if self.width is None else f"{self.width} x {self.height}",
        }
        known = [f"{name} {one}" for name, one in settings.items() if one is not None]
        return ", ".join([super().fitted, f"on {TIMESTEPS[self.timesteps]}", *known])

    @property
    def keys(self) -> list[float | None]:
        """Timesteps of the maps of each site, or None of a single one that serves all."""
        each = self.timesteps == "each"
        return [float(one) for one in self.fitted_timesteps] if each else [None]


@dataclass(frozen=True)
class ImageTransport:
    """Learned maps of a denoiser's activations together with where they come from.

    Attributes:
        maps: What steers a pipeline.
        metadata: What they were learned on.

    Raises:
        ValueError: If the two name different sites, timesteps, pooling or rows, or a map is not a
            finite one of vectors of one length.
    """

    maps: ImageMaps
    metadata: ImageTransportMetadata
    _checked: WeakKeyDictionary[nn.Module, dict[str, Any]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.maps.maps:
            raise ValueError("the transport has no sites: choose modules to transport")
        known = self.metadata
        if list(known.sites) != list(self.maps.maps):
            raise ValueError(
                f"metadata.sites={list(known.sites)[:3]}... are not the maps' sites "
                f"{list(self.maps.maps)[:3]}... in the same order"
            )
        for name in ("pooling", "rows"):
            if getattr(known, name) != getattr(self.maps, name):
                raise ValueError(
                    f"metadata.{name}={getattr(known, name)!r} is not the maps' "
                    f"{getattr(self.maps, name)!r}"
                )
        for site, timed in self.maps.maps.items():
            if set(timed) != set(known.keys):
                raise ValueError(
                    f"the maps of {site!r} are of the timesteps {list(timed)}, those of the "
                    f"metadata of {known.keys}"
                )
            if len({len(one.scale) for one in timed.values()}) > 1:
                raise ValueError(f"the maps of {site!r} differ in their numbers of neurons")
        for name, one in self.maps.named.items():
            check_map(name, one)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sites, timesteps, values and what else decides how the maps act."""
        return self.maps.fingerprint

    def applied(
        self, pipe: Any, strengths: Sequence[float], force: bool = False
    ) -> AbstractContextManager[None]:
        """Transports a pipeline's images while the block runs, see `ImageMaps.applied`.

        Args:
            pipe: The pipeline. It is checked, see `check_pipeline`, unless its denoiser was before,
                with the weights and adapters that it has now.
            strengths: Strength λ of each image of the pipeline's calls.
            force: Warns instead of refusing other weights or another class.

        Raises:
            ValueError: If the pipeline cannot be steered, or has another denoiser.
        """
        _, denoiser = denoiser_of(pipe)
        if self._checked.get(denoiser) != model_signature(denoiser):
            check_steerable(pipe)  # a compiled one would seem to lack its modules
            self.check_pipeline(pipe, force=force)
        return self.maps.applied(pipe, strengths)

    def save(self, folder: str | Path) -> Path:
        """Writes the transport into a folder, replacing one that is there; returns the folder."""
        named = self.maps.named
        metadata = replace(self.metadata, clipped=clipped_names(named))
        return artifact.save(folder, map_tensors(named), metadata)

    @classmethod
    def load(cls, folder: str | Path) -> ImageTransport:
        """Reads a transport and checks that it is whole.

        Raises:
            ValueError: If a file is missing, cut short or altered, of another version of the
                format, or holds something else than finite maps of the sites it names.
        """
        tensors, known = artifact.load(folder, ImageTransportMetadata)
        names = {site: {key: map_name(site, key) for key in known.keys} for site in known.sites}
        try:
            wanted = [name for timed in names.values() for name in timed.values()]
            named = affine_maps(read_maps(tensors, wanted, known.clipped), "an image model")
            maps = {
                site: {key: named[name] for key, name in timed.items()}
                for site, timed in names.items()
            }
            return cls(ImageMaps(maps, pooling=known.pooling, rows=known.rows), known)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def check_pipeline(self, pipe: Any, *, force: bool = False) -> None:
        """Checks that a pipeline has the denoiser that the transport was learned on.

        One that passes, by force or not, is not checked again by `applied`.

        Args:
            pipe: The pipeline.
            force: Warns instead of refusing other weights or another class, such as those of a
                fine-tune, of a LoRA that was not at work in the fit, or of a distilled denoiser.

        Raises:
            ValueError: If the pipeline lacks a site or a site has another width, whatever `force`
                says; or if the denoiser's class or weights differ.
        """
        component, denoiser = denoiser_of(pipe)
        learned_on = self.metadata.learned_on
        if component != self.metadata.component:
            raise ValueError(
                f"the denoiser of {type(pipe).__name__} is its {component!r}, and the transport "
                f"was learned on the {self.metadata.component!r} of {learned_on}"
            )
        widths = {site: _width(timed) for site, timed in self.maps.maps.items()}
        check_widths(as_module(pipe), widths, learned_on)
        self.metadata.check_model(denoiser, force=force)
        self._checked[denoiser] = model_signature(denoiser)

    def check_use(self, pipe: Any, call: Mapping[str, Any]) -> None:
        """Warns of another size, number of steps, guidance or scheduler than those of the fit.

        Maps act under any, but the activations that they were learned on depend on them all.

        Args:
            pipe: The pipeline.
            call: Arguments of its call; those that are missing or None are not compared.
        """
        known = self.metadata
        for name in ("height", "width", "num_inference_steps", "guidance_scale"):
            now, then = call.get(name), getattr(known, name)
            if None not in (now, then) and now != then:
                _warn(f"{name}={now:g}", f"{then:g}")
        now, then = scheduler_config(pipe), known.scheduler
        # Other releases of diffusers may have settings of their own.
        for name in [one for one in now if one in then and now[one] != then[one]][:3]:
            _warn(f"scheduler: {name}={now[name]!r}", repr(then[name]))


def _warn(now: str, then: str) -> None:
    logger.warning(
        "%s, and the transport was learned at %s: images may be moved by more or less than there; "
        "draw as it was learned, or fit one for this",
        *(now, then),
    )


def _width(timed: Mapping[Any, AffineMap]) -> int:
    return len(next(iter(timed.values())).scale)
