"""Which inputs to label first: those that add most to coverage, beside what DeepGini would say.

Coverage asks for inputs unlike those of the suite, DeepGini (Feng et al., ISSTA 2020) for inputs of
whose answer the model is unsure. Which of them finds the model's mistakes is measured on labelled
images wherever there are any, against orders drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import UnitCriterion
from aim_plugins.coverage.faults import apfd, faults_found, random_apfd, random_faults_found
from aim_plugins.coverage.gains import prioritize
from aim_plugins.coverage.growth import Curves, growth, growth_curves, thinned
from aim_plugins.coverage.settings import GINI
from aim_plugins.coverage.uncertainty import largest_first
from vision_bench.coverage.candidates import Candidates
from vision_bench.data.dataset import VisionData


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
class Judgement:
    """Which mistakes of the model orders of labelled images find.

    Attributes:
        on: What the images are.
        inputs: Number of images.
        mistakes: How many the model gets wrong.
        curves: Mistakes found against images, by order.
        areas: Area under these curves by order (APFD), with the mean of random ones as "random" and
            their standard deviation as "spread"; empty where there is no mistake.
    """

    on: str
    inputs: int
    mistakes: int
    curves: Curves
    areas: Mapping[str, float]

    @property
    def best(self) -> str | None:
        """What finds most mistakes: "coverage", `GINI`, or None if chance does as well."""
        if not self.areas:
            return None
        best = max("coverage", GINI, key=self.areas.__getitem__)
        above = self.areas[best] - self.areas["random"]
        return best if above > 1.96 * self.areas["spread"] else None


@dataclass(frozen=True)
class Priority:
    """The inputs worth labelling first, and how good that order is.

    Attributes:
        criterion: What says what an input adds.
        by: The order: `GINI`, or the criterion.
        candidates: Number of candidates.
        ranked: The first inputs.
        coverage: Coverage against inputs: "inputs", "coverage" by what each adds, "DeepGini", and
            "random" with its band "low" and "high".
        judgement: Which mistakes the orders find, on the candidates or else on the suite.
    """

    criterion: str
    by: str
    candidates: int
    ranked: tuple[Ranked, ...]
    coverage: Curves
    judgement: Judgement

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Priority:
        """Reads what `to_json` wrote."""
        ranked = tuple(Ranked(**one) for one in content["ranked"])
        return cls(**{**content, "ranked": ranked, "judgement": Judgement(**content["judgement"])})


class Orders:
    """Candidates in the order of what each adds, and in that of DeepGini.

    Args:
        criterion: What is covered already.
        found: What a pass says of the candidates.
    """

    def __init__(self, criterion: UnitCriterion, found: Candidates) -> None:
        self.criterion, self.found = criterion, found
        self.by_gain = prioritize(criterion, found.fresh).order
        self.by_gini = largest_first(found.gini)

    def coverage(self, seed: int) -> Curves:
        """Coverage along both orders, and along random ones."""
        orders = {"coverage": self.by_gain, GINI: self.by_gini}
        return growth_curves(self.criterion, self.found.fresh, orders, seed)

    def judge(self, labels: Int[Tensor, " images"], judged_on: str) -> Judgement:
        """Which mistakes of the model the orders find.

        Args:
            labels: Of the data set that the candidates are from.
            judged_on: What these are.
        """
        faulty = self.found.predicted != labels[self.found.positions]
        mistakes, inputs = int(faulty.sum()), len(faulty)
        band = random_faults_found(inputs, mistakes)
        orders = {"coverage": self.by_gain, GINI: self.by_gini}
        found = {name: faults_found(order, faulty) for name, order in orders.items()}
        curves = thinned(found | band.curves)
        areas: dict[str, float] = {}
        if mistakes:
            mean, spread = random_apfd(inputs, mistakes)
            areas = {"coverage": apfd(self.by_gain, faulty), GINI: apfd(self.by_gini, faulty)}
            areas |= {"random": mean, "spread": spread}
        return Judgement(judged_on, inputs, mistakes, curves, areas)

    def ranked(self, data: VisionData, count: int, by: str) -> tuple[Ranked, ...]:
        """The first inputs of an order.

        Args:
            data: The data set that the candidates are from.
            count: How many.
            by: `GINI`, or else by what each adds.
        """
        found, order = self.found, self.by_gini if by == GINI else self.by_gain
        along = growth(self.criterion, found.fresh, order[:count])
        gains = (along.diff() / self.criterion.worth).round().long()
        places = torch.empty_like(self.by_gini)
        places[self.by_gini] = torch.arange(1, len(order) + 1)
        return tuple(
            Ranked(
                data.names[int(found.positions[one])],
                int(found.positions[one]),
                gain,
                int(found.fresh.counts[one]),
                float(found.gini[one]),
                int(places[one]),
                data.classes[int(found.predicted[one])],
            )
            for one, gain in zip(order[:count].tolist(), gains.tolist(), strict=True)
        )


def sentences(priority: Priority) -> list[str]:
    """What to make of an order, in sentences."""
    by, count = priority.criterion, len(priority.ranked)
    useful = sum(one.gain > 0 for one in priority.ranked)
    order = "DeepGini" if priority.by == GINI else f"what each adds to {by}"
    found = [
        f"The first {count} of {priority.candidates} candidates, by {order}; {useful} of them add "
        f"to {by}."
    ]
    judgement = priority.judgement
    if not judgement.areas:
        return [*found, f"The model makes no mistake on {judgement.on} by which to judge orders."]
    area, gini, random, spread = (
        judgement.areas[name] for name in ("coverage", GINI, "random", "spread")
    )
    found.append(
        f"Judged by the {judgement.mistakes} mistakes that the model makes on {judgement.on}: the "
        f"area under the curve of mistakes found is {area:.3f} by {by}, {gini:.3f} by DeepGini, "
        f"and {random:.3f} ± {1.96 * spread:.3f} for 95 % of random orders."
    )
    best = judgement.best
    if best is None:
        found.append("Neither order finds mistakes earlier than a random one.")
    else:
        name = GINI if best == GINI else by
        found.append(f"To find mistakes, label by {name} (prioritize_by={name}).")
    return found
