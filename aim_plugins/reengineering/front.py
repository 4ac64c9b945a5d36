"""What `aim-plugins reengineer` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aim_plugins.reengineering.curve import Answers, Curve, Rates, Speed, Step, mean_of
from aim_plugins.reengineering.pictures import draw_accuracy, draw_others
from aim_plugins.reengineering.settings import TaskModuleSettings
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from aim_plugins.sweep.paired import in_points, show_p, verdict


@dataclass(frozen=True)
class Findings:
    """What a study found, for its front.

    Attributes:
        settings: What was asked.
        curve: The models.
        speed: Of the whole and the smaller model.
        deviation: The largest difference of a log-likelihood between smaller and masked model.
    """

    settings: TaskModuleSettings
    curve: Curve
    speed: Speed
    deviation: float

    @property
    def chosen(self) -> Step:
        """The step that the smaller model is of."""
        return self.curve.steps[self.curve.selected]


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
        sentences=[headline(found), *_removal_sentences(found.curve), *_smaller_sentences(found)],
        others=["masks/", "smaller/"],
    )


def headline(found: Findings) -> str:
    """The result in a sentence or two."""
    chosen, whole = found.chosen, found.curve.whole
    text = (
        f"With {chosen.share:g} of neurons and heads kept "
        f"({chosen.parameters / whole.parameters:.1%} of the parameters), the model answers "
        f"{chosen.test.accuracy:.3f} of {len(chosen.test.right)} held-out documents right, the "
        f"whole one {whole.test.accuracy:.3f}: {verdict(chosen.test.against(whole.test))}."
    )
    if not found.curve.good:
        text += (
            f" No share was within {found.settings.tolerance:g} of the whole model on the "
            "validation documents; this is the largest."
        )
    return text


def _accuracy_section(found: Findings, picture: bytes) -> Section:
    curve = found.curve
    note = (
        "In every block the neurons and key-value heads (with their query heads) of the largest "
        f"importance are kept. It is learned from {found.settings.split[0]:.0%} of the documents; "
        "accuracies are of documents that neither ranking nor choice has seen, with 95 % intervals "
        "over documents, of the draws at random as they fell. No weight is trained. Cross-entropy "
        "is of the right choice among all, in nats."
    )
    return Section(
        "Accuracy",
        note,
        _removal_sentences(curve),
        {"accuracy against the share kept": picture},
        [_accuracy_table(curve), _size_table(curve), _choice_table(found)],
    )


def _removal_sentences(curve: Curve) -> list[str]:
    better, worse = [], []
    for step in curve.steps:
        gained = step.above_random
        if gained.is_clear and gained.value > 0:
            better.append(f"at {step.share:g} {in_points(gained)}, p = {show_p(gained.p)}")
        lost = step.test.against(curve.whole.test)
        if lost.is_clear and lost.value < 0:
            worse.append(f"at {step.share:g} {in_points(lost)}, p = {show_p(lost.p)}")
    sentences = []
    if better:
        draws = len(curve.steps[0].removals)
        sentences.append(
            "Ranked by importance, more is answered than after removal at random (mean of "
            f"{draws} draw{'s' * (draws > 1)}): {'; '.join(better)}."
        )
    else:
        sentences.append("No share shows that importance ranks better than chance.")
    if worse:
        sentences.append(f"Less is answered than by the whole model: {'; '.join(worse)}.")
    return sentences


def _accuracy_table(curve: Curve) -> Table:
    columns = [
        "kept", "accuracy", "95 %", "minus the whole", "at random", "minus random",
        "cross-entropy", "at random",
    ]  # fmt: skip
    rows = []
    for step in (curve.whole, *curve.steps):
        row = [f"{step.share:g}", f"{step.test.accuracy:.3f}", _interval(step.test)]
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
            str(step.neurons),
            str(step.head_groups or "all"),
            show_parameters(step),
            f"{step.ratio:.4f}",
        ]
        for step in (curve.whole, *curve.steps)
    ]
    columns = ["kept", "neurons", "key-value heads", "parameters", "retained ratio"]
    return Table(columns, rows, "What is left; the ratio is of weights of linear layers")


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
    return Table(["kept", "validation accuracy", "95 %", ""], rows, title)


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
        columns = [f"kept, {name}", "accuracy", "95 %", "minus the whole", "cross-entropy"]
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
    return Section("The smaller model", note, _smaller_sentences(found), {}, [Table(columns, rows)])


def show_parameters(step: Step) -> str:
    """A number of parameters, in millions."""
    return f"{step.parameters / 1e6:.1f} M"


def show_rate(rate: float) -> str:
    """Tokens a second, to three digits at least.

    >>> show_rate(8.4567), show_rate(42.0), show_rate(1234.5)
    ('8.46', '42.0', '1234')
    """
    return f"{rate:.{max(0, 2 - math.floor(math.log10(rate)))}f}"


def show_ratio(rates: Rates) -> str:
    """How many times as fast the smaller model is, and whether that shows.

    >>> show_ratio(Rates([8.0, 8.0, 8.0], [9.0, 8.0, 7.0]))
    '1.00 times as fast (quartiles 0.88 to 1.12; cannot be told apart)'
    """
    low, middle, high = rates.quartiles
    told = "; cannot be told apart" if low <= 1 <= high else ""
    return f"{middle:.2f} times as fast (quartiles {low:.2f} to {high:.2f}{told})"


def _smaller_sentences(found: Findings) -> list[str]:
    reading, writing = found.speed.reading, found.speed.writing
    return [
        f"The smaller model reads {show_ratio(reading)} as the whole one, and writes "
        f"{show_ratio(writing)}; of {len(reading.whole)} rounds of both in turn.",
        "Log-likelihoods of the smaller and the masked model differ by at most "
        f"{found.deviation:.1g} nats.",
    ]


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
