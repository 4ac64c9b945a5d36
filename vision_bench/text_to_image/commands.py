"""The commands of `vision-bench images`: learn, look at and apply transports of pipelines.

vision-bench images fit ...         learns one from two files of prompts
vision-bench images show DIR        what it does, in numbers
vision-bench images generate ...    what a steered pipeline draws, at every strength
vision-bench images evaluate ...    how much of the effect comes at what similarity, by a CLIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from aim_plugins.core.settings import Settings
from vision_bench.commands import read_command
from vision_bench.text_to_image.settings import (
    SECTIONS,
    EvaluateSettings,
    FitSettings,
    GenerateSettings,
    ShowSettings,
)

_S = TypeVar("_S", bound=Settings)


def fit(arguments: Sequence[str]) -> int:
    """Runs `vision-bench images fit`; returns 0."""
    settings, _ = _read(
        FitSettings,
        "fit",
        "Learns maps that carry a text-to-image pipeline's activations on source prompts to those "
        "on target prompts, in one denoising run. Prompts come from files, or from the section "
        "`data` of a config.",
        arguments,
        ["fit"],
    )
    from vision_bench.text_to_image.fit import fit as learn

    learn(settings)
    return 0


def show(arguments: Sequence[str]) -> int:
    """Runs `vision-bench images show`; returns 0."""
    settings, _ = _read(
        ShowSettings,
        "show",
        "Tells what a transport was learned on, and how far it moves each module and neuron.",
        arguments,
    )
    from vision_bench.text_to_image.fit import show as tell

    tell(settings)
    return 0


def generate(arguments: Sequence[str]) -> int:
    """Runs `vision-bench images generate`; returns 0."""
    settings, command = _read(
        GenerateSettings,
        "generate",
        "Draws each prompt at every strength of a transport, all strengths from the same noise and "
        "in common batches: the images, a sheet of them side by side, and animations. A killed run "
        "goes on when it is started again.",
        arguments,
        ["generate"],
    )
    from vision_bench.text_to_image.generation import GenerationStudy

    GenerationStudy(settings, command).run()
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Runs `vision-bench images evaluate`; returns 0."""
    settings, command = _read(
        EvaluateSettings,
        "evaluate",
        "Draws as `images generate` does what is not drawn yet, and scores all images by a CLIP: "
        "how much of the effect comes at which strength, and how similar images stay. A killed run "
        "goes on when it is started again.",
        arguments,
        ["generate", "evaluate"],
    )
    from vision_bench.text_to_image.evaluation import EvaluationStudy

    EvaluationStudy(settings, command).run()
    return 0


def _read(
    kind: type[_S], word: str, about: str, arguments: Sequence[str], read: Sequence[str] = ()
) -> tuple[_S, list[str]]:
    program = f"vision-bench images {word}"
    if not read:
        return read_command(kind, program, about, arguments, config=False)
    return read_command(kind, program, about, arguments, sections=SECTIONS, read=read)
