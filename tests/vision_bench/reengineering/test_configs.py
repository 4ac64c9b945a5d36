"""The configs of re-engineering: read by their commands, and with the settings of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aim_plugins.core.settings import read_settings
from vision_bench.demo.names import WORDS
from vision_bench.reengineering.defects.settings import DefectsSettings
from vision_bench.reengineering.settings import ReengineerSettings

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "eval_configs" / "vision" / "reengineering"

RATES = {
    "cifar10_vgg16_binary": (0.01, 1.0),
    "cifar100_vgg16_binary": (0.05, 1.5),
    "cifar10_resnet20_binary": (0.05, 1.0),
    "cifar100_resnet20_binary": (0.12, 1.5),
    "cifar100_resnet20": (0.1, 2.0),
    "imagenet_resnet50": (0.05, 2.0),
}
"""Rate of the masks and alpha, from the table of parameters in the README of the authors' code
(https://github.com/qibinhang/SeaM)."""


def read(name: str) -> Any:
    """The settings of a config, without making the demo's models."""
    made: dict[str, str | None] = {f"demo:{word}": f"/made/{word}" for word in WORDS}
    made |= {"demo:data-root": None, "demo:dataset": "digits"}
    kind = DefectsSettings if "defects" in name else ReengineerSettings
    return read_settings(
        kind, CONFIGS / f"{name}.py", resolve=lambda value: made.get(str(value), value)
    )


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_is_read_by_its_command(config: Path) -> None:
    settings = read(config.stem)
    assert "demo:" not in repr(settings)
    if config.stem.startswith("demo_"):
        assert settings.folder.parent == Path("runs/demo-reengineer")


@pytest.mark.parametrize("name", RATES)
def test_the_paper_s_settings_are_those_of_its_authors(name: str) -> None:
    settings = read(name)
    assert settings.stages == (RATES[name],)
    assert (settings.lr_head, settings.n_epochs, settings.train_batch_size) == (0.1, 300, 64)
    assert settings.granularity == "weight"


def test_the_demo_runs_every_demo_config() -> None:
    target = (ROOT / "Makefile").read_text("utf-8").split("\ndemo-reengineer:")[1].split("\n\n")[0]
    for config in CONFIGS.glob("demo_*.py"):
        assert f"/{config.name}" in target, config
