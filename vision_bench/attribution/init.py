"""`vision-bench attribute init`: a config for a model and a data set, once both are known to work.

A few masks are timed, so that the numbers of masks and gradients in it fit the minutes asked for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from aim_plugins.core.commands import say
from aim_plugins.core.files import write_atomic
from vision_bench.attribution.settings import (
    ExampleSettings,
    InitSettings,
)
from vision_bench.attribution.stages import tell_subject
from vision_bench.attribution.subject import Loaded, load_subject

GRADIENT_COST = 2.55
"""Forward passes that a forward and a backward pass take, as benchmarks/attribution.py measured."""

_TIMED = 2
"""Masks that are timed."""
_MOST = 20
"""At most so many times the components are masks."""
_FEWEST, _LEAST = 16, 20
"""With fewer images and masks nothing could be told."""
_ALPHA, _EVAL_ALPHAS = 0.1, (0.05, 0.1, 0.15)
_LARGE, _LARGE_ALPHA, _LARGE_EVAL_ALPHAS = 4000, 0.05, (0.025, 0.05, 0.1)
"""Of so many components a mask ablates half the share, as the paper has it of large models."""
_COMPARED = 270
"""Passes that the baselines of gradients and the rank test take."""
_SHARE = 0.35
"""Share of the passes that leaving one component out at a time may take."""


class InitStage:
    """Writes a config.

    Args:
        settings: Model, data, components, and the file.
        command: The words that repeat it, noted in the file.
    """

    def __init__(self, settings: InitSettings, command: Sequence[str] = ()) -> None:
        self.settings, self.command = settings, command

    def run(self) -> Path:
        """Checks model, data and components, and writes the config; returns its path."""
        settings = self.settings
        if settings.file.exists():
            raise ValueError(
                f"file={str(settings.file)!r} is there already: delete it, or name another file"
            )
        loaded = load_subject(settings)
        tell_subject(loaded)
        examples = loaded.subject.examples
        seconds = time_pass(loaded) / examples
        least = least_passes(examples) * seconds / 60
        if settings.minutes < least:
            raise ValueError(
                f"minutes={settings.minutes:g} are too few even for {min(examples, _FEWEST)} "
                f"images and {_LEAST} masks: give {1.05 * least:.2g}, or choose fewer components "
                "or smaller images"
            )
        chosen = choose_passes(len(loaded.components), examples, settings.minutes * 60 / seconds)
        minutes = chosen.passes * chosen.examples * seconds / 60
        if chosen.is_reduced(examples):
            wanted = _FULL.passes * examples * seconds / 60
            say(
                f"minutes={settings.minutes:g} are too few for {_FULL.passes:.0f} passes over "
                f"{examples} images, which take {wanted:.0f}: the config has "
                f"examples={chosen.examples}, num_ablations={chosen.num_ablations}, "
                f"eval_masks={chosen.eval_masks}"
            )
        text = config_text(settings, loaded, chosen, seconds * chosen.examples, self.command)
        path = write_atomic(settings.file, text)
        print(
            f"{path}: {chosen.num_ablations} masks and {chosen.gradient_passes} gradients, about "
            f"{minutes:.0f} minutes here; run `vision-bench attribute run {path}`"
        )
        return path


@dataclasses.dataclass(frozen=True)
class Chosen:
    """How much is measured.

    Attributes:
        examples: Images.
        num_ablations: Masks.
        gradient_passes: Masks with gradients besides.
        eval_masks: Fresh masks of each share.
        leaves_one_out: Of how many components that baseline leaves one out at a time; 0 without.
    """

    examples: int
    num_ablations: int = 100
    gradient_passes: int = 100
    eval_masks: int = 100
    leaves_one_out: int = 0

    @property
    def passes(self) -> float:
        """What all of it costs, in forward passes over these images."""
        evaluated = self.eval_masks * len(_EVAL_ALPHAS) + _COMPARED + self.leaves_one_out
        return self.num_ablations + GRADIENT_COST * self.gradient_passes + evaluated

    def is_reduced(self, examples: int) -> bool:
        """Whether it is less than all images with the least masks that say much."""
        return self.examples < examples or self.num_ablations < _FULL.num_ablations


_FULL = Chosen(0)
"""The least that says much of each image."""


def least_passes(examples: int) -> float:
    """What the least costs that says anything of so many images, in passes over one image."""
    images = min(examples, _FEWEST)
    return Chosen(images, _LEAST, _LEAST, _LEAST).passes * images


def choose_passes(components: int, examples: int, affordable: float) -> Chosen:
    """What to measure with about so many forward passes over one image.

    Where they are too few for the least that says much of all images, there are fewer images, and
    of these few less is measured. That may still be too dear, see `least_passes`.

    >>> choose_passes(288, 10, 20000.0)
    Chosen(examples=10, num_ablations=800, gradient_passes=100, eval_masks=100, leaves_one_out=288)
    >>> choose_passes(288, 100, 20000.0).examples
    21
    """
    images = min(examples, max(_FEWEST, int(affordable / _FULL.passes)))
    each = affordable / images
    if each < _FULL.passes:
        share = (each - _COMPARED) / (_FULL.passes - _COMPARED)
        masks = max(_LEAST, int(share * _FULL.num_ablations))
        return Chosen(images, masks, masks, masks)
    left_out = components if components <= _SHARE * each else 0
    rest = each - Chosen(images, 0, leaves_one_out=left_out).passes
    masks = int(min(rest, _MOST * components)) // 100 * 100
    return Chosen(images, max(_FULL.num_ablations, masks), leaves_one_out=left_out)


def time_pass(loaded: Loaded) -> float:
    """Seconds of a forward pass over all images, as rows of a batch with other masks."""
    subject = loaded.subject
    places = torch.arange(min(subject.examples, subject.batch_size)).repeat_interleave(_TIMED)
    owners = torch.arange(_TIMED).repeat(len(places) // _TIMED)
    factors = torch.ones(_TIMED, len(loaded.components))
    factors[1:, ::10] = 0
    subject.paired_outputs(factors, owners, places)  # the first one warms up
    start = time.perf_counter()
    subject.paired_outputs(factors, owners, places)
    return (time.perf_counter() - start) * subject.examples / len(places)


def config_text(
    settings: ExampleSettings,
    loaded: Loaded,
    chosen: Chosen,
    seconds: float,
    command: Sequence[str] = (),
) -> str:
    """The config, with what was found out as comments."""
    given = {
        one.name: getattr(settings, one.name)
        for one in dataclasses.fields(ExampleSettings)
        if one.default is dataclasses.MISSING or getattr(settings, one.name) != one.default
    }
    layers = [site.name for site in loaded.components.sites]
    given["examples"] = chosen.examples
    large = len(loaded.components) >= _LARGE
    baselines = "" if chosen.leaves_one_out else _WITHOUT_ONE_OUT
    lines = [
        f'"""{settings.model} on {loaded.data.title}: which components its answers rest on.',
        "",
        "    vision-bench attribute run THIS_FILE",
        "",
        "Build, fit and evaluate do the same in three steps; see docs/attribution.md.",
        f"Made by: {' '.join(command)}" if command else "",
        '"""',
        "",
        *(f"{name} = {_plain(value)}" for name, value in given.items() if name != "components"),
        "",
        f"# {len(loaded.components)} of them in {len(layers)} layers, {layers[0]} to {layers[-1]}.",
        f'components = "{settings.components}"',
        "",
        f"# A pass over {chosen.examples} images took {seconds:.3g} s where this was made;",
        f"# everything below is {chosen.passes:.0f} passes. More masks make better attributions.",
        f"num_ablations = {chosen.num_ablations}",
        f"gradient_passes = {chosen.gradient_passes}",
        "# Share of the components that a mask ablates: smaller for larger models, as an output",
        "# that is ruined says nothing. The paper learns at 0.1 of 2,304 filters and at 0.05 of",
        "# ResNet-50 and ViT-B/16.",
        f"alpha = {_LARGE_ALPHA if large else _ALPHA}",
        f"eval_alphas = {list(_LARGE_EVAL_ALPHAS if large else _EVAL_ALPHAS)}",
        f"eval_masks = {chosen.eval_masks}",
        *([baselines] if baselines else []),
    ]
    return "\n".join(lines) + "\n"


_WITHOUT_ONE_OUT = """# Leaving out one component at a time would take a pass for each of them.
baselines = ["gradient_times_parameter", "neuron_conductance", "internal_influence"]"""


def _plain(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
