"""Which inputs to label first: those that add most to coverage, beside what DeepGini would say.

Coverage asks for inputs unlike those of the suite, DeepGini (Feng et al., ISSTA 2020) for inputs of
whose answer the model is unsure. Which of them finds the model's mistakes is measured on labelled
images wherever there are any, against orders drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import Criterion, UnitCriterion
from aim_plugins.coverage.faults import apfd, faults_found, random_apfd, random_faults_found
from aim_plugins.coverage.gains import FreshUnits, fresh_units, prioritize
from aim_plugins.coverage.growth import growth, random_growth
from aim_plugins.coverage.priority_pictures import GINI
from aim_plugins.coverage.uncertainty import deep_gini
from vision_bench.coverage.settings import RunSettings
from vision_bench.coverage.subject import Subject
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.data.dataset import VisionData
from vision_bench.data.image_folders import class_folders
from vision_bench.data.unlabelled import UnlabelledImages

_POINTS = 60
"""Points of a curve that are kept."""
_ORDERS = 50
"""Random orders that a band rests on."""

Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Ranked:
    """An input in the order of labelling.

    Attributes:
        name: The image.
        position: Where it stands among the candidates.
        gain: Units that it adds to what the suite and the inputs before it cover.
        alone: Units that it would add were it the only one.
        gini: DeepGini, from 0 where the model is certain.
        gini_rank: Its place in the order of DeepGini, counted from 1.
        predicted: The class that the model predicts.
    """

    name: str
    position: int
    gain: int
    alone: int
    gini: float
    gini_rank: int
    predicted: str


@dataclass(frozen=True)
class Priority:
    """The inputs worth labelling first, and how good that order is.

    Attributes:
        criterion: What says what an input adds.
        candidates: Number of candidates.
        before: The criterion's value before any of them.
        after: Its value with all of them.
        ranked: The first inputs.
        coverage: Curves of coverage against inputs: "inputs", "coverage", "DeepGini", "random",
            "low", "high".
        faults: Curves of mistakes found against inputs, of the same names; none without labels.
        apfd: Area under these curves by order, with the mean and standard deviation of a random one
            as "random" and "spread"; none without labels.
        mistakes: Number of inputs that the model gets wrong; None without labels.
    """

    criterion: str
    candidates: int
    before: float
    after: float
    ranked: tuple[Ranked, ...]
    coverage: Curves
    faults: Curves
    apfd: Mapping[str, float]
    mistakes: int | None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Priority:
        """Reads what `to_json` wrote."""
        ranked = tuple(Ranked(**one) for one in content["ranked"])
        return cls(**{**content, "ranked": ranked})


def load_candidates(
    settings: RunSettings, suite: ClassificationData
) -> tuple[VisionData, Int[Tensor, " candidates"] | None]:
    """The candidates, and their labels where they lie in folders named by the classes.

    Raises:
        FileNotFoundError: If the folder holds no image.
    """
    if settings.candidates is None:
        return suite, suite.labels
    root, preprocessing = settings.candidates, suite.preprocessing
    assert preprocessing is not None  # `load` sets that of the model
    folders = class_folders(Path(root))
    if folders and set(folders) <= set(suite.classes):
        data = load_dataset("folder", root, preprocessing=preprocessing, on_error=settings.on_error)
        places = torch.tensor([suite.classes.index(name) for name in data.classes])
        return data, places[data.labels]
    unlabelled = UnlabelledImages(
        root, suite.classes, preprocessing=preprocessing, on_error=settings.on_error
    )
    return unlabelled, None


def choose_criterion(settings: RunSettings, criteria: Mapping[str, Criterion]) -> UnitCriterion:
    """The criterion that says what an input adds.

    Raises:
        ValueError: If the one that is asked for counts no units, or none does.
    """
    wanted = settings.prioritize_by
    names = [wanted] if wanted else [name for name in ("KMNC", *criteria) if name in criteria]
    for name in names:
        found = criteria[name]
        if isinstance(found, UnitCriterion):
            return found
    raise ValueError(
        f"prioritize_by={wanted!r} counts no units that an input could add: name another, such as "
        "KMNC or IDC"
    )


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a pass says of candidates.

    Attributes:
        positions: Where they stand in their data set.
        fresh: The units that each would add.
        gini: DeepGini of each.
        predicted: The class that the model predicts.
    """

    positions: Int[Tensor, " candidates"]
    fresh: FreshUnits
    gini: Float[Tensor, " candidates"]
    predicted: Int[Tensor, " candidates"]


