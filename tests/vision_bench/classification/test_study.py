"""`vision-bench classify` and `python -m vision_bench.classification`, end to end on digits."""

from __future__ import annotations

import csv
import json
import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vision_bench
from aim_plugins.core.files import sha256_of
from aim_plugins.core.settings import read_settings
from aim_plugins.sweep.documents import read_scores
from vision_bench import cli, published
from vision_bench.classification import study as classify_sweep
from vision_bench.classification.__main__ import main
from vision_bench.classification.curve import accuracy_curve
from vision_bench.classification.settings import ClassifySettings, perturb_grid
from vision_bench.classifiers.load import load
from vision_bench.data.classes import chosen_classes, unique_names
from vision_bench.data.classification import load_dataset
from vision_bench.data.image_folders import imagenet_classes
from vision_bench.logits import cache
from vision_bench.models.load import load_model
from vision_bench.models.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = Path(vision_bench.__file__).parents[1] / "eval_configs" / "vision"
SCHEDULE = ("--num-perturb-steps", "3", "--perturb-step", "4")


def run(folder: Path, weights: Path | str, *options: str) -> int:
    """Measures digits; the results lie in FOLDER/out."""
    places = ("--output", str(folder / "out"), "--logits-cache", str(folder / "logits"))
    words = ("--dataset", "digits", "--model", "resnet20", "--weights", str(weights))
    words += ("--preprocessing", "published", "--limit", "300")
    return main([*words, *places, *options])


def table(folder: Path, name: str = "sweep.csv") -> list[dict[str, str]]:
    with open(folder / "out" / name, newline="") as file:
        return list(csv.DictReader(file))


def values(folder: Path, metric: str, task: str = "digits-test") -> list[float]:
    return [float(r["value"]) for r in table(folder) if (r["task"], r["metric"]) == (task, metric)]


