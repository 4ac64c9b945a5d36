"""What errors and warnings recommend exists: every setting and option they name is one.

The texts are collected from the sources, so that a new message is held against the settings too.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vision_bench
from aim_plugins.core.settings import Settings, add_config, add_options
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.attribution.settings import (
    AttributionSettings,
    BuildSettings,
    ImportSettings,
    InitSettings,
    MergeSettings,
)
from vision_bench.classification.settings import (
    ClassifySettings,
    LogitsSettings,
    TopClassesSettings,
)
from vision_bench.coverage.combine_settings import CombineSettings
from vision_bench.coverage.questions.importance_settings import ImportanceQuestion
from vision_bench.coverage.questions.settings import (
    CorrelationSettings,
    DiversitySettings,
    OverheadSettings,
    SensitivitySettings,
)
from vision_bench.coverage.settings import RunSettings
from vision_bench.coverage.sweep_settings import SweepSettings
from vision_bench.data.trigger import Trigger
from vision_bench.data.writing import Writing
from vision_bench.models.preprocessing import Preprocessing
from vision_bench.reengineering.composition.settings import ComposeSettings
from vision_bench.reengineering.defects.settings import DefectsSettings
from vision_bench.reengineering.settings import ReengineerSettings
from vision_bench.segmentation.perturbation_config import Perturbation, Target
from vision_bench.segmentation.settings import SegmentSettings
from vision_bench.systems import SYSTEMS
from vision_bench.text_to_image.settings import (
    EvaluateSettings,
    FitSettings,
    GenerateSettings,
    ShowSettings,
)

ROOT = Path(vision_bench.__file__).parent
COVERAGE: tuple[type[Settings], ...] = (
    RunSettings,
    CombineSettings,
    SweepSettings,
    ImportanceQuestion,
    DiversitySettings,
    SensitivitySettings,
    CorrelationSettings,
    OverheadSettings,
)
REENGINEERING: tuple[type[Settings], ...] = (
    ReengineerSettings,
    ComposeSettings,
    DefectsSettings,
)
ATTRIBUTION: tuple[type[Settings], ...] = (
    AttributionSettings,
    BuildSettings,
    ImportSettings,
    InitSettings,
    MergeSettings,
    EditSettings,
)
IMAGES: tuple[type[Settings], ...] = (
    FitSettings,
    ShowSettings,
    GenerateSettings,
    EvaluateSettings,
)
KINDS: tuple[type[Settings], ...] = (
    ClassifySettings,
    LogitsSettings,
    TopClassesSettings,
    SegmentSettings,
    *COVERAGE,
    *REENGINEERING,
    *ATTRIBUTION,
    *IMAGES,
)
BLOCKS = (Preprocessing, Perturbation, Target)

ARGUMENTS = {
    "attacks/__init__.py": {"attack"},
    "confusion.py": {"classes"},
    # What a transport was learned with, and how a criterion is named.
    "coverage/modulated.py": {"positions"},
    "coverage/settings.py": {"KMNC", "NAME"},
    "data/segmentation.py": {"classes"},
    # What the functions that fit and steer are called with.
    "diffusion/generate.py": {"prompts", "strengths"},
    "diffusion/layout.py": {"rows"},
    "diffusion/pipelines.py": {"pipeline"},
    "diffusion/placement.py": {"pooling"},
    "diffusion/plan.py": {"method", "timesteps"},
    "models/model.py": {"task", "classes"},
    "models/architectures/cifar.py": {"architecture"},
    "models/architectures/segformer.py": {"size"},
    "logits/classes.py": {"logits", "labels"},
    "perturbators.py": {"key"},
    "reengineering/latency.py": {"rounds"},
    "reengineering/saved_module.py": {"module"},
    "segmentation/envelope.py": {"stds"},
    "segmentation/overlays.py": {"alpha"},
    # Of the section `data` of a config.
    "text_to_image/additions.py": {"num_tags"},
    "text_to_image/tasks.py": {"source", "target", "asked", "plain", "n_source", "n_target"},
    "text_to_image/judge.py": {"clip"},
    "text_to_image/scores.py": {"strengths"},
}
"""Arguments of functions that only Python calls, or a command gives itself, and words of values."""

_NAMED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)=(?!=)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_COMMAND = re.compile(r"`vision-bench ([a-z -]+)`")


def texts(node: ast.AST) -> Iterator[str]:
    """Every text in an expression, with ~ for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "~" for part in node.values)
        yield "".join(map(str, parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def messages() -> list[tuple[str, int, str]]:
    """File, line and text of everything that is raised, warned of or printed."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = getattr(node, "func", None)
            name = getattr(called, "attr", getattr(called, "id", ""))
            if isinstance(node, ast.Raise) and node.exc is not None:
                said: ast.AST = node.exc
            elif name.endswith(("Error", "warn", "print")) or name == "Overview":
                said = node
            else:
                continue
            place = path.relative_to(ROOT).as_posix()
            found += [(place, node.lineno, text) for text in texts(said)]
    return found


@pytest.fixture(scope="module")
def said() -> list[tuple[str, int, str]]:
    return messages()


def test_many_messages_are_collected(said):
    assert len(said) > 150 and sum("give" in text for _, _, text in said) > 40


def names_of(*kinds: type[Settings]) -> set[str]:
    return {one.name.lower() for kind in kinds for one in dataclasses.fields(kind)}


def test_every_setting_that_a_message_names_is_of_its_command(said):
    known = {
        "classification": names_of(*KINDS[:3], Preprocessing),
        "segmentation": names_of(SegmentSettings, *BLOCKS),
        "coverage": names_of(*COVERAGE),
        "attribution": names_of(*ATTRIBUTION, Preprocessing, Trigger, Writing),
        "reengineering": names_of(*REENGINEERING, Preprocessing),
        "text_to_image": names_of(*IMAGES),
    }
    every = set.union(*known.values())
    lost = [
        f"{place}:{line}: {name}= in {text!r}"
        for place, line, text in said
        for name in _NAMED.findall(text)
        if name.lower() not in known.get(place.split("/")[0], every)
        and name not in ARGUMENTS.get(place, ())
    ]
    assert lost == []


def test_every_option_that_a_message_names_is_of_a_command(said):
    options = {"--output", "--help"}
    for kind in KINDS:
        parser = argparse.ArgumentParser()
        add_config(parser, "config")
        add_options(parser, kind, required=False)
        options |= {flag for action in parser._actions for flag in action.option_strings}
    named = [(place, flag) for place, _, text in said for flag in _OPTION.findall(text)]
    assert ("classifiers/load.py", "--data-root") in named
    assert [one for one in named if one[1] not in options] == []


def test_every_command_that_a_message_names_exists(said):
    words = {system.words for system in SYSTEMS}
    named = [name for _, _, text in said for name in _COMMAND.findall(text)]
    assert named and set(named) <= words


def test_a_made_up_setting_would_be_found():
    tree = ast.parse('raise ValueError(f"{x}: give clases={n}, see --colour")')
    (text,) = texts(tree.body[0])
    assert _NAMED.findall(text) == ["clases"] and _OPTION.findall(text) == ["--colour"]
