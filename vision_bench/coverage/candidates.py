"""The inputs among which to choose what to label, and what a pass of the model says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.coverage.criteria.criterion import UnitCriterion
from aim_plugins.coverage.gains import FreshUnits, fresh_units
from aim_plugins.coverage.uncertainty import deep_gini
from vision_bench.coverage.settings import RunSettings
from vision_bench.coverage.subject import Subject
from vision_bench.data.classification import ClassificationData, load_dataset
from vision_bench.data.dataset import VisionData
from vision_bench.data.image_folders import class_folders
from vision_bench.data.unlabelled import UnlabelledImages


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
