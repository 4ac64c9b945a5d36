"""`aim-plugins transport evaluate`: the effect of a transport and its cost, against strength."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aim_plugins.steering.commands.generate import (
    add_decoding_options,
    add_model_options,
    read_decoding,
    require_options,
)

if TYPE_CHECKING:
    from aim_plugins.steering.settings import EvaluationSettings


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the command to `aim-plugins transport`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="measure the effect of a transport and what it costs, against strength",
        description="Measures a steered model at every strength: perplexity on plain text, and, "
        "of the texts it writes, perplexity under the plain model, repetition, concept presence, "
        "toxicity or sentiment; and zero-shot tasks.",
        allow_abbrev=False,
    )
    add_model_options(parser)
    parser.add_argument(
        "--strength",
        metavar="GRID",
        help='"0:1:0.1", "0,0.5,1" or a number; default those of --generations, or 0:1:0.1',
    )
    parser.add_argument(
        "--perplexity",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="plain text, a document a line, for the perplexity of the steered model",
    )
    add_text_options(parser)
    add_task_options(parser)
    logs = parser.add_argument_group("logging")
    logs.add_argument("--wandb", metavar="PROJECT", help="log the curves to Weights & Biases")
    logs.add_argument("--tensorboard", type=Path, metavar="DIR", help="log them for TensorBoard")
    parser.set_defaults(run=run)
    return parser


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which texts are measured, and how."""
    texts = parser.add_argument_group("texts that the steered model writes")
    texts.add_argument(
        "--prompts", metavar="FILE", help='prompts: .jsonl with {"text": ...}, or .txt, one a line'
    )
    texts.add_argument(
        "--generations",
        type=Path,
        metavar="FILE",
        help="texts that `transport generate` wrote, instead of --prompts",
    )
    add_decoding_options(texts)  # type: ignore[arg-type]  # a group adds arguments as a parser does
    scores = parser.add_argument_group("their scores")
    scores.add_argument(
        "--lexicon", type=Path, metavar="FILE", help="words of the concept, one a line"
    )
    scores.add_argument("--judge", metavar="MODEL", help="asks this model about the concept")
    scores.add_argument("--concept", metavar="WORD", help="what the judge is asked about")
    scores.add_argument(
        "--judge-question", metavar="TEXT", help="the question, with {text} and {concept} in it"
    )
    scores.add_argument(
        "--judge-answers", default="yes,no", metavar="YES,NO", help="its answers; default yes,no"
    )
    scores.add_argument(
        "--judge-chat",
        choices=("auto", "yes", "no"),
        default="auto",
        help="through its chat template; auto (default) where it has one",
    )
    scores.add_argument("--classifier", metavar="MODEL", help="a text classifier of transformers")
    scores.add_argument("--label", help="the classifier's label to measure, such as toxic")
    scores.add_argument("--sentiment", choices=("vader",), help="sentiment by rules, offline")


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of zero-shot tasks."""
    tasks = parser.add_argument_group("zero-shot tasks, through lm-evaluation-harness")
    tasks.add_argument("--tasks", metavar="NAMES", help="names, separated by commas")
    tasks.add_argument("--num-fewshot", type=int, help="examples before each question")
    tasks.add_argument("--limit", type=float, help="documents of each task; default all")
    tasks.add_argument("--include-path", metavar="FOLDER", help="tasks of your own")


def read_settings(options: argparse.Namespace) -> EvaluationSettings:
    """The settings that options ask for.

    Raises:
        ValueError: If an option is malformed.
    """
    from aim_plugins.steering.settings import EvaluationSettings, TaskSettings

    tasks = options.tasks
    if isinstance(tasks, str):
        tasks = [name.strip() for name in tasks.split(",") if name.strip()]
    return EvaluationSettings(
        transport=options.transport,
        pretrained=options.pretrained,
        output=options.output,
        strength=options.strength,
        perplexity=tuple(map(Path, options.perplexity)),
        prompts=options.prompts,
        generations=options.generations,
        decoding=read_decoding(options),
        lexicon=options.lexicon,
        judge=_judge(options),
        classifier=options.classifier,
        label=options.label,
        sentiment=options.sentiment,
        tasks=TaskSettings(tuple(tasks), options.num_fewshot, options.limit, options.include_path)
        if tasks
        else None,
        batch_size=options.batch_size,
        max_length=options.max_length,
        dtype=options.dtype,
        device=options.device,
        force=options.force,
        trust_remote_code=options.trust_remote_code,
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        ValueError: If an option is not usable, no metric is asked for, the transport belongs to
            another model, or the folder holds another run.
        ImportError: If a package is missing.
    """
    require_options(options, "pretrained", "output")
    from aim_plugins.steering.study import evaluate
    from aim_plugins.sweep.table import pool_draws, read_table
    from aim_plugins.sweep.trackers import log_points, require_trackers

    require_trackers(options.wandb, options.tensorboard)
    evaluate(read_settings(options), list(getattr(options, "command", [])))
    log_points(
        pool_draws(read_table(options.output / "sweep.csv")),
        run_name=options.output.resolve().name,
        wandb=options.wandb,
        tensorboard=options.tensorboard,
    )
    return 0


def _judge(options: argparse.Namespace) -> Any:
    from aim_plugins.steering.concepts import DEFAULT_QUESTION
    from aim_plugins.steering.settings import JudgeSettings

    if options.judge is None:
        return None
    answers = tuple(word.strip() for word in options.judge_answers.split(","))
    if len(answers) != 2 or not all(answers):
        raise ValueError(
            f"judge_answers={options.judge_answers!r}: give two words, as in --judge-answers yes,no"
        )
    return JudgeSettings(
        options.judge,
        concept=options.concept,
        question=options.judge_question or DEFAULT_QUESTION,
        answers=answers,
        chat={"auto": None, "yes": True, "no": False}[options.judge_chat],
    )
