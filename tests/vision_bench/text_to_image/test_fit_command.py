"""`vision-bench images fit` and `show`: what reaches the fit, and what is refused before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from tests.vision_bench.text_to_image.conftest import SOURCE, TARGET, images, write_prompts
from vision_bench.diffusion.artifact import ImageTransport
from vision_bench.diffusion.fit import fit_transport
from vision_bench.diffusion.pipelines import load_pipeline
from vision_bench.text_to_image.fit import read_sides
from vision_bench.text_to_image.settings import FitSettings


def test_the_command_writes_what_the_function_learns(pipelines, sides, tmp_path, capsys):
    words = ["--pipeline", pipelines / "sd", *sides, "--method", "gaussian", "--seed", 3]
    words += ["--incremental", "atonce", "--num-inference-steps", 2, "--batch-size", 3]
    assert images("fit", *words, "-o", tmp_path / "out") == 0
    wanted = fit_transport(
        load_pipeline(str(pipelines / "sd")),
        SOURCE,
        TARGET,
        method="gaussian",
        seed=3,
        incremental="atonce",
        num_inference_steps=2,
        batch_size=3,
        progress=False,
    )
    assert ImageTransport.load(tmp_path / "out").fingerprint == wanted.fingerprint
    printed, known = capsys.readouterr().out, wanted.metadata
    sites = len(known.sites)
    assert f"{sites} sites fitted (gaussian, at once) on 4 + 3 prompts" in printed
    moves = f"move by {known.moved:.2f} of their spread on average"
    assert f"{moves}; {max(known.held, 0):.0%} of it holds on held-out prompts" in printed
    assert "most at unet." in printed and "least of it holds at unet." in printed


def test_every_option_reaches_the_fit(pipelines, sides, tmp_path):
    words = "--pooling all --support q10_90 --timesteps each --incremental source --strength -0.5"
    words += " --rows conditional --guidance-scale 2 --num-inference-steps 3 --height 32 --width 16"
    words += " --negative-prompt boot --seed 7 --limit 2 --dtype bfloat16"
    modules = ["--modules", r"unet\.conv_norm_out", r"unet\.mid_block\.resnets\.0\.norm1"]
    where = ["--pipeline", pipelines / "sd", "-o", tmp_path / "out"]
    assert images("fit", *where, *sides, *words.split(), *modules) == 0
    known = ImageTransport.load(tmp_path / "out").metadata
    assert (known.pooling, known.support, known.timesteps) == ("all", "q10_90", "each")
    assert (known.incremental, known.strength, known.rows) == ("source", -0.5, "conditional")
    assert (known.guidance_scale, known.num_inference_steps) == (2.0, 3)
    assert (known.height, known.width, known.seed) == (32, 16, 7)
    assert (known.n_source, known.n_target) == (2, 2)
    assert known.call == {"negative_prompt": "boot"}
    assert list(known.sites) == ["unet.mid_block.resnets.0.norm1", "unet.conv_norm_out"]
    assert len(known.fitted_timesteps) == 3
    assert known.model_signature["dtype"] == "bfloat16"


def test_a_config_names_data_and_settings_of_each_command(pipelines, tmp_path):
    for name, prompts in (("source", SOURCE), ("target", TARGET)):
        write_prompts(tmp_path / f"{name}.txt", prompts)
    config = tmp_path / "config.py"
    config.write_text(
        f"pipeline = {str(pipelines / 'sd')!r}\n"
        f"data = dict(name='files', root={str(tmp_path)!r}, source='source.txt', "
        "target='target.txt')\n"
        "num_inference_steps = 2\n"
        "call = dict(eta=0.0)\n"
        "fit = dict(batch_size=4, strength=0.5)\n"
        "generate = dict(strength='0,1', batch_size=2)\n"
    )
    assert images("fit", "--config", config, "--support", "none", "-o", tmp_path / "t") == 0
    known = ImageTransport.load(tmp_path / "t").metadata
    assert (known.n_source, known.n_target, known.batch_size) == (4, 3, 4)
    assert (known.strength, known.call) == (0.5, {"eta": 0.0})
    prompts = ["--prompts", tmp_path / "source.txt", "--no-create-gif"]
    drawn = tmp_path / "drawn"
    assert images("generate", tmp_path / "t", "--config", config, *prompts, "-o", drawn) == 0
    assert sorted(path.name for path in (drawn / "images").iterdir()) == [
        "strength=0",
        "strength=1",
    ]
    assert not (drawn / "animations").exists()


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offloaded_pipeline_learns_the_same(
    offload, pipelines, sides, transport, tmp_path, accelerated
):
    words = ["--pipeline", pipelines / "sd", *sides, "--num-inference-steps", 2]
    words += ["--guidance-scale", 3, "--support", "none", "--offload", offload]
    assert images("fit", *words, "-o", tmp_path / "out") == 0
    assert accelerated == [offload]
    found, wanted = ImageTransport.load(tmp_path / "out"), ImageTransport.load(transport)
    assert found.fingerprint == wanted.fingerprint
    assert found.metadata.model_signature == wanted.metadata.model_signature


def limited(tmp_path: Path, source: list[str], target: list[str]) -> tuple[list[str], list[str]]:
    files = {
        "source": str(write_prompts(tmp_path / "from.txt", source)),
        "target": str(write_prompts(tmp_path / "to.txt", target)),
    }
    where = {"pipeline": "demo:text-to-image", "output": tmp_path / "out"}
    return read_sides(FitSettings(**files, **where, limit=5, seed=3))


def test_a_limit_draws_partners_together(tmp_path: Path) -> None:
    """Sorted, the targets come in the other order, so that places apart would part them."""
    source = [f"coat {number}" for number in range(10, 40)]
    target = [f"{9 - number % 10}{number} striped" for number in range(10, 40)]
    partner = dict(zip(source, target, strict=True))
    drawn, beside = limited(tmp_path, source, target)
    assert len(set(drawn)) == 5 and beside == [partner[one] for one in drawn]
    # What is drawn depends on the prompts alone, in whatever order their file has them.
    assert limited(tmp_path, source[::-1], target[::-1]) == (drawn, beside)


def test_a_limit_draws_from_each_of_two_unequal_sides(tmp_path: Path) -> None:
    source, target = [f"coat {one}" for one in range(9)], [f"boot {one}" for one in range(3)]
    drawn, beside = limited(tmp_path, source, target)
    assert len(set(drawn)) == 5 and set(drawn) < set(source)
    assert sorted(beside) == target


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["--source", "{here}/one.txt", "--target", "{here}/one.txt"],
            "source has 1 prompt(s), and method='linear' needs at least 2",
        ),
        (["--source", "{here}/one.txt"], "without the other side"),
        ([], "the prompts are missing"),
        (["--source", "{here}/no.txt", "--target", "{here}/one.txt"], "no such file"),
        (["--method", "linnear"], "did you mean 'linear'"),
        (["--method", "caa"], "last token of a sentence"),
        (["--support", "min"], "support='min' is unknown"),
        (["--timesteps", "last"], "timesteps='last'"),
        (["--pipeline", "{here}/none"], "no such folder"),
        (["--pipeline", "{here}"], "cannot be loaded"),
        (["--modules", "text_encoder.*norm.*"], "lie outside of 'unet'"),
        (["--modules", ".*nrm"], "matches none"),
        (["--device", "abacus"], "device='abacus' cannot be used"),
        (["--dtype", "int8"], "dtype='int8'"),
        (["--offload", "disk"], "offload='disk'"),
        (
            ["--offload", "model", "--device", "cpu"],
            "offload='model' keeps weights in the machine's",
        ),
        (["--offload", "sequential", "--batch-size", "2"], "batch_size=2 is below the 7 prompts"),
        (["--guidance-scale", "-1"], "guidance_scale=-1.0"),
    ],
)
def test_a_wrong_argument_is_named_in_a_line(words, named, pipelines, sides, tmp_path, capsys):
    write_prompts(tmp_path / "one.txt", ["a coat"])
    words = [word.format(here=tmp_path) for word in words]
    own = [] if not words or words[0] == "--source" else sides
    base = ["--pipeline", pipelines / "sd", *own, "-o", tmp_path / "out"]
    assert images("fit", *base, *words) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_filled_folder_is_refused_before_anything_is_loaded(pipelines, sides, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert images("fit", "--pipeline", pipelines / "sd", *sides, "-o", tmp_path) == 2
    told = capsys.readouterr().err
    assert "notes.txt" in told and "loading" not in told


def test_an_argument_that_the_pipeline_lacks_is_refused(pipelines, sides, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text("call = dict(ettta=1.0)\n")
    words = ["--config", config, "--pipeline", pipelines / "sd", *sides, "-o", tmp_path / "out"]
    assert images("fit", *words) == 2
    assert "takes no ettta=1.0" in capsys.readouterr().err
    config.write_text("call = dict(height=64)\n")
    assert images("fit", *words) == 2
    assert "call holds 'height'" in capsys.readouterr().err


def test_show_tells_the_fit_and_a_line_for_each_map(
    transport: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = ImageTransport.load(transport)
    assert images("show", transport) == 0
    printed = capsys.readouterr().out
    assert "4 source and 3 target prompts" in printed
    assert "the first denoising step, steps 2, guidance 3.0, size 16 x 16" in printed
    assert "prompts and negative prompts, support none" in printed
    for site, timed in learned.maps.maps.items():
        line = next(line.split() for line in printed.splitlines() if line.startswith(f"{site} "))
        change = float((timed[None].scale.double() - 1).abs().mean())
        assert float(line[2]) == pytest.approx(change, rel=1e-3)
    assert images("show", transport, "--json") == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["fingerprint"] == learned.fingerprint
    assert [one["site"] for one in shown["sites"]] == list(learned.metadata.sites)


def test_show_names_the_command_that_makes_transports(tmp_path, capsys):
    assert images("show", tmp_path / "none") == 2
    assert "`vision-bench images fit`" in capsys.readouterr().err
