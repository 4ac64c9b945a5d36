"""`vision-bench segment`, from a config to a folder of results, on a random SegFormer."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

from aim_plugins.core.settings import read_settings
from aim_plugins.sweep import front
from tests.conftest import die_in_a_copy
from vision_bench import pictures, published
from vision_bench.cli import main
from vision_bench.data.segmentation_layouts import ADE20K_CLASSES, classes_of
from vision_bench.logits.cache import SkippedImagesWarning
from vision_bench.logits.upsampling import upsample
from vision_bench.perturbators import (
    MultiClassPerturbator,
    SingleClassPerturbator,
    UtilityPerturbator,
)
from vision_bench.segmentation import load as segment_load
from vision_bench.segmentation import records as segment_records
from vision_bench.segmentation import study as segment_sweep
from vision_bench.segmentation.overlays import class_palette
from vision_bench.segmentation.settings import SegmentSettings

DRAW = front._draw
CLASSES = 150
PERSON = 12
NAMES = [f"ADE_val_{number:08d}" for number in range(1, 6)]
UTILITY = {"METHOD": "utility", "RATIO": 0.0, "STEP_SIZE": 1.5, "STEP_LIMIT": 3}
PERSON_UP = UTILITY | {"METHOD": "single", "TARGET_IDX": PERSON, "POSITIVE": True}
SETTINGS = {"dataset": "ade20k", "resize": "short64", "batch_size": 2, "overlays": 2}


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, and one test is enough for it."""
    monkeypatch.setattr(front, "_draw", lambda folder, points, shown: None)


@pytest.fixture
def config(tmp_path: Path, ade20k: Path, checkpoint: Path):
    """Writes a config with some settings changed; None leaves one out."""

    def write(**changes) -> Path:
        settings = {
            **SETTINGS,
            "model": str(checkpoint),
            "data_root": str(ade20k),
            "logits_cache": str(tmp_path / "logits"),
            "output": str(tmp_path / "out"),
            "PERTURBATION": UTILITY,
            **changes,
        }
        lines = [f"{name} = {value!r}" for name, value in settings.items() if value is not None]
        path = tmp_path / "config.py"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def evaluate(config: Path, *options: str) -> int:
    return main(["segment", "evaluate", str(config), *options])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as table:
        return list(csv.DictReader(table))


def curve(folder: Path, task: str, metric: str, draw: str = "0") -> list[float]:
    rows = read_csv(folder / "sweep.csv")
    return [
        float(row["value"])
        for row in rows
        if (row["task"], row["metric"], row["draw"]) == (task, metric, draw)
    ]


