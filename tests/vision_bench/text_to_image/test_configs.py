"""The demo's configs: read by their commands, run by `make demo-images`, and what they compare."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aim_plugins.core.settings import Settings, read_settings
from vision_bench.diffusion.denoising import Denoising, prompt_batches
from vision_bench.text_to_image.fit import read_sides
from vision_bench.text_to_image.images import plan_images
from vision_bench.text_to_image.settings import (
    SECTIONS,
    EvaluateSettings,
    FitSettings,
    GenerateSettings,
)
from vision_bench.text_to_image.tasks import load_prompts

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "eval_configs" / "vision" / "text_to_image"
DEMO = {path.stem.removeprefix("demo_"): path for path in sorted(CONFIGS.glob("demo_*.py"))}
LAST = {"stripes": 2.0, "night": 1.0, "moon": 3.0}


def read(kind: type[Settings], name: str, *sections: str) -> Settings:
    """The settings of a config, without making the demo's models."""
    folders = {"output": Path("o"), "transport": Path("t")}
    return read_settings(kind, DEMO[name], (), folders, sections=SECTIONS, read=sections)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs name files as seen from there."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", DEMO)
def test_a_demo_is_drawn_as_it_was_learned(name: str) -> None:
    fit = read(FitSettings, name, "fit")
    drawn = read(GenerateSettings, name, "generate")
    scored = read(EvaluateSettings, name, "generate", "evaluate")
    assert isinstance(fit, FitSettings)
    assert isinstance(drawn, GenerateSettings)
    assert isinstance(scored, EvaluateSettings)
    assert fit.arguments == {"num_inference_steps": 8, "guidance_scale": 3.0}
    assert fit.arguments == drawn.arguments == scored.arguments
    assert {fit.pipeline, drawn.pipeline, scored.pipeline} == {"demo:text-to-image"}
    assert drawn.strengths == scored.strengths
    assert (drawn.strengths[0], drawn.strengths[-1], len(drawn.strengths)) == (0, LAST[name], 9)
    assert fit.timesteps == ("first" if name == "stripes" else "each")
    assert fit.pooling == ("all" if name == "moon" else "mean")  # a moon is in one corner


@pytest.mark.parametrize("name", DEMO)
def test_no_image_that_is_scored_starts_from_noise_that_maps_were_learned_on(name: str) -> None:
    fit = read(FitSettings, name, "fit")
    scored = read(EvaluateSettings, name, "generate", "evaluate")
    assert isinstance(fit, FitSettings)
    assert isinstance(scored, EvaluateSettings)
    source, target = read_sides(fit)
    pipe = Asked()
    denoising = Denoising(pipe, {}, seed=fit.seed, n_source=len(source))
    for batch in prompt_batches(source, target, batch_size=len(source)):
        denoising.run(batch)
    learned, paired = pipe.seeds
    assert learned == paired and len(set(learned)) == len(source)
    prompts = [one.text for one in load_prompts(scored.prompts).prompts]
    planned = plan_images(prompts, [0], per_prompt=scored.images_per_prompt, seed=scored.seed)
    assert not set(learned) & {one.seed for (one,) in planned}


class Asked:
    """A pipeline that notes the seeds of the noise that it is given."""

    scheduler = None

    def __init__(self) -> None:
        self.seeds: list[list[int]] = []

    def __call__(self, prompt: list[str], generator: list[Any], output_type: str) -> None:
        self.seeds.append([one.initial_seed() for one in generator])

    def set_progress_bar_config(self, disable: bool) -> None:
        pass


@pytest.mark.parametrize("name", DEMO)
def test_a_demo_leads_from_and_to_what_its_prompts_say(name: str) -> None:
    word = {"stripes": "strip", "night": "night|dark", "moon": "moon"}[name]
    fit = read(FitSettings, name, "fit")
    scored = read(EvaluateSettings, name, "generate", "evaluate")
    assert isinstance(fit, FitSettings)
    assert isinstance(scored, EvaluateSettings)
    source, target = read_sides(fit)
    having, lacking = (source, target) if name == "moon" else (target, source)
    assert len(source) == len(target) == 60
    assert all(re.search(word, text) for text in having)
    assert not any(re.search(word, text) for text in lacking)
    found = load_prompts(scored.prompts)
    assert found.concept is not None and re.search(word, found.concept)
    assert len({one.text for one in found.prompts}) == 20
    for one in found.prompts:
        assert one.text == one.plain + (" without a moon" if name == "moon" else "")
        assert not re.search(word, one.plain)


def test_the_demo_runs_the_commands_of_every_config() -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.installed", "demo-images"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", " ")
    found = [words.split() for words in re.findall(r"vision-bench images (.*)", planned)]
    assert sorted(map(tuple, found)) == sorted(
        (*command, "--config", f"eval_configs/vision/text_to_image/demo_{name}.py")
        + ("--output", f"runs/demo-images/{name}{end}")
        for name in DEMO
        for command, end in (
            (("fit",), ""),
            (("generate", f"runs/demo-images/{name}"), "-drawn"),
            (("evaluate", f"runs/demo-images/{name}"), "-scored"),
        )
    )
    assert set(DEMO) == set(LAST)


@pytest.mark.parametrize("name", DEMO)
def test_the_commands_in_a_config_are_those_of_the_demo(name: str) -> None:
    text = DEMO[name].read_text("utf-8")
    assert f"CONFIG=eval_configs/vision/text_to_image/demo_{name}.py" in text
    folders = re.findall(r"-o (\S+)", text)
    assert folders == [f"runs/demo-images/{name}{end}" for end in ("", "-drawn", "-scored")]
