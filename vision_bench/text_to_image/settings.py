"""Settings of `vision-bench images`; a config holds them for all of its commands.

A setting at the top of a config holds for every command that has it, those in a section for one;
`evaluate` has those of `generate` too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from aim_plugins.core.files import check_model_name, existing, refuse_filled
from aim_plugins.core.settings import (
    Count,
    Natural,
    NonNegative,
    Settings,
    SignedGrid,
    SignedStrength,
    option,
)
from aim_plugins.core.strengths import format_strength, parse_strengths
from aim_plugins.modulation.sites import compile_site
from aim_plugins.transport.data.text_files import SUFFIXES
from aim_plugins.transport.incremental import Incremental
from aim_plugins.transport.vocabulary import check_method, existing_transport, parse_support

MADE_BY = "`vision-bench images fit`"
_DEFAULT_ENDS = 0.0, 1.0, 11
"""Those of AcT's `min_strength`, `max_strength` and `strength_steps`."""
_AUTOENCODER = 8


@dataclass(frozen=True, kw_only=True)
class PipelineSettings(Settings):
    """The pipeline.

    Attributes:
        pipeline: A folder that a diffusers pipeline's save_pretrained wrote, a name on the hub, or
            "demo:text-to-image".
        dtype: Type of its weights; by default that of its files, or of the transport's fit.
        variant: Which of several sets of files, such as fp16 for *.fp16.safetensors.
        device: Where it runs, such as cpu or cuda:1; by default an accelerator if there is one.
        offload: Where the accelerator is too small for all of it: brings each of its models there
            to run (model), or, for one that is too large itself, each layer (sequential).
    """

    pipeline: str = option(metavar="DIR")
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    variant: str | None = option(None, metavar="WORD")
    device: str | None = None
    offload: Literal["none", "model", "sequential"] = "none"

    def check_files(self) -> None:
        check_model_name(self.pipeline, "pipeline")


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings(Settings):
    """How images are made; by default as the pipeline does, or as its transport was fitted.

    Attributes:
        num_inference_steps: Denoising steps.
        guidance_scale: How much a prompt counts; 0 or 1 switches guidance off, as pipelines have
            it.
        negative_prompt: What guidance leads away from.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        call: Further arguments of the pipeline's call, such as dict(true_cfg_scale=4.0).
    """

    num_inference_steps: Count | None = None
    guidance_scale: NonNegative | None = None
    negative_prompt: str | None = option(None, metavar="TEXT")
    height: Count | None = None
    width: Count | None = None
    call: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        for name in DenoisingSettings.__annotations__:
            if name in self.call:
                raise ValueError(f"call holds {name!r}, which is a setting of its own: move it out")
        for name in ("height", "width"):
            pixels = getattr(self, name)
            if pixels is not None and pixels % _AUTOENCODER:
                below = pixels // _AUTOENCODER * _AUTOENCODER
                sizes = " or ".join(str(one) for one in (below, below + _AUTOENCODER) if one)
                raise ValueError(
                    f"{name}={pixels} is no multiple of {_AUTOENCODER}, by which pipelines shrink "
                    f"images: give {sizes}"
                )

    @property
    def arguments(self) -> dict[str, Any]:
        """What is given of the pipeline's arguments."""
        names = [name for name in DenoisingSettings.__annotations__ if name != "call"]
        given = {name: getattr(self, name) for name in names}
        return {**self.call, **{name: one for name, one in given.items() if one is not None}}


@dataclass(frozen=True, kw_only=True)
class FitSettings(PipelineSettings, DenoisingSettings):
    """How a transport is learned.

    Attributes:
        output: Folder for the transport.
        source: Prompts to start from: .jsonl with {"text": ...}, or .txt, one a line.
        target: Prompts to arrive at, the same way.
        data: What `vision_bench.text_to_image.tasks.load_sides` reads instead of two files.
        limit: Prompts a side, drawn at random; by default all. Of sides of one length, which belong
            together line by line, the same lines are drawn.
        modules: Modules of the denoiser to transport, by patterns of their whole names, such as
            'unet.*norm.*'; 'NAME:K' takes output K of a tuple; by default the paper's.
        method: linear, gaussian, mean, aura or iti.
        pooling: What maps are fitted to and applied to: the mean over an image's places, or all
            pixels and tokens by themselves, of which 256 of an image are fitted to.
        support: Where maps act: none, minmax, qLO_HI or clip; by default the method's.
        timesteps: Fits at the first step a map for all of them, a map for each step, or one map
            pooled over all steps.
        incremental: Which images go through the maps of earlier modules while a module's is
            learned: those of both sides (causal), of the source, or none (atonce).
        strength: At which they are transported.
        rows: Under guidance, whether the rows of negative prompts are transported too (both) or
            those of the prompts alone (conditional).
        seed: Of the noise that images start from, and of the draw of `limit`.
        batch_size: Prompts in a call of the denoiser; batches run in lockstep.
    """

    output: Path = option(short="-o", metavar="DIR")
    source: str | None = option(None, metavar="FILE")
    target: str | None = option(None, metavar="FILE")
    data: Mapping[str, Any] = field(default_factory=dict)
    limit: Count | None = None
    modules: Sequence[str] | None = option(None, metavar="REGEX")
    method: str = "linear"
    pooling: Literal["mean", "all"] = "mean"
    support: str | None = None
    timesteps: Literal["first", "each", "pooled"] = "first"
    incremental: Incremental = "causal"
    strength: float = 1.0
    rows: Literal["both", "conditional"] = "both"
    seed: Natural = 0
    batch_size: Count = 8

    def check(self) -> None:
        super().check()
        if (self.source is None) != (self.target is None):
            given = "target" if self.source is None else "source"
            raise ValueError(f"--{given} is there without the other side: give both files")
        if self.source is None and not self.data:
            raise ValueError("the prompts are missing: add --source FILE --target FILE")
        check_method(self.method)
        if self.support is not None:
            parse_support(self.support)
        for pattern in self.modules or ():
            compile_site(pattern)

    def check_files(self) -> None:
        super().check_files()
        for name, side in (("source", self.source), ("target", self.target)):
            if side is not None:
                existing(side, name, SUFFIXES)
        refuse_filled(self.output)


