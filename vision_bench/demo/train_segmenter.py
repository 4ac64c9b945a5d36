"""A small SegFormer on made scenes, saved as transformers saves its models.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers"
(arXiv:2105.15203), with fewer and narrower blocks than B0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vision_bench.confusion import ConfusionMatrix
from vision_bench.data.labels import IGNORE
from vision_bench.data.segmentation import SegmentationData, load_segmentation_dataset
from vision_bench.demo.data import dataset_name
from vision_bench.demo.scenes import scenes_folder
from vision_bench.demo.store import make_once
from vision_bench.demo.training import fit, reproducible
from vision_bench.logits.upsampling import upsample
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel
from vision_bench.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

_STRIDE = 4
"""SegFormer's logits have a quarter of the image's sides."""


@dataclass(frozen=True)
class SegmenterRecipe:
    """How the segmenter is trained.

    Attributes:
        dataset: Where the scenes' objects come from, "fashion-mnist" or "digits".
        epochs: Passes over the training scenes.
        batch_size: Scenes in a step.
        learning_rate: The highest one of AdamW; it rises and falls once (OneCycle).
        seed: Of the first weights and the order of the scenes.
        version: Changes with the training code.
    """

    dataset: str
    epochs: int = 15
    batch_size: int = 8
    learning_rate: float = 3e-3
    seed: int = 0
    version: int = 1


def segmenter_folder() -> Path:
    """Folder of the trained segmenter in the cache; trains it on the first call.

    Returns:
        A folder for `load_model`, whose record notes the mIoU on the validation scenes.
    """
    recipe, scenes = SegmenterRecipe(dataset_name()), scenes_folder()

    def make(folder: Path) -> dict[str, Any]:
        train_segmenter(scenes, folder, recipe)
        model = load_model(str(folder))
        data = load_segmentation_dataset(
            "folder", scenes, split="validation", preprocessing=model.preprocessing
        )
        return {"miou": mean_iou(model, data), "scenes": len(data)}

    # The scenes' folder is named after their own recipe.
    identity = {**asdict(recipe), "scenes": scenes.name}
    return make_once(f"segformer-{recipe.dataset}", identity, make)


def train_segmenter(
    scenes: Path, folder: Path, recipe: SegmenterRecipe, *, progress: bool = True
) -> None:
    """Trains a segmenter on one thread of the CPU and saves it with its image processor.

    Args:
        scenes: Folder of images and annotations with the split "training".
        folder: Where the model goes.
        recipe: Settings.
        progress: Whether to show a progress bar.
    """
    normalisation = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    data = load_segmentation_dataset(
        "folder", scenes, split="training", preprocessing=normalisation
    )
    side = data[0][0].shape[-1]
    with reproducible(recipe.seed):
        model = _build(data.classes)
        images, labels = zip(*(data[index][:2] for index in range(len(data))), strict=True)
        _train(model, torch.stack(images), torch.stack(labels), recipe, progress)
    model.save_pretrained(folder)
    _processor(side).save_pretrained(folder)


@torch.no_grad()
def mean_iou(model: VisionModel, data: SegmentationData) -> float:
    """mIoU of a segmenter, each class over all images, at the size of the labels."""
    matrix = ConfusionMatrix(model.classes)
    for image, labels, _ in (data[index] for index in range(len(data))):
        logits = model.module(image[None])[0]
        size = (labels.shape[0], labels.shape[1])
        matrix.update(labels, upsample(logits, size).argmax(0))
    return float(matrix.metrics().means()["miou"])


def _build(classes: tuple[str, ...]) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    names = dict(enumerate(classes))
    options: dict[str, Any] = {
        "depths": [1, 1, 2, 1],
        "hidden_sizes": [16, 32, 64, 96],
        "decoder_hidden_size": 96,
        "num_attention_heads": [1, 2, 4, 4],
        "drop_path_rate": 0.0,
        "classifier_dropout_prob": 0.0,
        "num_labels": len(classes),
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }
    return SegformerForSemanticSegmentation(SegformerConfig(**options))


def _processor(side: int) -> Any:
    from transformers import SegformerImageProcessor

    return SegformerImageProcessor(
        size={"height": side, "width": side},
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
        do_reduce_labels=False,
    )


def _train(
    model: nn.Module,
    images: Float[Tensor, "n 3 height width"],
    labels: Int[Tensor, "n height width"],
    recipe: SegmenterRecipe,
    progress: bool,
) -> None:
    model.train()
    # The pixel in the middle of each cell: full-size logits would cost sixteen times as much.
    middle = slice(_STRIDE // 2, None, _STRIDE)
    targets = labels[:, middle, middle]

    def loss_of(chosen: Tensor) -> Tensor:
        return F.cross_entropy(model(images[chosen]).logits, targets[chosen], ignore_index=IGNORE)

    fit(
        torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01),
        loss_of,
        count=len(images),
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        title="training on scenes",
        progress=progress,
    )
    model.eval()
