"""What `aim-plugins attribute` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aim_plugins.heads.files import results_csv, results_json
from aim_plugins.heads.pictures import (
    draw_components,
    draw_correlations,
    draw_documents,
    draw_path,
    draw_prediction,
)
from aim_plugins.heads.prediction import OWN
from aim_plugins.heads.trials import Alone, Outcome, in_shares, outputs_of
from aim_plugins.heads.wording import (
    Findings,
    component_sentences,
    edit_sentences,
    headline,
    prediction_sentences,
    short,
    show_mean,
)
from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from aim_plugins.sweep.paired import Interval, mean_interval, show_p

_DOCUMENTS = 6
"""Documents shown at either end of a component's table."""


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
    drawn = _pictures(found)
    pictures = {
        f"{name}.{kind}": content
        for name, files in drawn.items()
        for kind, content in files.items()
    }
    shown = {name: files["png"] for name, files in drawn.items()}
    sections = [
        _components_section(found, shown),
        _documents_section(found),
        _prediction_section(found, shown),
        _edit_section(found, shown),
    ]
    tables = [_components_table(found), _prediction_table(found), _edit_table(found)]
    texts = [Overview("", columns=one.columns, rows=one.rows).as_text() for one in tables]
    sentences = [headline(found), *component_sentences(found), *edit_sentences(found)]
    return publish_page(
        folder,
        Page("Attribution", title, task, headline(found), sections),
        manifest,
        files={"results.csv": results_csv(found), "results.json": results_json(found)},
        pictures=pictures,
        table="\n\n".join([f"{title} for {task}", *texts]) + "\n",
        sentences=sentences,
        others=["attributions/", "edit/"],
    )


def _pictures(found: Findings) -> dict[str, dict[str, bytes]]:
    own, size = found.outcomes[found.settings.task], found.path.size
    middle = found.weights.double().mean(0).numpy()
    held = found.prediction
    correlation = show_mean(held.correlations[OWN][held.share])
    drawn = {
        "components": draw_components(
            middle, found.components, found.edit, found.words, found.settings.task
        ),
        "prediction": draw_prediction(
            held.predicted,
            held.true,
            found.words,
            f"{held.share:g} ablated, r = {correlation}",
        ),
        "sizes": draw_path(found.path, found.judged, found.noun),
        "documents": draw_documents(own, found.judged, found.count(size), size),
    }
    if len(held.correlations[OWN]) > 1:  # of one share the table says it
        drawn["correlations"] = draw_correlations(held.correlations, found.settings.alpha)
    return drawn


def _components_section(found: Findings, pictures: Mapping[str, bytes]) -> Section:
    note = (
        f"What each of {found.count(len(found.components))} adds to the {found.words}: a linear "
        f"model of {found.settings.num_ablations} random ablations of {found.settings.alpha:g} of "
        f"them, for each of {len(found.documents)} documents; the mean over these with its 95 % "
        f"interval, which holds for one of the {found.noun}, not for all at once. They are ranked "
        f"by {_ranked_by(found)}. The first {len(found.alone)}, selected by these documents, are "
        f"then ablated alone on held-out ones, and the change of their {short(found.judged)} is "
        f"the test of it, with p corrected by Holm for {len(found.alone)} tests."
    )
    return Section(
        found.noun.capitalize(),
        note,
        component_sentences(found),
        {f"what each of the {found.noun} adds": pictures["components"]},
        [_components_table(found)],
    )


def _ranked_by(found: Findings) -> str:
    references = ", ".join(found.settings.references)
    return f"the t-statistic of it against {references}" if references else "that mean"


def _components_table(found: Findings) -> Table:
    rows = []
    for rank, (alone, change) in enumerate(zip(found.alone, found.changes_alone, strict=True)):
        weights = found.weights[:, alone.number]
        helped = float((weights > 0).float().mean())
        low, high = wilson_interval(helped, len(weights))
        rows.append(
            [
                found.name(alone.number),
                _signed(found.contribution(alone.number)),
                f"{helped:.0%} [{low:.0%}, {high:.0%}]",
                _signed(change),
                _p(change.p),
                in_shares(alone.test),
                "ablated" if rank < found.path.size else "",
            ]
        )
    columns = [
        found.noun, f"adds to the {short(found.words)}, nats", "documents it helps",
        f"held-out {short(found.judged)} without it, change in nats", "p (Holm)",
        "accuracy without it", "edit",
    ]  # fmt: skip
    return Table(columns, rows)


def _signed(one: Interval, scale: float = 1.0, digits: int = 2) -> str:
    """A difference with its interval, whose unit the heading of its column has."""
    value, low, high = (f"{scale * end:+.{digits}f}" for end in (one.value, one.low, one.high))
    return f"{value} [{low}, {high}]"


def _p(p: float) -> str:
    return show_p(p).removeprefix("p ").removeprefix("= ")


def _documents_section(found: Findings) -> Section:
    """For each component of the edit, the documents it matters most and least for."""
    told = [one for one in found.alone if one.learning is not None]
    tables = [_documents_table(found, one) for one in told]
    first = "" if len(told) == found.path.size else f"first {len(told)} "
    note = (
        f"Documents that attributions were learned from, by what each of the edit's {first}"
        f"{found.noun} adds to the {found.words}, beside what ablating it alone changes in truth."
    )
    return Section("Documents", note, (), {}, tables)