@dataclass(frozen=True, kw_only=True)
class ShowSettings(Settings):
    """A look at a transport.

    Attributes:
        transport: Folder of the transport.
        json: Whether to print JSON.
    """

    transport: Path = option(positional=True, metavar="DIR")
    json: bool = False

    def check_files(self) -> None:
        existing_transport(self.transport, MADE_BY)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(PipelineSettings, DenoisingSettings):
    """What a steered pipeline is to draw.

    Attributes:
        transport: Folder of the transport.
        output: Folder for the images; an interrupted run goes on when it is started again.
        prompts: A file, .jsonl with {"text": ...} or .txt, one a line; a config may describe them.
        strength: "0:1:0.1", "0,0.5,1" or a number; by default 0:1:0.1.
        min_strength: Lowest strength, as AcT's code has it; by default 0.
        max_strength: Highest strength, the same way; by default 1.
        strength_steps: How many strengths from the one to the other; by default 11.
        images_per_prompt: Images of each prompt, from different noise.
        seed: Seed of the first image's noise; that of image N is N larger.
        batch_size: Images in a call of the pipeline, of one prompt or several at any strengths.
        max_batches: Takes the first max_batches times batch_size prompts; by default all.
        create_gif: Whether to write an animation over the strengths for each image.
        force: Whether to apply a transport that another denoiser was fitted on.
    """

    transport: Path = option(positional=True, metavar="DIR")
    output: Path = option(short="-o", metavar="OUT")
    prompts: str | Path | Mapping[str, Any] = option(metavar="FILE")
    strength: SignedGrid | None = option(None, metavar="GRID")
    min_strength: SignedStrength | None = None
    max_strength: SignedStrength | None = None
    strength_steps: Count | None = None
    images_per_prompt: Count = 1
    seed: Natural = 0
    batch_size: Count = 8
    max_batches: Count | None = None
    create_gif: bool = True
    force: bool = False

    def check(self) -> None:
        super().check()
        names = ("min_strength", "max_strength", "strength_steps")
        given = [name for name in names if getattr(self, name) is not None]
        if given and self.strength is not None:
            raise ValueError(
                f"strength and {given[0]} are both given: give --strength GRID, or the ends and "
                "how many"
            )
        low, high, steps = self._ends
        if steps > 1 and not low < high:
            raise ValueError(
                f"min_strength={low:g} is not below max_strength={high:g}: write the smaller first"
            )

    def check_files(self) -> None:
        super().check_files()
        existing_transport(self.transport, MADE_BY)
        if not isinstance(self.prompts, Mapping):
            existing(self.prompts, "prompts", SUFFIXES)

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths, in the order given."""
        if self.strength is not None:
            return parse_strengths(self.strength, name="strength", low=-math.inf)
        low, high, steps = self._ends
        # In fractions of decimals, so that tenths are those of a grid.
        start, stop = Fraction(repr(low)), Fraction(repr(high))
        step = (stop - start) / max(steps - 1, 1)
        return tuple(float(start + index * step) for index in range(steps))

    @property
    def _ends(self) -> tuple[float, float, int]:
        given = self.min_strength, self.max_strength, self.strength_steps
        low, high, steps = (
            own if one is None else one for one, own in zip(given, _DEFAULT_ENDS, strict=True)
        )
        return float(low), float(high), int(steps)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(GenerateSettings):
    """How well a steered pipeline does what its transport is for.

    Attributes:
        clip: The CLIP that scores images: a folder that transformers saved, a name on the hub such
            as openai/clip-vit-large-patch14, by which AcT scores, or "demo:clip".
        concept: What the transport leads into images or out of them, in words; by default what the
            config's prompts name.
        strength: Strengths as of `images generate`, one of which is 0.
        create_gif: Whether to write an animation over the strengths for each image.
        shown: Images beside the slider of the report, evenly chosen.
        shown_side: Their longer side in pixels, at most.
    """

    clip: str | None = option(None, metavar="FOLDER")
    concept: str | None = option(None, metavar="WORDS")
    create_gif: bool = False
    shown: Natural = 8
    shown_side: Count = 256

    def check(self) -> None:
        super().check()
        if 0 not in self.strengths:
            given = ", ".join(map(format_strength, self.strengths))
            raise ValueError(
                f"strength={given}: add 0, whose images those at the others are compared with"
            )
        if self.concept is not None and not self.concept.strip():
            raise ValueError(f"concept={self.concept!r}: give words, or leave it out")

    def check_files(self) -> None:
        super().check_files()
        if self.clip:
            check_model_name(self.clip, "clip")


SECTIONS: dict[str, type[Settings]] = {
    "fit": FitSettings,
    "generate": GenerateSettings,
    "evaluate": EvaluateSettings,
}
"""The sections of a config."""
