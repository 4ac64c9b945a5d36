"""`vision-bench attribute edit`, end to end with a small network on digits."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from aim_plugins.modulation.components import Components, Site
from aim_plugins.modulation.edits import ComponentEdit
from vision_bench.attribution.editing import study
from vision_bench.attribution.editing.answers import Edit, EditedClassifier
from vision_bench.attribution.editing.last_layer import Tuned
from vision_bench.attribution.editing.split import split_images
from vision_bench.attribution.subject import ClassifierSubject
from vision_bench.cli import main
from vision_bench.data.classification import ArrayImages, load_dataset
from vision_bench.data.images import UnreadableImageError
from vision_bench.data.marks import MarkedImages
from vision_bench.data.trigger import Trigger
from vision_bench.models.load import load_model
from vision_bench.models.output_layer import find_output_layer

pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = 400
PLAIN = {
    "model": "lenet5",
    "dataset": "digits",
    "limit": LIMIT,
    "batch_size": 64,
    "components": "linear_rows",
    "target_count": 10,
    "reference_count": 20,
    "num_ablations": 120,
    "gradient_passes": 20,
    "sizes": "2,5,10",
    "random_edits": 3,
    "strengths": "0,0.5,1",
}


def write(folder: Path, lenet: Path, **given) -> Path:
    path = folder / "edit.py"
    values = {**PLAIN, "weights": str(lenet), **given}
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()))
    return path


def run(config: Path, output: Path, *options: str) -> int:
    return main(["attribute", "edit", str(config), "--output", str(output), *options])


def found(folder: Path) -> dict:
    return json.loads((folder / "edit.json").read_text())


@pytest.fixture(scope="module")
def config(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("config"), lenet, targets="0", tolerance=0.1)


@pytest.fixture(scope="module")
def output(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "forgotten"
    assert run(config, folder) == 0
    return folder


def left_over(lenet: Path):
    """The images that are tested, and the model as it is."""
    model = load_model("lenet5", weights=lenet, classes=10)
    data = load_dataset("digits", preprocessing=model.preprocessing, limit=LIMIT)
    _, rest = split_images(data, 0.4, 0)
    return model, data.subset(rest)


def answers(module: torch.nn.Module, data) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.stack([data[one][0] for one in range(len(data))])).argmax(1)


def test_the_checkpoint_is_a_plain_model_with_the_accuracies_of_the_report(output, lenet):
    model, data = left_over(lenet)
    own = data.labels == 0
    edited = load_model("lenet5", weights=output / "model.safetensors", classes=10)
    arms = found(output)["arms"]
    for name, one in (("model", model), ("edit", edited)):
        right = answers(one.module, data) == data.labels
        assert arms[name]["class 0"]["value"] == pytest.approx(float(right[own].double().mean()))
        assert arms[name]["other classes"]["value"] == pytest.approx(
            float(right[~own].double().mean())
        )


def test_the_edit_is_an_artifact_that_does_the_same_to_the_model(output, lenet):
    model, data = left_over(lenet)
    edit = ComponentEdit.load(output / "edit")
    named = study.named_module(model.module)
    edit.check_model(named)
    assert set(edit.components.names()) == set(found(output)["components"])
    before = answers(model.module, data)
    with edit.applied(named):
        ablated = answers(model.module, data)
    checkpoint = load_model("lenet5", weights=output / "model.safetensors", classes=10)
    assert torch.equal(ablated, answers(checkpoint.module, data))
    assert torch.equal(answers(model.module, data), before)


def test_a_class_is_forgotten_and_others_are_not(output):
    arms = found(output)["arms"]
    assert found(output)["helps"]
    assert arms["edit"]["class 0"]["value"] < arms["random edits"]["class 0"]["value"] - 0.3
    assert arms["edit"]["other classes"]["value"] > arms["model"]["other classes"]["value"] - 0.1


def test_the_strength_goes_from_the_model_to_the_edit(output):
    rows = list(csv.DictReader((output / "edit.csv").open()))
    curve = [row for row in rows if row["arm"] == "edit" and row["measure"] == "class 0"]
    arms = found(output)["arms"]
    assert [row["strength"] for row in curve] == ["0", "0.5", "1"]
    assert float(curve[0]["value"]) == arms["model"]["class 0"]["value"]
    assert float(curve[-1]["value"]) == arms["edit"]["class 0"]["value"]
    assert {row["arm"] for row in rows} == {
        "edit", "random 1", "random 2", "random 3", "fine-tuned"
    }  # fmt: skip


def test_the_page_stands_alone_with_its_pictures(output):
    page = (output / "report.html").read_text()
    assert "forget class 0" in page and page.count("data:image/png") >= 4
    assert {one.name for one in (output / "curves").iterdir()} == {
        f"{name}.{kind}"
        for name in ("arms", "strength", "choice", "layers")
        for kind in ("png", "svg")
    }


def test_a_finished_run_computes_nothing_again_and_writes_the_same(
    config, output, tmp_path, monkeypatch
):
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    before = {name: (copy / name).read_bytes() for name in ("edit.json", "edit.csv")}

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(study.EditedClassifier, "_ask", refuse)
    monkeypatch.setattr(ClassifierSubject, "paired_outputs", refuse)
    monkeypatch.setattr(ClassifierSubject, "gradients", refuse)
    assert run(config, copy) == 0
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_a_killed_run_goes_on_to_the_same_end(config, output, tmp_path, monkeypatch):
    ask, count = study.EditedClassifier._ask, []

    def killed(*given):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return ask(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study.EditedClassifier, "_ask", killed)
        study.EditStudy(read(config, tmp_path / "run")).run()
    assert run(config, tmp_path / "run") == 0
    assert found(tmp_path / "run") == found(output)


def read(config: Path, output: Path):
    from aim_plugins.core.settings import read_settings
    from vision_bench.attribution.editing.settings import EditSettings

    return read_settings(EditSettings, config, given={"output": str(output)})


def test_another_edit_in_the_same_folder_is_refused(config, output, capsys):
    assert run(config, output, "--target-count", "5") == 2
    assert "target_count" in capsys.readouterr().err


def test_the_success_of_a_patch_is_counted_on_images_of_other_classes(lenet, tmp_path):
    trigger = {"size": 0.5, "corner": "top-left", "margin": 0.0, "colour": [255, 255, 255]}
    config = write(
        tmp_path, lenet, targets="triggered", backdoor_class=8, trigger=trigger, sizes="1,2"
    )
    assert run(config, tmp_path / "run", "--no-fine-tune", "--random-edits", "0") == 0
    model, data = left_over(lenet)
    others = data.subset((data.labels != 8).nonzero().flatten().tolist())
    marks = [Trigger(**trigger)] * len(others)
    patched = others.subset(range(len(others)), MarkedImages(others.images, marks))
    given = answers(model.module, patched)
    measured = found(tmp_path / "run")["arms"]
    assert list(measured) == ["model", "edit"]
    assert measured["model"]["with patch"]["value"] == pytest.approx(
        float((given == others.labels).double().mean())
    )
    assert measured["model"]["patch answered 8"]["value"] == pytest.approx(
        float((given == 8).double().mean())
    )


def test_wrong_answers_are_mended_or_the_page_says_so(lenet, tmp_path):
    config = write(tmp_path, lenet, targets="wrong", target_count=2, tolerance=0.5)
    assert run(config, tmp_path / "run") == 0
    measured = found(tmp_path / "run")
    assert measured["arms"]["model"]["edited images"]["value"] == 0
    assert "edited images" not in measured["differences"]["edit less model"]
    assert measured["seen"]["edited images"] == "not held out"
    assert ("no edit to keep" in (tmp_path / "run" / "report.html").read_text()) != (
        measured["helps"]
    )


def test_too_many_components_are_refused(config, tmp_path, capsys):
    assert run(config, tmp_path / "run", "--sizes", "1000") == 2
    assert "sizes=[1000]: the model has 204 components" in capsys.readouterr().err


def test_default_sizes_stop_at_the_components_there_are(lenet, tmp_path):
    config = write(tmp_path, lenet, targets="0", fine_tune=False)
    config.write_text(config.read_text().replace("sizes = '2,5,10'\n", ""))
    one = study.EditStudy(read(config, tmp_path / "run"))
    one.load()
    assert one.sizes == [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200]


def test_sizes_that_are_asked_for_are_not_left_out(config, tmp_path, capsys):
    assert run(config, tmp_path / "run", "--sizes", "2,500") == 2
    assert "sizes=[2, 500]: the model has 204 components" in capsys.readouterr().err


def test_what_no_checkpoint_can_hold_is_refused_before_it_is_attributed(
    lenet, tmp_path, monkeypatch
):
    one = study.EditStudy(read(write(tmp_path, lenet, targets="0", sizes="1"), tmp_path / "run"))
    block = Components((Site("net", "", 1, side="residual"),), ((0,),))
    monkeypatch.setattr(study, "find_components", lambda *_: block)
    with pytest.raises(ValueError, match="whole block"):
        one.load()


def test_the_tested_split_does_not_select(config, tmp_path, capsys):
    assert run(config, tmp_path / "run", "--selection-split", "test") == 2
    assert "digits-test is what is tested" in capsys.readouterr().err


def test_answers_of_another_edit_are_not_taken_for_its_own(lenet):
    model, data = left_over(lenet)
    kept: dict = {}

    class Journal:
        read_batch, write_batch = staticmethod(kept.get), staticmethod(kept.__setitem__)

    ask = EditedClassifier(model, 64, journal=Journal())
    layer = model.module.get_submodule(find_output_layer(model.module, data[0][0][None]))

    def shifted(to: int) -> Edit:
        bias = torch.zeros(10)
        bias[to] = 1e6
        tuned = Tuned(1.0, 1, layer.weight.detach().clone(), bias)
        return Edit(tuned.digest, lambda: tuned.applied(layer))

    for to in (3, 7, 3):
        assert set(ask(data, {"tuned": shifted(to)}, "test")["tuned"].tolist()) == {to}
    assert len(kept) == 2 * -(-len(data) // 64)  # the third time nothing is asked again


def test_an_image_that_cannot_be_read_is_left_out_and_named(lenet, tmp_path, monkeypatch):
    _, data = left_over(lenet)
    broken, read = data.names[0], ArrayImages.read

    def failing(self, index):
        if self.names[index] == broken:
            raise UnreadableImageError(f"{broken} is damaged")
        return read(self, index)

    monkeypatch.setattr(ArrayImages, "read", failing)
    label = (int(data.labels[0]) + 1) % 10
    config = write(
        tmp_path, lenet, targets="triggered", backdoor_class=label, sizes="2", random_edits=0
    )
    assert run(config, tmp_path / "run") == 0
    left_out = json.loads((tmp_path / "run" / "manifest.json").read_text())["left_out"]
    assert set(left_out) == {broken, f"{broken} with patch"}
    rows = list(csv.DictReader((tmp_path / "run" / "edit.csv").open()))
    assert {row["images"] for row in rows if row["measure"] == "clean"} == {str(len(data) - 1)}


def test_the_worst_group_is_the_least_of_the_groups_accuracies(tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = [one for one in range(400) if digits.target[one] in (3, 5)]
    lines = ["img_filename,y,split,place"]
    for number, place in enumerate(chosen):
        pixels = (digits.images[place] * 15).astype("uint8")
        y, light = int(digits.target[place] == 5), number % 3 == 0
        name = f"{number}.png"
        Image.fromarray(255 - pixels if light else pixels).save(tmp_path / name)
        lines.append(f"{name},{y},{2 if number % 2 else 1},{int(light)}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    config = tmp_path / "edit.py"
    values = {
        **PLAIN,
        "dataset": "waterbirds",
        "data_root": str(tmp_path),
        "limit": None,
        "weights": "random",
        "preprocessing": {"size": 28, "mean": [0.1] * 3, "std": [0.3] * 3},
        "selection_split": "val",
        "target_count": 3,
        "reference_count": 6,
        "num_ablations": 30,
        "targets": "worst-group",
    }
    config.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()))
    assert run(config, tmp_path / "run") == 0
    edited = load_model(
        "lenet5",
        weights=tmp_path / "run" / "model.safetensors",
        classes=2,
        preprocessing=values["preprocessing"],
    )
    data = load_dataset("waterbirds", tmp_path, preprocessing=edited.preprocessing)
    right = answers(edited.module, data) == data.labels
    shares = [float(right[data.groups == one].double().mean()) for one in range(4)]
    arms = found(tmp_path / "run")["arms"]["edit"]
    assert arms["worst group"]["value"] == pytest.approx(min(shares))
    assert arms["all images"]["value"] == pytest.approx(float(right.double().mean()))
    assert arms["landbird on water"]["value"] == pytest.approx(shares[1])
