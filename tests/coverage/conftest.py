"""Neurons of a little network over training inputs and a suite, with what is learned of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.coverage.layers import Layers
from aim_plugins.coverage.learning import Chosen, Values, cluster_sets
from aim_plugins.coverage.profile import Profile, ProfileMetadata
from aim_plugins.coverage.reference import Reference, ReferenceBuilder, ReferenceMetadata
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.settings import CriteriaSettings

LAYERS = Layers(("conv", "fc", "out"), (5, 6, 3))


def draw(count: int, seed: int, scale: float = 1.0) -> Batch:
    """Neurons that cluster by class, whose class is that of the largest output."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(3, (count,), generator=generator)
    centres = torch.randn(3, LAYERS.neurons, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(count, LAYERS.neurons, generator=generator)
    return Batch(centres[classes] + scale * noise, classes)


def split(batch: Batch, sizes: list[int]) -> list[Batch]:
    """A batch in parts."""
    parts = zip(batch.neurons.split(sizes), batch.classes.split(sizes), strict=True)
    return [Batch(*part) for part in parts]


@dataclass(frozen=True)
class World:
    """What tests of references and profiles share."""

    layers: Layers
    training: Batch
    suite: Batch
    chosen: list[Chosen]
    values: Values
    reference: Reference
    draw: Callable[..., Batch] = draw
    split: Callable[[Batch, list[int]], list[Batch]] = split

    def profile(
        self,
        *batches: Batch,
        part: str = "a",
        settings: CriteriaSettings | None = None,
        classes: dict[int, str] | None = None,
    ) -> Profile:
        """A profile that has seen batches."""
        settings = settings or CriteriaSettings()
        metadata = self.metadata(part, settings)
        found = Profile(lambda: make_criteria(self.reference, settings), metadata, classes)
        for batch in batches:
            found.update(batch)
        return found

    def metadata(
        self, part: str = "a", settings: CriteriaSettings | None = None
    ) -> ProfileMetadata:
        """What a profile of a part is measured with."""
        settings = settings or CriteriaSettings()
        return ProfileMetadata(
            method="coverage",
            sites=list(self.layers.names),
            model_signature=self.reference.metadata.model_signature,
            reference=self.reference.fingerprint,
            settings={"top_k": settings.top_k, "kmnc_buckets": settings.kmnc_buckets},
            parts=[part],
            data=["digits"],
        )


def learn(training: Batch, chosen: list[Chosen], model: nn.Module) -> Reference:
    """A reference of all that criteria need."""
    builder = ReferenceBuilder(LAYERS, CriteriaSettings(), len(training))
    for part in split(training, [50] * (len(training) // 50)):
        builder.update(part)
    values = Values.read(chosen, [(torch.arange(len(training)), training)])
    sets = cluster_sets(LAYERS, chosen, values, 2)
    metadata = ReferenceMetadata.of_model(
        model,
        sites=LAYERS.names,
        method="lrp-epsilon",
        sizes=list(LAYERS.sizes),
        inputs=builder.inputs,
        classes=["a", "b", "c"],
        surprise_layer=builder.surprise_layer,
        important=[{"label": one.neurons.label, "class_index": one.class_index} for one in sets],
    )
    return builder.finish(sets, metadata)


@pytest.fixture(scope="session")
def world() -> World:
    """300 training inputs and a suite of 90; important neurons of a layer and of a class."""
    training, suite = draw(300, seed=1), draw(90, seed=2, scale=1.4)
    chosen = [Chosen("fc", (7, 5, 9)), Chosen("class b", (6, 10), 1)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    values = Values.read(chosen, [(torch.arange(300), training)])
    return World(LAYERS, training, suite, chosen, values, learn(training, chosen, model))