def errors_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error, but for the first one of progress."""
    lines = capsys.readouterr().err.strip().splitlines()
    return [line for line in lines if not line.endswith(": loading libraries")]


def write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    (folder / "test_batch.bin").write_bytes(
        b"".join(bytes([index % 10]) + row.tobytes() for index, row in enumerate(pixels))
    )
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "manifest.json")
    }


def test_the_curve_is_that_of_the_model_on_the_images(weights: Path, tmp_path: Path, capsys):
    assert run(tmp_path, weights, *SCHEDULE, "--draws", "2", "--seed", "5", "--plot") == 0
    model = load_model("cifar10_resnet20", weights=weights, preprocessing="published")
    data = load_dataset("digits", preprocessing=model.preprocessing, limit=300)
    with torch.inference_mode():
        logits = model.module(torch.stack([data[index][0] for index in range(300)]))
    curve = accuracy_curve(logits, data.labels, [0.0, 4.0, 8.0], draws=2, seed=5)
    assert values(tmp_path, "acc")[0] > 0.7
    assert values(tmp_path, "acc") == pytest.approx(curve.sampled.flatten().tolist(), abs=1e-12)
    assert values(tmp_path, "acc_expected") == pytest.approx(curve.expected.tolist(), abs=1e-6)
    kept = read_scores(tmp_path / "out" / "documents.jsonl")
    right = np.array([one.scores for one in kept]).reshape(2, 3, 300)
    assert pytest.approx(np.asarray(curve.sampled)) == right.mean(2).T
    assert right[0, 0].tolist() == (logits.argmax(1) == data.labels).tolist()
    assert len(set(kept[0].documents)) == 300
    metrics = {r["metric"] for r in table(tmp_path)}
    whole = {"acc", "acc_expected", "acc_top5", "entropy", "ece"}
    assert metrics == whole | {"recall", "recall_expected", "precision"}
    assert {r["task"] for r in table(tmp_path, "classes.csv")} == {
        f"digits-test.{digit}" for digit in range(10)
    }
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[-5:]] == [
        "table",
        "documents",
        "classes",
        "pictures",
        "report",
    ]
    pictures = {path.stem for path in (tmp_path / "out" / "curves").iterdir()}
    assert {"digits-test-acc", "digits-test-ece", "digits-test-classes"} <= pictures
    report = (tmp_path / "out" / "report.html").read_text()
    assert "digits-test.7" in report and "<h1>resnet20</h1>" in report


def test_terminal_manifest_and_report_say_which_weights_ran(weights, tmp_path, capsys):
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(weights.read_bytes())
    for given, held, said in (
        (weights, weights.name, f"weights: {weights.name}"),
        (copy, copy.name, f"weights: {copy.name}"),  # the same weights, so the same folder
        ("random", "random", "weights: random, untrained"),
    ):
        folder = tmp_path / "untrained" if given == "random" else tmp_path
        assert run(folder, given, *SCHEDULE) == 0
        assert said in capsys.readouterr().err.splitlines()
        assert json.loads((folder / "out" / "manifest.json").read_text())["weights"] == held
        assert f"; {said}</p>" in (folder / "out" / "report.html").read_text()


def test_model_and_data_are_called_as_a_person_would(weights: Path, tmp_path: Path, capsys):
    assert run(tmp_path, weights, *SCHEDULE) == 0
    errors = capsys.readouterr().err
    assert "resnet20 on digits-test:" in errors and "cifar10_resnet20" not in errors
    assert '<p class="summary">resnet20 on ' in (tmp_path / "out" / "report.html").read_text()
    folders = [path.name for path in (tmp_path / "logits").iterdir() if path.is_dir()]
    assert [name.startswith("resnet20-on-digits-test-") for name in folders] == [True]
    # No data set but its own stands in the name of a folder of results.
    assert ClassifySettings("digits", "resnet20").folder == Path("runs/digits_resnet20")
    assert ClassifySettings("cifar10", "resnet20").folder == Path("runs/cifar10_resnet20")


def test_pictures_are_drawn_only_if_asked_for(weights: Path, tmp_path: Path):
    assert run(tmp_path, weights, *SCHEDULE) == 0
    assert not (tmp_path / "out" / "curves").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_a_finished_sweep_computes_nothing_and_changes_nothing(weights, tmp_path, monkeypatch):
    assert run(tmp_path, weights, *SCHEDULE, "--plot") == 0
    before = files_of(tmp_path)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("computed again")

    for name in ("sample_run", "exact_law"):
        monkeypatch.setattr(classify_sweep, name, refuse)
    monkeypatch.setattr("vision_bench.logits.cache._compute", refuse)
    assert run(tmp_path, weights, *SCHEDULE, "--plot") == 0
    assert files_of(tmp_path) == before


def test_an_interrupted_sweep_goes_on_at_the_first_missing_draw(
    weights, tmp_path, monkeypatch, capsys
):
    seeds: list[int] = []
    sample = classify_sweep.sample_run

    def interrupted(*arguments, seed: int, **options):
        if seed == 1 and not seeds.count(1):
            seeds.append(seed)
            raise KeyboardInterrupt
        seeds.append(seed)
        return sample(*arguments, seed=seed, **options)

    monkeypatch.setattr(classify_sweep, "sample_run", interrupted)
    assert run(tmp_path, weights, *SCHEDULE, "--draws", "3") == 130
    assert capsys.readouterr().err.endswith("kept; the same command goes on from there\n")
    assert run(tmp_path, weights, *SCHEDULE, "--draws", "3") == 0
    assert seeds == [0, 1, 1, 2]
    assert run(tmp_path / "whole", weights, *SCHEDULE, "--draws", "3") == 0
    assert table(tmp_path) == table(tmp_path / "whole")


def test_focus_raises_the_recall_of_its_class(weights: Path, tmp_path: Path):
    assert run(tmp_path, weights, *SCHEDULE, "--focus-target", "3") == 0
    law = values(tmp_path, "recall_expected", "digits-test.3")
    assert law[0] < law[1] < law[2]
    precision = values(tmp_path, "precision", "digits-test.3")
    assert precision[0] > precision[1] > precision[2]
    assert {r["task"] for r in table(tmp_path)} == {"digits-test", "digits-test.3"}
    other = tmp_path / "negative"
    assert run(other, weights, *SCHEDULE, "--focus-target", "3", "--focus-negative") == 0
    law = values(other, "recall_expected", "digits-test.3")
    assert law[0] > law[1] > law[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [((), "focus on 3 and 5"), (("--focus-negative",), "focus away from 3 and 5")],
)
def test_a_focus_report_says_which_classes_are_pushed_where(
    weights: Path, tmp_path: Path, capsys, options: tuple[str, ...], words: str
):
    focus = ("--focus-target", "3", "5", *options, "--plot")
    assert run(tmp_path, weights, *SCHEDULE, *focus) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<title>resnet20, {words}: quality against strength</title>" in page
    assert f'<p class="summary">resnet20, {words}, on ' in page
    label = f"{words}: noise std σ (logits)"
    assert json.dumps(label) in page
    picture = (tmp_path / "out" / "curves" / "digits-test-precision-by-class.svg").read_text()
    assert f">{label}<" in picture
    # What it costs the others stands on the terminal and in the report.
    printed = capsys.readouterr().out
    (start,) = [n for n, line in enumerate(printed.splitlines()) if line.startswith("What focus")]
    lines = printed.splitlines()[start : start + 13]
    assert lines[1].startswith(f"F{words[1:]}: the classes in focus")
    heads = [f"{metric} σ={std}" for metric in ("recall", "precision") for std in (0, 4, 8)]
    assert lines[2].split("  ")[-1] == heads[-1] and f'<th scope="col">{heads[0]}</th>' in page
    names = [line.split()[0] for line in lines[3:]]
    assert names[:2] == ["3", "5"] and sorted(names) == list("0123456789")
    recall, precision = (
        [values(tmp_path, metric, "digits-test.3")[level] for level in range(3)]
        for metric in ("recall", "precision")
    )
    assert lines[3].split()[1:] == [f"{value:.3f}" for value in recall + precision]


def test_a_utility_report_names_no_class(weights: Path, tmp_path: Path, capsys):
    assert run(tmp_path, weights, *SCHEDULE) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<title>resnet20: quality against strength</title>" in page
    assert "focus on" not in capsys.readouterr().out


def test_a_config_with_overrides_is_the_same_sweep(weights: Path, tmp_path: Path):
    config = tmp_path / "digits.py"
    config.write_text('dataset, model = "digits", "resnet20"\nlimit = 300\nperturb_step = 4\n')
    places = [f"logits_cache={tmp_path / 'logits'}", f"weights={weights}"]
    places.append("preprocessing=published")
    words = ["classify", str(config), "--output", str(tmp_path / "out"), "--cfg-options", *places]
    assert cli.main([*words, "num_perturb_steps=3", "plot=False"]) == 0
    assert run(tmp_path / "flags", weights, *SCHEDULE) == 0
    assert table(tmp_path) == table(tmp_path / "flags")


def test_logits_are_kept_beside_the_results_and_not_where_one_stands(
    weights: Path, tmp_path: Path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = tmp_path / "digits.py"
    config.write_text('dataset, model, limit = "digits", "resnet20", 30\nplot = False\n')
    words = ["--output", str(tmp_path / "there" / "out"), "--weights", str(weights)]
    words += ["--preprocessing", "published"]
    assert cli.main(["classify", str(config), *words, "--noise-std", "0:2:1"]) == 0
    assert list((tmp_path / "there" / "logits").iterdir())
    assert not list((tmp_path / "here").iterdir())


def test_a_grid_may_take_the_place_of_steps(weights: Path, tmp_path: Path):
    assert run(tmp_path, weights, "--noise-std", "0:1:0.5,7") == 0
    stds = {float(r["strength"]) for r in table(tmp_path)}
    assert stds == {0.0, 0.5, 1.0, 7.0}


def test_published_figures_need_the_published_weights(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "_DOCUMENTS", {"cifar10-test": 20})
    monkeypatch.setattr(
        published, "_AIM_CURVES", {("cifar10_resnet20", "cifar10-test", "acc", ()): (0.5,) * 6}
    )
    write_cifar10(tmp_path)

    def sweep(name: str) -> list[float]:
        places = ("--output", str(tmp_path / name / "out"), "--logits-cache", str(tmp_path / "l"))
        words = ("--dataset", "cifar10", "--model", "resnet20", "--weights", str(weights))
        words += ("--preprocessing", "published")
        grid = ("--noise-std", "0,2,4", "--data-root", str(tmp_path))
        assert main([*words, *places, *grid]) == 0
        return values(tmp_path / name, "acc_published", "cifar10-test")

    assert sweep("other") == []
    url = f"https://x/cifar10_resnet20-{sha256_of(weights)[:8]}.pt"
    monkeypatch.setattr("vision_bench.models.architectures.cifar.checkpoint_url", lambda name: url)
    assert sweep("same") == [0.5] * 6
    assert '"published"' in (tmp_path / "same/out/report.html").read_text()
    assert json.loads((tmp_path / "same/out/manifest.json").read_text())["published"]


def issue_command(tmp_path: Path) -> int:
    """AIM's command as it stands in its README, with places of its own."""
    places = ["--output", str(tmp_path / "out"), "--logits-cache", str(tmp_path / "logits")]
    words = "--dataset cifar10 --model resnet56 --num-perturb-steps 101 --perturb-step 0.2 --plot"
    return main([*words.split(), *places])


