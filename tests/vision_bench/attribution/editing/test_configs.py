"""The configs of edits: read by their command, with the counts of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aim_plugins.core.settings import read_settings
from vision_bench.attribution.editing.settings import EditSettings
from vision_bench.demo import train_backdoored
from vision_bench.demo.names import WORDS

ROOT = Path(__file__).resolve().parents[4]
CONFIGS = {
    path.stem: path
    for path in sorted((ROOT / "eval_configs" / "vision" / "attribution").glob("*.py"))
    if "\ntargets = " in path.read_text("utf-8")
}


def read(name: str) -> Any:
    """The settings of a config, without making the demo's models."""
    made: dict[str, str | None] = {f"demo:{word}": f"/made/{word}" for word in WORDS}
    made |= {"demo:data-root": None, "demo:dataset": "digits"}
    return read_settings(
        EditSettings, CONFIGS[name], resolve=lambda value: made.get(str(value), value)
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_read_by_its_command(name: str) -> None:
    settings = read(name)
    assert "demo:" not in repr(settings)
    if name.startswith("demo_"):
        assert settings.folder.parent == Path("runs/demo-attribution")


@pytest.mark.parametrize(
    ("name", "kind", "targets", "references"),
    [
        ("mistakes", "wrong", 1, 50),
        ("backdoor", "triggered", 10, 10),
        ("waterbirds", "worst-group", 20, 40),
        ("celeba", "worst-group", 20, 60),
    ],
)
def test_the_paper_s_counts_are_those_of_its_authors(name, kind, targets, references) -> None:
    settings = read(name)
    assert (settings.kind, settings.lowers) == (kind, False)
    assert (settings.target_count, settings.reference_count) == (targets, references)


def test_the_demo_s_backdoor_is_the_one_that_was_planted() -> None:
    settings = read("demo_backdoor")
    assert settings.trigger == train_backdoored.TRIGGER
    assert settings.backdoor_class == train_backdoored.TARGET


def test_the_demo_runs_every_edit_of_its_own() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    target = makefile.split("\ndemo-attribution:")[1].split("\n\n")[0]
    for name in CONFIGS:
        assert not name.startswith("demo_") or f"/{name}.py" in target, name
