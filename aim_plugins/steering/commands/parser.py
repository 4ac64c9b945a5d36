"""`aim-plugins transport`: learn, look at, apply and evaluate activation transports.

aim-plugins transport fit ...         learns one from two files of sentences
aim-plugins transport condition ...   learns of which prompts one is to act
aim-plugins transport show DIR        what it does, in numbers
aim-plugins transport fold DIR ...    a plain checkpoint with it in the weights
aim-plugins transport convert ...     from another tool's files
aim-plugins transport export ...      vectors for another tool
aim-plugins transport generate ...    what a steered model writes, at every strength
aim-plugins transport evaluate ...    its effect and its cost, against strength
aim-plugins transport compare ...     several in one report
aim-plugins transport calibrate ...   methods and prompts at one budget of quality
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from aim_plugins.core.commands import CommandParser, join_negative_values, say
from aim_plugins.core.settings import PositionalsFirst, Settings, add_config, add_options
from aim_plugins.steering.settings import read_sections
from aim_plugins.steering.settings.calibration import CalibrationSettings
from aim_plugins.steering.settings.comparison import CompareSettings
from aim_plugins.steering.settings.conditions import ConditionSettings
from aim_plugins.steering.settings.evaluation import EvaluationSettings, GenerateSettings
from aim_plugins.steering.settings.transports import (
    ConvertSettings,
    ExportSettings,
    FitSettings,
    FoldSettings,
    ShowSettings,
)
from aim_plugins.sweep.manifest import redact


@dataclass(frozen=True)
class Command:
    """One of the commands.

    Attributes:
        name: Its word.
        settings: Its settings.
        target: "module:function" in `steering` that takes the settings and the words that repeat
            the command.
        summary: What it is for, in a line.
        description: The same at length.
        sections: Sections of a config that hold for it; none where it takes no config.
    """

    name: str
    settings: type[Settings]
    target: str
    summary: str
    description: str
    sections: tuple[str, ...] = ()


COMMANDS = (
    Command(
        "fit",
        FitSettings,
        "commands.fit:fit",
        "learn a transport from two files of sentences",
        "Learns maps that carry a model's activations on source sentences to those on target "
        "sentences, in one pass over the data. Sentences come from files, or from the section "
        "`data` of a config.",
        sections=("fit",),
    ),
    Command(
        "condition",
        ConditionSettings,
        "commands.condition:condition",
        "learn of which prompts a transport is to act",
        "Learns a direction and a threshold that tell prompts of the target from those of the "
        "source, and how well they do on prompts held out. Harnesses take it as the argument "
        "`condition` beside a transport.",
        sections=("condition",),
    ),
    Command(
        "show",
        ShowSettings,
        "commands.artifact:show",
        "summarise a learned transport",
        "Tells what a transport was learned on, and how far it moves each module and neuron.",
    ),
    Command(
        "fold",
        FoldSettings,
        "commands.artifact:fold",
        "write a checkpoint whose weights carry a transport at one strength",
        "Folds a transport into the weights where that is exact, and names the modules where it is "
        "not. Any tool loads the checkpoint, without hooks.",
    ),
    Command(
        "convert",
        ConvertSettings,
        "commands.artifact:convert",
        "make a transport from what another tool saved",
        "Reads ml-act's and pyreft's folders, and steering vectors in files: GGUF, safetensors, "
        "lm-eval's and steering-vectors'. Nothing in them is run; what is no map of each neuron "
        "is refused.",
    ),
    Command(
        "export",
        ExportSettings,
        "commands.artifact:export",
        "write a transport's vectors for another tool",
        "Writes a GGUF file for llama.cpp and repeng, or safetensors with a vector for each "
        "module. Maps that do more than add a vector are refused by name.",
    ),
    Command(
        "generate",
        GenerateSettings,
        "commands.generate:generate",
        "write texts with a steered model, at every strength",
        "Continues prompts at every strength of a transport, all strengths in one batch. Greedy "
        "unless --do-sample is given.",
        sections=("generate",),
    ),
    Command(
        "evaluate",
        EvaluationSettings,
        "study:evaluate",
        "measure the effect of a transport and what it costs, against strength",
        "Measures a steered model at every strength: perplexity on plain text, and, of the texts "
        "it writes, perplexity under the plain model, repetition, concept presence, toxicity or "
        "sentiment; and zero-shot tasks.",
        sections=("generate", "evaluate"),
    ),
    Command(
        "compare",
        CompareSettings,
        "compare.compare:compare",
        "several evaluated transports in one report",
        "Draws the effect of several transports against strength and against perplexity, and finds "
        "the best strength of each within a bound on the perplexity. Evaluations of other models, "
        "prompts or settings are refused.",
    ),
    Command(
        "calibrate",
        CalibrationSettings,
        "calibration.study:calibrate",
        "the strength that spends a budget of quality, for every method, against a prompt",
        "Learns every method at several choices of sites, finds the strength of each that spends "
        "one budget of quality, and chooses its sites, on one half of the prompts and plain texts; "
        "measures effect and cost on the other half, beside prompts that ask for the same.",
        sections=("generate", "evaluate", "calibrate"),
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns its exit status.

    Args:
        arguments: The words behind `aim-plugins transport`.

    Raises:
        ValueError: If a setting is missing, unknown or not usable, or whatever else the command
            finds.
    """
    if any(word.partition("=")[0] == "--pipeline" for word in arguments):
        raise ValueError(
            "--pipeline: transports of text-to-image pipelines have commands of their own: "
            "`vision-bench images fit`, `images generate` and `images evaluate`"
        )
    parser = CommandParser(
        prog="aim-plugins transport",
        description="Learn, look at, apply and evaluate activation transports.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        own = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            formatter_class=PositionalsFirst,
            allow_abbrev=False,
        )
        if command.sections:
            add_config(own, "--config")
        add_options(own, command.settings, required=not command.sections)
        own.set_defaults(command=command)
    options = vars(parser.parse_args(join_negative_values(arguments, {"--strength"})))
    command = options.pop("command")
    settings = read_sections(command.settings, options, command.sections)
    settings.check_files()
    say(f"{command.name}: loading libraries")
    module, _, function = command.target.partition(":")
    run = getattr(import_module(f"aim_plugins.steering.{module}"), function)
    run(settings, redact(["aim-plugins", "transport", *arguments]))  # words go into results
    return 0
