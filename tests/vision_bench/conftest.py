"""Logits, models and images that several vision tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from vision_bench.data.classification import load_dataset
from vision_bench.models.load import load_model

_PERSON = 12
_SIZES = [(50, 41), (64, 64), (37, 66), (45, 45), (90, 33)]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of PyTorch: small networks are slower on several, and sums are rounded alike."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """Logits [797, 10] and labels of scikit-learn's digits, by a logistic regression."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    images = images / 16
    model = LogisticRegression(C=10, max_iter=500).fit(images[:1000], labels[:1000])
    logits = model.decision_function(images[1000:])
    return torch.from_numpy(logits).float(), torch.from_numpy(labels[1000:]).long()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-20 whose last layer is fitted to digits, on features of random layers."""
    from sklearn.linear_model import LogisticRegression

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model("cifar10_resnet20", weights="random")
    data = load_dataset("digits", split="train", preprocessing=model.preprocessing)
    images = torch.stack([data[index][0] for index in range(len(data))])
    fc, model.module.fc = model.module.fc, torch.nn.Identity()
    with torch.inference_mode():
        features = model.module(images).numpy()
    scale = features.std()
    fitted = LogisticRegression(C=100, max_iter=3000).fit(features / scale, data.labels)
    model.module.fc = fc
    with torch.no_grad():
        fc.weight.copy_(torch.from_numpy(fitted.coef_ / scale))
        fc.bias.copy_(torch.from_numpy(fitted.intercept_))
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_file(model.module.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-5 trained on digits for a moment, whose file knows its preprocessing."""
    from vision_bench.demo.train_classifier import ClassifierRecipe, train_classifier
    from vision_bench.models.known_preprocessing import write_header

    recipe = ClassifierRecipe(
        "digits", images=300, epochs=8, flip=False, batch_size=50, learning_rate=0.05
    )
    model = train_classifier(recipe, architecture="lenet5", progress=False)
    path = tmp_path_factory.mktemp("weights") / "lenet5.safetensors"
    save_file(model.module.state_dict(), path, write_header(model.preprocessing))
    return path


@pytest.fixture(scope="session")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five validation images in ADE20K's layout; some pixels are unlabelled, some are persons."""
    root = tmp_path_factory.mktemp("data") / "ADEChallengeData2016"
    for number, (width, height) in enumerate(_SIZES, start=1):
        rng = np.random.default_rng(width * height)
        for kind, shape, highest in (("images", (4, 5, 3), 256), ("annotations", (5, 6), 5)):
            coarse = rng.integers(0, highest, shape, dtype=np.uint8)
            if kind == "annotations":
                coarse[coarse == 4] = _PERSON + 1
            folder = root / kind / "validation"
            folder.mkdir(parents=True, exist_ok=True)
            resampling = Image.Resampling.BICUBIC if kind == "images" else Image.Resampling.NEAREST
            picture = Image.fromarray(coarse).resize((width, height), resampling)
            picture.save(folder / f"ADE_val_{number:08d}.{'jpg' if kind == 'images' else 'png'}")
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SegFormer of 150 classes that answers with a handful of them, person included."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16,
        num_labels=150,
    )
    module = transformers.SegformerForSemanticSegmentation(config)
    head = module.decode_head.classifier
    head.weight.data.mul_(40)
    head.bias.data.fill_(-4).index_fill_(0, torch.tensor([0, 1, 2, _PERSON]), 4)
    folder = tmp_path_factory.mktemp("models") / "tiny-segformer"
    module.save_pretrained(folder)
    transformers.SegformerImageProcessor(size=512).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP for images of 32 x 32 pixels, whose tokenizer knows letters and digits."""
    from string import ascii_lowercase, digits

    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2}
    words = ("<|startoftext|>", "<|endoftext|>", *ascii_lowercase, *digits, ".")
    vocabulary = [*words, *(f"{one}</w>" for one in words[2:])]
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 32, **special}
    vision = {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config={**tower, **text}, vision_config={**tower, **vision}, projection_dim=12
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={one: n for n, one in enumerate(vocabulary)}, merges=[]).save_pretrained(
        folder
    )
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**sides).save_pretrained(folder)
    return folder
