"""What follows from the coverage of suites with attacked inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aim_plugins.core.errors import first_few
from aim_plugins.sweep.page import Exhibit, Section, Table
from aim_plugins.sweep.paired import Interval, mean_interval
from vision_bench.coverage.questions.front import (
    Answer,
    show_interval,
    show_number,
    show_percent,
    shown_labels,
)
from vision_bench.coverage.questions.pictures import draw_changes
from vision_bench.coverage.questions.settings import SensitivitySettings
from vision_bench.coverage.questions.statistics import normalised_changes, sign_of

CLEAN = "other clean images"
_NOTE = (
    "NCov is the change of coverage over the range of all changes of that criterion at that size, "
    "the unchanged suite's 0 among them; where nothing changes it is 0. Bars and brackets are "
    "95 % intervals of the mean over runs, by Student's law; an attack is held against other clean "
    "images run by run. Runs of the largest size share the attacked images, so that intervals "
    "tell of the suites drawn, not of other victims. Of twenty intervals one misses by chance; "
    "where all runs agree, it is a point, and nothing is said of it."
)


@dataclass(frozen=True)
class Run:
    """Coverage of a suite of one size, and with a part replaced.

    Attributes:
        size: Inputs of the suite.
        run: Which draw it is.
        coverage: By "", and by "what,share", coverage by label.
    """

    size: int
    run: int
    coverage: Mapping[str, Mapping[str, float]]

    def change(self, what: str, share: float, label: str) -> float:
        """By how much coverage changes."""
        return self.coverage[f"{what},{share!r}"][label] - self.coverage[""][label]


@dataclass(frozen=True)
class Change:
    """What a criterion makes of a part replaced, over runs.

    Attributes:
        label: The criterion.
        size: Inputs of a suite.
        what: What is put in.
        share: Share that is replaced.
        change: Change of coverage.
        normalised: NCov.
        beyond: By how much more it changes than by other clean images.
    """

    label: str
    size: int
    what: str
    share: float
    change: Interval
    normalised: Interval
    beyond: Interval


def changes_of(runs: Sequence[Run], settings: SensitivitySettings) -> list[Change]:
    """Every change, over runs.

    Args:
        runs: All runs of all sizes.
        settings: What was asked.
    """
    kinds = [(what, share) for what in (CLEAN, *settings.attacks) for share in settings.shares]
    found = []
    for size in settings.sizes:
        own = [one for one in runs if one.size == size]
        for label in own[0].coverage[""]:
            raw = [one.change(*kind, label) for kind in kinds for one in own]
            scaled = normalised_changes(raw)
            for place, (what, share) in enumerate(kinds):
                part = slice(place * len(own), (place + 1) * len(own))
                beyond = [
                    one.change(what, share, label) - one.change(CLEAN, share, label) for one in own
                ]
                found.append(
                    Change(
                        label,
                        size,
                        what,
                        share,
                        mean_interval(raw[part]),
                        mean_interval(scaled[part]),
                        mean_interval(beyond),
                    )
                )
    return found


def answer_of(
    runs: Sequence[Run],
    success: Mapping[str, Interval],
    counts: Mapping[str, tuple[int, int]],
    settings: SensitivitySettings,
    data: str,
    exhibits: Sequence[Exhibit],
) -> Answer:
    """The answer, for readers.

    Args:
        runs: All runs of all sizes.
        success: By attack, the share of images that fool the model.
        counts: By attack, images that do, and images attacked.
        settings: What was asked.
        data: What a person calls the data set.
        exhibits: Some images before and after.
    """
    changes = changes_of(runs, settings)
    labels = shown_labels(runs[0].coverage[""])
    drawn = {
        size: draw_changes(_series(changes, labels, size), settings.shares, size)
        for size in reversed(settings.sizes)
    }
    columns = ["criterion", CLEAN, *(f"{name} − clean" for name in settings.attacks)]
    rows = [_row(changes, label, settings) for label in labels]
    title = f"Change of coverage, {_amount(settings)} replaced"
    first = Section(
        "Sensitivity",
        _NOTE,
        _sentences(changes, labels, settings),
        {f"suites of {size}": one["png"] for size, one in drawn.items()},
        [Table(columns, rows, title), _success(success, counts)],
    )
    return Answer(
        settings.QUESTION,
        "Does coverage notice attacked inputs?",
        data,
        _summary(changes, labels, success, settings),
        columns,
        rows,
        [first, Section("Attacked images", exhibits=exhibits)],
        {f"sensitivity_{x}.{kind}": c for x, one in drawn.items() for kind, c in one.items()},
        _HEADER,
        [_line(one) for one in changes],
        {"success": success, "attacked": counts, "suites": [vars(one) for one in runs]},
    )


_HEADER = (
    "criterion", "size", "replaced_by", "share", "change", "change_low", "change_high", "ncov",
    "ncov_low", "ncov_high", "beyond_clean", "beyond_clean_low", "beyond_clean_high",
)  # fmt: skip


def _line(one: Change) -> list[object]:
    ends = [end for each in (one.change, one.normalised, one.beyond) for end in vars(each).values()]
    return [one.label, one.size, one.what, one.share, *ends]


def _at(changes: Sequence[Change], label: str, size: int, what: str) -> list[Change]:
    return [x for x in changes if (x.label, x.size, x.what) == (label, size, what)]


def _series(
    changes: Sequence[Change], labels: Sequence[str], size: int
) -> dict[str, dict[str, list[Interval]]]:
    names = list(dict.fromkeys(one.what for one in changes))
    return {
        label: {what: [x.normalised for x in _at(changes, label, size, what)] for what in names}
        for label in labels
    }


def _amount(settings: SensitivitySettings) -> str:
    """What is replaced of the largest suites."""
    return f"{100 * settings.shares[-1]:g} % of {settings.sizes[-1]} inputs"


def _row(changes: Sequence[Change], label: str, settings: SensitivitySettings) -> list[str]:
    def find(what: str) -> Change:
        return _at(changes, label, settings.sizes[-1], what)[-1]

    beyond = [show_interval(find(name).beyond) for name in settings.attacks]
    return [label, show_number(find(CLEAN).change.value), *beyond]


def _sentences(
    changes: Sequence[Change], labels: Sequence[str], settings: SensitivitySettings
) -> list[str]:
    size, share = settings.sizes[-1], settings.shares[-1]
    sentences = []
    for name in settings.attacks:
        found = [x for x in changes if (x.size, x.what, x.share) == (size, name, share)]
        verdicts = {x.label: sign_of(x.beyond) for x in found if x.label in labels}
        for sign, text in (
            (1, "raises coverage more than as many other clean images do"),
            (-1, "leaves coverage lower than as many other clean images do"),
            (0, "cannot be told from as many other clean images"),
        ):
            chosen = [label for label, verdict in verdicts.items() if verdict == sign]
            if chosen:
                amount = f"{_amount(settings)} attacked by {name}"
                sentences.append(f"{first_few(chosen, 14)}: {amount} {text}.")
    return sentences


def _summary(
    changes: Sequence[Change],
    labels: Sequence[str],
    success: Mapping[str, Interval],
    settings: SensitivitySettings,
) -> str:
    size, share = settings.sizes[-1], settings.shares[-1]
    parts = []
    for name in settings.attacks:
        found = [x for x in changes if (x.size, x.what, x.share) == (size, name, share)]
        notice = sum(sign_of(x.beyond) > 0 for x in found if x.label in labels)
        parts.append(f"{name} {notice} (it fools the model on {show_percent(success[name])})")
    return (
        f"Of {len(labels)} criteria, so many rise more with {_amount(settings)} "
        f"attacked than with as many other clean images: {', '.join(parts)}."
    )


def _success(success: Mapping[str, Interval], counts: Mapping[str, tuple[int, int]]) -> Table:
    rows = [
        [name, f"{counts[name][0]} of {counts[name][1]}", show_percent(one)]
        for name, one in success.items()
        if math.isfinite(one.value)
    ]
    title = "Images that fool the model, of those it had right; Wilson's interval"
    return Table(("attack", "images", "share"), rows, title)
