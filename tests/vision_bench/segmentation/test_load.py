"""SegFormer by name, for the data set at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from vision_bench.models.architectures import segformer  # noqa: E402
from vision_bench.models.load import load_model  # noqa: E402
from vision_bench.segmentation.load import load_segmentation_model  # noqa: E402
from vision_bench.segmentation.perturbation_config import Perturbation  # noqa: E402
from vision_bench.segmentation.settings import SegmentSettings  # noqa: E402


def settings(dataset: str, weights: str, **options: str) -> SegmentSettings:
    block = Perturbation("utility", RATIO=0.0, STEP_SIZE=1.0, STEP_LIMIT=2)
    return SegmentSettings(dataset, "segformer-b0", block, weights=weights, **options)


@pytest.mark.parametrize(("dataset", "classes"), [("cityscapes", 19), ("ade20k", 150)])
def test_an_untrained_model_has_the_classes_of_its_data(dataset, classes):
    assert load_segmentation_model(settings(dataset, "random")).classes == classes


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What transformers is asked for, while no hub answers."""
    import transformers

    names: list[str] = []

    def refuse(source: str, **options: object) -> None:
        names.append(source)
        raise OSError("no hub here")

    monkeypatch.setattr(
        transformers.AutoModelForSemanticSegmentation, "from_pretrained", staticmethod(refuse)
    )
    return names


@pytest.mark.parametrize(
    ("dataset", "published"),
    [
        ("cityscapes", "nvidia/segformer-b0-finetuned-cityscapes-1024-1024"),
        ("ade20k", "nvidia/segformer-b0-finetuned-ade-512-512"),
    ],
)
def test_the_hub_is_asked_for_the_weights_of_the_data_set(asked, dataset, published):
    with pytest.raises(ValueError, match="no hub here"):
        load_segmentation_model(settings(dataset, "hub"))
    assert asked == [published]


def test_the_hub_is_not_asked_for_classes_that_nobody_published(asked, tmp_path: Path):
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n")
    with pytest.raises(ValueError, match="weights='hub' are of 150 .*, not 3: give the file"):
        load_segmentation_model(settings("folder", "hub", data_root=str(tmp_path)))
    assert asked == []


def test_an_untrained_model_is_the_same_in_every_run():
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        models.append(load_segmentation_model(settings("cityscapes", "random")))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert models[0].fingerprint == models[1].fingerprint
    other = load_model("segformer-b0", weights="random", classes=19, seed=1)
    assert other.fingerprint != models[0].fingerprint


@pytest.mark.parametrize(("classes", "side"), [(150, 640), (19, 512)])
@pytest.mark.parametrize("source", ["random", "file"])
def test_the_largest_segformer_takes_larger_images_of_ade20k(
    monkeypatch, tmp_path, classes, side, source
):
    # Its name decides; the weights of the smallest do for this.
    monkeypatch.setitem(segformer._SIZES, "b5", segformer._SIZES["b0"])
    weights = "random"
    if source == "file":
        weights = str(tmp_path / "b5.pth")
        own = load_model("segformer-b0", weights="random", classes=classes).module.model
        torch.save(own.state_dict(), weights)
    own = load_model("segformer-b5", weights=weights, classes=classes, preprocessing="published")
    assert (own.preprocessing.size, own.preprocessing.resize) == (side, "square")