def test_absent_data_and_weights_are_told_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert issue_command(tmp_path) == 2
    (error,) = errors_of(capsys)
    places = ["data", str(tmp_path / "torch/hub/checkpoints")]
    names = ["cifar-10-batches-bin", "cifar10_resnet56-187c023a.pt"]
    assert all(part in error for part in ["--data-root", "--weights", *places, *names])


def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path, monkeypatch, capsys):
    def offline(*arguments, **options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    write_cifar10(tmp_path / "data")
    assert issue_command(tmp_path) == 1
    (error,) = errors_of(capsys)
    assert "--weights" in error and "no route to host" in error


def test_cifar_has_defaults_and_other_data_has_none():
    assert ClassifySettings("cifar10", "resnet56").weights_source == "hub"
    assert ClassifySettings("CIFAR-100", "cifar100_resnet56").data_folder == "data"
    assert ClassifySettings("cifar100", "cifar10_resnet56").weights_source is None
    assert ClassifySettings("digits", "resnet56").weights_source is None
    assert ClassifySettings("digits", "resnet56").data_folder is None
    assert ClassifySettings("cifar10", "timm:resnet18").weights_source is None


def test_a_wrong_answer_to_damaged_images_is_told_before_anything_is_loaded():
    with pytest.raises(ValueError, match="on_error='stop': .*'skip', 'raise'"):
        ClassifySettings("no data", "no model", on_error="stop")


def test_replaced_weights_are_not_mixed_with_old_results(weights, tmp_path, capsys):
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(weights.read_bytes())
    assert run(tmp_path, copy, *SCHEDULE) == 0
    state = load_file(weights)
    state["fc.bias"] += 1
    save_file(state, copy)
    assert run(tmp_path, copy, *SCHEDULE) == 2
    assert "model_fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "resnet32"), "missing: layer1.3.conv1.weight"),
        (("--model", "resnet21"), "did you mean"),
        (("--model", "segformer-b0", "--weights", "random"), "is a segmentation model"),
        (("--weights", "absent.pt"), "weights='absent.pt': no such file"),
        (("--dataset", "digit"), "did you mean 'digits'"),
        (("--dataset", "imagenet"), "data_root=None"),
        (("--noise-std", "3:1:1"), "noise_std"),
        (("--noise-std", "-1"), "negative"),
        (("--num-perturb-steps", "0"), "num_perturb_steps=0"),
        (("--num-perturb-steps", "-3"), "num_perturb_steps=-3"),
        (("--perturb-step", "0"), "perturb_step=0"),
        (("--perturb-step", "-0.2"), "perturb_step"),
        (("--perturb-step", "wide"), "perturb_step='wide'"),
        (("--draws", "0"), "draws=0"),
        (("--batch-size", "0"), "batch_size=0"),
        (("--limit", "0"), "limit=0"),
        (("--dataset", "cifar10", "--data-root", "nowhere"), "data_root='nowhere': no such folder"),
        (("--dataset", "cifar10", "--data-root", "."), "data_root (--data-root): '.' holds no cif"),
        (("--device", "abacus"), "device='abacus'"),
        (("--focus-target", "12"), "focus_target holds 12, outside the 10 classes"),
        (("--focus-target", "3", "3"), "twice"),
        (("--focus-negative",), "focus_negative needs classes"),
        (("--focus-target", "cat"), "'cat', which is no class"),
        (("--preprocessing", "resize=foo"), "resize='foo': choose one of 'short', 'square'"),
        (("--preprocessing", "size=48 crop=64"), "crop=64 is above size=48"),
        (("--preprocessing", "interpolation=bilinaer"), "did you mean 'bilinear'"),
        (("--preprocessing", "mean=0.5"), "mean=(0.5,): give a number for each"),
        (("--preprocessing", "std=1,0,1"), "std=0.0: give a number above 0"),
        (("--preprocessing", "publishd"), "preprocessing holds 'publishd'"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    weights: Path, tmp_path: Path, capsys, options: tuple[str, ...], message: str
):
    assert run(tmp_path, weights, *options) == 2
    errors = errors_of(capsys)
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]
    assert not (tmp_path / "out").exists()


