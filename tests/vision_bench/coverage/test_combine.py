"""`vision-bench coverage combine`: parts of a suite are together what one run measures of all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")

from aim_plugins.coverage import pictures  # noqa: E402
from vision_bench import cli  # noqa: E402

SHARED = ("--dataset", "digits", "--model", "lenet5", "--limit", "60", "--train-limit", "150")
# Each image alone: on some processors the last bits of its outputs depend on its batch.
SHARED += ("--baselines", "0", "--batch-size", "1", "--top-m-neurons", "3", "--end2end")
SHARED += ("--criteria", "NC,KMNC,NBC,TKNP,CC,LSC,DSC,MDSC,NLC,IDC", "--report-classes", "3", "7")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """On one thread, and without drawing what other tests look at."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "render", lambda figure: {"png": PNG, "svg": b"<svg/>"})
        yield
    torch.set_num_threads(threads)


def measure(config: Path, folder: Path, *options: str) -> Path:
    words = ("coverage", "run", str(config), *SHARED, "--output", str(folder), *options)
    assert cli.main(words) == 0
    return folder


def combine(folders: Sequence[Path], output: Path, *options: str) -> int:
    return cli.main(("coverage", "combine", *map(str, folders), "-o", str(output), *options))


@pytest.fixture(scope="module")
def config(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "digits.json"
    path.write_text(json.dumps({"weights": str(lenet)}))
    return path


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run on everything, whose reference all parts share."""
    return measure(config, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture(scope="module")
def parts(config: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The suite in three parts."""
    root = tmp_path_factory.mktemp("parts")
    reference = ("--reference", str(whole / "reference"))
    return [
        measure(config, root / str(part), "--part", f"{part}/3", *reference) for part in (1, 2, 3)
    ]


def results(folder: Path) -> dict[str, dict]:
    content = json.loads((folder / "coverage.json").read_text())
    assert content["inputs"] == 60
    return {one["label"]: one for one in content["results"]}


def assert_equal_runs(one: Path, other: Path) -> None:
    mine, theirs = results(one), results(other)
    assert list(mine) == list(theirs)
    for label, result in mine.items():
        for name, value in result.items():
            if label == "NLC" and name in ("value", "by_layer", "by_class"):
                # Moments are gathered in another order.
                assert value == pytest.approx(theirs[label][name], rel=1e-6), (label, name)
            else:
                assert value == theirs[label][name], (label, name)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_parts_combined_are_one_run_on_everything(whole, parts, tmp_path, capsys):
    assert combine(parts, tmp_path / "both") == 0
    assert_equal_runs(tmp_path / "both", whole)
    captured = capsys.readouterr()
    assert "lenet5 on digits-test, 60 inputs" in captured.out
    assert "are not among the folders" not in captured.err
    report = (tmp_path / "both" / "report.html").read_text()
    assert "<h1>lenet5</h1>" in report and "60 inputs of digits-test reach" in report


def test_parts_combine_in_any_order_and_in_steps(whole, parts, tmp_path):
    assert combine(parts[::-1], tmp_path / "backwards") == 0
    assert_equal_runs(tmp_path / "backwards", whole)
    assert combine(parts[:2], tmp_path / "two") == 0
    assert combine([tmp_path / "two", parts[2]], tmp_path / "three") == 0
    assert_equal_runs(tmp_path / "three", whole)


def test_combining_again_changes_nothing(parts, tmp_path):
    assert combine(parts, tmp_path / "out") == 0
    files = ("coverage.json", "coverage.csv", "profile/profile.safetensors")
    before = [(tmp_path / "out" / name).read_bytes() for name in files]
    assert combine(parts, tmp_path / "out") == 0
    assert [(tmp_path / "out" / name).read_bytes() for name in files] == before


def test_parts_that_are_missing_are_named(parts, tmp_path, capsys):
    assert combine([parts[0], parts[2]], tmp_path / "out") == 0
    assert "parts 2/3 are not among the folders" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["missing_parts"], manifest["images"]) == (["2/3"], 40)


