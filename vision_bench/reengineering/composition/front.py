"""What `reengineer compose` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from vision_bench.reengineering.baselines import Accuracy
from vision_bench.reengineering.choices import MODULE
from vision_bench.reengineering.composition.findings import (
    COMPOSED,
    COMPOSITIONS,
    SIDE_BY_SIDE,
    Findings,
    Shared,
)
from vision_bench.reengineering.composition.overlaps import Chance, Counts
from vision_bench.reengineering.composition.pictures import draw_layers, draw_overlaps
from vision_bench.reengineering.costs import Size
from vision_bench.reengineering.findings import BASELINES, RESTRICTED, WHOLE
from vision_bench.reengineering.wording import (
    numbers,
    show_difference,
    show_macs,
    show_share,
    verdict,
)

_COLUMNS = ("", "retained", "MACs", "accuracy", "against restricted")
_PAIRS = ("modules", "both", "either", "Jaccard", "chance", "chance within layers")


def publish(folder: Path, found: Findings, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Raises:
        OSError: If a file cannot be written.
    """
    overlaps, layers = draw_overlaps(found), draw_layers(found)
    title = f"{manifest.get('model', 'A model')}: {', '.join(found.problem.names)}"
    composed, shared = tell_composition(found), tell_overlaps(found)
    worth = Section(
        "What the composed model is worth",
        "It retains what any of the modules does, and has a head that is trained on the training "
        "images of all their classes. Restricted: the whole model's best answer among these "
        "classes, which costs no training. Side by side: each module with its own head, and the "
        "largest of all outputs; the heads were trained apart, and nothing holds them to one "
        "scale. Largest and random: as much of the model, chosen by the weights or by chance, "
        "with a head trained on it. In brackets 95 % intervals over test images, of differences "
        "paired: the same images. Modules alone know too few classes to be measured on these.",
        composed,
        tables=[
            Table(_COLUMNS, _rows(found)),
            Table(("module", "retained", "MACs"), _module_rows(found), "What is composed"),
        ],
    )
    common = Section(
        f"Which {found.noun} modules share",
        "The Jaccard index: of what either of two modules retains, the share that both do. By "
        "chance: random masks of the same sizes, with the range of 95 % of them; within layers, of "
        "the same sizes in every layer, which is what is left once each layer's size is known.",
        shared,
        {
            "what modules share, and would by chance": overlaps["png"],
            "what they share of each layer": layers["png"],
        },
        [Table(_PAIRS, [_pair_row(one) for one in found.shared])],
    )
    return publish_page(
        folder,
        Page("Composition", title, found.title, composed[0], [worth, common]),
        manifest,
        files={"composition.csv": composition_csv(found), "overlaps.csv": overlaps_csv(found)},
        pictures={f"overlaps.{kind}": content for kind, content in overlaps.items()}
        | {f"layers.{kind}": content for kind, content in layers.items()},
        table=Overview(title, columns=_COLUMNS, rows=_rows(found)).as_text(),
        sentences=[*composed, *shared],
        others=["mask/", *(["module/"] if (folder / MODULE).is_dir() else [])],
    )


def tell_composition(found: Findings) -> list[str]:
    """What the composed model is worth, in sentences."""
    composed, naive = found.compositions[COMPOSED], found.compositions[SIDE_BY_SIDE]
    restricted, kept = found.baselines[RESTRICTED], f"{found.size.ratio:.1%} of the weights"
    if found.granularity == "channel":
        kept += f" and {found.size.macs / found.whole.macs:.1%} of the MACs"
    return [
        f"Composed of {len(found.modules)} modules, the model retains {kept} and tells "
        f"{show_share(composed)} of {len(composed.right)} test images of "
        f"{len(found.problem)} classes right; the whole model restricted to these classes "
        f"{show_share(restricted)}, over all its classes {show_share(found.baselines[WHOLE])}.",
        f"Against the restricted model: {verdict(composed, restricted)}.",
        f"Against the modules' own heads side by side ({show_share(naive)}), which were never held "
        f"to one scale: {verdict(composed, naive)}.",
        *(
            f"Against {kind} of the same share: {verdict(composed, answers)}."
            for kind, answers in found.controls.items()
        ),
        *(
            f"The module of {name} retains everything, and so does what it is composed to: learn "
            "it with a higher tolerance or alpha."
            for name, size in found.modules.items()
            if size.ratio == 1
        ),
    ]


