"""Best classes of photographs under noise."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from vision_bench.classification.top_classes import kept_rows, top_classes
from vision_bench.cli import main


def monte_carlo(logits: torch.Tensor, std: float, draws: int = 200_000) -> torch.Tensor:
    """Frequency of each class as the argmax."""
    noise = torch.randn(draws, len(logits), generator=torch.Generator().manual_seed(1))
    winners = (logits + std * noise).argmax(1)
    return torch.bincount(winners, minlength=len(logits)) / draws


def test_probabilities_are_those_of_sampling_and_their_order_is_that_of_the_logits():
    logits = torch.tensor([[0.3, 2.0, 1.5, -1.0, 1.9, 0.0]])
    found = top_classes(logits, [0.5, 3.0], top=4)
    assert found.classes.tolist() == [[1, 4, 2, 0]]
    for level, std in enumerate(found.stds):
        frequency = monte_carlo(logits[0], std)
        assert frequency.argsort(descending=True)[:4].tolist() == [1, 4, 2, 0]
        torch.testing.assert_close(
            found.probabilities[0, level].float(), frequency[found.classes[0]], atol=0.005, rtol=0
        )


def test_without_noise_a_run_shows_the_clean_classes_and_another_seed_changes_it_with():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    found, other = (top_classes(logits, [0, 4], seed=seed) for seed in (0, 1))
    assert torch.equal(found.drawn[:, 0], logits.topk(5).indices)
    assert torch.equal(found.probabilities[:, 0, 0], torch.ones(3, dtype=torch.float64))
    assert torch.equal(found.classes, other.classes)
    assert not torch.equal(found.drawn[:, 1], other.drawn[:, 1])


def test_the_run_shown_is_one_of_those_counted():
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    found = top_classes(logits, [2.0], seed=3)
    same = (found.drawn[:, 0, 0] == logits.argmax(1)).double().mean()
    among = (found.drawn[:, 0] == logits.argmax(1)[:, None]).any(1).double().mean()
    rows = {row.metric: row for row in kept_rows(logits, [2.0], "noise", draws=1, seed=3)}
    assert set(rows) == {"kept", "kept_expected", "kept_top5"}
    assert rows["kept"].value == pytest.approx(float(same))
    assert rows["kept_top5"].value == pytest.approx(float(among))


def test_the_expected_share_kept_is_that_of_sampling():
    logits = torch.tensor([[1.0, 0.0, 0.5], [0.0, 3.0, 2.0]])
    (row,) = (
        row for row in kept_rows(logits, [1.0], "two", draws=1) if row.metric == "kept_expected"
    )
    frequencies = [monte_carlo(line, 1.0)[line.argmax()] for line in logits]
    assert row.value == pytest.approx(float(sum(frequencies)) / 2, abs=0.004)


@pytest.mark.parametrize("top", [0, 4])
def test_a_number_of_classes_out_of_range_is_refused(top):
    with pytest.raises(ValueError, match=rf"top={top} is outside \[1, 3\]"):
        top_classes(torch.zeros(1, 3), [1.0], top=top)


@pytest.fixture
def folder(tmp_path):
    """Two photographs, one of them grey, and a damaged file."""
    images = tmp_path / "images"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "b.png")
    Image.fromarray(noise[..., 0]).save(images / "a.png")
    (images / "c.jpg").write_bytes(b"no image")
    return images


def config(tmp_path, folder, **settings):
    lines = {"model": "timm:tf_efficientnet_lite0", "weights": "random", "images": str(folder)}
    lines |= {"noise_std": [0, 1], "draws": 2, "output": str(tmp_path / "out"), **settings}
    path = tmp_path / "config.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in lines.items()))
    return path


def test_the_command_writes_tables_and_a_page_and_leaves_damaged_files_out(
    tmp_path, folder, capsys
):
    assert main(["top-classes", str(config(tmp_path, folder))]) == 0
    printed = capsys.readouterr()
    assert f"{folder}: left out 1 image\n  c.jpg: not a readable image" in printed.err
    assert "preprocessing: shorter side to 256 (bicubic), middle 224 x 224" in printed.err
    assert "weights: random, untrained" in printed.err.splitlines()
    out = tmp_path / "out"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["weights"] == "random"
    assert list(manifest["left_out"]) == ["c.jpg"]
    with (out / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["a.png"] * 10 + ["b.png"] * 10
    clean = [row for row in rows if row["strength"] == "0.0"]
    assert [row["class"] for row in clean] == [row["one_noisy_run"] for row in clean]
    assert {row["probability"] for row in clean if row["rank"] == "1"} == {"1.0"}
    page = (out / "report.html").read_text()
    assert "<h1>tf_efficientnet_lite0</h1>" in page and "preprocessing_source" in page
    assert "; weights: random, untrained</p>" in page
    assert "one noisy run: " in page and "data:image/jpeg;base64" in page
    assert "left_out.c.jpg" in page
    assert str(out / "report.html") in printed.out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "torchvision:resnet18", "images": "nowhere"}, "nowhere"),
        ({"model": "cifar10_resnet20"}, "10 classes, not the 1000 of ImageNet"),
        ({"tops": 3}, "did you mean 'top'"),
        ({"noise_std": "high"}, "noise_std"),
    ],
)
def test_bad_input_is_one_line(tmp_path, folder, settings, message, capsys):
    assert main(["top-classes", str(config(tmp_path, folder, **settings))]) == 2
    assert message in capsys.readouterr().err


def test_damaged_files_alone_are_not_called_no_files(tmp_path, folder, capsys):
    for path in folder.glob("*.png"):
        path.unlink()
    assert main(["top-classes", str(config(tmp_path, folder, model="timm:test_resnet"))]) == 2
    told = "holds no usable image; left out: c.jpg: not a readable image"
    assert told in capsys.readouterr().err


def test_preprocessing_of_weights_of_ones_own_is_asked_for(tmp_path, folder, capsys):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "best.pth")
    own = {"model": "timm:test_resnet", "weights": str(tmp_path / "best.pth")}
    assert main(["top-classes", str(config(tmp_path, folder, **own))]) == 2
    assert "preprocessing lacks size, mean, std" in capsys.readouterr().err
    own["preprocessing"] = "published"
    assert main(["top-classes", str(config(tmp_path, folder, **own))]) == 0


def test_a_run_with_untrained_weights_can_be_repeated(tmp_path, folder):
    pytest.importorskip("timm")
    path = str(config(tmp_path, folder, model="timm:test_resnet"))
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert main(["top-classes", path]) == 0


def test_an_interrupted_run_does_not_speak_of_work_it_has_not_kept(
    tmp_path, folder, monkeypatch, capsys
):
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vision_bench.classification.photographs.load_model", interrupt)
    path = config(tmp_path, folder)
    assert main(["top-classes", str(path)]) == 130
    assert capsys.readouterr().err.endswith("\ninterrupted\n")