def _documents_table(found: Findings, alone: Alone) -> Table:
    assert alone.learning is not None
    whole, without = found.prediction.whole, alone.learning
    weights = found.weights[:, alone.number].tolist()
    order = sorted(range(len(weights)), key=weights.__getitem__, reverse=True)
    if len(order) > 2 * _DOCUMENTS:
        order = order[:_DOCUMENTS] + order[-_DOCUMENTS:]
    rows = [
        [
            found.documents[one].name,
            found.documents[one].text.strip()[-160:],
            f"{whole[one]:+.2f}",
            f"{weights[one]:+.2f}",
            f"{without[one] - whole[one]:+.2f}",
        ]
        for one in order
    ]
    columns = ["document", "text", short(found.words), "predicted to add", "change without it"]
    return Table(columns, rows, f"{found.name(alone.number)}: most and least, in nats")


def _prediction_section(found: Findings, pictures: Mapping[str, bytes]) -> Section:
    note = (
        f"Outputs under {found.settings.eval_masks} fresh masks of each share, predicted and true: "
        "their correlation over masks, of each document, and its mean with the 95 % interval over "
        f"documents. Attributions are learned at {found.settings.alpha:g}."
    )
    shown = {"predicted against true changes": pictures["prediction"]}
    if "correlations" in pictures:
        shown["correlation against the share ablated"] = pictures["correlations"]
    return Section(
        "Prediction",
        note,
        prediction_sentences(found),
        shown,
        [_prediction_table(found)],
    )


def _prediction_table(found: Findings) -> Table:
    shares = list(found.prediction.correlations[OWN])
    rows = [
        [name.replace("_", " "), *(show_mean(by_share[one]) for one in shares)]
        for name, by_share in found.prediction.correlations.items()
    ]
    return Table(["correlation", *(f"{one:g} ablated" for one in shares)], rows)


def _edit_section(found: Findings, pictures: Mapping[str, bytes]) -> Section:
    settings = found.settings
    beyond = f" beyond what it does to that of {', '.join(settings.references)}"
    note = (
        f"The first of the ranking are ablated together; how many, of {_listed(found)}, was chosen "
        f"on validation documents, as the number that is to {settings.direction} the mean "
        f"{found.judged} most{beyond * bool(settings.references)}. Results are of documents that "
        "neither ranking nor choice has seen, "
        f"beside as many {found.noun} at random (draws: {settings.random_edits}). Differences are "
        "paired over documents: accuracy with Agresti and Min's interval and McNemar's exact p, "
        "nats with Student's interval and the p of signs dealt out anew. The stock harness "
        "evaluates it too, but on all documents of a task, of this one also on those that the edit "
        "was made from: lm_eval --model aim_hf --model_args "
        f"pretrained=MODEL,edit={settings.folder / 'edit'},edit_strength=0:1:0.25"
    )
    return Section(
        "The edit",
        note,
        edit_sentences(found),
        {
            "output against the size of the edit": pictures["sizes"],
            "held-out documents with and without the edit": pictures["documents"],
        },
        [_edit_table(found), _random_table(found), _path_table(found)],
    )


def _listed(found: Findings) -> str:
    return ", ".join(map(str, found.path.sizes))


def _edit_table(found: Findings) -> Table:
    rows = [
        [
            name,
            str(len(one.whole.right)),
            in_shares(one.whole),
            in_shares(one.edited),
            _signed(one.accuracy_change, 100.0, 1),
            _p(one.accuracy_change.p),
            _signed(one.output_change),
            _p(one.output_change.p),
        ]
        for name, one in found.outcomes.items()
    ]
    columns = [
        "task", "documents", "accuracy", "with the edit", "change, points", "p",
        f"change of the {short(found.judged)}, nats", "p",
    ]  # fmt: skip
    return Table(columns, rows)


def _random_table(found: Findings) -> Table:
    rows = []
    for name, one in found.outcomes.items():
        beyond = one.beyond_random
        drawn = [
            _signed(Outcome(one.output, one.whole, random, ()).output_change)
            for random in one.random
        ]
        cells = [_signed(one.output_change), _signed(beyond), _p(beyond.p)]
        rows.append([name, *cells, in_shares(one.random_accuracy), "; ".join(drawn)])
    beside = f"Beside {found.count(found.path.size)} at random"
    title = f"{beside}: change of the {short(found.judged)}, nats"
    columns = ["task", "the edit", "minus those at random", "p", "their accuracy", "each draw"]
    return Table(columns, rows, title)


def _path_table(found: Findings) -> Table:
    """The edit of each size on validation documents, and with references what decides."""
    path = found.path
    rows = []
    for size, answers in zip((0, *path.sizes), (path.whole, *path.steps), strict=True):
        mean = mean_interval(outputs_of(answers, path.output))
        value = f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]"
        rows.append([str(size), value, in_shares(answers)])
    columns = [f"{found.noun} ablated", f"{short(found.judged)}, nats", "accuracy"]
    if path.references:
        others = [_signed(one) for one in path.reference_changes]
        moved = [f"{one:+.2f}" for one in path.moved]
        for row, *cells in zip(rows, ["", *others], ["", *moved], strict=True):
            row += cells
        columns += ["change of the references, nats", "moved beyond that, chosen by"]
    for size, row in zip((0, *path.sizes), rows, strict=True):
        row.append("chosen" if size == path.size else "")
    title = f"The choice of the largest, on {len(path.whole.right)} validation documents"
    return Table([*columns, ""], rows, title)
