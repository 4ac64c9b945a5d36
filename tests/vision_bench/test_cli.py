"""`vision-bench classify-logits`, from a file of logits to a folder of results."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from vision_bench.cli import main


@pytest.fixture
def digits_file(digits, tmp_path: Path) -> Path:
    logits, labels = digits
    np.savez(tmp_path / "digits.npz", logits=logits.numpy(), labels=labels.numpy())
    return tmp_path / "digits.npz"


def run(file: Path, output: Path, *options: str) -> int:
    return main(["classify-logits", str(file), "--output", str(output), *options])


def read_table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "sweep.csv", newline="") as table:
        return list(csv.DictReader(table))


def accuracy_rows(folder: Path) -> list[dict[str, str]]:
    """Accuracy of all documents together."""
    rows = read_table(folder)
    return [r for r in rows if r["task"] == "digits" and r["metric"] in ("acc", "acc_expected")]


def test_a_sweep_writes_table_pictures_and_manifest(digits, digits_file, tmp_path, capsys):
    logits, labels = (part.numpy() for part in digits)
    assert run(digits_file, tmp_path / "out", "--noise-std", "0:8:2", "--draws", "3") == 0
    every = read_table(tmp_path / "out")
    # Ten classes are few enough to have curves of their own.
    assert {row["task"] for row in every} == {"digits", *(f"digits.{k}" for k in range(10))}
    rows = accuracy_rows(tmp_path / "out")
    assert list(rows[0])[:7] == ["task", "metric", "strength", "draw", "value", "stderr", "n"]
    cells = [(row["metric"], float(row["strength"]), row["draw"]) for row in rows]
    stds = [0.0, 2.0, 4.0, 6.0, 8.0]
    sampled = [("acc", std, draw) for std in stds for draw in ("0", "1", "2")]
    assert cells == sampled + [("acc_expected", std, "") for std in stds]
    clean = (logits.argmax(1) == labels).mean()
    for row in rows:
        assert int(row["n"]) == len(labels)
        if row["strength"] == "0.0":
            assert float(row["value"]) == pytest.approx(clean, abs=1e-12)
    pictures = list((tmp_path / "out" / "curves").iterdir())
    assert {path.suffix for path in pictures} == {".png", ".svg"}
    assert (tmp_path / "out" / "report.html").exists()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["arguments"]["draws"] == 3
    printed = capsys.readouterr().out
    # A share of n documents that are right or wrong has the interval of a coin.
    law = binomtest(round(clean * len(labels)), len(labels)).proportion_ci(0.95, method="wilson")
    assert f"{clean:.3f} [{law.low:.3f}, {law.high:.3f}]" in printed
    assert str(tmp_path / "out" / "sweep.csv") in printed


def test_exact_and_sampled_columns_agree_within_the_noise(digits_file, tmp_path):
    draws = 16
    options = ("--noise-std", "1,3,9", "--draws", str(draws), "--seed", "5")
    assert run(digits_file, tmp_path / "out", *options) == 0
    rows = accuracy_rows(tmp_path / "out")
    exact = {r["strength"]: r for r in rows if r["metric"] == "acc_expected"}
    for strength, row in exact.items():
        sampled = [
            float(r["value"]) for r in rows if r["metric"] == "acc" and r["strength"] == strength
        ]
        p, n = float(row["value"]), int(row["n"])
        # At most the error of independent coins of the mean probability.
        error = math.sqrt(p * (1 - p) / n / draws)
        assert np.mean(sampled) == pytest.approx(p, abs=4 * error)


def test_running_again_changes_nothing(digits_file, tmp_path):
    contents = []
    for _ in range(2):
        assert run(digits_file, tmp_path / "out", "--noise-std", "0,3") == 0
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        contents.append({path: path.read_bytes() for path in files})
    assert contents[0] == contents[1]


def test_the_task_can_be_named(digits_file, tmp_path):
    assert run(digits_file, tmp_path / "out", "--noise-std", "1", "--task", "my digits") == 0
    rows = read_table(tmp_path / "out")
    assert {row["task"].partition(".")[0] for row in rows} == {"my digits"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--noise-std", "-1"), "noise_std"),
        (("--noise-std", "-1,0"), "negative"),
        (("--noise-std", "nan"), "noise_std"),
        (("--noise-std", "1,1"), "noise_std"),
        (("--noise-std", "3:1:1"), "noise_std"),
        (("--noise-std", "1", "--draws", "0"), "draws=0: give a whole number from 1"),
    ],
)
def test_bad_options_leave_nothing_behind(digits_file, tmp_path, capsys, options, message):
    assert run(digits_file, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_absent_file_is_named(tmp_path, capsys):
    assert run(tmp_path / "absent.npz", tmp_path / "out", "--noise-std", "1") == 2
    assert f"file='{tmp_path / 'absent.npz'}': no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_sweep_is_refused(digits_file, tmp_path, capsys):
    assert run(digits_file, tmp_path / "out", "--noise-std", "1") == 0
    table = (tmp_path / "out" / "sweep.csv").read_bytes()
    assert run(digits_file, tmp_path / "out", "--noise-std", "2") == 2
    assert "noise_std" in capsys.readouterr().err
    assert (tmp_path / "out" / "sweep.csv").read_bytes() == table


def test_help_and_import_load_no_torch():
    code = (
        "import sys, vision_bench, vision_bench.cli\n"
        "try:\n    vision_bench.cli.main(['--help'])\n"
        "except SystemExit as exit:\n    assert exit.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ("classify --cfg-options weights=random CONFIG", "CONFIG [options]"),
        ("top-classes --cfg-options weights=random CONFIG", "CONFIG [options]"),
        ("segment evaluate --cfg-options limit=1 CONFIG", "CONFIG [options]"),
        ("segment infer --cfg-options limit=1 CONFIG A", "CONFIG IMAGE_OR_FOLDER [options]"),
        (
            "classify-logits --noise-std 1 --output OUT --focus-target 1 FILE",
            "FILE --noise-std GRID --output DIR [options]",
        ),
    ],
)
def test_usage_shows_an_order_in_which_no_option_swallows_a_file(words, order, capsys):
    with pytest.raises(SystemExit):
        main(words.split())
    usage, error = " ".join(capsys.readouterr().err.split()).split("[options]")
    assert f"{usage}[options]".endswith(f" {order}") and "are required" in error
