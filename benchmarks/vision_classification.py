"""A noise curve of a classifier from one pass, against running the model for every strength.

    python -m benchmarks.vision_classification

ResNet-20 with random weights on 500 images of CIFAR's size, 101 strengths, in CPU seconds: the
model run per strength, as a script without a cache has to; one pass and all that is measured of one
draw; and the exact curve against 32 draws, from the same logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aim_plugins.modulation.noise import prefix_keys, standard_normal
from benchmarks._timing import paired_medians, write_result
from vision_bench.classification.curve import AccuracyCurve, exact_law
from vision_bench.classification.sampled_runs import sample_run
from vision_bench.classification.settings import perturb_grid
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel

IMAGES, BATCH = 500, 100
STDS = perturb_grid(101, 0.2)
DRAWS = 32
LOGIT_SPREAD = 4.0
"""Standard deviation that logits are stretched to; a trained CIFAR model's is about this."""


def images_and_labels() -> tuple[Tensor, Tensor]:
    """Random images; their classes do not matter for the time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, 32, 32, generator=generator)
    return images, torch.randint(0, 10, (IMAGES,), generator=generator)


@torch.inference_mode()
def one_pass(model: VisionModel, images: Tensor) -> Tensor:
    """Clean logits."""
    return torch.cat([model.module(batch) for batch in images.split(BATCH)])


def run_per_strength(model: VisionModel, images: Tensor, labels: Tensor) -> list[float]:
    """Accuracy at every strength, with a pass of the model for each."""
    keys = prefix_keys(torch.arange(len(images))[:, None])[:, 0]
    accuracy = []
    for std in STDS:
        logits = one_pass(model, images)
        noisy = logits + std * standard_normal(keys, logits.shape[1])
        accuracy.append(float((noisy.argmax(1) == labels).double().mean()))
    return accuracy


def passes(model: VisionModel, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """The model per strength, against one pass and all that is measured of one draw."""
    naive = "model per strength"
    cached = "one pass, one draw"
    medians = paired_medians(
        {
            cached: lambda: sample_run(one_pass(model, images), labels, STDS),
            "one pass alone": lambda: one_pass(model, images),
        },
        rounds=5,
    )
    # A hundred passes are a mean already.
    medians |= paired_medians(
        {naive: lambda: run_per_strength(model, images, labels)}, rounds=1, warm_up=False
    )
    return {"cpu_seconds": medians, f"{naive} / {cached}": medians[naive] / medians[cached]}


def laws(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The exact curve against 32 draws, in time and in distance from it."""
    stretched = logits / logits.std() * LOGIT_SPREAD
    medians = paired_medians(
        {
            "exact curve": lambda: exact_law(stretched, labels, STDS),
            f"{DRAWS} draws": lambda: [
                sample_run(stretched, labels, STDS, seed=seed) for seed in range(DRAWS)
            ],
        },
        rounds=3,
    )
    law = exact_law(stretched, labels, STDS)
    runs = tuple(sample_run(stretched, labels, STDS, seed=seed) for seed in range(DRAWS))
    curve = AccuracyCurve(STDS, law, runs)
    distance = curve.sampled.mean(1) - curve.expected
    errors = distance[1:] / (law.noise_std[1:] / math.sqrt(DRAWS))
    return {
        "cpu_seconds": medians,
        f"exact curve / {DRAWS} draws": medians["exact curve"] / medians[f"{DRAWS} draws"],
        f"largest distance of {DRAWS} draws": float(distance.abs().max()),
        "root mean square distance in standard errors": float(errors.square().mean().sqrt()),
    }


def main() -> None:
    """Prints the ratios and writes benchmarks/results/vision_classification.json."""
    torch.manual_seed(0)
    model = load_model("cifar10_resnet20", weights="random")
    images, labels = images_and_labels()
    result = {
        "images": IMAGES,
        "strengths": len(STDS),
        "passes": passes(model, images, labels),
        "laws": laws(one_pass(model, images), labels),
    }
    for part in ("passes", "laws"):
        for label, value in result[part].items():  # type: ignore[attr-defined]
            if isinstance(value, float):
                print(f"{label} = {value:.3g}")
    print(f"written: {write_result('vision_classification', result)}")


if __name__ == "__main__":
    main()
