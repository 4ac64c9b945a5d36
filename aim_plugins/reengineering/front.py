"""What `aim-plugins reengineer` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aim_plugins.reengineering.curve import Curve, Step, mean_of
from aim_plugins.reengineering.pictures import draw_accuracy, draw_others
from aim_plugins.reengineering.wording import (
    Findings,
    count_of,
    headline,
    removal_sentences,
    show_parameters,
    show_rate,
    smaller_sentences,
)
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from aim_plugins.sweep.paired import in_points
from aim_plugins.task_questions.answers import Answers


def publish(folder: Path, found: Findings, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Args:
        folder: The study's folder.
        found: What it found.
        manifest: Its manifest.

    Raises:
        OSError: If a file cannot be written.
    """
    task, title = found.settings.task, Path(found.settings.model).name
    drawn = {"accuracy": draw_accuracy(found.curve, task)}
    if found.settings.also:
        drawn["others"] = draw_others(found.curve, task)
    pictures = {
        f"{name}.{kind}": content
        for name, files in drawn.items()
        for kind, content in files.items()
    }
    sections = [_accuracy_section(found, drawn["accuracy"]["png"]), _smaller_section(found)]
    if found.settings.also:
        sections.insert(1, _others_section(found, drawn["others"]["png"]))
    shown = [_accuracy_table(found.curve), _size_table(found.curve), *_others_tables(found.curve)]
    tables = [Overview("", columns=one.columns, rows=one.rows).as_text() for one in shown]
    return publish_page(
        folder,
        Page("Re-engineering", title, task, headline(found), sections),
        manifest,
        files={"results.csv": _csv(found.curve), "results.json": _json(found)},
        pictures=pictures,
        table="\n\n".join([f"{title} for {task}", *tables]) + "\n",
        sentences=[headline(found), *removal_sentences(found.curve), *smaller_sentences(found)],
        others=["masks/", "smaller/"],
    )


def _accuracy_section(found: Findings, picture: bytes) -> Section:
    curve = found.curve
    note = (
        "In every block the neurons and key-value heads (with their query heads) of the largest "
        "importance are kept. A share is of neurons; of heads at least as many are kept, rounded "
        "up to a number that the configuration can have. Importance is learned from "
        f"{found.settings.split[0]:.0%} of the documents; accuracies are of documents that neither "
        "ranking nor choice has seen, with 95 % intervals over documents, of the draws at random "
        "as they fell. No weight is trained. Cross-entropy is of the right choice among all, in "
        "nats."
    )
    return Section(
        "Accuracy",
        note,
        removal_sentences(curve),
        {"accuracy against the share of neurons kept": picture},
        [_accuracy_table(curve), _size_table(curve), _choice_table(found)],
    )


def _accuracy_table(curve: Curve) -> Table:
    columns = [
        "share", "neurons kept", "heads kept", "accuracy", "95 %", "minus the whole", "at random",
        "minus random", "cross-entropy", "at random",
    ]  # fmt: skip
    rows = []
    for step in (curve.whole, *curve.steps):
        row = [f"{step.share:g}", *_kept(step, curve.whole)]
        row += [f"{step.test.accuracy:.3f}", _interval(step.test)]
        if step is curve.whole:
            row += ["", "", "", f"{step.test.loss:.3f}", ""]
        else:
            random_loss = mean_of([one.losses for one in step.removals])
            row += [in_points(step.test.against(curve.whole.test))]
            row += [f"{step.random_accuracy:.3f}", in_points(step.above_random)]
            row += [f"{step.test.loss:.3f}", f"{sum(random_loss) / len(random_loss):.3f}"]
        rows.append(row)
    return Table(columns, rows)


def _size_table(curve: Curve) -> Table:
    rows = [
        [
            f"{step.share:g}",
            *_kept(step, curve.whole),
            show_parameters(step),
            f"{step.ratio:.4f}",
        ]
        for step in (curve.whole, *curve.steps)
    ]
    columns = ["share", "neurons kept", "heads kept", "parameters", "retained ratio"]
    title = (
        "What is left; the ratio is of weights of linear layers, and names the masks of a share: "
        "retained_ratio=R"
    )
    return Table(columns, rows, title)


