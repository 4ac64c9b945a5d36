"""What follows from the coverage, impartiality and mistakes of suites."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass

from aim_plugins.core.errors import first_few
from aim_plugins.sweep.page import Section, Table
from aim_plugins.sweep.paired import Interval
from vision_bench.coverage.questions.front import (
    Answer,
    show_interval,
    show_number,
    show_percent,
    shown_labels,
)
from vision_bench.coverage.questions.pictures import Correlations, draw_correlations, draw_suites
from vision_bench.coverage.questions.settings import CorrelationSettings
from vision_bench.coverage.questions.statistics import pearson, sign_of

ALL, SIZE, MIXTURE = "all suites", "of one size", "of one size and mixture"
EVENNESS, MISTAKES, INPUTS = "impartiality J", "mistakes found", "number of inputs"
_SHORT = {EVENNESS: "J", MISTAKES: "mistakes", INPUTS: "inputs"}
_SHORT |= {ALL: "all", SIZE: "one size", MIXTURE: "one mixture"}
_NOTE = (
    "Pearson's r over suites, with Fisher's 95 % interval, which takes suites for independent; "
    "they are drawn from one data set and may share images. Grey: over all suites, where size "
    "alone raises coverage and mistakes. Blue: after taking off the mean of suites of one size. "
    "Red: of one size and one share of attacked images, where chance alone makes the difference. "
    "J is the entropy of the predictions over log k, k all classes of the model."
)


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        size: Number of inputs.
        mixture: Share of attacked ones.
        run: Which draw it is.
        coverage: Coverage by label.
        impartiality: How evenly predictions spread over the classes.
        mistakes: Inputs that the model gets wrong.
    """

    size: int
    mixture: float
    run: int
    coverage: Mapping[str, float]
    impartiality: float
    mistakes: int


def correlate(suites: Sequence[Suite], label: str) -> Correlations:
    """A criterion's correlations with what makes a suite good, and with its size.

    Args:
        suites: All suites.
        label: The criterion.
    """
    coverage = [one.coverage[label] for one in suites]
    sizes: list[Hashable] = [one.size for one in suites]
    cells: list[Hashable] = [(one.size, one.mixture) for one in suites]
    panels: dict[str, dict[str, Interval]] = {}
    for name, values in (
        (EVENNESS, [one.impartiality for one in suites]),
        (MISTAKES, [float(one.mistakes) for one in suites]),
    ):
        panels[name] = {
            ALL: pearson(coverage, values),
            SIZE: pearson(coverage, values, sizes),
            MIXTURE: pearson(coverage, values, cells),
        }
    panels[INPUTS] = {ALL: pearson(coverage, [float(one.size) for one in suites])}
    return Correlations(label, panels)


def answer_of(
    suites: Sequence[Suite], success: Interval | None, settings: CorrelationSettings, data: str
) -> Answer:
    """The answer, for readers.

    Args:
        suites: All suites, no two the same.
        success: Share of images that the attack fools the model on; None where none is attacked.
        settings: What was asked.
        data: What a person calls the data set.
    """
    every = {label: correlate(suites, label) for label in suites[0].coverage}
    labels = shown_labels(every)
    drawn = draw_correlations([every[label] for label in labels])
    scatter = _scatter(suites, labels, settings)
    columns = ["criterion"]
    pairs = [(EVENNESS, ALL), (EVENNESS, SIZE), (EVENNESS, MIXTURE), (MISTAKES, ALL)]
    pairs += [(MISTAKES, SIZE), (MISTAKES, MIXTURE), (INPUTS, ALL)]
    columns += [f"{_SHORT[panel]}: {_SHORT[condition]}" for panel, condition in pairs]
    rows = [[x, *(_cell(every[x].panels[p][c], c) for p, c in pairs)] for x in labels]
    section = Section(
        "Correlation",
        _NOTE,
        _sentences(every, labels),
        {"correlations of coverage": drawn["png"], "each point is a suite": scatter["png"]},
        [Table(columns, rows), _suites(suites, settings, success)],
    )
    return Answer(
        settings.QUESTION,
        "Are suites of more coverage better?",
        data,
        _summary(every, labels, len(suites)),
        columns,
        rows,
        [section],
        {f"correlation.{kind}": content for kind, content in drawn.items()}
        | {f"suites.{kind}": content for kind, content in scatter.items()},
        ["criterion", "with", "among", "r", "low", "high"],
        _lines(every),
        {
            "success": success,
            "correlations": {label: one.panels for label, one in every.items()},
            "suites": [asdict(one) for one in suites],
        },
    )


