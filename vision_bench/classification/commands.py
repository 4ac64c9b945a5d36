"""The classification commands of `vision-bench`.

vision-bench classify CONFIG           a model by name on a data set by name
vision-bench classify-logits FILE      logits that any other program cached
vision-bench top-classes CONFIG        a model's answers to photographs
"""

from __future__ import annotations

from collections.abc import Sequence

from vision_bench.classification.settings import (
    ClassifySettings,
    LogitsSettings,
    TopClassesSettings,
)
from vision_bench.commands import run_study


def classify(arguments: Sequence[str]) -> int:
    """Runs `vision-bench classify`; returns the exit status 0."""
    run_study(
        ClassifySettings,
        "classify",
        "Measures a classifier on a labelled data set at many strengths of logit noise, exact and "
        "sampled, from one pass of the model. A killed run goes on when it is started again.",
        "vision_bench.classification.study:ClassificationStudy",
        arguments,
    )
    return 0


def classify_logits(arguments: Sequence[str]) -> int:
    """Runs `vision-bench classify-logits`; returns the exit status 0."""
    run_study(
        LogitsSettings,
        "classify-logits",
        "Measures a classifier at many strengths of logit noise: exact, and sampled with noise "
        "that all strengths share. FILE is a .npz or .safetensors file with the arrays logits "
        "[documents, classes] and labels [documents].",
        "vision_bench.classification.study:LogitsStudy",
        arguments,
        config=False,
    )
    return 0


def top_classes(arguments: Sequence[str]) -> int:
    """Runs `vision-bench top-classes`; returns the exit status 0."""
    run_study(
        TopClassesSettings,
        "top-classes",
        "Classifies the photographs below a folder with an ImageNet classifier and shows its best "
        "classes at every strength of logit noise. No labels are needed.",
        "vision_bench.classification.photographs:PhotographsStudy",
        arguments,
    )
    return 0
