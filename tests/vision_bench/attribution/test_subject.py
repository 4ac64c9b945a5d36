"""The images whose outputs are attributed, and what is refused of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vision_bench.attribution.settings import AttributionSettings
from vision_bench.attribution.subject import choose_examples, load_subject, read_images
from vision_bench.data.classification import load_dataset

pytestmark = pytest.mark.usefixtures("one_thread")


def load(lenet: Path, **others: object):
    return load_subject(
        AttributionSettings(dataset="digits", model="lenet5", weights=str(lenet), **others)  # type: ignore[arg-type]
    )


def test_examples_lie_evenly_over_the_chosen_classes() -> None:
    data = load_dataset("digits")
    chosen = choose_examples(data, 20, ["3", 5])
    labels = data.labels[chosen].tolist()
    assert len(chosen) == 20 and set(labels) == {3, 5}
    assert chosen == sorted(set(chosen)) and chosen[-1] > 0.9 * len(data)


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="example_classes holds 'x', which is no class"):
        choose_examples(load_dataset("digits"), 20, ["x"])


def test_outputs_are_margins_of_the_model_as_it_is(lenet: Path) -> None:
    loaded = load(lenet, examples=30)
    with torch.no_grad():
        logits = loaded.model.module(loaded.subject.images)
    margins = [
        row[label] - max(row[:label] + row[label + 1 :])
        for row, label in zip(logits.tolist(), loaded.labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(loaded.subject.whole(), torch.tensor(margins))


def test_log_likelihoods_are_those_of_a_softmax(lenet: Path) -> None:
    loaded = load(lenet, examples=10, output_fn="log_likelihood")
    with torch.no_grad():
        shares = loaded.model.module(loaded.subject.images).double().softmax(1)
    expected = shares[torch.arange(10), loaded.labels].log().float()
    torch.testing.assert_close(loaded.subject.whole(), expected)


def test_outputs_depend_on_no_batch_size(lenet: Path) -> None:
    factors = (torch.rand(7, 22, generator=torch.Generator().manual_seed(0)) > 0.2).float()
    one, other = (
        load(lenet, examples=9, batch_size=size).subject.outputs(factors) for size in (5, 64)
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_images_of_training_are_those_of_the_training_split(lenet: Path) -> None:
    loaded = load(lenet, examples=16, examples_of="train")
    assert loaded.data.name == "digits-train"
    assert loaded.fingerprint != load(lenet, examples=16).fingerprint


def test_unknown_components_name_the_nearest(lenet: Path) -> None:
    with pytest.raises(ValueError, match="patterns='conv3' matches none of the 22.*'conv"):
        load(lenet, patterns=("conv3",))


def test_images_of_several_sizes_ask_for_a_crop(tmp_path: Path) -> None:
    for place, size in enumerate([(8, 8), (9, 8)]):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "a" / f"{place}.png")
    data = load_dataset("folder", tmp_path)
    with pytest.raises(ValueError, match="preprocessing leaves images of several sizes"):
        read_images(data, [0, 1])


def test_a_damaged_image_is_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for place in range(3):
        Image.fromarray(np.full((8, 8, 3), place, np.uint8)).save(tmp_path / "a" / f"{place}.png")
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    data = load_dataset("folder", tmp_path)
    kept, images = read_images(data, [0, 1, 2])
    assert kept == [0, 2] and len(images) == 2
    assert list(data.unreadable) == ["a/1.png"]
