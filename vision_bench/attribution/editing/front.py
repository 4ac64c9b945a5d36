"""What `attribute edit` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Exhibit, Page, Section, Table, publish_page
from aim_plugins.sweep.paired import Interval, PairedDifference, in_points, show_p
from vision_bench.attribution.editing.choices import ARMS, EDITED, RANDOM, TUNED, WHOLE
from vision_bench.attribution.editing.findings import WORST, Findings, is_clear
from vision_bench.attribution.editing.pictures import (
    draw_arms,
    draw_choice,
    draw_layers,
    draw_strength,
)
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.data.images import thumbnail

_SHOWN = 8
"""Images whose answers changed, in the report."""
_NAMED = 40
"""Components that the report names."""


def publish(
    folder: Path, found: Findings, settings: EditSettings, manifest: Mapping[str, Any]
) -> Path:
    """Writes and prints everything; returns the report's path.

    Raises:
        OSError: If a file cannot be written.
    """
    drawn = {
        "arms": draw_arms(found),
        "strength": draw_strength(found),
        "choice": draw_choice(found),
        "layers": draw_layers(found),
    }
    model = str(manifest.get("model", settings.model))
    summary, told = summarise(found), tell(found)
    columns, rows = _columns(found), _arm_rows(found)
    title = f"{model}: {found.problem.words}"
    subject = (
        f"{found.examined.data.title}: {int((found.tested.whole >= 0).sum())} images tested, "
        f"{len(found.problem.targets)} targets and {len(found.problem.references)} references"
    )
    return publish_page(
        folder,
        Page("Edit by components", title, subject, summary, _sections(found, settings, drawn)),
        manifest,
        files={"edit.json": found.to_json(), "edit.csv": found.csv},
        pictures={
            f"{name}.{kind}": content
            for name, picture in drawn.items()
            for kind, content in picture.items()
        },
        table=Overview(title, columns=columns, rows=rows).as_text(),
        sentences=[summary, *told],
        others=["edit/", "model.safetensors"],
    )


def _sections(
    found: Findings, settings: EditSettings, drawn: Mapping[str, Mapping[str, bytes]]
) -> list[Section]:
    columns, rows = _columns(found), _arm_rows(found)
    sections = [
        Section(
            "What the edit does",
            f"{_of_what(found)} In brackets 95 % intervals over these images (Wilson's, "
            "of a worst group by bootstrap). Of several random edits it is their mean, as drawn: "
            "other draws would move it too; edit.csv has each. Differences are paired image by "
            "image, with McNemar's exact p, each for itself; against several random edits, with "
            "their mean.",
            tell(found),
            {"every arm": drawn["arms"]["png"]},
            [Table(columns, rows), Table(columns, _difference_rows(found), "The edit less others")],
        ),
        Section(
            "Along the strength",
            "At strength s the components are multiplied by 1 - s: 0 is the model, 1 the edit.",
            pictures={"measures against the strength": drawn["strength"]["png"]},
        ),
        _how_chosen(found, settings, drawn["choice"]["png"]),
        Section(
            "What is ablated",
            "By layer in the order of the model; then by name in the order of ablation, with the "
            "t-statistic of each.",
            [_named(found)],
            {"ablated components by layer": drawn["layers"]["png"]},
        ),
    ]
    if shown := _exhibits(found):
        aims = " and ".join(map(found.called, found.problem.goal.aims))
        note = f"Images of {aims}, whose answers the edit changes; evenly over all of these."
        sections.append(Section("Changed answers", note, exhibits=shown))
    return sections


def _columns(found: Findings) -> list[str]:
    return ["", *map(found.called, found.measures)]


def _of_what(found: Findings) -> str:
    """Which images the figures are of."""
    seen = [found.called(one) for one in found.parts if one in found.problem.seen]
    apart = f", but for {' and '.join(seen)}" if seen else ""
    return f"On images that neither made the edit nor chose it{apart}."


def summarise(found: Findings) -> str:
    """The result in a sentence or two."""
    count = len(found.components)
    order = found.trials[found.choice.chosen].order
    ablated = f"{count} of {found.total} components ({count / found.total:.1%}, by {order})"
    moved = "; ".join(_moved(found, name) for name in _headline(found))
    said = f"To {found.problem.words}, {ablated} {'is' if count == 1 else 'are'} ablated: {moved}."
    if not found.choice.helps:
        said += (
            " On the images that select, no number of components that was tried came nearer to the "
            "goal and kept the rest: this is no edit to keep."
        )
    return said


def tell(found: Findings) -> list[str]:
    """What else follows."""
    sentences = []
    for rival in found.rivals[1:]:
        parts = [
            f"{found.called(name)} {_judged(one)} {_difference(one)}"
            for name in _headline(found)
            for one in [found.compare(name, EDITED, rival)]
        ]
        sentences.append(f"Against {_rival(rival, found)}: {'; '.join(parts)}.")
    if found.problem.note:
        sentences.append(found.problem.note)
    return sentences


def _headline(found: Findings) -> list[str]:
    """The measures that sentences tell."""
    if found.problem.goal.worst:
        return [WORST, *found.problem.goal.rest]
    aims = list(found.problem.goal.aims)
    also = [found.problem.attack] if found.problem.attack else []
    alike = [one for one in found.parts if one not in (*aims, *found.problem.goal.rest)]
    return [*aims, *also, *alike, *found.problem.goal.rest]


def _moved(found: Findings, name: str) -> str:
    before, after = (found.measure(name, found.tested.arms[one]) for one in (WHOLE, EDITED))
    moved = f"{found.called(name)} {100 * before.value:.1f} % → {100 * after.value:.1f} %"
    if not found.compares(name, WHOLE):
        return moved
    return f"{moved} ({_difference(found.compare(name, EDITED, WHOLE))})"


def _rival(name: str, found: Findings) -> str:
    if name == RANDOM:
        count = len(found.tested.random)
        return f"{count} random edit{'s' * (count > 1)} of the same size"
    assert found.tuning is not None
    words = found.tuning.words[found.tuning.chosen]
    kept = "" if found.tuning.helps else ", which did not help on the images that select"
    return f"the last layer fine-tuned on the same images ({words}{kept})"


def _judged(one: Interval) -> str:
    if not is_clear(one):
        return "cannot be told apart,"
    return "higher by" if one.value > 0 else "lower by"


def _difference(one: Interval) -> str:
    if math.isnan(one.low):
        return f"{100 * one.value:+.1f} points, of too few images for an interval"
    p = f", {show_p(one.p)}" if isinstance(one, PairedDifference) else ""
    return f"{in_points(one)}{p}"


def percent(one: Interval) -> str:
    """A share with its interval, in percent.

    >>> percent(Interval(0.5, 0.25, 0.75))
    '50.0 % [25.0, 75.0]'
    """
    return f"{100 * one.value:.1f} % [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _arm_rows(found: Findings) -> list[list[str]]:
    arms = found.tested.arms
    rows = {
        name: [percent(found.measure(one, answers)) for one in found.measures]
        for name, answers in arms.items()
    }
    if found.tested.random:
        rows[RANDOM] = [percent(found.of_random(one)) for one in found.measures]
    return [[name, *rows[name]] for name in ARMS if name in rows]


def _difference_rows(found: Findings) -> list[list[str]]:
    named = {WHOLE: "the model", RANDOM: RANDOM, TUNED: TUNED}
    return [
        [named[rival], *(_compared(found, one, rival) for one in found.measures)]
        for rival in found.rivals
    ]


def _compared(found: Findings, name: str, rival: str) -> str:
    return _difference(found.compare(name, EDITED, rival)) if found.compares(name, rival) else "–"


def _how_chosen(found: Findings, settings: EditSettings, picture: bytes) -> Section:
    choice = found.choice
    rows = [
        [words, f"{one.goal:.1%}", f"{one.rest:.1%}", "chosen" if place == choice.chosen else ""]
        for place, (words, one) in enumerate(zip(choice.words, choice.scores, strict=True))
    ]
    rows.insert(0, ["none", f"{choice.before.goal:.1%}", f"{choice.before.rest:.1%}", ""])
    told = [
        f"{len(found.problem.targets)} targets and {len(found.problem.references)} references "
        f"were attributed at the price of {found.passes:.0f} forward passes over them "
        f"({settings.num_ablations} masks, {settings.gradient_passes} gradients)."
    ]
    if found.tuning is not None:
        tuning = found.tuning
        best = tuning.scores[tuning.chosen]
        told.append(
            f"The last layer was fine-tuned in {len(tuning.words)} ways, of which "
            f"{tuning.words[tuning.chosen]} were chosen: goal {best.goal:.1%}, rest "
            f"{best.rest:.1%} of the images that chose them."
        )
    return Section(
        "How it was chosen",
        "Components are ablated by the statistic, in the order of a t-statistic of their "
        "attributions to targets and references, as in the paper; or by margins, one after another "
        "so that the margins that attributions foresee are best, the references' too. Which, how "
        "many, and how far fine-tuning goes is chosen on images that are not tested: the most of "
        f"the goal that costs the rest at most {100 * choice.tolerance:g} points. The chosen one "
        "is the best of many on these images, and flattered by that; what it is worth stands "
        "above. Dashed: the model as it is.",
        told,
        {"goal and rest by size": picture},
        [Table(["ablated", found.problem.goal.words, "rest: right", ""], rows)],
    )


def _named(found: Findings) -> str:
    pairs = list(zip(found.components, found.scores, strict=True))
    named = ", ".join(f"{name} (t = {score:.1f})" for name, score in pairs[:_NAMED])
    rest = len(pairs) - _NAMED
    return f"{named}{f', and {rest} more' if rest > 0 else ''}."


def _exhibits(found: Findings) -> list[Exhibit]:
    """Images of the aims whose answers the edit changes."""
    data, goal = found.examined.data, found.problem.goal
    before, after = found.tested.whole, found.tested.edited[1.0]
    members = sum(found.examined.parts[one].long() for one in goal.aims) > 0
    changed = (members & (before != after) & (before >= 0)).nonzero().flatten().tolist()
    shown = changed[:: max(1, -(-len(changed) // _SHOWN))][:_SHOWN]
    names = data.classes
    return [
        Exhibit(
            {names[int(data.labels[place])]: thumbnail(data.images, place)},
            f"image {data.names[place]}",
            f"{names[int(before[place])]} → {names[int(after[place])]}",
        )
        for place in shown
    ]
