"""What `attribute evaluate` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from aim_plugins.sweep.paired import Interval, show_p
from vision_bench.attribution.findings import (
    COAR,
    LEAST_SQUARES,
    OTHERS,
    Findings,
    Method,
    percent,
)
from vision_bench.attribution.pictures import (
    draw_alphas,
    draw_budget,
    draw_classes,
    draw_example,
)

_OF_OTHERS = (
    " Published: read from a file of others, with as many passes as they say. Where it correlates "
    "with nothing, its components or images stand in another order than these."
)
_TOP = 5
"""Components that a table names."""
_CLASSES = 20
"""Classes that a table has; all are in classes.csv."""


def publish(folder: Path, found: Findings, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Raises:
        OSError: If a file cannot be written.
    """
    drawn = {
        "budget": draw_budget(found),
        "alphas": draw_alphas(found),
        "classes": draw_classes(found),
    }
    drawn |= {f"image-{one.place}": draw_example(found, one) for one in found.examples}
    sentences = tell(found)
    model = str(manifest.get("model", "A model"))
    columns = ["", "passes", *(f"{percent(alpha)} ablated" for alpha in found.alphas)]
    rows = [_row(one, found) for one in found.methods]
    sections = [
        _trust(found, sentences, drawn, Table(columns, rows)),
        _images(found, drawn),
        _shared(found, drawn),
    ]
    page = Page("Attribution", model, found.title, sentences[0], [one for one in sections if one])
    return publish_page(
        folder,
        page,
        manifest,
        files={"correlations.csv": correlations_csv(found), "classes.csv": classes_csv(found)},
        pictures={
            f"{name}.{kind}": content
            for name, picture in drawn.items()
            for kind, content in picture.items()
        },
        table=Overview(f"{model} on {found.title}", columns=columns, rows=rows).as_text(),
        sentences=sentences,
    )


def tell(found: Findings) -> list[str]:
    """What the study found, in sentences."""
    first, alpha = found.methods[0], found.shown_alpha
    images = len(first.correlations[alpha])
    sentences = [
        f"Predicted and true {_plural(found.output)} of {images} images correlate at "
        f"{show(first.at(alpha))} where fresh masks ablate {percent(alpha)} of the "
        f"{len(found.components)} components; that took {first.passes:.0f} passes."
    ]
    for other in found.methods[1:]:
        gain = first.against(other, alpha)
        sentences.append(
            f"Against {other.name} of {other.passes:.0f} passes ({show(other.at(alpha))}): "
            f"{_judged(gain)} by {_signed(gain)}, image by image."
        )
    if (fewer := found.fewer_passes()) is not None:
        mine, theirs = fewer
        sentences.append(
            f"{COAR} does better with {mine.passes:.0f} passes than {LEAST_SQUARES} with "
            f"{theirs.passes:.0f}, where they are at their best, by "
            f"{_signed(mine.against(theirs, alpha))}: {theirs.passes / mine.passes:.1f} times "
            "fewer, the fewest of those tried."
        )
    if (least := _short_of_masks(found)) is not None:
        sentences.append(
            f"That is no contest: {LEAST_SQUARES} had at most {least.passes:.0f} masks for "
            f"{len(found.components)} components, and need several times more than there are."
        )
    if (rank := found.rank) is not None:
        sentences.append(
            f"Without its {rank.count} highest components an image's output falls by "
            f"{_mean(rank.highest):.3g}, without as many random ones by {_mean(rank.random):.3g}: "
            f"a difference of {_signed(rank.difference, '.3g')}, "
            f"{'of one image' if math.isnan(rank.p) else show_p(rank.p)}."
        )
    if found.left_out:
        sentences.append(
            f"{found.left_out} images have outputs that do not vary, and no correlation."
        )
    return sentences


def _short_of_masks(found: Findings) -> Method | None:
    """Least squares of the most masks that were tried, where these are no more than components."""
    tried = [*found.curves.get(LEAST_SQUARES, ()), found.method(LEAST_SQUARES)]
    most = max((one for one in tried if one), key=lambda one: one.passes, default=None)
    return most if most is not None and most.passes <= len(found.components) else None


def show(one: Interval) -> str:
    """A correlation with its interval.

    >>> show(Interval(0.8312, 0.8, 0.86))
    '0.83 [0.80, 0.86]'
    """
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _signed(one: Interval, form: str = ".2f") -> str:
    signed = f"+{form}"
    return f"{one.value:{signed}} [{one.low:{signed}}, {one.high:{signed}}]"


def _judged(gain: Interval) -> str:
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "cannot be told apart"