def look_at(subject: Subject, data: VisionData, criterion: UnitCriterion) -> Candidates:
    """Runs the model on candidates; what they add is held in four bytes a unit."""
    positions, units, gini, predicted = [], [], [], []
    for seen in subject.pass_over(data, title="candidates"):
        positions.append(seen.positions)
        found = criterion.units(seen.batch)
        units.append(found.int() if int(found.max()) < 2**31 else found)
        gini.append(deep_gini(seen.logits.double().softmax(1)))
        predicted.append(seen.batch.classes)
    fresh = fresh_units(criterion, (part.long() for part in units))
    return Candidates(torch.cat(positions), fresh, torch.cat(gini), torch.cat(predicted))


def rank(
    criterion: UnitCriterion,
    found: Candidates,
    data: VisionData,
    labels: Int[Tensor, " candidates"] | None,
    count: int,
    seed: int,
) -> Priority:
    """Orders candidates, and judges the order.

    Args:
        criterion: What is covered already.
        found: What a pass says of the candidates.
        data: Where they are from.
        labels: Their labels, where known.
        count: How many to list.
        seed: Of the random orders.
    """
    ranking = prioritize(criterion, found.fresh)
    order = found.gini.argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(1, len(order) + 1)
    alone = torch.from_numpy(found.fresh.counts)
    ranked = tuple(
        Ranked(
            data.names[int(found.positions[one])],
            int(found.positions[one]),
            gain,
            int(alone[one]),
            float(found.gini[one]),
            int(places[one]),
            data.classes[int(found.predicted[one])],
        )
        for one, gain in zip(ranking.order.tolist(), ranking.gains.tolist(), strict=True)
    )[:count]
    band = random_growth(criterion, found.fresh, orders=_ORDERS, seed=seed)
    covered = growth(criterion, found.fresh, ranking.order)
    coverage = _thinned(
        {
            "coverage": covered,
            GINI: growth(criterion, found.fresh, order),
            "random": band.mean,
            "low": band.low,
            "high": band.high,
        }
    )
    faulty = None if labels is None else found.predicted != labels[found.positions]
    return Priority(
        criterion.name,
        len(found.gini),
        float(criterion.value),
        float(covered[-1]),
        ranked,
        coverage,
        {} if faulty is None else _fault_curves(faulty, ranking.order, order),
        {} if faulty is None else _areas(faulty, ranking.order, order),
        None if faulty is None else int(faulty.sum()),
    )


def _fault_curves(faulty: Bool[Tensor, " candidates"], order: Tensor, gini_order: Tensor) -> Curves:
    band = random_faults_found(len(faulty), int(faulty.sum()))
    return _thinned(
        {
            "coverage": faults_found(order, faulty).double(),
            GINI: faults_found(gini_order, faulty).double(),
            "random": band.mean,
            "low": band.low.double(),
            "high": band.high.double(),
        }
    )


def _areas(
    faulty: Bool[Tensor, " candidates"], order: Tensor, gini_order: Tensor
) -> dict[str, float]:
    if not faulty.any():
        return {}
    mean, spread = random_apfd(len(faulty), int(faulty.sum()))
    return {
        "coverage": apfd(order, faulty),
        GINI: apfd(gini_order, faulty),
        "random": mean,
        "spread": spread,
    }


def _thinned(curves: Mapping[str, Float[Tensor, " budgets"]]) -> Curves:
    length = len(next(iter(curves.values())))
    kept = sorted({round(place * (length - 1) / _POINTS) for place in range(_POINTS + 1)})
    return {"inputs": [float(one) for one in kept]} | {
        name: [float(curve[one]) for one in kept] for name, curve in curves.items()
    }


def sentences(priority: Priority, by: str) -> list[str]:
    """What to make of an order, in sentences."""
    useful = sum(one.gain > 0 for one in priority.ranked)
    found = [
        f"The first {len(priority.ranked)} of {priority.candidates} candidates, by what each adds "
        f"to {by}; {useful} of them add something."
    ]
    if priority.apfd:
        area, random, spread = (priority.apfd[name] for name in ("coverage", "random", "spread"))
        gini = priority.apfd[GINI]
        better = "DeepGini" if gini > area else f"the order by {by}"
        found.append(
            f"Of the model's {priority.mistakes} mistakes among them, the area under the curve of "
            f"those found is {area:.3f} by {by} and {gini:.3f} by DeepGini, where random orders "
            f"have {random:.3f} ± {1.96 * spread:.3f}: to find mistakes, take {better}."
        )
        if abs(area - random) <= 1.96 * spread:
            found.append(f"The order by {by} cannot be told from a random one in that.")
    return found