def test_labels_outside_the_classes_are_refused(tmp_path: Path, capsys):
    np.savez(tmp_path / "x.npz", logits=np.zeros((2, 3)), labels=np.array([0, 3]))
    words = ["classify-logits", str(tmp_path / "x.npz"), "--noise-std", "1"]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "the label of document 1 is 3, outside [0, 3)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('dataset = "digits"\n', "holds no model"),
        ('dataset, model, step = "digits", "resnet20", 3\n', "holds 'step'"),
        ('dataset, model, plot = "digits", "resnet20", "no"\n', "plot='no'"),
        ('dataset, model, draws = "digits", "resnet20", 1.5\n', "draws=1.5"),
        ('dataset, model, preprocessing = "digits", "resnet20", {"crp": 3}\n', "'crp'"),
    ],
)
def test_a_bad_config_is_told(tmp_path: Path, capsys, text: str, message: str):
    (tmp_path / "config.py").write_text(text)
    words = ["classify", str(tmp_path / "config.py"), "--output", str(tmp_path / "out")]
    assert cli.main([*words, "--cfg-options", "weights=random"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("cifar10_resnet56", "cifar10_resnet56"),
        ("cifar100_resnet56", "cifar100_resnet56"),
        ("imagenet_timm", "timm:resnet50.a1_in1k"),
    ],
)
def test_the_paper_s_configs_have_101_strengths_up_to_20(name: str, model: str):
    settings = read_settings(ClassifySettings, CONFIGS / f"{name}.py")
    stds = settings.stds
    assert settings.model_name == model
    assert stds == tuple(index * 2 / 10 for index in range(101))


