"""Reads the demo questions from `data/` beside this file, whatever the working directory is.

lm-eval looks for `data_files` in the working directory, so the YAML files name these functions
instead (`custom_dataset: !function demo_data.capitals`).
"""

from __future__ import annotations

import json
from pathlib import Path

import datasets

FOLDER = Path(__file__).resolve().parent / "data"


def capitals(**_: object) -> dict[str, datasets.Dataset]:
    """Which country a city is the capital of: four countries each."""
    return _read("capitals")


def continents(**_: object) -> dict[str, datasets.Dataset]:
    """Which continent a country lies on: four continents."""
    return _read("continents")


def generation(**_: object) -> dict[str, datasets.Dataset]:
    """The capital of a country, to be written out."""
    return _read("generation")


def _read(name: str) -> dict[str, datasets.Dataset]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}
