"""What follows from the coverage of perturbed images and of real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from aim_plugins.core.errors import first_few
from aim_plugins.sweep.intervals import wilson_interval
from aim_plugins.sweep.page import Exhibit, Section, Table
from aim_plugins.sweep.paired import Interval, mean_interval
from vision_bench.coverage.questions.front import (
    Answer,
    show_interval,
    show_number,
    show_percent,
    shown_labels,
)
from vision_bench.coverage.questions.pictures import draw_added
from vision_bench.coverage.questions.settings import DiversitySettings
from vision_bench.coverage.questions.statistics import sign_of

ORIGINAL = "U_O"
IMPORTANT, RANDOM, REAL = "important pixels", "random pixels", "real images"
KINDS = (IMPORTANT, RANDOM, REAL)

_COLUMNS = ("criterion", "U_O", "+ U_I", "+ U_R", "+ real images", "U_I − U_R", "U_I − real")
_NOTE = (
    "Each suite is U_O and as many images more: the same ones with noise on their most relevant "
    "pixels (U_I), with noise on random pixels (U_R), or other images of the data set. In brackets "
    "and as bars, 95 % intervals of the mean over runs, by Student's law; differences are taken "
    "run by run. All runs share U_O, so that intervals tell of the noise and of the real images "
    "drawn, not of other suites. Of twenty intervals one misses by chance; where all runs agree, "
    "it is a point, and nothing is said of it."
)

Records = Mapping[str, Sequence[Mapping[str, Any]]]


def added(before: Mapping[str, Any], records: Records, kind: str, label: str) -> list[float]:
    """What each run's images of a kind add to a criterion."""
    start = before["coverage"][label]
    return [one["coverage"][label] - start for one in records[kind]]


def difference(records: Records, kind: str, other: str, label: str) -> Interval:
    """By how much more one kind of images adds than another, over runs."""
    pairs = zip(records[kind], records[other], strict=True)
    return mean_interval([a["coverage"][label] - b["coverage"][label] for a, b in pairs])


def answer_of(
    before: Mapping[str, Any],
    records: Records,
    settings: DiversitySettings,
    data: str,
    size: int,
    exhibits: Sequence[Exhibit],
) -> Answer:
    """The answer, for readers.

    Args:
        before: What was found of the suite alone.
        records: What was found with the images of each kind, by run.
        settings: What was asked.
        data: What a person calls the data set.
        size: Images of the suite.
        exhibits: Some images with their noise.
    """
    labels = shown_labels(before["coverage"])
    rows = [_row(before, records, label) for label in labels]
    gains = {
        label: {kind: mean_interval(added(before, records, kind, label)) for kind in KINDS}
        for label in labels
    }
    drawn = draw_added(gains)
    section = Section(
        "Diversity",
        _NOTE,
        _sentences(records, labels),
        {"coverage added by images of each kind": drawn["png"]},
        [Table(_COLUMNS, rows), _accuracy(before, records)],
    )
    return Answer(
        settings.QUESTION,
        "Does noise on important pixels add coverage?",
        data,
        _summary(records, labels, size, settings.runs),
        _COLUMNS,
        rows,
        [section, _gallery(settings, exhibits)],
        {f"diversity.{kind}": content for kind, content in drawn.items()},
        ["criterion", "suite", "run", "coverage", "right", "inputs"],
        _lines(before, records),
        {"before": before, "runs": records},
    )


def _gallery(settings: DiversitySettings, exhibits: Sequence[Exhibit]) -> Section:
    share, std = 100 * settings.pixel_share, settings.noise_std
    note = f"Noise with a standard deviation of {std:g} on {share:g} % of the pixels."
    return Section("Images", note, exhibits=exhibits)


def _row(before: Mapping[str, Any], records: Records, label: str) -> list[str]:
    start = before["coverage"][label]
    means = [start + fmean(added(before, records, kind, label)) for kind in KINDS]
    differences = [difference(records, IMPORTANT, other, label) for other in (RANDOM, REAL)]
    return [label, *map(show_number, [start, *means]), *map(show_interval, differences)]


def _sentences(records: Records, labels: Sequence[str]) -> list[str]:
    found = []
    for other, what in ((RANDOM, "random pixels"), (REAL, "as many real images")):
        verdicts = {
            label: sign_of(difference(records, IMPORTANT, other, label)) for label in labels
        }
        for sign, text in (
            (1, f"noise on important pixels adds more than {what}."),
            (-1, f"noise on important pixels adds less than {what}."),
            (0, f"noise on important pixels cannot be told from {what}."),
        ):
            chosen = [label for label, verdict in verdicts.items() if verdict == sign]
            if chosen:
                found.append(f"{first_few(chosen, 14)}: {text}")
    return found


def _summary(records: Records, labels: Sequence[str], size: int, runs: int) -> str:
    more = sum(sign_of(difference(records, IMPORTANT, RANDOM, one)) > 0 for one in labels)
    less = sum(sign_of(difference(records, IMPORTANT, REAL, one)) < 0 for one in labels)
    return (
        f"Of {len(labels)} criteria, {more} gain more from noise on important pixels than on "
        f"random ones, and {less} gain less from it than from as many real images ({size} images, "
        f"{runs} runs)."
    )


def _accuracy(before: Mapping[str, Any], records: Records) -> Table:
    rows = []
    for name, runs in ((ORIGINAL, [before]), *((kind, records[kind]) for kind in KINDS)):
        right = sum(one["right"] for one in runs) / len(runs)
        share, inputs = right / runs[0]["inputs"], runs[0]["inputs"]
        rows.append([name, show_percent(Interval(share, *wilson_interval(share, inputs)))])
    return Table(("images", "accuracy"), rows, "Accuracy on the added images alone")


def _lines(before: Mapping[str, Any], records: Records) -> list[list[object]]:
    lines: list[list[object]] = []
    every = [(ORIGINAL, "", before)]
    every += [(kind, str(run), one) for kind in KINDS for run, one in enumerate(records[kind])]
    for kind, run, one in every:
        name = kind if kind == ORIGINAL else f"U_O and {kind}"
        for label, value in one["coverage"].items():
            lines.append([label, name, run, value, one["right"], one["inputs"]])
    return lines