def test_the_classes_that_a_config_reports_are_imagenets():
    pytest.importorskip("timm")
    settings = read_settings(ClassifySettings, CONFIGS / "imagenet_timm.py")
    chosen = chosen_classes(settings.report_classes, imagenet_classes()[1], None)
    assert list(chosen.values()) == ["tench", "golden retriever", "airliner"]


def write_class_folders(root: Path) -> None:
    for number in range(8):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 30,) * 3).save(folder / f"{number}.png")


def test_splits_are_not_taken_for_classes_and_the_split_recommended_is_read(tmp_path, capsys):
    for split in ("train", "val"):
        write_class_folders(tmp_path / "pets" / split)
    words = ["--dataset", "folder", "--data-root", str(tmp_path / "pets"), *SCHEDULE]
    words += ["--model", "resnet20", "--weights", "random", "--output", str(tmp_path / "out")]
    words += ["--logits-cache", str(tmp_path / "logits")]
    assert main(words) == 2
    (error,) = errors_of(capsys)
    assert "holds the splits train and val: give split='val'" in error
    (asked,) = re.findall(r"split='(\w+)'", error)
    assert main([*words, "--split", asked]) == 0
    assert {r["task"] for r in table(tmp_path)} == {"pets-val", "pets-val.cat", "pets-val.dog"}


def test_classes_called_as_splits_are_classes_where_they_hold_the_images(tmp_path):
    for name in ("test", "train"):  # a tube, and wagons on rails
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "1.png")
    assert load_dataset("folder", tmp_path).classes == ("test", "train")


def test_a_missing_list_of_labels_is_told_by_its_own_setting(weights, tmp_path, capsys):
    options = ("--dataset", "imagenet", "--labels", str(tmp_path / "val.txt"))
    assert run(tmp_path, weights, *options) == 2
    (error,) = errors_of(capsys)
    assert error == f"error: labels='{tmp_path / 'val.txt'}': no such file"


