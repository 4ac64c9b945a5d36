"""Test images, attacked on the public model, and what each reused model answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision_bench.attacks.features import FeatureAttack
from vision_bench.data.classification import ClassificationData
from vision_bench.data.samples import read_samples


@dataclass(frozen=True)
class Attacked:
    """Images of one size, as models take them.

    Attributes:
        positions: Where they stand in their data set.
        clean: The images.
        attacked: What the attack made of them.
    """

    positions: Int[Tensor, " images"]
    clean: Float[Tensor, "images channels height width"]
    attacked: Float[Tensor, "images channels height width"]


class Attacker:
    """Attacks images of a data set on the features of a public model.

    Args:
        extractor: The public model without its output layer.
        attack: The attack.
        data: The images; unusable ones are noted in it and left out.
        device: Where to compute.
        workers: Processes that read.
    """

    def __init__(
        self,
        extractor: nn.Module,
        attack: FeatureAttack,
        data: ClassificationData,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        self.extractor, self.attack, self.data = extractor.to(device), attack, data
        self.device, self.workers = device, workers

    def __call__(self, positions: Sequence[int]) -> Iterator[Attacked]:
        """Attacks the images at these positions, those of one size together."""
        for samples in read_samples(self.data, [list(positions)], self.workers):
            by_shape: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
            for position, image in samples:
                if isinstance(image, str):
                    self.data.unreadable[self.data.names[position]] = image
                else:
                    by_shape.setdefault(tuple(image.shape), []).append((position, image))
            for members in by_shape.values():
                places = torch.tensor([position for position, _ in members])
                clean = torch.stack([image for _, image in members]).to(self.device)
                yield Attacked(places, clean, self.attack(self.extractor, clean, places))


def answers_to(
    models: Mapping[str, nn.Module], images: Sequence[Attacked]
) -> dict[str, dict[str, list[int]]]:
    """The classes that each model answers with, by its name, clean and attacked; as JSON."""
    found: dict[str, dict[str, list[int]]] = {}
    with torch.inference_mode():
        for name, model in models.items():
            found[name] = {
                kind: [
                    int(one)
                    for part in images
                    for one in model(getattr(part, kind)).argmax(1).cpu()
                ]
                for kind in ("clean", "attacked")
            }
    return found
