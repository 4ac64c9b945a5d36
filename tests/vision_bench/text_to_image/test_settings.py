"""Settings of `vision-bench images`, and the configs that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aim_plugins.core.config_file import read_config
from aim_plugins.core.settings import read_settings
from vision_bench.text_to_image.settings import (
    SECTIONS,
    EvaluateSettings,
    FitSettings,
    GenerateSettings,
)

CONFIGS = Path(__file__).parents[3] / "eval_configs" / "vision" / "text_to_image"
OWN = sorted(path for path in CONFIGS.glob("*.py") if not path.name.startswith(("make_", "demo_")))
"""The configs with the paper's settings."""


def settings(**given: Any) -> GenerateSettings:
    return GenerateSettings(
        transport=Path("t"), output=Path("o"), pipeline="p", prompts="p.txt", **given
    )


def test_ends_and_steps_are_those_of_linspace_in_exact_decimals() -> None:
    found = settings(min_strength=-0.5, max_strength=1.25, strength_steps=8).strengths
    assert found == pytest.approx(np.linspace(-0.5, 1.25, 8))
    assert settings().strengths == settings(strength="0:1:0.1").strengths
    assert settings(strength_steps=11).strengths[3] == 0.3  # 0.30000000000000004 in linspace
    assert settings(max_strength=2, strength_steps=3).strengths == (0.0, 1.0, 2.0)
    assert settings(min_strength=0.7, strength_steps=1).strengths == (0.7,)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"strength": "0:1:0.5", "strength_steps": 3}, "strength and strength_steps are both"),
        ({"min_strength": 2.0}, "min_strength=2 is not below max_strength=1"),
        ({"min_strength": 1.0, "strength_steps": 2}, "min_strength=1 is not below"),
        ({"max_strength": float("inf")}, "max_strength=inf is not finite"),
        ({"strength": "0,0"}, "strength='0,0'"),
        (
            {"height": 17},
            "height=17 is no multiple of 8, by which pipelines shrink images: give 16 or 24",
        ),
        ({"call": {"seed": 3, "width": 3}}, "call holds 'width'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        settings(**given)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_configs_hold_settings_of_all_commands(path: Path) -> None:
    folder = {"output": Path("o"), "transport": Path("t")}
    fit = read_settings(FitSettings, path, (), folder, sections=SECTIONS, read=["fit"])
    drawn = read_settings(GenerateSettings, path, (), folder, sections=SECTIONS, read=["generate"])
    scored = read_settings(
        EvaluateSettings, path, (), folder, sections=SECTIONS, read=["generate", "evaluate"]
    )
    assert (scored.prompts, scored.strengths) == (drawn.prompts, drawn.strengths)
    assert scored.clip == "openai/clip-vit-large-patch14"
    assert (fit.pipeline, fit.guidance_scale) == (drawn.pipeline, 0.0)
    assert drawn.strengths == tuple(index / 10 for index in range(11))
    assert drawn.num_inference_steps == 4
    style = "style" in path.stem or path.stem == "original"
    assert fit.data["name"] == ("coco_styles" if style else "coco_concepts")
    assert fit.data["name"] == drawn.prompts["name"]  # type: ignore[index]


def test_the_original_config_is_the_original_command() -> None:
    path = CONFIGS / "original.py"
    fit = read_settings(
        FitSettings, path, (), {"output": Path("o")}, sections=SECTIONS, read=["fit"]
    )
    assert (fit.num_inference_steps, fit.support, fit.timesteps) == (1, "minmax", "first")
    assert (fit.data["n_source"], fit.data["n_target"]) == (256, 256)
    assert read_config(path)["generate"]["strength_steps"] == 11
