"""Denoising runs of a pipeline over prompts, as far as they are needed, leaving it as it was.

Image i of either side starts from noise that the seed and i alone decide: the same in any batch,
and the same on both sides, so that a source and a target image differ by their prompts.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.identity import seed_of

_OWN = frozenset(
    ("prompt", "generator", "output_type", "return_dict", "latents", "num_images_per_prompt")
)
"""Arguments of a pipeline's call that are given for each image here."""


class EnoughSeenError(BaseException):
    """Ends a run before its last step. No `Exception`, lest a pipeline's own code catch it."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are denoised together, those of the source first.

    Attributes:
        prompts: The prompts.
        first: Number of the first one; the source has the lower numbers, the target those after.
    """

    prompts: Sequence[str]
    first: int

    @property
    def numbers(self) -> range:
        """Numbers of the prompts."""
        return range(self.first, self.first + len(self.prompts))


def prompt_batches(
    source: Sequence[str], target: Sequence[str], batch_size: int
) -> list[PromptBatch]:
    """Both sides in their order, in batches of a size."""
    prompts = [*source, *target]
    starts = range(0, len(prompts), batch_size)
    return [PromptBatch(prompts[start : start + batch_size], start) for start in starts]


class Denoising:
    """How a pipeline is called.

    Args:
        pipe: The pipeline.
        arguments: Arguments of its call that hold for all prompts; those that are None are left to
            the pipeline.
        seed: Decides the noise.
        n_source: Prompts of the source.

    Attributes:
        seed: Decides the noise.

    Raises:
        ValueError: If the call has no argument of a name, or it is one that is given here.
        TypeError: If an argument is no plain value, which the metadata could not note.
    """

    def __init__(
        self, pipe: Any, arguments: Mapping[str, Any], *, seed: int, n_source: int
    ) -> None:
        self._pipe = pipe
        self._arguments = {name: one for name, one in arguments.items() if one is not None}
        self.seed = seed
        self._n_source = n_source
        self._parameters = inspect.signature(type(pipe).__call__).parameters
        check_call(pipe, self._arguments)

    def argument(self, name: str) -> Any:
        """An argument of the call: the one given, or the pipeline's own; None if neither is."""
        own = getattr(self._parameters.get(name), "default", None)
        return self._arguments.get(name, None if own is inspect.Parameter.empty else own)

    def run(self, batch: PromptBatch) -> None:
        """Denoises a batch of prompts; nothing is decoded.

        Each run has a scheduler of its own, which keeps count of the steps. Models that the
        pipeline offloads stay where the last run has brought them, for the others that are under
        way in the denoiser: see `free`.
        """
        part = copy.copy(self._pipe)
        for hook in getattr(self._pipe, "_all_hooks", ()):
            hook.offload()  # the denoiser, whose room the text encoders need
        part._all_hooks = []
        part.scheduler = copy.deepcopy(self._pipe.scheduler)
        part.set_progress_bar_config(disable=True)
        arguments = dict(self._arguments)
        if isinstance(arguments.get("negative_prompt"), str):  # some take no text for a batch
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(batch.prompts)
        generators = [self._noise(number) for number in batch.numbers]
        try:
            part(
                prompt=list(batch.prompts), generator=generators, output_type="latent", **arguments
            )
        except EnoughSeenError:
            part.maybe_free_model_hooks()

    def free(self) -> None:
        """Puts away the models that the pipeline offloads, behind all runs."""
        self._pipe.maybe_free_model_hooks()

    def _noise(self, number: int) -> torch.Generator:
        # On the CPU, so that it is the same on any device.
        image = number if number < self._n_source else number - self._n_source
        return torch.Generator().manual_seed(seed_of(self.seed, "image", image))


def image_size(
    pipe: Any, denoiser: Any, height: int | None, width: int | None
) -> tuple[int | None, int | None]:
    """Height and width of a pipeline's images in pixels.

    Args:
        pipe: The pipeline.
        denoiser: Its denoiser, whose configuration has the size of its latents.
        height: The height that is asked for; None for the pipeline's own.
        width: The width that is asked for.

    Returns:
        None where neither the arguments nor the pipeline tell.
    """
    latents = getattr(pipe, "default_sample_size", None)
    latents = getattr(denoiser.config, "sample_size", None) if latents is None else latents
    sides = list(latents) if isinstance(latents, tuple | list) else [latents, latents]
    factor = getattr(pipe, "vae_scale_factor", None)
    own = [side * factor if side and factor else None for side in sides]
    return own[0] if height is None else height, own[1] if width is None else width


def scheduler_config(pipe: Any) -> dict[str, Any]:
    """Class and configuration of a pipeline's scheduler, ready for JSON."""
    config = pipe.scheduler.config.items()
    settings = {name: _plain(one) for name, one in config if not name.startswith("_")}
    return {"class": type(pipe.scheduler).__name__, **settings}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    known = value is None or isinstance(value, bool | int | float | str)
    return value if known and finite else str(value)


def check_call(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Checks arguments of a pipeline's call that hold for all prompts.

    Raises:
        ValueError: If the call has no argument of a name, or it is one that is given here.
        TypeError: If an argument is no plain value, which could not be noted.
    """
    pipeline, known = type(pipe).__name__, list(inspect.signature(type(pipe).__call__).parameters)
    if "prompt" not in known:
        raise ValueError(f"pipeline: {pipeline} takes no prompt: give a text-to-image pipeline")
    free = [name for name in known if name not in _OWN and name != "self"]
    for name, value in arguments.items():
        if name in _OWN:
            raise ValueError(f"{name}={value!r} is given for each image here: leave it out")
        if name not in free:
            raise ValueError(f"{pipeline} takes no {name}={value!r}; {did_you_mean(name, free)}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}={value!r} must be a plain value, one for all prompts, so that it "
                "can be noted"
            ) from error
