"""`vision-bench attribute init`: a config for a model and a data set, once both are known to work.

A few masks are timed, so that the numbers of masks and gradients in it fit the minutes asked for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aim_plugins.core.commands import say
from aim_plugins.core.files import write_atomic
from vision_bench.attribution.settings import (
    AttributionSettings,
    ExampleSettings,
    InitSettings,
)
from vision_bench.attribution.stages import tell_subject
from vision_bench.attribution.subject import Loaded, load_subject

GRADIENT_COST = 2.3
"""Forward passes that a forward and a backward pass take, as measured on convolutions."""

_TIMED = 2
"""Masks that are timed."""
_LEAST, _MOST = 100, 20
"""At least so many masks, and at most so many times the components."""
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
        seconds = time_pass(loaded)
        chosen = choose_passes(len(loaded.components), settings.minutes * 60 / seconds)
        minutes = chosen.passes * seconds / 60
        if minutes > 1.2 * settings.minutes:
            say(f"minutes={settings.minutes:g} are too few for {_LEAST} masks: give fewer examples")
        text = config_text(settings, loaded, chosen, seconds, self.command)
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
        num_ablations: Masks.
        gradient_passes: Masks with gradients besides.
        leaves_one_out: Whether that baseline is affordable.
        passes: What all of it costs, in forward passes over all images.
    """

    num_ablations: int
    gradient_passes: int
    leaves_one_out: bool
    passes: float


def choose_passes(components: int, affordable: float) -> Chosen:
    """What to measure with about so many forward passes.

    >>> choose_passes(288, 2000.0)
    Chosen(num_ablations=1100, gradient_passes=100, leaves_one_out=True, passes=1918.0)
    """
    fixed = 100 * GRADIENT_COST + _evaluation_passes()
    leaves_one_out = components <= _SHARE * affordable
    rest = affordable - fixed - leaves_one_out * components
    masks = int(min(max(rest, _LEAST), _MOST * components))
    masks = max(_LEAST, masks // 100 * 100)
    return Chosen(masks, 100, leaves_one_out, fixed + masks + leaves_one_out * components)


def _evaluation_passes() -> int:
    """Fresh masks of an evaluation by default."""
    known: dict[str, Any] = {
        one.name: one.default for one in dataclasses.fields(AttributionSettings)
    }
    return int(known["eval_masks"]) * len(known["eval_alphas"])


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
        f"# A pass over {loaded.subject.examples} images took {seconds:.3g} s where this was made;",
        f"# everything below is {chosen.passes:.0f} passes. More masks make better attributions.",
        f"num_ablations = {chosen.num_ablations}",
        f"gradient_passes = {chosen.gradient_passes}",
        "# Share of the components that a mask ablates: smaller for larger models, as an output",
        "# that is ruined says nothing (the paper has 0.1 to 0.025).",
        "alpha = 0.1",
        "eval_alphas = [0.05, 0.1, 0.15]",
        *([baselines] if baselines else []),
    ]
    return "\n".join(lines) + "\n"


_WITHOUT_ONE_OUT = """# Leaving out one component at a time would take a pass for each of them.
baselines = ["gradient_times_parameter", "neuron_conductance", "internal_influence"]"""


def _plain(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
