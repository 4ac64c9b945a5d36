"""Two processes under `accelerate launch` write what one does, and one of them speaks.

Run as a script, this file is such a process: it runs one command after the other, as starting takes
longer than all that they do. What both print to standard output goes to FOLDER/NAME.txt.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vision_bench
from vision_bench import cli
from vision_bench.classification.__main__ import main as classify

UTILITY = {"METHOD": "utility", "RATIO": 0.0, "STEP_SIZE": 1.5, "STEP_LIMIT": 3}

Commands = dict[str, list[str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def commands(root: Path, weights: Path, ade20k: Path, checkpoint: Path) -> dict[str, Commands]:
    """What one process and what two run: a module and its words, by what it does."""
    config = root / "config.py"
    settings = {"dataset": "ade20k", "resize": "short64", "batch_size": 2, "overlays": 2}
    settings |= {"model": str(checkpoint), "data_root": str(ade20k), "exact": False}
    settings |= {"PERTURBATION": UTILITY}
    config.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    words = {
        "classify": ["vision_bench.classification", "--dataset", "digits", "--model", "resnet20"]
        + ["--weights", str(weights), "--preprocessing", "published", "--limit", "300"]
        + ["--num-perturb-steps", "3", "--perturb-step", "4"],
        "segment": ["vision_bench.cli", "segment", "evaluate", str(config)],
    }
    return {
        count: {
            name: [*asked, "--output", str(root / count / name / "out")]
            + ["--logits-cache", str(root / count / name / "logits")]
            for name, asked in words.items()
        }
        for count in ("one", "two")
    }


@pytest.fixture(scope="module", autouse=True)
def run(root: Path, commands: dict[str, Commands]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert classify(commands["one"]["classify"][1:]) == 0
    assert cli.main(commands["one"]["segment"][1:]) == 0
    torch.set_num_threads(threads)
    (root / "two").mkdir()
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2")
    package = str(Path(vision_bench.__file__).parents[1])
    environment = {"PYTHONPATH": package, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    made = subprocess.run(
        [sys.executable, *launch, __file__, str(root / "two"), json.dumps(commands["two"])],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert made.returncode == 0, made.stderr


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "manifest.json")
    }


@pytest.mark.parametrize(
    ("name", "title"), [("classify", "digits-test (n=300)"), ("segment", "ade20k-val (n=5)")]
)
def test_two_processes_write_what_one_does_and_one_speaks(root: Path, name: str, title: str):
    printed = (root / "two" / f"{name}.txt").read_text()
    assert printed.count(title) == printed.count("report:") == 1
    one, two = (files_of(root / count / name) for count in ("one", "two"))
    # The report tells the command.
    assert {path for path in one if one[path] != two.get(path)} == {"out/report.html"}
    assert one.keys() == two.keys()


def process(folder: str, commands: str) -> None:
    for name, (module, *words) in json.loads(commands).items():
        output = os.open(Path(folder, f"{name}.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        sys.argv = [module, *words]
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, words
        sys.stdout.flush()


if __name__ == "__main__":
    process(*sys.argv[1:])
