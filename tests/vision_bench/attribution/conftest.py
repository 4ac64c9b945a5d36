"""A LeNet-5 on digits whose outputs are attributed to its filters, in one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vision_bench.cli import main

FAST = {
    "dataset": "digits",
    "model": "lenet5",
    "examples": 24,
    "num_ablations": 150,
    "gradient_passes": 20,
    "eval_masks": 30,
    "eval_alphas": [0.1, 0.2],
    "top": 3,
    "report_examples": 2,
    "seed": 3,
}


@pytest.fixture(scope="module")
def config(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "digits.json"
    path.write_text(json.dumps({**FAST, "weights": str(lenet)}))
    return path


@pytest.fixture(scope="module")
def output(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a whole run."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["attribute", "run", str(config), "--output", str(folder)]) == 0
    return folder
