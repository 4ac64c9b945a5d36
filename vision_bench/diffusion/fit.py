"""Learning a transport of a text-to-image pipeline in one denoising run over the prompts.

In every call of the denoiser a hook at every site sees all images at once: it pools their
activations, fits the site's map and, in a causal fit, hands the transported activations on. So the
next site, and the next step, are fitted on activations that all earlier maps have transported.
Prompts that do not fit into one batch run as several in lockstep, which wait for each other in
every hook.

Source: arXiv 2410.23054, section 3.2 and definition 3.2. Its code fits at the first step alone,
with a run for each site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.hooks import choose_sites
from aim_plugins.transport.learning import FittedSite, describe_sites
from aim_plugins.transport.weights import check_shared_weights
from vision_bench.diffusion.artifact import ImageTransport, ImageTransportMetadata
from vision_bench.diffusion.denoising import (
    Denoising,
    image_size,
    prompt_batches,
    scheduler_config,
)
from vision_bench.diffusion.learning import ImageFit
from vision_bench.diffusion.pipelines import (
    as_module,
    check_steerable,
    default_modules,
    denoiser_of,
)
from vision_bench.diffusion.plan import plan_image_fit
from vision_bench.diffusion.steering import ImageMaps, check_within


def fit_transport(
    pipe: Any,
    source: Sequence[str],
    target: Sequence[str],
    *,
    modules: str | Sequence[str] | None = None,
    method: str = "linear",
    pooling: str = "mean",
    support: str | None = None,
    timesteps: str = "first",
    incremental: str = "causal",
    strength: float = 1.0,
    rows: str = "both",
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = True,
    on_site: Callable[[FittedSite], None] | None = None,
    **call: Any,
) -> ImageTransport:
    """Learns the maps that carry activations of source prompts to those of target prompts.

    Fit under the guidance, the steps and the size that the transport is used with. The pipeline
    stays as it is; nothing is decoded.

    Args:
        pipe: A diffusers pipeline whose models are in evaluation mode.
        source: Prompts to start from.
        target: Prompts to arrive at; there may be more or fewer. Prompts at the same places of both
            sides start from the same noise.
        modules: Regular expressions of the names `component.module` of the denoiser's modules whose
            outputs are transported, see `choose_sites`; None for the paper's, see
            `default_modules`.
        method: Name of the method: "linear", "gaussian", "mean", "aura" or "iti".
        pooling: How the places of an image, pixels or tokens, become responses: their "mean", or
            "all" by itself, of more than 256 so many that the seed draws. Maps act as they are
            fitted, whatever the method, which differs from the paper's code: see `placement`.
        support: Where maps act: "none", "minmax", "qLO_HI" or "clip"; None for the method's own.
        timesteps: "first" fits at the first denoising step a map that serves all, as the paper's
            code does, and stops there; "each" fits a map for each step; "pooled" one map to the
            responses of all steps. With "pooled", a causal fit transports each step by the map of
            the steps so far.
        incremental: Which images go through the maps learned so far: those of both sides
            ("causal"), of the source ("source") or none ("atonce").
        strength: Strength at which they do.
        rows: Under guidance in one batch, whether the rows of negative prompts are transported too
            ("both") or those of the prompts alone ("conditional"). Responses are those of the
            prompts. Where a step has two calls instead, the first, with the prompts, is fitted, and
            the second transported by its maps. Guidance in one batch is known of the pipelines of
            `layout.PROMPTS_LAST`; others are fitted with a row for each image alone.
        guidance_scale: Guidance scale; this and the next three are the pipeline's own if None.
        num_inference_steps: Denoising steps.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        seed: Decides the noise, and with "all" the places.
        batch_size: Prompts in a call of the denoiser. The hidden states of all prompts are alive at
            once; within a module memory is needed for one batch.
        progress: Whether to show a progress bar, in maps.
        on_site: Called with the findings of each map. Where each step has maps of its own, how
            far they move and what of it holds is found for one map of each site.
        **call: Further arguments of the pipeline's call, one for all prompts, such as
            `true_cfg_scale=4.0` or `negative_prompt="blurred"`.

    Raises:
        ValueError: If a pattern matches nothing, an argument is unknown or a side has too few
            prompts; if a site is outside of the denoiser or does not run once in each of its calls;
            if the denoiser is compiled, has a cache or is in training mode; if with "pooled" the
            responses of all steps and sites exceed the machine's memory.
        TypeError: If a side is no list of texts, or an argument of the call no plain value.
        NotImplementedError: If several batches would have to share weights that are offloaded.
    """
    sizes = {
        "num_inference_steps": num_inference_steps,
        "height": height,
        "width": width,
    }
    plan = plan_image_fit(
        source,
        target,
        method=method,
        pooling=pooling,
        support=support,
        timesteps=timesteps,
        incremental=incremental,
        strength=strength,
        rows=rows,
        batch_size=batch_size,
        **sizes,
    )
    component, denoiser = denoiser_of(pipe)
    check_steerable(pipe)
    sites = _choose(pipe, component, default_modules(pipe) if modules is None else modules)
    denoising = Denoising(
        pipe, {"guidance_scale": guidance_scale, **sizes, **call}, seed=seed, n_source=len(source)
    )
    batches = prompt_batches(source, target, batch_size)
    _check_models(pipe, len(batches))
    fit = ImageFit(pipe, plan, denoising, batches, len(source), on_site)
    fit.run(sites, progress=progress)
    height, width = image_size(pipe, denoiser, height, width)
    metadata = ImageTransportMetadata.of_model(
        denoiser,
        sites=list(fit.maps),
        base_model=str(getattr(pipe, "name_or_path", None) or ""),
        method=plan.method.name,
        data_sha256=fingerprint([list(source), list(target)]),
        seed=seed,
        pooling=plan.pooling,
        incremental=plan.incremental,
        strength=plan.strength,
        support=plan.support,
        n_source=len(source),
        n_target=len(target),
        batch_size=batch_size,
        timesteps=plan.timesteps,
        fitted_timesteps=fit.timesteps,
        rows=plan.rows,
        pipeline=type(pipe).__name__,
        component=component,
        num_inference_steps=denoising.argument("num_inference_steps"),
        guidance_scale=denoising.argument("guidance_scale"),
        height=height,
        width=width,
        scheduler=scheduler_config(pipe),
        call=call,
        **describe_sites(
            fit.found,
            len(source),
            len(target),
            inputs="prompts",
            outputs=ImageTransportMetadata.OUTPUTS,
        ),
    )
    return ImageTransport(ImageMaps(fit.maps, pooling=plan.pooling, rows=plan.rows), metadata)


def _choose(pipe: Any, component: str, modules: str | Sequence[str]) -> list[str]:
    """The sites of patterns, all of which are the denoiser's.

    Raises:
        ValueError: If one is not.
    """
    sites = choose_sites(as_module(pipe), modules)
    check_within(component, sites)
    return sites


def _check_models(pipe: Any, passes: int) -> None:
    """Refuses models that are in training mode, or whose weights several passes cannot share."""
    brought = [hook.model for hook in getattr(pipe, "_all_hooks", ())]  # whole, see `Denoising.run`
    for name, model in pipe.components.items():
        if not isinstance(model, nn.Module):
            continue
        if model.training:
            raise ValueError(
                f"pipeline: its {name} is in training mode, where dropout is random: call "
                f"pipe.{name}.eval()"
            )
        if all(model is not one for one in brought):
            check_shared_weights(model, passes)
