"""CLIP as a classifier: its logits, its prompts, its components, and folders that are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from aim_plugins.modulation.component_kinds import find_components
from vision_bench.cli import main
from vision_bench.data.images import to_tensor
from vision_bench.models.load import load_model
from vision_bench.models.model import VisionModel

CLASSES = ("owl", "door_key", "sun", "a bat")


def load(folder: Path, **given) -> VisionModel:
    return load_model(f"clip:{folder}", **{"class_names": CLASSES, **given})


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def own_logits(folder: Path, images: Tensor, texts: list[str]) -> Tensor:
    """Those of transformers."""
    tokens = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return CLIPModel.from_pretrained(folder)(**tokens, pixel_values=images).logits_per_image


def test_the_logits_are_those_of_transformers(clip, images):
    model = load(clip)
    names = ("owl", "door key", "sun", "a bat")
    expected = own_logits(clip, images, [f"a photo of a {name}." for name in names])
    with torch.no_grad():
        found = model.module(images)
    assert float((found - expected).abs().max()) <= 1e-5
    assert float(expected.std(1).max()) > 1e-3  # texts of names are told apart at all
    assert (model.task, model.classes, model.module.training) == ("classification", 4, False)
    assert (model.title, model.weights) == ("tiny-clip", "tiny-clip")


def test_several_prompts_are_averaged_on_the_sphere(clip, images):
    prompts = ["a {} here.", "no {}"]
    whole = CLIPModel.from_pretrained(clip).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    rows = []
    for name in ("owl", "door key", "sun", "a bat"):
        own = []
        for text in (f"a {name} here.", f"no {name}"):
            tokens = tokenizer(text, return_tensors="pt")  # alone: without padding
            own.append(whole.get_text_features(**tokens).pooler_output[0])
        rows.append(sum(one / one.norm() for one in own))
    texts = torch.stack([row / row.norm() for row in rows])
    features = whole.get_image_features(images).pooler_output
    cosines = F.cosine_similarity(features[:, None], texts[None], dim=-1)
    with torch.no_grad():
        found = load(clip, prompts=prompts).module(images)
        torch.testing.assert_close(found, whole.logit_scale.exp() * cosines, rtol=1e-5, atol=1e-5)


def test_images_are_prepared_as_by_its_image_processor(clip):
    image = Image.effect_noise((70, 90), 60).convert("RGB")
    expected = CLIPImageProcessorPil.from_pretrained(clip)(image, return_tensors="pt")
    found = to_tensor(image, load(clip).preprocessing)
    torch.testing.assert_close(found, expected["pixel_values"][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "count"),
    # Filters of the patches' convolution; 2 layers of 2 heads, and of 64 neurons; rows of 4
    # projections and 2 layers of neurons each, and of the projection behind the tower.
    [
        ("conv_filters", 32),
        ("attention_heads", 4),
        ("mlp_neurons", 128),
        ("linear_rows", 2 * (4 * 32 + 64 + 32) + 12),
    ],
)
def test_components_are_those_of_the_image_tower(clip, kind, count):
    found = find_components(load(clip).module, kind)
    assert len(found) == count
    assert all(site.layer.startswith("vis") for site in found.sites)


def test_weights_of_an_edited_tower_take_the_texts_of_the_data_at_hand(clip, images, tmp_path):
    state = load(clip).module.state_dict()
    assert not any("text" in key for key in state)
    state["vision_model.encoder.layers.0.mlp.fc1.weight"][:5] = 0
    save_file(state, tmp_path / "edited.safetensors")
    edited = load(clip, weights=tmp_path / "edited.safetensors", class_names=("x", "y"))
    whole = CLIPModel.from_pretrained(clip)
    with torch.no_grad():
        whole.vision_model.encoder.layers[0].mlp.fc1.weight[:5] = 0
    whole.save_pretrained(tmp_path / "whole")
    shutil.copytree(clip, tmp_path / "all")
    shutil.copy(tmp_path / "whole" / "model.safetensors", tmp_path / "all")
    expected = own_logits(tmp_path / "all", images, ["a photo of a x.", "a photo of a y."])
    with torch.no_grad():
        assert float((edited.module(images) - expected).abs().max()) <= 1e-5
    assert edited.fingerprint != load(clip, class_names=("x", "y")).fingerprint


def test_other_names_or_prompts_are_another_model_and_another_place_is_not(clip, tmp_path):
    shutil.copytree(clip, tmp_path / "copy")
    first = load(clip).fingerprint
    assert load(tmp_path / "copy").fingerprint == first
    assert load(clip, prompts=["{}"]).fingerprint != first
    assert load(clip, class_names=("owl", "door key", "sun", "bee")).fingerprint != first


def without(clip: Path, folder: Path, *names: str) -> Path:
    shutil.copytree(clip, folder, ignore=shutil.ignore_patterns(*names))
    return folder


def test_a_folder_without_a_tokenizer_is_refused(clip, tmp_path):
    folder = without(clip, tmp_path / "copy", "tokenizer*")
    with pytest.raises(ValueError, match=r"loads no tokenizer from this folder.*tokenizer\.json"):
        load(folder)


def test_a_folder_of_another_model_is_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="no CLIP from this folder: .*kind 'segformer'"):
        load(checkpoint)
    with pytest.raises(ValueError, match="no CLIP from this folder"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no CLIP from this hub name"):
        load(tmp_path / "nowhere")


def test_missing_weights_are_refused(clip, tmp_path):
    from safetensors.torch import load_file

    folder = without(clip, tmp_path / "copy", "model.safetensors")
    state = load_file(clip / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: text_projection\.weight"):
        load(folder)


def test_without_an_image_processor_the_preprocessing_is_asked_for(clip, tmp_path):
    folder = without(clip, tmp_path / "copy", "preprocessor_config.json")
    with pytest.raises(ValueError, match=r"preprocessing lacks size.*that of CLIP's authors"):
        load(folder)
    assert load(folder, preprocessing="published").preprocessing == load(clip).preprocessing


def test_a_crop_that_is_no_square_is_refused(clip, tmp_path):
    folder = without(clip, tmp_path / "copy", "preprocessor_config.json")
    said = json.loads((clip / "preprocessor_config.json").read_text())
    said["crop_size"] = {"height": 32, "width": 30}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="says crop_size="):
        load(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_names": None}, "tells classes by their names, which are not known"),
        ({"weights": "random"}, "weights='random' of .*which has weights"),
        ({"prompts": ["a photo"]}, r"prompts holds 'a photo', which has no \{\}"),
        ({"prompts": ["a {}" + 30 * "."]}, "has more tokens than the 32"),
    ],
)
def test_what_it_cannot_be_told_by_is_refused(clip, given, message):
    with pytest.raises(ValueError, match=message):
        load(clip, **given)


def test_prompts_of_a_model_that_reads_none_are_refused():
    with pytest.raises(ValueError, match=r"prompts=\['\{\}'\] with model='lenet5'"):
        load_model("lenet5", weights="random", prompts=["{}"])


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["classify"], ["--noise-std", "0,1", "--prompts", "the digit {}."]),
        (
            ["attribute", "run"],
            [
                *("--components", "mlp_neurons", "--examples", "8", "--num-ablations", "20"),
                *("--gradient-passes", "5", "--eval-masks", "5", "--baselines", "none"),
            ],
        ),
        (["coverage", "run"], ["--train-limit", "30", "--criteria", "NC,TKNC"]),
    ],
)
def test_studies_of_classifiers_take_it(clip, tmp_path, command, options):
    given = {"dataset": "digits", "model": f"clip:{clip}", "limit": 30}
    (tmp_path / "config.json").write_text(json.dumps(given))
    words = [*command, str(tmp_path / "config.json"), "--output", str(tmp_path / "run"), *options]
    assert main(words) == 0
    assert list((tmp_path / "run").rglob("report.html"))


@pytest.mark.parametrize("command", [["reengineer", "run"], ["reengineer", "compose"]])
def test_modules_are_not_made_of_it(clip, tmp_path, capsys, command):
    given = {"dataset": "digits", "model": f"clip:{clip}", "classes": [1, 2]}
    if command[1] == "compose":
        given = {"dataset": "digits", "model": f"clip:{clip}", "modules": ["a", "b"]}
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert main([*command, str(tmp_path / "config.json")]) == 2
    assert "a module is kept by the name of its architecture" in capsys.readouterr().err