def test_the_command_fails_below_what_is_asked_for(whole, parts, tmp_path, capsys):
    value = results(whole)["KMNC"]["value"]
    assert combine(parts, tmp_path / "a", "--fail-under", f"KMNC={value}") == 0
    assert combine(parts, tmp_path / "b", "--fail-under", f"KMNC={value + 1e-9},IDC=0") == 1
    assert last_line(capsys).startswith("KMNC is ")
    assert (tmp_path / "b" / "report.html").exists()


# Refusals -------------------------------------------------------------------------------------


def refused(folders: Sequence[Path], output: Path, capsys, *options: str) -> str:
    """The error of a combination of which nothing is written."""
    assert combine(folders, output, *options) == 2
    assert not output.exists()
    line = last_line(capsys)
    assert line.startswith("error: ")
    return line


def test_a_part_counts_once(parts, tmp_path, capsys):
    line = refused([parts[0], parts[1], parts[0]], tmp_path / "out", capsys)
    assert "hold 1/3 and 1/3 of the same suite, which have images in common" in line
    copy = shutil.copytree(parts[0], tmp_path / "copy")
    assert "images in common" in refused([parts[0], copy], tmp_path / "out", capsys)


def test_what_was_combined_counts_once_too(parts, tmp_path, capsys):
    assert combine(parts[:2], tmp_path / "two") == 0
    line = refused([tmp_path / "two", parts[1]], tmp_path / "out", capsys)
    assert "hold 2/3 and 2/3 of the same suite" in line


def test_parts_of_two_divisions_with_images_in_common_are_refused(
    whole, parts, config, tmp_path, capsys
):
    reference = ("--reference", str(whole / "reference"))
    assert "hold 1/1 and 2/3" in refused([whole, parts[1]], tmp_path / "out", capsys)
    # Part 2/6 holds every other image of 2/3, and none of 1/3.
    sixth = measure(config, tmp_path / "sixth", "--part", "2/6", *reference)
    assert "hold 2/3 and 2/6" in refused([parts[1], sixth], tmp_path / "out", capsys)
    assert combine([parts[0], sixth], tmp_path / "apart") == 0
    # What was combined before remembers its parts.
    assert combine(parts[1:], tmp_path / "two") == 0
    assert "hold 2/3 and 2/6" in refused([tmp_path / "two", sixth], tmp_path / "out", capsys)
    other = measure(config, tmp_path / "other", "--part", "1/3", "--seed", "1", *reference)
    line = refused([parts[1], other], tmp_path / "out", capsys)
    assert "seed=0 and 1, and may have images in common" in line


def test_another_reference_or_setting_is_refused(whole, parts, config, tmp_path, capsys):
    fewer = measure(config, tmp_path / "fewer", "--part", "2/3", "--train-limit", "100")
    assert "other references" in refused([parts[0], fewer], tmp_path / "out", capsys)
    reference = ("--reference", str(whole / "reference"))
    coarse = measure(
        config, tmp_path / "coarse", "--part", "2/3", "--kmnc-buckets", "10", *reference
    )
    line = refused([parts[0], coarse], tmp_path / "out", capsys)
    assert "kmnc_buckets=1000 and 10: measure both alike" in line


def test_a_part_that_was_not_finished_is_refused(parts, tmp_path, capsys):
    copy = shutil.copytree(parts[0], tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"images": 25}))
    line = refused([copy, parts[1]], tmp_path / "out", capsys)
    assert "has 20 of its 25 images: start that run again" in line


def test_what_is_no_part_is_refused(parts, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    line = refused([parts[0], tmp_path / "empty"], tmp_path / "out", capsys)
    assert "holds no profile/profile.json" in line
    assert "'absent'" in refused([parts[0], Path("absent")], tmp_path / "out", capsys)
    line = refused(parts, tmp_path / "out", capsys, "--fail-under", "KMNN=0.5")
    assert "KMNN is not measured; did you mean" in line
    copy = shutil.copytree(parts[0], tmp_path / "copy")
    (copy / "reference" / "reference.safetensors").write_bytes(b"cut")
    assert "reference.safetensors" in refused([copy, parts[1]], tmp_path / "out", capsys)
    assert combine(parts, parts[0]) == 2
    assert "holds another sweep" in last_line(capsys)
