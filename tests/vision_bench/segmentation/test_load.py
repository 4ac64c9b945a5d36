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


@pytest.fixture
def named(tmp_path: Path):
    """Loads a model that names its classes itself, for data that name theirs."""
    from transformers import SegformerForSemanticSegmentation

    def load(model: list[str], data: list[str]):
        config = segformer.segformer_config("b0", len(model))
        config.id2label = dict(enumerate(model))
        config.depths, config.hidden_sizes = [1] * 4, [8, 16, 40, 64]
        SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "scenes")
        (tmp_path / "classes.txt").write_text("\n".join(data))
        block = Perturbation("utility", RATIO=0.0, STEP_SIZE=1.0, STEP_LIMIT=2)
        root, folder = str(tmp_path), str(tmp_path / "scenes")
        options = {"data_root": root, "preprocessing": "published"}
        return load_segmentation_model(SegmentSettings("folder", folder, block, **options))

    return load


def test_classes_in_another_order_than_the_models_are_refused(named):
    with pytest.raises(ValueError, match="sky, traffic light, bird, but .* bird, sky, Traffic_"):
        named(["sky", "traffic light", "bird"], ["bird", "sky", "Traffic_light"])


def test_of_many_classes_in_another_order_some_are_shown(named):
    names = [f"kind {chr(97 + index)}" for index in range(20)]
    with pytest.raises(ValueError) as error:
        named(names, [*names[:10], *names[:9:-1]])
    (message,) = str(error.value).splitlines()
    assert "kind k, kind l" in message and "kind t, kind s" in message
    assert "kind a" not in message and "in classes.txt in the model's order" in message


@pytest.mark.parametrize(
    ("model", "data", "told"),
    [
        (
            ["sky", "sea", "sand"],
            ["sky", "lake", "beach"],
            "the first is class 1, 'sea' there and 'lake' here",
        ),
        (["sky", "traffic light"], ["Sky", "Traffic-Light"], None),
        (["LABEL_0", "LABEL_1"], ["sea", "sky"], None),
        (["sea", "sky"], ["0", "1"], None),
    ],
)
def test_other_names_than_the_models_are_told(named, model, data, told, capsys):
    named(model, data)
    shown = capsys.readouterr().err
    assert (told in shown) if told else "differently" not in shown


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
