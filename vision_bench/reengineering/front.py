"""What `reengineer run` shows: terminal, files, pictures, and the report page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aim_plugins.sweep.overview import Overview
from aim_plugins.sweep.page import Page, Section, Table, publish_page
from vision_bench.reengineering.findings import BASELINES, RESTRICTED, WHOLE, Findings, Held
from vision_bench.reengineering.latency import Latency
from vision_bench.reengineering.pictures import draw_kept, draw_latency, draw_modules, draw_training
from vision_bench.reengineering.smaller import MASKED, REMOVED, Smaller
from vision_bench.reengineering.tuning import TUNED_MODULE, TUNED_WHOLE
from vision_bench.reengineering.wording import (
    numbers,
    show_difference,
    show_macs,
    show_share,
    verdict,
)

HEADLINE = ("ONNX Runtime", 16)
"""Runtime and batch of the latency that the summary tells."""

_WHOLE = 0.99
"""A share above this is no module to speak of."""

_COLUMNS = ("", "retained", "MACs", "accuracy", "against restricted")


def publish(folder: Path, found: Findings, manifest: Mapping[str, Any]) -> Path:
    """Writes and prints everything; returns the report's path.

    Raises:
        OSError: If a file cannot be written.
    """
    drawn = {
        "modules": draw_modules(found),
        "training": draw_training(found),
        "kept": draw_kept(found),
    }
    model, names = str(manifest.get("model", "A model")), ", ".join(found.problem.names)
    title = f"{model}: {names}"
    sentences = tell(found)
    worth = Section(
        "What the module is worth",
        "In brackets 95 % intervals over test images (Wilson's), of differences paired (Agresti "
        "and Min's), with McNemar's exact p, each for itself: of many, some are small by chance. "
        "Restricted: the model's best answer among the problem's classes, which costs no training. "
        "The new head is trained on the whole model's outputs, as the module's own is on what is "
        "left. Largest and random: as much of the model, chosen by the weights or by chance, with "
        "a linear head trained on it. Fine-tuned: all weights that are left, trained further. MACs "
        "are multiply-accumulates for one image, counted as one each, without masked weights. "
        "Another seed would give other masks and other random choices, of which there is one each.",
        sentences,
        {"accuracy against what is retained": drawn["modules"]["png"]},
        [Table(_COLUMNS, _summary_rows(found))],
    )
    path = Section(
        "Along the training path",
        "Modules of falling size: those that no other one beats in both validation accuracy and "
        "share, and the best of every size between. The table has a line for each, and the picture "
        f"a dot. {found.validation_images} validation images select, and train nothing; test "
        "images were looked at once, at the end. Epochs count from 0.",
        [found.stopped] if found.stopped else [],
        {"accuracy and share by epoch": drawn["training"]["png"]},
        [Table(_path_columns(found), _path_rows(found))],
    )
    where = Section(
        "Where it was cut",
        "Of each layer in the order of the model, the share that the selected module retains.",
        pictures={"retained share by layer": drawn["kept"]["png"]},
    )
    sections, others = [worth, path, where], ["mask/"]
    if found.smaller is not None:
        drawn["latency"] = draw_latency(found.smaller)
        sections.insert(1, _smaller(found, found.smaller, drawn["latency"]["png"]))
        others.append("module/")
    return publish_page(
        folder,
        Page("Re-engineering", title, found.title, sentences[0], sections),
        manifest,
        files={"modules.csv": modules_csv(found)},
        pictures={
            f"{name}.{kind}": content
            for name, picture in drawn.items()
            for kind, content in picture.items()
        },
        table=Overview(f"{title}", columns=_COLUMNS, rows=_summary_rows(found)).as_text(),
        sentences=[*sentences, *(tell_smaller(found, found.smaller) if found.smaller else [])],
        others=others,
    )


def tell(found: Findings) -> list[str]:
    """What the study found, in sentences."""
    chosen, module = found.chosen, found.modules[found.selected]
    answers, restricted = module.answers, found.baselines[RESTRICTED]
    kept = f"{module.ratio:.1%} of the weights ({round(module.ratio * found.weights):,})"
    if found.granularity == "channel":
        kept += f" and {chosen.share:.1%} of the MACs"
    sentences = [
        f"The module retains {kept} and tells {show_share(answers)} of "
        f"{len(answers.right)} test images right; the whole model restricted to these classes "
        f"{show_share(restricted)}, over all its classes {show_share(found.baselines[WHOLE])}.",
        f"Against the restricted model: {verdict(answers, restricted)}.",
    ]
    same = "the same share" if found.granularity == "weight" else "as many MACs"
    for kind, controls in found.controls.items():
        other = controls[found.selected].answers
        sentences.append(f"Against {kind} of {same}: {verdict(answers, other)}.")
    if chosen.share > _WHOLE:
        sentences.append(
            "Hardly anything was removed, so that heads alone differ: give more n_epochs, a larger "
            "lr_mask or alpha, or a tolerance."
        )
    if found.tuned:
        tuned = found.tuned[TUNED_MODULE]
        others = [
            f"{name.partition(',')[0]} fine-tuned as long: {verdict(tuned, one)}"
            for name, one in found.tuned.items()
            if name != TUNED_MODULE
        ]
        sentences.append(
            f"Fine-tuned, it tells {show_share(tuned)} right; against the restricted model: "
            f"{verdict(tuned, restricted)}; against the {'; against '.join(others)}."
        )
    if found.fell_short:
        sentences.append(_fell_short(found))
    return sentences


def _fell_short(found: Findings) -> str:
    chosen, choice = found.chosen, found.choice
    what = "weights" if found.granularity == "weight" else "MACs"
    if choice.most is not None:
        return (
            f"No module has {choice.most:.2%} or less of the {what} (this "
            f"one {chosen.share:.2%}): train longer, or give a larger alpha or lr_mask."
        )
    return (
        f"No module reached {choice.least:.1%} on the validation images (this one "
        f"{chosen.accuracy:.1%}): it is the one of the highest accuracy less share."
    )


def tell_smaller(found: Findings, smaller: Smaller) -> list[str]:
    """What the module is as a network of its own, in sentences."""
    (before, after), (large, small) = smaller.parameters, smaller.megabytes
    first, second = smaller.macs
    sentences = [
        f"{before:,} parameters became {after:,} (its head among them), {show_macs(first)} MACs "
        f"{show_macs(second)}, and {large:.2f} MB of ONNX {small:.2f} MB."
    ]
    kind = MASKED if found.granularity == "weight" else REMOVED
    told = next(one for one in smaller.latencies if (one.runtime, one.batch) == HEADLINE)
    low, high = told.spread[kind]
    every = [one.speed_up[kind] for one in smaller.latencies]
    unclear = ", which cannot be told from no difference" * (low <= 1 <= high)
    sentences.append(
        f"In {told.runtime} at batch {told.batch} it is {told.speed_up[kind]:.2f} times as fast as "
        f"the whole model [{low:.2f}, {high:.2f}]{unclear}; over all runtimes and batches "
        f"{min(every):.2f} to {max(every):.2f} times."
    )
    if kind == MASKED:
        sentences.append(
            "Masked weights are zeros, by which these runtimes gain nothing: "
            "granularity='channel' removes channels instead."
        )
    return sentences


def _smaller(found: Findings, smaller: Smaller, picture: bytes) -> Section:
    names = list(smaller.latencies[0].seconds)
    rows = [
        [
            one.runtime,
            str(one.batch),
            *(f"{1000 * one.seconds[name]:.2f}" for name in names),
            *(_times(one, name) for name in names[1:]),
        ]
        for one in smaller.latencies
    ]
    threads = smaller.latencies[0].threads
    return Section(
        "Smaller and faster",
        f"Median milliseconds for a batch on the CPU, with {threads} "
        f"{'thread' if threads == 1 else 'threads'}, in float32, measured in turn; times faster is "
        "the median of the ratios of single rounds, in brackets their quartiles, and not the ratio "
        "of the medians beside it. Masked: the same network with zeros "
        "in the place of what is not retained. Removed: without the channels that are closed, "
        "but for those that fill up blocks of round_to, which the table above does not count; "
        + ("fine-tuned afterwards." if found.tuned else "with the same outputs."),
        tell_smaller(found, smaller),
        {"times faster than the whole model": picture},
        [
            Table(
                [
                    "runtime",
                    "batch",
                    *(f"{name} (ms)" for name in names),
                    *(f"{name}, times faster" for name in names[1:]),
                ],
                rows,
            )
        ],
    )


def _times(one: Latency, name: str) -> str:
    low, high = one.spread[name]
    return f"{one.speed_up[name]:.2f} [{low:.2f}, {high:.2f}]"


def modules_csv(found: Findings) -> str:
    """A line for every module, and for what it is held against."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("what", "epoch", "alpha", "selected", "retained_ratio", "share", "macs", "images",
         "validation_accuracy", "accuracy", "low", "high")
    )  # fmt: skip
    for name, answers in found.baselines.items():
        fixed = (BASELINES[name], "", "", "", 1, 1, found.macs, len(answers.right), "")
        writer.writerow((*fixed, *numbers(answers)))
    for name, answers in found.tuned.items():
        writer.writerow((name, *("",) * 6, len(answers.right), "", *numbers(answers)))
    for kind, series in {"module": found.modules, **found.controls}.items():
        for place, (epoch, one) in enumerate(zip(found.path, series, strict=True)):
            chosen, own = int(place == found.selected), found.share_of(one)
            validation = epoch.accuracy if kind == "module" else ""
            writer.writerow(
                (kind, epoch.number, epoch.alpha, chosen, one.ratio, own, one.macs,
                 len(one.answers.right), validation, *numbers(one.answers))
            )  # fmt: skip
    return text.getvalue()


