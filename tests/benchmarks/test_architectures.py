"""Steered models of several architectures against hooks written by hand, and their table."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import architectures
from benchmarks._architectures import ARCHITECTURES, IN_VLLM

ONE_OF_A_KIND = ["olmo2", "qwen3_moe", "llava", "bamba", "mamba"]


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_steered_model_is_the_one_with_hooks_by_hand(name):
    found = architectures.check_transformers(name)
    assert all(found["sites"].values()) and not architectures.is_off(found)


def test_one_architecture_of_each_kind_is_checked():
    kinds = {one.kind for one in ARCHITECTURES.values()}
    assert {ARCHITECTURES[name].kind for name in ONE_OF_A_KIND} == kinds


def test_the_pages_table_is_that_of_the_figures():
    results = json.loads((architectures.RESULTS / f"{architectures.RESULT}.json").read_text())
    assert set(results["transformers"]) == set(ARCHITECTURES)
    assert set(results["vllm"]) == set(IN_VLLM)
    table = architectures.table(results)
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(ARCHITECTURES)
    assert f"\n\n{table}\n\n" in architectures.PAGE.read_text(encoding="utf-8")


def test_every_figure_is_within_the_bounds_that_the_page_names():
    results = json.loads((architectures.RESULTS / f"{architectures.RESULT}.json").read_text())
    for found in [*results["transformers"].values(), *results["vllm"].values()]:
        assert not architectures.is_off(found) and not found.get("rows at 0")