def tell_overlaps(found: Findings) -> list[str]:
    """What modules share, in sentences."""
    order = sorted(found.shared, key=lambda one: -one.jaccard)
    if len(order) == 1:
        return [f"{_named(order[0])} share {_told(order[0], found)}."]
    above = sum(one.verdict == "above chance" for one in order)
    return [
        f"{above} of {len(order)} pairs of modules share more than random masks of the same sizes "
        "in every layer do.",
        f"{_named(order[0])} share most: {_told(order[0], found)}.",
        f"{_named(order[-1])} share least: {_told(order[-1], found)}.",
    ]


def _named(one: Shared) -> str:
    return "The modules of {} and of {}".format(*one.names)


def _told(one: Shared, found: Findings) -> str:
    return (
        f"{one.jaccard:.1%} of the {found.noun} that either retains, where random masks of the "
        f"same sizes share {one.same_sizes.expected:.1%}, and of the same sizes in every layer "
        f"{_range(one.same_layers)}: {one.verdict}"
    )


def composition_csv(found: Findings) -> str:
    """A line for every model, with its difference from the restricted one."""
    restricted = found.baselines[RESTRICTED]
    lines = [
        (
            title, size.ratio if size else "", size.macs if size else "", len(answers.right),
            *numbers(answers), *_difference(answers, restricted),
        )
        for title, answers, size in _models(found)
    ]  # fmt: skip
    columns = (
        "what", "retained_ratio", "macs", "images", "accuracy", "low", "high",
        "difference", "difference_low", "difference_high", "p",
    )  # fmt: skip
    return _csv(columns, lines)


def overlaps_csv(found: Findings) -> str:
    """A line for every pair, over all layers and then of each."""
    columns = (
        "first", "second", "layer", "elements", "first_retained", "second_retained", "both",
        "jaccard", "chance", "chance_low", "chance_high",
        "within_layers", "within_layers_low", "within_layers_high",
    )  # fmt: skip
    lines: list[Sequence[object]] = []
    for one in found.shared:
        lines.append(
            (*one.names, "", *_counted(one.overlap.total, one.same_sizes, one.same_layers))
        )
        lines += [
            (*one.names, name, *_counted(counts, one.by_layer[name], one.by_layer[name]))
            for name, counts in one.overlap.layers.items()
        ]
    return _csv(columns, lines)


def _csv(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *lines])
    return text.getvalue()


def _models(found: Findings) -> list[tuple[str, Accuracy, Size | None]]:
    """What has an accuracy, and its size; modules side by side are several models, without one."""
    sizes = {COMPOSED: found.size, SIDE_BY_SIDE: None}
    return [
        *((BASELINES[name], one, found.whole) for name, one in found.baselines.items()),
        *((COMPOSITIONS[name], one, sizes[name]) for name, one in found.compositions.items()),
        *((f"{kind}, as much", one, None) for kind, one in found.controls.items()),
    ]


def _rows(found: Findings) -> list[list[str]]:
    restricted = found.baselines[RESTRICTED]
    return [
        [
            title,
            f"{size.ratio:.1%}" if size else "",
            show_macs(size.macs) if size else "",
            show_share(answers),
            "" if answers is restricted else show_difference(answers, restricted),
        ]
        for title, answers, size in _models(found)
    ]


def _module_rows(found: Findings) -> list[list[str]]:
    return [[name, f"{one.ratio:.1%}", show_macs(one.macs)] for name, one in found.modules.items()]


def _pair_row(one: Shared) -> list[str]:
    total = one.overlap.total
    return [
        one.pair,
        f"{total.both:,}",
        f"{total.first + total.second - total.both:,}",
        f"{one.jaccard:.1%}",
        _range(one.same_sizes),
        _range(one.same_layers),
    ]


def _range(chance: Chance) -> str:
    return f"{chance.expected:.1%} [{100 * chance.low:.1f}, {100 * chance.high:.1f}]"


def _counted(counts: Counts, *chances: Chance) -> Sequence[object]:
    ends = [value for one in chances for value in (one.expected, one.low, one.high)]
    return (counts.size, counts.first, counts.second, counts.both, counts.jaccard, *ends)


def _difference(answers: Accuracy, other: Accuracy) -> list[float]:
    found = answers.against(other)
    return [found.value, found.low, found.high, found.p]