def reduced_labels(root: Path, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Labels as they are stored, or at the network's input size (height, width), reduced."""
    stored = Image.open(root / "annotations" / "validation" / f"{name}.png")
    if size is not None:
        stored = stored.resize(size[::-1], Image.Resampling.NEAREST)
    labels = np.asarray(stored).astype(int) - 1
    return np.where(labels < 0, 255, labels)


def upsampled_logits(
    root: Path,
    checkpoint: Path,
    name: str,
    dtype: torch.dtype = torch.float16,
    *,
    score_at: str = "labels",
) -> torch.Tensor:
    """What the model answers for an image whose shorter side becomes 64, rounded."""
    image = Image.open(root / "images" / "validation" / f"{name}.jpg")
    scale = 64 / min(image.size)
    size = tuple(-(-round(side * scale) // 32) * 32 for side in image.size)
    logits = network_logits(checkpoint, image.resize(size, Image.Resampling.BILINEAR))
    full = image.size if score_at == "labels" else size
    return upsample(logits.to(dtype).float(), full[::-1])


def network_logits(checkpoint: Path, image: Image.Image) -> torch.Tensor:
    """What transformers' own model answers for an image of the network's size."""
    from transformers import SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation.from_pretrained(checkpoint).eval()
    pixels = (np.asarray(image) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        return model(torch.from_numpy(pixels).float().permute(2, 0, 1)[None]).logits[0]


def loop_over_levels(
    root: Path, checkpoint: Path, perturbators: list, score_at: str = "labels"
) -> np.ndarray:
    """Confusion matrices [levels, truth, predicted], one modulated model after the other."""
    total = np.zeros((len(perturbators), CLASSES, CLASSES), dtype=int)
    for name in NAMES:
        logits = upsampled_logits(root, checkpoint, name, score_at=score_at)
        labels = reduced_labels(root, name, None if score_at == "labels" else logits.shape[1:])
        counted = labels != 255
        for level, perturbator in enumerate(perturbators):
            answers = perturbator(logits, f"{name}.jpg").argmax(0).numpy()
            total[level] += metrics.confusion_matrix(
                labels[counted], answers[counted], labels=range(CLASSES)
            )
    return total


@pytest.mark.parametrize(
    ("block", "perturbator"),
    [
        (UTILITY, UtilityPerturbator(0)),
        (PERSON_UP, SingleClassPerturbator(0, PERSON)),
        (PERSON_UP | {"POSITIVE": False}, SingleClassPerturbator(0, PERSON, positive=False)),
        (
            UTILITY
            | {
                "METHOD": "multi",
                "TARGETS": [
                    {"index": PERSON, "positive": False},
                    {"index": 1, "positive": True},
                ],
            },
            MultiClassPerturbator(0, [PERSON, 1], [False, True]),
        ),
    ],
)
def test_the_matrices_are_those_of_a_loop_over_levels(
    config, ade20k, checkpoint, tmp_path, block, perturbator
):
    assert evaluate(config(PERTURBATION=block, draws=2, seed=5, exact=False)) == 0
    with np.load(tmp_path / "out" / "confusion.npz") as file:
        assert file["strengths"].tolist() == [0.0, 1.5, 3.0]
        assert file["classes"][PERSON] == "person"
        found = file["confusion"]
    for draw in range(2):
        levels = [perturbator.at(std, seed=5 + draw) for std in (0.0, 1.5, 3.0)]
        loop = loop_over_levels(ade20k, checkpoint, levels)
        assert loop.sum() == found[draw].sum()
        # The photographs are normalised in double precision here; a near-tie may go either way.
        assert np.abs(loop - found[draw]).sum() <= 1e-4 * loop.sum()
        assert (loop[0] != loop[2]).any()


@pytest.fixture
def own_folder(tmp_path: Path, checkpoint: Path) -> Path:
    """A model with an image processor, and images with labels that it reduces, 255 unlabelled."""
    from transformers import SegformerImageProcessorPil

    shutil.copytree(checkpoint, tmp_path / "model")
    SegformerImageProcessorPil(
        size={"height": 64, "width": 64}, do_reduce_labels=True, resample=3
    ).save_pretrained(tmp_path / "model")
    root = tmp_path / "pairs"
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(160, 120), (90, 101)]):
        for folder, highest, shape in (("images", 256, (6, 7, 3)), ("labels", 5, (6, 7))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, highest, shape, dtype=np.uint8)
            if folder == "labels":
                coarse[0, 0], coarse[-1, -1] = 255, CLASSES  # the last class
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
            picture.save(root / folder / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(map(str, range(CLASSES))))
    return root


def test_without_noise_counts_are_those_of_transformers_at_the_labels_size(
    config, own_folder, tmp_path
):
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

    path = config(
        dataset="folder",
        data_root=str(own_folder),
        model=str(tmp_path / "model"),
        resize=None,
        exact=False,
        cache_dtype="float32",
    )
    assert evaluate(path) == 0
    processor = SegformerImageProcessorPil.from_pretrained(tmp_path / "model")
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model").eval()
    expected = np.zeros((CLASSES, CLASSES), int)
    for number in range(2):
        image = Image.open(own_folder / "images" / f"{number}.png")
        stored = np.asarray(Image.open(own_folder / "labels" / f"{number}.png")).astype(int)
        with torch.no_grad():
            outputs = model(**processor(image, return_tensors="pt"))
        (answers,) = processor.post_process_semantic_segmentation(outputs, [stored.shape])
        counted = (stored != 0) & (stored != 255)
        expected += metrics.confusion_matrix(
            stored[counted] - 1, answers.numpy()[counted], labels=range(CLASSES)
        )
    with np.load(tmp_path / "out" / "confusion.npz") as file:
        found = file["confusion"][0, 0]
    assert found.sum() == expected.sum() and expected[CLASSES - 1].sum() > 0
    # A near-tie may go either way.
    assert np.abs(found - expected).sum() <= 1e-4 * expected.sum()


def test_the_rules_stand_in_manifest_report_and_terminal(config, own_folder, tmp_path, capsys):
    options = {"dataset": "folder", "data_root": str(own_folder), "resize": None, "exact": False}
    assert evaluate(config(**options, model=str(tmp_path / "model"))) == 0
    words = (
        "images are resized to 64 x 64; logits are upsampled to the labels' own size and judged "
        "there; label 0 is unlabelled and 1 the first class; a class that is predicted but never "
        "labelled counts as 0 in means"
    )
    assert words in capsys.readouterr().err
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert words in html.unescape(page)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["rules"] == {
        "resize": "square64",
        "score_at": "labels",
        "reduce_labels": True,
        "mean_over": "present",
    }


def test_images_left_out_are_one_list_in_terminal_manifest_and_report(config, own_folder, tmp_path):
    for name, content in {"deep": 200, "flat": 1}.items():
        Image.new("RGB", (20, 20)).save(own_folder / "images" / f"{name}.png")
        Image.new("L", (20, 20), content).save(own_folder / "labels" / f"{name}.png")
    (own_folder / "labels" / "flat.png").unlink()  # without a label map
    (own_folder / "images" / "1.png").write_bytes(b"no image")
    options = {"dataset": "folder", "data_root": str(own_folder), "resize": None, "exact": False}
    path = config(**options, model=str(tmp_path / "model"))
    reasons = {
        "images/flat.png": "no label map flat in",
        "images/1.png": "not a readable image",
        "images/deep.png": "the index 200 at 400 pixels is none of the 150 classes",
    }
    for _ in ("first", "again"):
        with pytest.warns(SkippedImagesWarning) as caught:
            assert evaluate(path) == 0
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert manifest["left_out"].keys() == reasons.keys()
        first, *lines = str(caught[0].message).splitlines()
        assert "left out 3 images" in first
        assert lines == [f"  {name}: {why}" for name, why in manifest["left_out"].items()]
        for name, reason in reasons.items():
            assert reason in manifest["left_out"][name]
            assert f"left_out.{name}" in page


def test_masks_of_0_and_255_are_noticed(config, own_folder, tmp_path, capsys):
    for path in (own_folder / "labels").iterdir():
        stored = np.asarray(Image.open(path))
        Image.fromarray(np.where(stored > 2, 255, 0).astype(np.uint8)).save(path)
    options = {"dataset": "folder", "data_root": str(own_folder), "resize": None, "exact": False}
    options |= {"model": str(tmp_path / "model"), "reduce_labels": False, "overlays": 0}
    assert evaluate(config(**options)) == 0
    told = "every labelled pixel is '0', as 255 means unlabelled: masks of 0 and 255 are to be"
    assert told in capsys.readouterr().err


def test_reduced_labels_without_the_last_class_are_noticed(config, own_folder, tmp_path, capsys):
    options = {"dataset": "folder", "data_root": str(own_folder), "resize": None, "exact": False}
    options |= {"model": str(tmp_path / "model"), "overlays": 0}

    def told(change: dict[int, int], **more: object) -> bool:
        for path in (own_folder / "labels").iterdir():
            stored = np.asarray(Image.open(path)).copy()
            for before, after in change.items():
                stored[stored == before] = after
            Image.fromarray(stored).save(path)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert evaluate(config(**options, **more)) == 0
        words = "no pixel is of the last class, '149': if 0 is '0', every class is one off; then"
        return words in capsys.readouterr().err

    assert not told({})
    assert told({CLASSES: CLASSES - 1})
    assert not told({}, reduce_labels=False)
    assert not told({0: 255})


def test_labels_can_be_resized_with_the_image_as_by_aims_script(
    config, ade20k, checkpoint, tmp_path
):
    assert evaluate(config(score_at="input", exact=False)) == 0
    with np.load(tmp_path / "out" / "confusion.npz") as file:
        found = file["confusion"][0]
    levels = [UtilityPerturbator(std) for std in (0.0, 1.5, 3.0)]
    loop = loop_over_levels(ade20k, checkpoint, levels, "input")
    assert (
        loop.sum()
        == found.sum()
        > sum((reduced_labels(ade20k, name) != 255).sum() * 3 for name in NAMES)
    )
    assert np.abs(loop - found).sum() <= 1e-4 * loop.sum()


@pytest.mark.parametrize("mean_over", ["present", "labelled"])
def test_the_tables_are_scikit_learns_metrics_of_the_matrices(config, tmp_path, mean_over):
    # Noise enough for classes that are labelled nowhere.
    options = {"PERTURBATION": UTILITY | {"STEP_SIZE": 4.0}, "mean_over": mean_over}
    assert evaluate(config(report_classes=["wall", PERSON], exact=False, **options)) == 0
    folder = tmp_path / "out"
    with np.load(folder / "confusion.npz") as file:
        matrices = file["confusion"][0]
    table = read_csv(folder / "classes.csv")
    assert len(table) == CLASSES * 3
    for level, matrix in enumerate(matrices):
        truth, predicted = (axis.ravel() for axis in np.indices(matrix.shape))
        options = {"sample_weight": matrix.ravel(), "labels": range(CLASSES), "average": None}
        labelled = matrix.sum(1) > 0
        present = labelled | (matrix.sum(0) > 0)
        assert (present != labelled).any() == (level > 0)
        expected = {
            "iou": metrics.jaccard_score(truth, predicted, zero_division=0, **options),
            "recall": metrics.recall_score(truth, predicted, zero_division=0, **options),
            "precision": metrics.precision_score(truth, predicted, zero_division=0, **options),
            "f1": metrics.f1_score(truth, predicted, zero_division=0, **options),
        }
        for metric, values in expected.items():
            counted = labelled if metric == "recall" or mean_over == "labelled" else present
            assert curve(folder, "ade20k-val", f"m{metric}")[level] == pytest.approx(
                values[counted].mean()
            )
            for index, name in ((0, "wall"), (PERSON, "person")):
                found = curve(folder, f"ade20k-val.{name}", metric)[level]
                assert found == pytest.approx(values[index])
            lines = [row for row in table if row["strength"] == f"{4 * level:g}"]
            assert [row[metric] == "" for row in lines] == (~counted).tolist()
            shown = [float(row[metric]) for row in lines if row[metric]]
            assert shown == pytest.approx(values[counted].tolist())
        accuracy = matrix.trace() / matrix.sum()
        assert curve(folder, "ade20k-val", "acc")[level] == pytest.approx(accuracy)


def test_the_exact_law_of_one_target_is_the_mean_of_many_draws(config, tmp_path):
    assert evaluate(config(PERTURBATION=PERSON_UP, draws=40)) == 0
    folder = tmp_path / "out"
    rows = read_csv(folder / "sweep.csv")
    for metric in ("recall", "iou"):
        law = curve(folder, "ade20k-val.person", f"{metric}_expected", "")
        for level, value in enumerate(law):
            sampled = [
                float(row["value"])
                for row in rows
                if (row["task"], row["metric"]) == ("ade20k-val.person", metric)
                and float(row["strength"]) == 1.5 * level
            ]
            error = np.std(sampled, ddof=1) / np.sqrt(len(sampled))
            assert value == pytest.approx(np.mean(sampled), abs=5 * error + 1e-3)
    recall = curve(folder, "ade20k-val.person", "recall_expected", "")
    assert recall == sorted(recall) and recall[0] < recall[-1]
    assert curve(folder, "ade20k-val.person", "precision_expected", "") == []
    laws = [row for row in read_csv(folder / "classes.csv") if row["law"] == "expected"]
    assert any(row["iou"] for row in laws)
    assert not any(row["precision"] or row["f1_stderr"] for row in laws)


def test_a_focus_report_says_which_class_is_pushed_where_and_what_it_costs(
    config, tmp_path, capsys
):
    assert evaluate(config(PERTURBATION=PERSON_UP | {"POSITIVE": False}, exact=False)) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    words = "focus away from person"
    assert f"<title>tiny-segformer, {words}: quality against strength</title>" in page
    assert f'<p class="summary">tiny-segformer, {words}, on ' in page
    assert json.dumps(f"{words}: noise std σ (logits)") in page
    printed = capsys.readouterr().out.splitlines()
    start = printed.index("What focus does to each class")
    # The same as in the table of classes, which is counted elsewhere.
    rows = {
        (row["name"], float(row["strength"])): row for row in read_csv(tmp_path / "out/classes.csv")
    }
    name, *cells = printed[start + 3].split()
    assert name == "person"
    expected = [
        float(rows["person", std][metric])
        for metric in ("recall", "precision")
        for std in (0.0, 1.5, 3.0)
    ]
    assert [float(cell) for cell in cells] == pytest.approx(expected, abs=6e-4)


def test_preprocessing_is_asked_for_where_no_image_processor_lies_beside_the_weights(
    config, checkpoint, tmp_path, capsys
):
    bare = shutil.copytree(
        checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("preprocessor_config.json")
    )
    assert evaluate(config(model=str(bare), exact=False)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: preprocessing lacks size, mean, std")
    # The folder was given as the model, and what is recommended is understood.
    assert f"prepared for model={str(bare)!r} is not known" in error and "weights=" not in error
    (example,) = re.findall(r"'(size=[^']*)'", error)
    recommended = config(model=str(bare), exact=False, resize=None, limit=1, overlays=0)
    assert evaluate(recommended, "--preprocessing", example) == 0
    shutil.rmtree(tmp_path / "out")
    own = {"size": 64, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    options = {"preprocessing": own, "resize": None, "limit": 2}
    assert evaluate(config(model=str(bare), exact=False, **options)) == 0
    told = "preprocessing: resized by 'edge64' (bilinear), mean 0.1 0.2 0.3, std 1 1 1 (as given)"
    lines = capsys.readouterr().err.splitlines()
    assert lines[lines.index(told) - 1] == "weights: bare"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert f"preprocessing: {manifest['preprocessing']}" == told
    assert manifest["weights"] == "bare"
    assert "; weights: bare; " in (tmp_path / "out" / "report.html").read_text()


def test_models_and_data_in_folders_are_called_by_their_names(
    config, checkpoint, ade20k, tmp_path, capsys
):
    model, data = (tmp_path / f"{name}-87b0ff70b3f7" for name in ("segformer-birds", "birds"))
    shutil.copytree(checkpoint, model)
    for own, theirs in (("images", "images"), ("labels", "annotations")):
        shutil.copytree(ade20k / theirs / "validation", data / own / "val")
    (data / "classes.txt").write_text("".join(f"bird {index}\n" for index in range(CLASSES)))
    folder = {"dataset": "folder", "split": "val", "model": str(model), "data_root": str(data)}
    assert evaluate(config(exact=False, limit=2, **folder)) == 0
    shown = capsys.readouterr()
    assert "segformer-birds on birds-val:" in shown.err
    assert "birds-val (n=2)" in shown.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>segformer-birds</h1>" in page
    assert "87b0ff70b3f7" not in page


def test_splits_of_pairs_are_asked_for_and_the_one_recommended_is_read(
    config, ade20k, tmp_path, capsys
):
    data = tmp_path / "birds"
    for split in ("training", "validation"):
        for own, theirs in (("images", "images"), ("labels", "annotations")):
            shutil.copytree(ade20k / theirs / "validation", data / own / split)
    (data / "classes.txt").write_text("".join(f"bird {index}\n" for index in range(CLASSES)))
    folder = {"dataset": "folder", "data_root": str(data), "exact": False, "limit": 2}
    assert evaluate(config(**folder)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "holds the splits training and validation: give split='validation'" in error
    assert evaluate(config(**folder, split="validation")) == 0


def test_every_metric_has_its_curve_and_every_file_is_named(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(front, "_draw", DRAW)
    assert evaluate(config(exact=False, report_classes=["sky"])) == 0
    folder = tmp_path / "out"
    drawn = {path.name for path in (folder / "curves").iterdir()}
    means = {f"ade20k-val-{name}" for name in ("miou", "acc", "mrecall", "mprecision", "mf1")}
    own = {f"ade20k-val-{name}-by-class" for name in ("iou", "recall", "precision", "f1")}
    assert drawn == {f"{name}.{suffix}" for name in means | own for suffix in ("png", "svg")}
    printed = capsys.readouterr().out
    for name in ("sweep.csv", "classes.csv", "confusion.npz", "curves", "report.html"):
        assert str(folder / name) in printed


def test_standard_errors_are_in_the_table(config, tmp_path):
    assert evaluate(config(exact=False)) == 0
    rows = read_csv(tmp_path / "out" / "sweep.csv")
    assert {row["n"] for row in rows} == {"5"}
    assert all(float(row["stderr"]) > 0 for row in rows if row["metric"] == "miou")


def images_of(report: Path) -> dict:
    page = report.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(data)["images"]


@pytest.mark.parametrize(("width", "kind"), [(40, "png"), (384, "webp")])
def test_the_report_shows_images_with_the_target_at_every_strength(
    config, tmp_path, monkeypatch, width, kind
):
    # Noise alone in the last picture, which no encoder likes.
    block = PERSON_UP | {"METHOD": "utility", "STEP_SIZE": 50.0}
    settings = {"PERTURBATION": block, "exact": False, "overlays": 3, "overlay_width": width}
    monkeypatch.setattr(pictures, "_SMALL", 41)
    assert evaluate(config(**settings)) == 0
    images = images_of(tmp_path / "out" / "report.html")["ade20k-val"]
    assert images["strengths"] == ["0", "50", "100"]
    assert len(images["documents"]) == 3
    for document in images["documents"]:
        assert [title for title, _ in document["references"]] == ["image", "ground truth"]
        assert all("labelled pixels shown are right" in caption for caption in document["captions"])
        for source in [*document["pictures"], *(source for _, source in document["references"])]:
            head, _, content = source.partition(",")
            with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
                assert picture.width <= width
                expected = "png" if picture.width < 41 else "webp"
            assert head == f"data:image/{expected};base64"
    assert any(f"image/{kind}" in source for source in images["documents"][0]["pictures"])


def test_images_with_the_target_and_its_colour_go_first(config, tmp_path, ade20k):
    assert evaluate(config(PERTURBATION=PERSON_UP, exact=False, overlays=3)) == 0
    documents = images_of(tmp_path / "out" / "report.html")["ade20k-val"]["documents"]
    assert all(document["legend"][0][0] == "person" for document in documents)
    holds = [
        (np.asarray(Image.open(path)) == PERSON + 1).any()
        for path in sorted((ade20k / "annotations" / "validation").iterdir())
    ]
    shown = {int(document["name"][8:16]) for document in documents}
    assert sum(holds) >= 3
    assert all(holds[number - 1] for number in shown)


def test_a_target_that_is_named_makes_the_same_study(config, tmp_path):
    words = ("--cfg-options", "PERTURBATION.TARGET_IDX=person")
    assert evaluate(config(PERTURBATION=PERSON_UP, exact=False, overlays=0)) == 0
    assert evaluate(config(PERTURBATION=PERSON_UP | {"TARGET_IDX": 0}, exact=False), *words) == 0
    assert curve(tmp_path / "out", "ade20k-val.person", "recall")


def test_pictures_of_noise_can_be_encoded():
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
    content = pictures.encode_picture(Image.fromarray(noise))
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert picture.size == (384, 384)


def test_classes_for_curves_can_be_changed_without_counting_again(config, tmp_path, monkeypatch):
    path = config(exact=False)
    assert evaluate(path) == 0
    monkeypatch.setattr(segment_sweep, "segmentation_curve", None)
    assert evaluate(path, "--cfg-options", "report_classes=[sky]") == 0
    tasks = {row["task"] for row in read_csv(tmp_path / "out" / "sweep.csv")}
    assert tasks == {"ade20k-val", "ade20k-val.sky"}


def results(folder: Path) -> dict[str, bytes]:
    names = ("sweep.csv", "classes.csv", "confusion.npz", "records/counts.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(config, tmp_path, monkeypatch):
    monkeypatch.setattr(segment_sweep, "CHECKPOINT_IMAGES", 2)
    monkeypatch.setattr(segment_sweep, "RECORD_SECONDS", 0.0)
    path = config(draws=2)
    assert evaluate(path, "--output", str(tmp_path / "whole")) == 0
    write = segment_records.CurveRecord.write

    def write_and_die(record, curve):
        write(record, curve)
        if curve.images == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(segment_records.CurveRecord, "write", write_and_die)
        die_in_a_copy(lambda: evaluate(path))
    assert not (tmp_path / "out" / "sweep.csv").exists()
    counted = []
    measure = segment_sweep.segmentation_curve

    def count(items, *arguments, **options):
        items = list(items)
        counted.extend(name for _, _, name in items)
        return measure(items, *arguments, **options)

    monkeypatch.setattr(segment_sweep, "segmentation_curve", count)
    assert evaluate(path) == 0
    assert counted == ["ADE_val_00000005.jpg"]
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock on which counting an image takes ten seconds; its last entry is the time."""
    times = [0.0]
    measure = segment_sweep.segmentation_curve

    def slow(*arguments, **options):
        curve = measure(*arguments, **options)
        times.append(times[-1] + 10 * curve.images)
        return curve

    monkeypatch.setattr(segment_sweep, "CHECKPOINT_IMAGES", 1)
    monkeypatch.setattr(segment_sweep, "monotonic", lambda: times[-1])
    monkeypatch.setattr(segment_sweep, "segmentation_curve", slow)
    return times


def test_counts_are_recorded_every_half_minute_and_at_the_end(config, clock, monkeypatch):
    write, recorded = segment_records.CurveRecord.write, []

    def note(record, curve):
        recorded.append(curve.images)
        write(record, curve)

    monkeypatch.setattr(segment_records.CurveRecord, "write", note)
    assert evaluate(config(exact=False)) == 0
    assert recorded == [3, 5]


def test_an_interrupted_run_keeps_what_it_has_counted(config, clock, tmp_path, monkeypatch):
    path = config(exact=False)
    slow = segment_sweep.segmentation_curve

    def interrupt(*arguments, **options):
        if clock[-1] == 20:
            raise KeyboardInterrupt
        return slow(*arguments, **options)

    monkeypatch.setattr(segment_sweep, "segmentation_curve", interrupt)
    assert evaluate(path) == 130
    monkeypatch.setattr(segment_sweep, "segmentation_curve", slow)
    assert evaluate(path) == 0
    assert clock == [0, 10, 20, 30, 40, 50]
    assert evaluate(path, "--output", str(tmp_path / "whole")) == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_damaged_counts_are_counted_again(config, tmp_path):
    path = config(exact=False)
    assert evaluate(path) == 0
    expected = results(tmp_path / "out")
    record = tmp_path / "out" / "records" / "counts.safetensors"
    content = bytearray(record.read_bytes())
    content[-1] ^= 1
    record.write_bytes(content)
    with pytest.warns(segment_records.CorruptRecordWarning, match="counted again"):
        assert evaluate(path) == 0
    assert results(tmp_path / "out") == expected


ABSENT = {"METHOD": "single", "RATIO": 1.0, "TARGET_IDX": CLASSES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PERTURBATION": ABSENT}, "TARGET_IDX holds 150, outside the 150 classes"),
        (
            {"PERTURBATION": UTILITY | {"METHOD": "nonsense"}},
            "METHOD='nonsense': choose one of 'single'",
        ),
        ({"PERTURBATION": UTILITY | {"STEPS": 3}}, "did you mean 'STEP"),
        ({"PERTURBATION": None}, "holds no PERTURBATION"),
        ({"report_classes": ["persn"]}, "did you mean 'person'"),
        ({"PERTURBATION": PERSON_UP | {"TARGET_IDX": "persn"}}, "did you mean 'person'"),
        ({"report_classes": [150]}, "outside the 150 classes"),
        ({"report_clases": []}, "did you mean 'report_classes'?"),
        ({"draws": 0, "exact": False}, "nothing to compute"),
        ({"draws": "two"}, "draws='two'"),
        ({"dataset": "ade2k"}, "did you mean 'ade20k'"),
        ({"data_root": "nowhere"}, "data_root='nowhere': no such folder"),
        ({"model": "segformer-b9"}, "is no model"),
        ({"model": "cifar10_resnet20", "weights": "random"}, "is a classifier"),
        ({"cache_dtype": "int8"}, "cache_dtype='int8'"),
        ({"resize": "big"}, "resize='big' is no rule"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(config, tmp_path, capsys, changes, message):
    assert evaluate(config(**changes)) == 2
    captured = capsys.readouterr().err.strip().splitlines()
    assert captured[-1].startswith("error:") and message in captured[-1]
    assert not any("Traceback" in line for line in captured)
    assert not (tmp_path / "out").exists()


def test_an_empty_data_set_is_one_line(config, tmp_path, capsys):
    empty = tmp_path / "ADEChallengeData2016" / "images" / "validation"
    empty.mkdir(parents=True)
    assert evaluate(config(data_root=str(tmp_path))) == 2
    assert f"error: {empty} is empty of images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.py", None, "no such file"),
        ("config.txt", "", "the suffix is '.txt'"),
        ("config.py", "model = ", "is no config: "),
        ("config.py", "model = 1 / 0", "is no config: ZeroDivisionError"),
        ("config.yaml", "model: !!python/name:os.sep", "is no config: ConstructorError"),
        ("config.json", '{"_base_": "below.py"}', "builds on 'below.py'"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert evaluate(tmp_path / name) == 2
    assert message in capsys.readouterr().err


def test_another_sweep_in_the_folder_is_refused(config, tmp_path, capsys):
    assert evaluate(config(exact=False)) == 0
    before = results(tmp_path / "out")
    assert evaluate(config(exact=False), "--cfg-options", "PERTURBATION.STEP_LIMIT=2") == 2
    assert "noise_std" in capsys.readouterr().err
    assert results(tmp_path / "out") == before


# Images without labels


@pytest.fixture
def photographs(tmp_path: Path, ade20k: Path) -> Path:
    """A colour, a grey, a 16-bit and a damaged image, of odd sizes, one in a folder below."""
    folder = tmp_path / "photographs"
    (folder / "below").mkdir(parents=True)
    colour = Image.open(ade20k / "images" / "validation" / "ADE_val_00000003.jpg")
    colour.save(folder / "colour.png")
    colour.convert("L").save(folder / "grey.png")
    deep = np.asarray(colour.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "below" / "deep.png")
    (folder / "broken.jpg").write_bytes((folder / "colour.png").read_bytes()[:60])
    return folder


def infer(config: Path, images: Path, *options: str) -> int:
    return main(["segment", "infer", str(config), str(images), *options])


def test_a_crop_is_refused_by_both_commands(config, ade20k, tmp_path, capsys):
    path = config(preprocessing="size=64 crop=48 mean=0.5,0.5,0.5 std=0.2,0.2,0.2")
    image = ade20k / "images" / "validation" / f"{NAMES[0]}.jpg"
    for code in (evaluate(path), infer(path, image, "--output", str(tmp_path / "pictures"))):
        assert code == 2
    errors = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert len(errors) == 2
    assert all("crop=48: every pixel of an image is segmented" in error for error in errors)


def test_every_readable_image_gets_overlays_strip_and_animation(
    config, photographs, tmp_path, capsys
):
    assert infer(config(data_root="nowhere", PERTURBATION=PERSON_UP), photographs) == 0
    captured = capsys.readouterr()
    assert "3 images, 1 left out" in captured.out
    assert f"{photographs}: left out 1 image\n  broken.jpg: not a readable" in captured.err
    output = tmp_path / "out-images"
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.*"))
    names = ["animation.gif", "shares.csv", "std=0.png", "std=1.5.png", "std=3.png", "strip.png"]
    folders = ["below/deep", "colour", "grey"]
    assert written == sorted(f"{folder}/{name}" for folder in folders for name in names)
    for folder in folders:
        overlays = [Image.open(output / folder / f"std={std}.png") for std in ("0", "1.5", "3")]
        assert len({picture.size for picture in overlays}) == 1
        assert overlays[0].width >= 37 * 9 and overlays[0].height > 66 * 9
        with Image.open(output / folder / "animation.gif") as animation:
            assert animation.n_frames == 3
            assert animation.size == overlays[0].size
    grey, deep = (output / folder / "std=0.png" for folder in ("grey", "below/deep"))
    assert grey.read_bytes() == deep.read_bytes()


def test_overlays_have_the_colours_of_the_loops_classes(config, ade20k, checkpoint, tmp_path):
    name = "ADE_val_00000002"  # 64 pixels square
    image = ade20k / "images" / "validation" / f"{name}.jpg"
    assert infer(config(PERTURBATION=PERSON_UP), image) == 0
    output = tmp_path / "out-images" / name
    logits = upsampled_logits(ade20k, checkpoint, name, torch.float32)
    photograph = np.asarray(Image.open(image)).astype(float)
    shares = read_csv(output / "shares.csv")
    for std in (0.0, 1.5, 3.0):
        answers = SingleClassPerturbator(std, PERSON)(logits, f"{name}.jpg").argmax(0).numpy()
        picture = np.asarray(Image.open(output / f"std={std:g}.png"))
        # A small image is enlarged tenfold, and the title stands above. A pixel may be a tie.
        expected = 0.45 * photograph + 0.55 * class_palette(CLASSES)[answers]
        agreement = [
            (np.abs(picture[row : row + 640 : 10, :640:10] - expected) <= 1).all(2).mean()
            for row in range(1, picture.shape[0] - 640)
        ]
        assert max(agreement) > 0.995
        (person,) = (
            row for row in shares if (row["name"], row["strength"]) == ("person", f"{std:g}")
        )
        assert float(person["share"]) == pytest.approx((answers == PERSON).mean(), abs=1e-3)


def test_noise_lies_on_every_pixel_of_what_is_shown(config, ade20k, checkpoint, tmp_path):
    """Of a photograph larger than its overlays, which its network sees much smaller."""
    source = ade20k / "images" / "validation" / "ADE_val_00000002.jpg"
    photograph = Image.open(source).resize((1300, 1300), Image.Resampling.BICUBIC)
    photograph.save(tmp_path / "large.png")
    block = UTILITY | {"RATIO": 4.0, "STEP_LIMIT": 1}
    path = config(PERTURBATION=block, resize="square64")
    assert infer(path, tmp_path / "large.png") == 0
    logits = network_logits(checkpoint, photograph.resize((64, 64), Image.Resampling.BILINEAR))
    answers = UtilityPerturbator(4.0)(upsample(logits, (640, 640)), "large.png").argmax(0).numpy()
    photograph.thumbnail((640, 640), Image.Resampling.LANCZOS)
    expected = 0.45 * np.asarray(photograph) + 0.55 * class_palette(CLASSES)[answers]
    picture = np.asarray(Image.open(tmp_path / "out-images" / "large" / "std=4.png"))
    title = next(
        row
        for row in range(1, picture.shape[0] - 640)
        if (np.abs(picture[row : row + 640, :640] - expected) <= 1).all(2).mean() > 0.995
    )
    assert title < 60


def test_the_reports_pictures_have_noise_on_every_pixel(config, ade20k, checkpoint, tmp_path):
    block = UTILITY | {"RATIO": 2.0, "STEP_LIMIT": 1}
    options = {"PERTURBATION": block, "resize": "square32", "overlays": 5, "overlay_width": 60}
    assert evaluate(config(**options, exact=False, cache_dtype="float32")) == 0
    documents = images_of(tmp_path / "out" / "report.html")["ade20k-val"]["documents"]
    name = "ADE_val_00000002.jpg"  # 64 pixels square
    (document,) = (one for one in documents if one["name"] == name)
    photograph = Image.open(ade20k / "images" / "validation" / name)
    logits = network_logits(checkpoint, photograph.resize((32, 32), Image.Resampling.BILINEAR))
    answers = UtilityPerturbator(2.0)(upsample(logits, (60, 60)), name).argmax(0).numpy()
    photograph.thumbnail((60, 60), Image.Resampling.LANCZOS)
    expected = 0.45 * np.asarray(photograph) + 0.55 * class_palette(CLASSES)[answers]
    content = base64.b64decode(document["pictures"][0].partition(",")[2])
    picture = np.asarray(Image.open(io.BytesIO(content)))
    assert (np.abs(picture - expected) <= 1).all(2).mean() > 0.995
    stored = reduced_labels(ade20k, name.removesuffix(".jpg"))
    nearest = (np.arange(60) * 2 + 1) * 64 // 120
    labels = stored[np.ix_(nearest, nearest)]
    right = 100 * (answers == labels)[labels != 255].mean()
    shown = float(document["captions"][0].split(" %")[0])
    assert shown == pytest.approx(right, abs=0.2)


@pytest.mark.parametrize("kind", ["empty", "absent", "broken"])
def test_no_image_is_one_line(config, photographs, tmp_path, capsys, kind):
    if kind == "empty":
        (tmp_path / "empty").mkdir()
    path = photographs / "broken.jpg" if kind == "broken" else tmp_path / kind
    assert infer(config(), path) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error:") and str(path) in last
    assert not (tmp_path / "out-images").exists()


def test_a_damaged_image_stops_the_run_where_that_is_asked_for(config, photographs, capsys):
    assert infer(config(on_error="raise"), photographs) == 2
    assert "broken.jpg" in capsys.readouterr().err


def test_noise_is_that_of_the_file_wherever_its_folder_starts(config, ade20k, tmp_path):
    path, name = config(), "ADE_val_00000002"
    assert infer(path, ade20k / "images", "--output", str(tmp_path / "far")) == 0
    assert infer(path, ade20k / "images" / "validation", "--output", str(tmp_path / "near")) == 0
    far = tmp_path / "far" / "validation" / name / "shares.csv"
    assert far.read_bytes() == (tmp_path / "near" / name / "shares.csv").read_bytes()


def test_images_of_impossible_sizes_are_left_out_of_overlays(config, photographs, tmp_path, capsys):
    for width, height in [(3, 5), (1, 1), (2, 300)]:
        Image.new("RGB", (width, height)).save(photographs / f"{width}x{height}.png")
    assert infer(config(resize="original"), photographs) == 0
    captured = capsys.readouterr()
    assert "3 images, 4 left out" in captured.out
    assert "tiny-segformer takes no images of 2 x 300 pixels" in captured.err


def test_images_that_differ_in_suffix_only_keep_folders_of_their_own(config, photographs, tmp_path):
    Image.open(photographs / "colour.png").save(photographs / "colour.bmp")
    assert infer(config(), photographs) == 0
    folders = {path.parent.name for path in (tmp_path / "out-images").rglob("strip.png")}
    assert folders == {"colour.png", "colour.bmp", "grey", "deep"}


# The configs that are shipped

SHIPPED = Path(__file__).resolve().parents[3] / "eval_configs" / "vision"


@pytest.mark.parametrize(
    ("name", "levels", "targets"),
    [
        ("utility", [float(level) for level in range(21)], []),
        ("person", [float(level) for level in range(21)], ["person"]),
        (
            "targets",
            [level / 2 for level in range(11)],
            ["traffic light", "streetlight", "bicycle"],
        ),
    ],
)
def test_shipped_configs_have_the_papers_settings(name, levels, targets):
    settings = read_settings(SegmentSettings, SHIPPED / f"ade20k_segformer_b2_{name}.py")
    found = settings.PERTURBATION.levels(ADE20K_CLASSES)
    assert [level.std for level in found] == levels
    rules = (settings.resize, settings.score_at, settings.mean_over)
    assert (settings.model, *rules) == ("segformer-b2", "short512", "input", "present")
    names = classes_of(settings.dataset, Path(settings.data_root))
    assert [names[index] for index in found[0].directions(CLASSES) or ()] == targets
    assert set((found[0].directions(CLASSES) or {}).values()) <= {1}
    assert {names.index(entry) for entry in settings.report_classes} <= set(range(CLASSES))


def test_the_papers_figures_stand_beside_ours(config, checkpoint, tmp_path, monkeypatch):
    """Only where data and weights are the paper's, for which the tiny ones stand in here."""
    load = segment_load.load_model
    monkeypatch.setattr(
        segment_load, "load_model", lambda name, **options: load(str(checkpoint), weights=None)
    )
    monkeypatch.setattr(published, "_DOCUMENTS", {"ade20k-val": len(NAMES)})
    monkeypatch.setattr(segment_sweep, "PUBLISHED_RULES", ("short64", "input", "present"))
    block = PERSON_UP | {"STEP_SIZE": 2.0}
    options = {"model": "segformer-b2", "weights": "hub", "PERTURBATION": block, "exact": False}
    options |= {"score_at": "input"}
    assert evaluate(config(**options)) == 0
    folder = tmp_path / "out"
    assert curve(folder, "ade20k-val", "miou_published", "") == [0.4620, 0.4610, 0.4560]
    person = curve(folder, "ade20k-val.person", "recall_published", "")
    assert person == [0.9124, 0.9577, 0.9732]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "recall_published" in page and "2603.12755" in page
    local = {"weights": str(checkpoint)}
    elsewhere, mean = {"score_at": "labels"}, {"mean_over": "labelled"}
    changes = {"fewer": {"limit": 3}, "local": local, "elsewhere": elsewhere, "mean": mean}
    for name, change in changes.items():
        assert evaluate(config(**options | {"output": str(tmp_path / name)} | change)) == 0
        assert curve(tmp_path / name, "ade20k-val", "miou_published", "") == []
    monkeypatch.setattr(published, "_DOCUMENTS", {"ade20k-val": 2000})
    assert evaluate(config(**options, output=str(tmp_path / "part"))) == 0
    assert curve(tmp_path / "part", "ade20k-val", "miou_published", "") == []


def test_a_misspelt_on_error_is_refused_with_the_settings():
    with pytest.raises(ValueError, match="on_error='ignore'"):
        path = SHIPPED / "ade20k_segformer_b2_person.py"
        read_settings(SegmentSettings, path, ["on_error=ignore"])
