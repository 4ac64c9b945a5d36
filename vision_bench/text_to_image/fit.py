"""`vision-bench images fit` and `show`: learning a transport of a pipeline, and looking at one."""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from aim_plugins.core.devices import best_device
from aim_plugins.transport.data.text_files import choose, read_sentences
from aim_plugins.transport.learning import FittedSite, fit_report
from aim_plugins.transport.summary import summarise, summary_text
from vision_bench.diffusion.artifact import ImageTransport
from vision_bench.diffusion.fit import fit_transport
from vision_bench.diffusion.pipelines import load_pipeline
from vision_bench.diffusion.plan import plan_image_fit
from vision_bench.text_to_image.settings import FitSettings, PipelineSettings, ShowSettings
from vision_bench.text_to_image.tasks import load_sides

_PLANNED = ("method", "pooling", "support", "timesteps", "incremental", "strength", "rows")
_SIZES = ("num_inference_steps", "height", "width")


def fit(settings: FitSettings) -> None:
    """Learns a transport.

    Raises:
        ValueError: If a file or the pipeline is not usable.
        FileNotFoundError: If a file is missing.
    """
    source, target = read_sides(settings)
    how = {name: getattr(settings, name) for name in (*_PLANNED, "batch_size")}
    sizes = {name: getattr(settings, name) for name in _SIZES}
    plan_image_fit(source, target, **how, **sizes)  # before a large pipeline is loaded
    _check_offload(settings, len(source) + len(target))
    pipe = open_pipeline(settings)
    found: list[FittedSite] = []
    started = time.perf_counter()
    transport = fit_transport(
        pipe,
        source,
        target,
        modules=settings.modules,
        seed=settings.seed,
        on_site=found.append,
        **how,
        **settings.arguments,
    )
    seconds = time.perf_counter() - started
    transport.save(settings.output)
    print(fit_report(transport.metadata, found, seconds, settings.output))


def read_sides(settings: FitSettings) -> tuple[list[str], list[str]]:
    """The prompts of both sides, from files or as a config says.

    Raises:
        ValueError: If a file is malformed.
        FileNotFoundError: If a file is missing.
    """
    if settings.source is not None and settings.target is not None:
        sides = read_sentences(settings.source), read_sentences(settings.target)
    else:
        for name in ("name", "root"):
            if name not in settings.data:
                raise ValueError(f"the config's section 'data' has no {name!r}: add it")
        loaded = load_sides(**settings.data)
        sides = list(loaded.source), list(loaded.target)
    return sides if settings.limit is None else _drawn(*sides, settings.limit, settings.seed)


def _drawn(
    source: list[str], target: list[str], limit: int, seed: int
) -> tuple[list[str], list[str]]:
    """Some prompts a side; of sides of one length the partners, which start from one noise."""
    if len(source) != len(target):
        sides = (source, "source"), (target, "target")
        drawn = [choose(one, min(limit, len(one)), seed, name) for one, name in sides]
        return list(drawn[0]), list(drawn[1])
    pairs = list(zip(source, target, strict=True))
    pairs = list(choose(pairs, min(limit, len(pairs)), seed, "source and target"))
    return [one for one, _ in pairs], [one for _, one in pairs]


def _check_offload(settings: FitSettings, prompts: int) -> None:
    """Refuses batches in lockstep of layers that leave the device with the first of them."""
    if settings.offload == "sequential" and settings.batch_size < prompts:
        raise ValueError(
            f"batch_size={settings.batch_size} is below the {prompts} prompts of both sides, which "
            "offload='sequential' takes in one batch, as each layer leaves the device behind it: "
            "raise it, draw fewer by limit, or give offload='model'"
        )


def show(settings: ShowSettings) -> None:
    """Prints a summary of a transport.

    Raises:
        ValueError: If the folder holds no whole transport.
    """
    learned = ImageTransport.load(settings.transport)
    summary = summarise(learned.metadata, learned.maps.named, learned.fingerprint)
    as_text = summary_text(summary, learned.metadata)
    print(json.dumps(summary, indent=2) if settings.json else as_text)


def open_pipeline(settings: PipelineSettings, dtype: str | None = None) -> Any:
    """Loads the pipeline, which shows no progress of its own.

    Args:
        settings: What is loaded, and where it runs.
        dtype: Type of the weights where the settings leave it open; None for that of the files.

    Raises:
        ValueError: If it cannot be loaded, or there is no such device.
    """
    device = best_device(settings.device)
    pipe: Any = load_pipeline(
        settings.pipeline,
        getattr(torch, settings.dtype or dtype or "", None),
        device,
        settings.variant,
        settings.offload,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
