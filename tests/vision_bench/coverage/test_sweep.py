"""`vision-bench coverage sweep`: coverage while noise or a transport changes the classifier."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("torchvision")

from aim_plugins.core.settings import read_settings  # noqa: E402
from aim_plugins.coverage.profile import Profile  # noqa: E402
from aim_plugins.coverage.reference import Reference  # noqa: E402
from aim_plugins.coverage.registry import make_criteria  # noqa: E402
from aim_plugins.modulation.activations import ActivationMaps, AffineMap  # noqa: E402
from aim_plugins.modulation.noise import prefix_keys, standard_normal  # noqa: E402
from aim_plugins.sweep.cells import Cell
from aim_plugins.sweep.study import Study  # noqa: E402
from aim_plugins.transport.artifact import LearnedTransport, TransportMetadata  # noqa: E402
from vision_bench import cli  # noqa: E402
from vision_bench.classification.sampled_runs import sample_run  # noqa: E402
from vision_bench.coverage import strengths as strengths_module  # noqa: E402
from vision_bench.coverage.learn import all_positions  # noqa: E402
from vision_bench.coverage.modulated import NoisyLogits, TransportedActivations  # noqa: E402
from vision_bench.coverage.subject import Images, Subject, first_image, load_subject  # noqa: E402
from vision_bench.coverage.sweep import CoverageSweep  # noqa: E402
from vision_bench.coverage.sweep_settings import SweepSettings  # noqa: E402
from vision_bench.data.classification import ClassificationData  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CRITERIA = "NC,KMNC,NBC,TKNP,CC,LSC,MDSC,NLC,IDC"
SHARED = ("--dataset", "digits", "--model", "lenet5", "--limit", "60", "--train-limit", "150")
SHARED += ("--criteria", CRITERIA, "--surprise-layer", "fc3", "--batch-size", "32")


@pytest.fixture(scope="module")
def config(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "digits.json"
    path.write_text(json.dumps({"weights": str(lenet)}))
    return path


@pytest.fixture(scope="module")
def clean(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `coverage run` on the same suite, whose reference all share."""
    folder = tmp_path_factory.mktemp("clean") / "out"
    words = ("coverage", "run", str(config), *SHARED, "--baselines", "0", "--output", str(folder))
    assert cli.main(words) == 0
    return folder