def _lines(every: Mapping[str, Correlations]) -> list[list[object]]:
    return [
        [label, panel, condition, one.value, one.low, one.high]
        for label, each in every.items()
        for panel, conditions in each.panels.items()
        for condition, one in conditions.items()
    ]


def _cell(one: Interval, condition: str) -> str:
    """A correlation; over all suites, where it says little, without its interval."""
    return show_number(one.value) if condition == ALL else show_interval(one)


def _scatter(
    suites: Sequence[Suite], labels: Sequence[str], settings: CorrelationSettings
) -> dict[str, bytes]:
    """Mistakes against coverage, with a colour for each of up to three sizes."""
    chosen = [settings.sizes[0], settings.sizes[len(settings.sizes) // 2], settings.sizes[-1]]
    groups = [f"{size} inputs" for size in dict.fromkeys(chosen)]
    points = {
        label: [(float(x.mistakes), x.coverage[label], f"{x.size} inputs") for x in suites]
        for label in labels
    }
    return draw_suites(points, groups, "mistakes found")


def _sentences(every: Mapping[str, Correlations], labels: Sequence[str]) -> list[str]:
    found = []
    larger = [x for x in labels if sign_of(every[x].panels[INPUTS][ALL]) > 0]
    if larger:
        found.append(
            f"{first_few(larger, 14)}: coverage rises with the number of inputs, so that a "
            "correlation over suites of several sizes shows size."
        )
    for panel, noun in ((MISTAKES, "more mistakes"), (EVENNESS, "more even predictions")):
        for condition in (SIZE, MIXTURE):
            found += _verdicts(every, labels, panel, condition, noun)
    return found


def _verdicts(
    every: Mapping[str, Correlations], labels: Sequence[str], panel: str, condition: str, noun: str
) -> list[str]:
    signs = {x: every[x].panels[panel][condition] for x in labels}
    found = []
    for sign, verb in ((1, "go with"), (-1, "go against")):
        if chosen := [x for x, one in signs.items() if sign_of(one) == sign]:
            found.append(
                f"{first_few(chosen, 14)}: among suites {condition}, higher values {verb} {noun}."
            )
    silent = [x for x, one in signs.items() if sign_of(one) == 0]
    if len(silent) == len(labels):
        return [f"No criterion: among suites {condition}, higher values go with {noun}."]
    if silent and condition == SIZE:
        found.append(
            f"{first_few(silent, 14)}: among suites {condition}, coverage does not tell those of "
            f"{noun} from others."
        )
    return found


def _summary(every: Mapping[str, Correlations], labels: Sequence[str], count: int) -> str:
    def rising(panel: str, condition: str) -> int:
        return sum(sign_of(every[x].panels[panel][condition]) > 0 for x in labels)

    return (
        f"Over {count} suites, the coverage of {rising(MISTAKES, ALL)} of {len(labels)} criteria "
        f"rises with the mistakes found; of {rising(MISTAKES, SIZE)} among suites of one size, and "
        f"of {rising(MISTAKES, MIXTURE)} among those of one size and mixture. With impartiality it "
        f"rises for {rising(EVENNESS, ALL)}, {rising(EVENNESS, SIZE)} and "
        f"{rising(EVENNESS, MIXTURE)}."
    )


def _suites(
    suites: Sequence[Suite], settings: CorrelationSettings, success: Interval | None
) -> Table:
    rows = []
    for size in settings.sizes:
        for mixture in settings.mixtures:
            own = [one for one in suites if (one.size, one.mixture) == (size, mixture)]
            if not own:
                continue
            evenness = [one.impartiality for one in own]
            mistakes = [one.mistakes for one in own]
            rows.append(
                [
                    f"{size} inputs, {100 * mixture:g} % attacked",
                    str(len(own)),
                    f"{min(evenness):.3f} to {max(evenness):.3f}",
                    f"{min(mistakes)} to {max(mistakes)}",
                ]
            )
    title = "Suites drawn"
    if success is not None:
        title += f"; {settings.attacks[0]} fools the model on {show_percent(success)} of the images"
    return Table(("suites", "distinct", EVENNESS, MISTAKES), rows, title)