def _mean(values: Any) -> float:
    return sum(values) / len(values)


def _plural(output: str) -> str:
    return {"margin": "margins", "log_likelihood": "log-likelihoods"}.get(output, output)


def _row(method: Method, found: Findings) -> list[str]:
    return [
        method.name,
        f"{method.passes:.0f}",
        *(show(method.at(alpha)) for alpha in found.alphas),
    ]


def _trust(
    found: Findings, sentences: list[str], drawn: Mapping[str, Mapping[str, bytes]], table: Table
) -> Section:
    return Section(
        "How far they can be trusted",
        f"Of each image, the correlation of predicted and true outputs over {found.fresh} masks "
        "that nothing was fitted to; then the mean over images, with its 95 % interval. "
        "All images have the same masks, and others would move all means together. A pass is one "
        "forward pass over all images; a backward pass counts as 1.55. COAR: what is fitted here. "
        "Ridge: the same without gradients. Least squares: as the paper has it, which needs more "
        "masks than components, and collapses where they are about as many."
        + _OF_OTHERS
        * (found.methods[0].name == OTHERS),
        sentences,
        {
            "correlation against cost": drawn["budget"]["png"],
            "correlation against the share of ablated components": drawn["alphas"]["png"],
        },
        [table],
    )


def _images(found: Findings, drawn: Mapping[str, Mapping[str, bytes]]) -> Section | None:
    if not found.examples:
        return None
    pictures = {
        f"{one.name}, {one.label}, {found.output} {one.output:.2f}": drawn[f"image-{one.place}"][
            "png"
        ]
        for one in found.examples
    }
    rows = []
    for one in found.examples:
        weights = found.weights[one.place]
        count = min(_TOP, len(found.components))
        for side, highest in (("raise", True), ("lower", False)):
            chosen = weights.topk(count, largest=highest)
            named = (
                f"{found.components.name(number)} ({value:+.2g})"
                for number, value in zip(
                    chosen.indices.tolist(), chosen.values.tolist(), strict=True
                )
            )
            name = f"{one.name}, {one.label}" if highest else ""
            rows.append([name, f"{side} its output most", ", ".join(named)])
    return Section(
        "What images rest on",
        "Beside the image: predicted and true outputs under fresh masks that ablate "
        f"{percent(found.shown_alpha)}; on the dashed line both are equal. Below: what the "
        "components of each layer add to its output, those that raise it and those that lower it, "
        "with a dot for each of the highest and the lowest.",
        pictures=pictures,
        tables=[Table(["image", "", "components"], rows)],
    )


def _shared(found: Findings, drawn: Mapping[str, Mapping[str, bytes]]) -> Section:
    rows = []
    for label in list(found.class_means())[:_CLASSES]:
        images = int((found.labels == label).sum())
        tops = [
            f"{found.components.name(number)} ({value:+.2g}, {share:.0%})"
            for number, value, share in found.class_tops(label, _TOP)
        ]
        rows.append([f"{found.classes[label]} ({images})", ", ".join(tops)])
    return Section(
        "What classes share",
        "What the highest components of each class add to the images of every class, on average: "
        "a line that is blue in one column serves that class alone. In the table, in brackets what "
        "a component adds on average, and the share of the class's images that have it among "
        f"their own {_TOP} highest.",
        pictures={"mean attribution by component and class": drawn["classes"]["png"]},
        tables=[Table(["class (images)", "highest components"], rows)],
    )


def correlations_csv(found: Findings) -> str:
    """A line for every method, number of passes and share of ablated components."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "passes", "alpha", "images", "correlation", "low", "high"))
    methods = {(one.name, one.passes): one for one in found.methods}
    for curve in found.curves.values():
        methods |= {(one.name, one.passes): one for one in curve}
    for one in methods.values():
        for alpha, values in one.correlations.items():
            ends = one.at(alpha)
            writer.writerow(
                (one.name, one.passes, alpha, len(values), ends.value, ends.low, ends.high)
            )
    return text.getvalue()


def classes_csv(found: Findings) -> str:
    """A line for every component: what it adds on average to all images, and to those of classes.

    Components stand in the order of the model.
    """
    means = found.class_means()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("component", "mean", "mean_absolute", *(found.classes[one] for one in means)))
    average, absolute = found.weights.mean(0), found.weights.abs().mean(0)
    for number, name in enumerate(found.components.names()):
        own = (float(one[number]) for one in means.values())
        writer.writerow((name, float(average[number]), float(absolute[number]), *own))
    return text.getvalue()