@pytest.fixture(scope="module")
def swept(config: Path, clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of noise with two draws."""
    folder = tmp_path_factory.mktemp("swept") / "out"
    options = ("--noise-std", "0,2,8", "--draws", "2", "--seed", "5")
    assert sweep(config, clean, folder, *options) == 0
    return folder


@pytest.fixture(scope="module")
def whole(config: Path, clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert sweep(config, clean, folder, "--noise-std", "0,3") == 0
    return folder


@pytest.fixture(scope="module")
def loaded(config: Path, clean: Path) -> tuple[Subject, ClassificationData]:
    given = {"dataset": "digits", "model": "lenet5", "limit": 60, "batch_size": 32}
    given["reference"] = str(clean / "reference")
    subject, suite, _ = load_subject(read_settings(SweepSettings, config, (), given))
    return subject, suite


def sweep(config: Path, clean: Path, folder: Path, *options: str) -> int:
    words = ("coverage", "sweep", str(config), *SHARED, "--reference", str(clean / "reference"))
    return cli.main((*words, "--output", str(folder), "--no-plot", *options))


def table(folder: Path) -> dict[tuple[str, float, str], float]:
    """Values by metric, strength and draw."""
    with open(folder / "sweep.csv", newline="") as file:
        return {
            (row["metric"], float(row["strength"]), row["draw"]): float(row["value"])
            for row in csv.DictReader(file)
        }


def values_at(folder: Path, strength: float, draw: str) -> dict[str, float]:
    return {
        metric: value
        for (metric, one, number), value in table(folder).items()
        if (one, number) == (strength, draw) and metric != "acc"
    }


def values_of_run(folder: Path) -> dict[str, float]:
    results = json.loads((folder / "coverage.json").read_text())["results"]
    return {one["label"]: one["value"] for one in results}


def images_of(data: ClassificationData) -> Tensor:
    return torch.stack([data[position][0] for position in range(len(data))])


def normal(position: int, seed: int) -> Tensor:
    """The noise of one image, looked up on its own."""
    return standard_normal(prefix_keys(torch.tensor([[position]]))[:, 0], 10, seed=seed)[0]


# Noise ----------------------------------------------------------------------------------------


def test_strength_0_is_coverage_run_to_the_bit(clean, whole):
    assert values_at(whole, 0.0, "0") == values_of_run(clean)


def test_coverage_is_that_of_a_classifier_whose_last_layer_is_noisy(swept, clean, loaded, config):
    subject, suite = loaded
    settings = read_settings(
        SweepSettings,
        config,
        (),
        {
            "dataset": "digits",
            "model": "lenet5",
            "criteria": CRITERIA,
            "surprise_layer": "fc3",
            "seed": 5,
        },
    )
    criteria = make_criteria(Reference.load(clean / "reference"), settings)
    right = 0
    for position in all_positions(suite, settings):
        noise = 8 * normal(position, seed=6)
        hook = subject.named.fc3.register_forward_hook(lambda m, i, output, n=noise: output + n)
        for seen in subject.pass_over(suite, [position]):
            for one in criteria.values():
                one.update(seen.batch)
            right += int(seen.batch.classes[0] == suite.labels[position])
        hook.remove()
    found = values_at(swept, 8.0, "1")
    for label, one in criteria.items():
        assert found[label] == pytest.approx(one.value, rel=1e-4), label
    assert table(swept)["acc", 8.0, "1"] == pytest.approx(right / 60)
    assert right / 60 < table(swept)["acc", 0.0, "0"]


def test_the_accuracy_is_that_of_classify_with_the_same_seed(swept, loaded):
    subject, suite = loaded
    with torch.no_grad():
        logits = subject.module(images_of(suite))
    for draw in range(2):
        run = sample_run(logits, suite.labels, [0.0, 2.0, 8.0], seed=5 + draw)
        found = [table(swept)["acc", strength, str(draw)] for strength in (0.0, 2.0, 8.0)]
        assert found == pytest.approx(run.accuracy.tolist())


def test_noise_changes_the_logits_and_the_class_and_nothing_else(loaded):
    subject, suite = loaded
    noisy = NoisyLogits(subject, [0.0, 3.0], first_image(suite), seed=2)
    assert noisy.place == subject.layers["fc3"]
    pixels = images_of(suite)[:7]
    images = Images(torch.arange(7), pixels)
    clean, moved = noisy.see(images, noisy.cells)
    with torch.no_grad():
        logits = subject.module(pixels)
    expected = torch.stack([logits[place] + 3 * normal(place, seed=2) for place in range(7)])
    torch.testing.assert_close(moved.logits, expected)
    torch.testing.assert_close(moved.batch.neurons[:, noisy.place], expected)
    assert torch.equal(moved.batch.classes, expected.argmax(1))
    before = slice(0, noisy.place.start)
    assert torch.equal(moved.batch.neurons[:, before], clean.batch.neurons[:, before])
    alone = list(noisy.see(Images(torch.tensor([4]), pixels[4:5]), noisy.cells))[1]
    torch.testing.assert_close(alone.logits[0], moved.logits[4])


def test_focus_pushes_its_targets_one_way(loaded):
    subject, suite = loaded
    focus = NoisyLogits(
        subject, [0.0, 5.0], first_image(suite), targets={3: -1}, names=suite.classes
    )
    assert focus.axis.label.startswith("focus away from 3: ")
    clean, moved = focus.see(Images(torch.arange(20), images_of(suite)[:20]), focus.cells)
    difference = moved.logits - clean.logits
    assert (difference[:, 3] < 0).all()
    difference[:, 3] = 0
    assert (difference == 0).all()


def test_draws_of_strength_0_are_one_and_all_strengths_need_one_pass(loaded):
    subject, suite = loaded
    noisy = NoisyLogits(subject, [0.0, 1.0, 2.0], first_image(suite), draws=3)
    assert len(noisy.cells) == 7
    calls = []
    hook = subject.named.conv1.register_forward_hook(lambda *_: calls.append(1))
    assert len(list(noisy.see(Images(torch.arange(4), images_of(suite)[:4]), noisy.cells))) == 7
    hook.remove()
    assert calls == [1]


def test_where_the_logits_are_not_looked_at_the_class_alone_changes(config, tmp_path, capsys):
    words = ("coverage", "sweep", str(config), *SHARED[:8], "--output", str(tmp_path / "out"))
    words += (
        "--modules",
        "conv.",
        "--criteria",
        "NBC,LSC",
        "--lsc-width",
        "0.2",
        "--surprise-layer",
        "conv2",
        "--noise-std",
        "0,20",
    )
    assert cli.main(words) == 0
    assert "no layer that is looked at returns the logits" in capsys.readouterr().err
    clean, noisy = (values_at(tmp_path / "out", strength, "0") for strength in (0.0, 20.0))
    assert clean["NBC"] == noisy["NBC"]
    # Surprise compares an image with others of the predicted class.
    assert clean["LSC"] != noisy["LSC"]


def test_the_page_shows_coverage_beside_accuracy(config, clean, tmp_path):
    options = ("--noise-std", "0,2,8", "--criteria", "KMNC", "--plot")
    assert sweep(config, clean, tmp_path / "out", *options) == 0
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Coverage beside accuracy" in report and "σ=8" in report
    pictures = {path.stem for path in (tmp_path / "out" / "curves").iterdir()}
    assert pictures == {"coverage-and-accuracy", "digits-test-KMNC", "digits-test-acc"}


# Transport ------------------------------------------------------------------------------------


def maps_of(channels: int, seed: int) -> AffineMap:
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.rand(2, channels, generator=generator)
    return AffineMap.everywhere(0.5 + scale, 2 * shift - 1)


@pytest.fixture(scope="module")
def transport(loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    subject, _ = loaded
    maps = ActivationMaps({"conv2": maps_of(16, 1), "fc1": maps_of(120, 2)})
    about = TransportMetadata.describe(subject.named, None, method="mean", sites=list(maps.maps))
    return LearnedTransport(maps, about).save(tmp_path_factory.mktemp("transport"))


def transported_logits(model: nn.Module, images: Tensor, strength: float) -> dict[str, Tensor]:
    """LeNet-5 with its activations moved, written out in float64."""
    state = {name: one.double() for name, one in model.state_dict().items()}

    def moved(values: Tensor, one: AffineMap, shape: tuple[int, ...]) -> Tensor:
        scale, shift = (part.double().reshape(shape) for part in (one.scale, one.shift))
        return (1 - strength) * values + strength * (scale * values + shift)

    grey = images.double().mean(1, keepdim=True)
    first = F.conv2d(grey, state["conv1.weight"], state["conv1.bias"], padding=2)
    pooled = F.max_pool2d(first.relu(), 2)
    second = F.conv2d(pooled, state["conv2.weight"], state["conv2.bias"])
    second = moved(second, maps_of(16, 1), (1, 16, 1, 1))
    hidden = F.max_pool2d(second.relu(), 2).flatten(1)
    third = moved(F.linear(hidden, state["fc1.weight"], state["fc1.bias"]), maps_of(120, 2), (120,))
    fourth = F.linear(third.relu(), state["fc2.weight"], state["fc2.bias"])
    last = F.linear(fourth.relu(), state["fc3.weight"], state["fc3.bias"])
    return {"conv1": first.mean((2, 3)), "conv2": second.mean((2, 3)), "fc1": third, "fc3": last}


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_transported_neurons_are_those_of_the_network_written_out(loaded, strength):
    subject, suite = loaded
    maps = ActivationMaps({"conv2": maps_of(16, 1), "fc1": maps_of(120, 2)})
    change = TransportedActivations(subject, maps, [strength])
    pixels = images_of(suite)[:9]
    (seen,) = change.see(Images(torch.arange(9), pixels), change.cells)
    for layer, values in transported_logits(subject.named, pixels, strength).items():
        found = seen.batch.neurons[:, subject.layers[layer]].double()
        torch.testing.assert_close(found, values, atol=1e-4, rtol=1e-4)


def test_a_sweep_of_a_transport_starts_at_coverage_run(config, clean, transport, tmp_path, capsys):
    options = ("--transport", str(transport), "--strength", "-0.5,0,1")
    assert sweep(config, clean, tmp_path / "out", *options) == 0
    assert values_at(tmp_path / "out", 0.0, "") == values_of_run(clean)
    assert values_at(tmp_path / "out", 1.0, "")["NBC"] > values_of_run(clean)["NBC"]
    assert "strength=-0.5 lies outside 0 to 1" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["axes"][0]["name"] == "strength"
    assert manifest["transport_fingerprint"] == LearnedTransport.load(transport).fingerprint


# Going on -------------------------------------------------------------------------------------


def interrupted_sweep(config: Path, clean: Path, folder: Path, monkeypatch, saves: int) -> None:
    """A sweep that saves at every step, and is stopped in a certain saving."""
    save, done = Profile.save, []

    def stop(self: Profile, *arguments: object, **options: object) -> Path:
        done.append(1)
        if len(done) > saves:
            raise KeyboardInterrupt
        return save(self, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(strengths_module, "_SAVED_EVERY", -1.0)
        patch.setattr(Profile, "save", stop)
        assert sweep(config, clean, folder, "--noise-std", "0,3") == 130


def test_an_interrupted_sweep_goes_on_and_ends_alike(config, clean, whole, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    # Of two strengths, one is a step ahead.
    interrupted_sweep(config, clean, folder, monkeypatch, saves=11)
    read, images = [], Subject.images

    def count(self: Subject, data: object, positions: list[int], *rest: object) -> Iterator[Images]:
        read.extend(positions)
        return images(self, data, positions, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Subject, "images", count)
    assert sweep(config, clean, folder, "--noise-std", "0,3") == 0
    assert (folder / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()
    assert 0 < len(read) < 60


def test_a_profile_that_was_cut_short_is_measured_again(
    config, clean, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "out"
    interrupted_sweep(config, clean, folder, monkeypatch, saves=10)
    tensors = folder / "profiles" / "std=3,draw=0" / "profile.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-3])
    assert sweep(config, clean, folder, "--noise-std", "0,3") == 0
    assert (folder / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()


def test_a_finished_sweep_runs_the_classifier_on_nothing(swept, clean, config, monkeypatch):
    before = (swept / "sweep.csv").read_bytes()
    monkeypatch.setattr(strengths_module.StrengthMeasurement, "_pass", None)
    options = ("--noise-std", "0,2,8", "--draws", "2", "--seed", "5")
    assert sweep(config, clean, swept, *options) == 0
    assert (swept / "sweep.csv").read_bytes() == before


def test_noisy_profiles_are_not_taken_for_those_of_the_suite(swept):
    held = {
        cell: json.loads((swept / "profiles" / cell / "profile.json").read_text())["settings"]
        for cell in ("std=0,draw=0", "std=2,draw=1")
    }
    assert "std" not in held["std=0,draw=0"]
    assert (held["std=2,draw=1"]["std"], held["std=2,draw=1"]["draw"]) == (2.0, 1)


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strength", "0:1:0.5"), "strength='0:1:0.5' is that of a transport: add its folder"),
        (("--transport", "absent"), "transport='absent' is no folder"),
        (("--transport", ".", "--noise-std", "0:1:1"), "noise_std='0:1:1' is of noise, but"),
        (("--transport", ".", "--draws", "2"), "draws=2 is of noise, but"),
        (("--noise-std", "-1"), "noise_std=-1.0 is negative"),
        (("--focus-negative",), "focus_negative needs classes to act on"),
        (("--focus-target", "ten"), "focus_target"),
        (("--transport", "."), "transport"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_a_line(options, said, config, clean, tmp_path, capsys):
    assert sweep(config, clean, tmp_path / "out", *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and said in lines[-1]
    assert not (tmp_path / "out").exists()


def test_a_transport_of_another_model_is_refused(config, clean, tmp_path, capsys):
    maps = ActivationMaps({"fc1": maps_of(120, 2)})
    other = nn.Sequential()
    other.add_module("fc1", nn.Linear(400, 120))
    about = TransportMetadata.describe(other, None, method="mean", sites=["fc1"])
    folder = LearnedTransport(maps, about).save(tmp_path / "transport")
    assert sweep(config, clean, tmp_path / "out", "--transport", str(folder)) == 2
    assert "another model" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_transport_of_last_tokens_is_refused(loaded):
    subject, _ = loaded
    with pytest.raises(ValueError, match="positions='last'.*an image has no last one"):
        TransportedActivations(subject, ActivationMaps({"fc1": maps_of(120, 2)}, "last"), [1.0])


def test_a_folder_of_another_sweep_is_refused(swept, clean, config, capsys):
    assert sweep(config, clean, swept, "--noise-std", "0,1", "--draws", "2", "--seed", "5") == 2
    assert "holds another sweep (noise_std" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_keeps_its_reference(clean, whole, config, tmp_path, capsys):
    folder = shutil.copytree(whole, tmp_path / "out")
    held = (folder / "reference" / "reference.json").read_bytes()
    words = ("coverage", "run", str(config), *SHARED, "--baselines", "0", "--train-limit", "100")
    assert cli.main((*words, "--output", str(tmp_path / "other"))) == 0
    # Behind the first one, of which it takes the place.
    other = ("--reference", str(tmp_path / "other" / "reference"), "--train-limit", "150")
    assert sweep(config, clean, folder, "--noise-std", "0,3", *other) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "holds another sweep (reference: " in line or "was learned with" in line
    assert (folder / "reference" / "reference.json").read_bytes() == held


def test_cells_are_named_by_what_varies(loaded):
    subject, suite = loaded
    noisy = NoisyLogits(subject, [0.0, 2.0], first_image(suite), draws=2)
    names = [cell.name((noisy.axis,)) for cell in noisy.cells]
    assert names == ["std=0,draw=0", "std=2,draw=0", "std=2,draw=1"]
    assert issubclass(CoverageSweep, Study) and Cell(2.0, 1) in noisy.cells