def _kept(step: Step, whole: Step) -> list[str]:
    """Neurons and key-value heads of each block, of how many."""
    heads = count_of(step.head_groups, whole.head_groups) if whole.head_groups else "all"
    return [count_of(step.neurons, whole.neurons), heads]


def _choice_table(found: Findings) -> Table:
    rows = [
        [
            f"{step.share:g}",
            f"{step.validation.accuracy:.3f}",
            _interval(step.validation),
            "chosen" if step is found.chosen else "",
        ]
        for step in (found.curve.whole, *found.curve.steps)
    ]
    title = (
        f"The choice: the smallest share within {found.settings.tolerance:g} of the whole model "
        f"on {len(found.curve.whole.validation.right)} validation documents"
    )
    return Table(["share", "validation accuracy", "95 %", ""], rows, title)


def _interval(answers: Answers) -> str:
    low, high = answers.interval
    return f"[{low:.3f}, {high:.3f}]"


def _others_section(found: Findings, picture: bytes) -> Section:
    note = (
        f"The same models, ranked for {found.settings.task} alone, on other tasks: what is lost "
        "there was not asked for."
    )
    return Section(
        "Other tasks", note, (), {"accuracy on other tasks": picture}, _others_tables(found.curve)
    )


def _others_tables(curve: Curve) -> list[Table]:
    tables = []
    for name, whole in curve.whole.others.items():
        rows = []
        for step in (curve.whole, *curve.steps):
            own = step.others[name]
            less = "" if step is curve.whole else in_points(own.against(whole))
            accuracy = [f"{own.accuracy:.3f}", _interval(own), less]
            rows.append([f"{step.share:g}", *accuracy, f"{own.loss:.3f}"])
        columns = [f"share, {name}", "accuracy", "95 %", "minus the whole", "cross-entropy"]
        tables.append(Table(columns, rows))
    return tables


def _smaller_section(found: Findings) -> Section:
    whole, chosen = found.curve.whole, found.chosen
    rates = [found.speed.reading.medians, found.speed.writing.medians]
    rows = [
        [name, show_parameters(step), *(show_rate(one[place]) for one in rates)]
        for place, (name, step) in enumerate([("whole", whole), ("smaller", chosen)])
    ]
    note = (
        "The channels are cut out of the weights, and the configuration says how many are left: "
        "`transformers` and `lm_eval --model hf` load the folder `smaller` as any other model. "
        "Embeddings stay as they are. Speed is the median of rounds of both models in turn, on the "
        "machine of this run; ratios are of the same round, with their quartiles over rounds."
    )
    columns = ["model", "parameters", "tokens a second, reading", "tokens a second, writing"]
    return Section("The smaller model", note, smaller_sentences(found), {}, [Table(columns, rows)])


def _csv(curve: Curve) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    others = list(curve.whole.others)
    writer.writerow(
        ["share", "retained_ratio", "parameters", "neurons", "head_groups", "validation_accuracy",
         "accuracy", "low", "high", "random_accuracy", "cross_entropy",
         *(f"{name}_accuracy" for name in others)]
    )  # fmt: skip
    for step in (curve.whole, *curve.steps):
        writer.writerow(
            [step.share, repr(step.ratio), step.parameters, step.neurons, step.head_groups,
             repr(step.validation.accuracy), repr(step.test.accuracy),
             *map(repr, step.test.interval),
             repr(step.random_accuracy) if step.removals else "", repr(step.test.loss),
             *(repr(step.others[name].accuracy) for name in others)]
        )  # fmt: skip
    return text.getvalue()


def _json(found: Findings) -> str:
    content = {
        "task": found.settings.task,
        "selected_share": found.chosen.share,
        "within_tolerance": bool(found.curve.good),
        "whole": found.curve.whole.to_json(),
        "steps": [one.to_json() for one in found.curve.steps],
        "tokens_per_second": asdict(found.speed),
        "deviation": found.deviation,
    }
    return json.dumps(content, indent=2) + "\n"
