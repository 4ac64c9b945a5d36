"""The configs of attribution: read by their commands, and with the components of the paper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from aim_plugins.core.settings import read_settings
from aim_plugins.modulation.component_kinds import find_components
from vision_bench.attribution.settings import AttributionSettings
from vision_bench.demo.names import WORDS

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "eval_configs" / "vision" / "attribution"


def read(name: str) -> AttributionSettings:
    """The settings of a config, without making the demo's models."""
    made: dict[str, str | None] = {f"demo:{word}": f"/made/{word}" for word in WORDS}
    made |= {"demo:data-root": None, "demo:dataset": "digits"}
    return read_settings(
        AttributionSettings,
        CONFIGS / f"{name}.py",
        resolve=lambda value: made.get(str(value), value),
    )


@pytest.mark.parametrize(
    ("name", "count"), [("imagenet_resnet50", 22_720), ("imagenet_vit_b_16", 82_944)]
)
def test_components_are_as_many_as_in_the_paper(name: str, count: int) -> None:
    settings = read(name)
    with torch.device("meta"):
        model = torchvision.models.get_model(settings.model.partition(":")[2])
    found = find_components(model, settings.components, settings.patterns)
    assert (len(found), settings.alpha) == (count, 0.05)


def test_the_demo_attributes_a_part_of_its_filters() -> None:
    settings = read("demo_resnet20")
    assert settings.folder == Path("runs/demo-attribution/resnet20")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "/demo_resnet20.py" in makefile.split("\ndemo-attribution:")[1].split("\n\n")[0]