def _summary_rows(found: Findings) -> list[list[str]]:
    restricted = found.baselines[RESTRICTED]
    rows = [
        [BASELINES[name], "100%", show_macs(found.macs), show_share(answers),
         "" if name == RESTRICTED else show_difference(answers, restricted)]
        for name, answers in found.baselines.items()
    ]  # fmt: skip
    place = found.selected
    lines = [("module", _size(found.modules[place]), found.modules[place].answers)]
    for name, answers in found.tuned.items():
        kind = name.partition(",")[0]
        own = found.controls[kind][place] if kind in found.controls else found.modules[place]
        lines.append((name, rows[0][1:3] if name == TUNED_WHOLE else _size(own), answers))
    lines += [
        (kind, _size(series[place]), series[place].answers)
        for kind, series in found.controls.items()
    ]
    rows += [
        [name, *costs, show_share(answers), show_difference(answers, restricted)]
        for name, costs, answers in lines
    ]
    return rows


def _size(held: Held) -> list[str]:
    return [f"{held.ratio:.1%}", show_macs(held.macs)]


def _path_columns(found: Findings) -> list[str]:
    return ["epoch", "alpha", "retained", "MACs", "validation", "test", *found.controls]


def _path_rows(found: Findings) -> list[list[str]]:
    return [
        [
            f"{epoch.number}{' (selected)' if place == found.selected else ''}",
            f"{epoch.alpha:g}",
            *_size(found.modules[place]),
            f"{epoch.accuracy:.1%}",
            show_share(found.modules[place].answers),
            *(show_share(series[place].answers) for series in found.controls.values()),
        ]
        for place, epoch in enumerate(found.path)
    ]