def test_strengths_are_counted_in_decimal():
    assert perturb_grid(101, 0.2)[3] == 0.6
    assert perturb_grid(1, 0.0) == (0.0,)


def test_the_preprocessing_can_be_replaced(weights: Path):
    fields = {"size": 16, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    settings = ClassifySettings(
        dataset="digits", model="resnet20", weights=str(weights), preprocessing=fields
    )
    model, data = load(settings)
    assert data[0][0].shape == (3, 16, 16)
    assert model.preprocessing == Preprocessing(16, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))


def test_what_is_done_to_images_is_told_before_the_pass_and_stands_in_the_report(
    weights: Path, tmp_path: Path, monkeypatch, capsys
):
    told: list[str] = []
    compute = cache._compute

    def watched(*arguments: object) -> None:
        told.append(capsys.readouterr().err)
        compute(*arguments)

    monkeypatch.setattr(cache, "_compute", watched)
    fields = "size=16 crop=12 mean=.25,.5,.75 std=1,1,1 interpolation=bicubic"
    assert run(tmp_path, weights, *SCHEDULE, "--preprocessing", fields) == 0
    line = "shorter side to 16 (bicubic), middle 12 x 12, mean 0.25 0.5 0.75, std 1 1 1"
    assert f"preprocessing: {line} (as given)" in told[0]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["preprocessing"] == {
        "size": 16,
        "crop": 12,
        "mean": [0.25, 0.5, 0.75],
        "std": [1, 1, 1],
        "interpolation": "bicubic",
        "resize": "short",
        "reduce_labels": False,
    }
    report = (tmp_path / "out" / "report.html").read_text()
    assert "preprocessing_source" in report and "as given" in report


def test_preprocessing_that_nobody_knows_is_asked_for(weights: Path, tmp_path: Path, capsys):
    places = ["--output", str(tmp_path / "out"), "--logits-cache", str(tmp_path / "logits")]
    words = ["--dataset", "digits", "--model", "resnet20", "--weights", str(weights), *places]
    assert main(words) == 2
    (error,) = errors_of(capsys)
    assert error.startswith("error: preprocessing lacks size, mean, std") and "published" in error
    # What the error recommends is understood.
    example = re.findall(r"'(size=[^']*)'", error)
    assert main([*words, *SCHEDULE, "--limit", "20", "--preprocessing", example[0]]) == 0
    assert run(tmp_path / "published", weights, *SCHEDULE) == 0


def test_untrained_weights_are_the_same_every_time():
    settings = ClassifySettings(dataset="digits", model="resnet20", weights="random")
    first, second = load(settings)[0], load(settings)[0]
    assert first.fingerprint == second.fingerprint


def test_classes_are_chosen_by_name_index_or_focus():
    names = ["crane", "owl", "crane", *map(str, range(10))]
    assert chosen_classes((), names, None) == {}
    assert chosen_classes(("owl", 2, "0"), names, None) == {1: "owl", 2: "crane 2", 3: "0"}
    assert chosen_classes((), names, {1: -1}) == {1: "owl"}
    assert chosen_classes((), names[:2], None) == {0: "crane", 1: "owl"}
    assert chosen_classes(["crane 2"], names, None) == {2: "crane 2"}
    with pytest.raises(ValueError, match="2 classes are called: give 'crane 0' or 'crane 2'"):
        chosen_classes(["crane"], names, None)
    assert len(set(unique_names(names))) == len(names)


def test_the_figures_of_the_paper_are_found_by_model_and_data():
    curve = published.published_curve("cifar100_resnet56", "cifar100-test", "acc")
    assert curve is not None and curve.values[20.0] == 0.0495
    clean = published.published_curve("cifar100_vgg16_bn", "cifar100-test", "acc")
    assert clean is not None and clean.values == {0.0: 0.74}
    assert published.published_curve("cifar10_resnet56", "cifar100-test", "acc") is None
    assert (
        published.published_curve("cifar10_resnet56", "cifar10-test", "acc", focus={1: 1}) is None
    )
    # The checkpoints' own table and AIM's curve start at the same accuracy.
    aim = published.published_curve("cifar10_resnet56", "cifar10-test", "acc")
    assert aim is not None
    assert aim.values[0.0] == pytest.approx(published._CIFAR_ACCURACY["resnet56"][0] / 100)
