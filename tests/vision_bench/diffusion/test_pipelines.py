from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline

from aim_plugins.modulation.hooks import choose_sites, execution_order
from tests.vision_bench.diffusion.conftest import draw
from vision_bench.diffusion.pipelines import (
    as_module,
    check_steerable,
    default_modules,
    denoiser_of,
    load_pipeline,
)


@pytest.mark.parametrize(
    ("name", "component"), [("sd", "unet"), ("sdxl", "unet"), ("flux", "transformer")]
)
def test_the_denoiser_is_what_runs_at_every_step(
    name: str, component: str, request: pytest.FixtureRequest
) -> None:
    pipe = request.getfixturevalue(name)
    assert denoiser_of(pipe) == (component, getattr(pipe, component))
    check_steerable(pipe)


def test_pipelines_without_a_denoiser_are_refused(sd: DiffusionPipeline) -> None:
    class Decoder(DiffusionPipeline):
        def __init__(self, vae: torch.nn.Module) -> None:
            super().__init__()
            self.register_modules(vae=vae)

    with pytest.raises(ValueError, match=r"Decoder has no denoisers \(vae\): give one whose unet"):
        denoiser_of(Decoder(sd.vae))


def test_pipelines_of_two_denoisers_are_refused(flux: DiffusionPipeline) -> None:
    class Experts(DiffusionPipeline):
        def __init__(self, transformer: Any, transformer_2: Any) -> None:
            super().__init__()
            self.register_modules(transformer=transformer, transformer_2=transformer_2)

    with pytest.raises(ValueError, match=r"has 2 denoisers \(transformer, transformer_2\)"):
        denoiser_of(Experts(flux.transformer, flux.transformer))


@pytest.mark.parametrize(
    ("name", "count"),
    # FLUX: text and image of 2 + 2 blocks; SD3: the last block has no text. The UNets' norms are
    # counted by class here.
    [("sd", None), ("sdxl", None), ("flux", 8), ("sd3", 3), ("pixart", 2), ("sana", 2)],
)
def test_default_sites_run_once_in_every_call(
    name: str, count: int | None, request: pytest.FixtureRequest
) -> None:
    pipe = request.getfixturevalue(name)
    root = as_module(pipe)
    sites = choose_sites(root, default_modules(pipe))
    if count is None:
        norms = (torch.nn.GroupNorm, torch.nn.LayerNorm)
        count = sum(isinstance(one, norms) for one in pipe.unet.modules())
    order = execution_order(root, sites, lambda: draw_one_call(pipe))
    assert sorted(order) == sorted(sites)
    assert len(sites) == count


def draw_one_call(pipe: DiffusionPipeline) -> None:
    """A run that ends with the denoiser's first call."""

    class EndError(Exception):
        pass

    def end(*_: Any) -> None:
        raise EndError

    handle = denoiser_of(pipe)[1].register_forward_hook(end)
    try:
        with pytest.raises(EndError):
            draw(pipe, ["a coat"])
    finally:
        handle.remove()


def test_unknown_denoisers_have_no_default_sites(sd: DiffusionPipeline) -> None:
    class OtherUNet(torch.nn.Module):
        pass

    other = copy.copy(sd)
    other.unet = OtherUNet()
    with pytest.raises(ValueError, match="no sites are known for the denoiser 'unet' of the class"):
        default_modules(other)


def test_names_that_match_nothing_are_refused_with_near_ones(sd: DiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="modules of StableDiffusionPipeline; nearest: '"):
        choose_sites(as_module(sd), r"unet\.mid_block\.resnet\.0\.norm1")


def compile_whole(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def compile_in_place(pipe: Any) -> None:
    pipe.unet.compile(backend="eager")


def compile_blocks(pipe: Any) -> None:
    pipe.unet.compile_repeated_blocks(backend="eager")


def compile_a_part(pipe: Any) -> None:
    pipe.unet.mid_block = torch.compile(pipe.unet.mid_block, backend="eager")


def compile_forward(pipe: Any) -> None:
    pipe.unet.mid_block.forward = torch.compile(pipe.unet.mid_block.forward, backend="eager")


@pytest.mark.parametrize(
    "compiling",
    [compile_whole, compile_in_place, compile_blocks, compile_a_part, compile_forward],
)
def test_compiled_denoisers_are_refused_until_that_is_undone(
    sd: DiffusionPipeline, compiling: Any
) -> None:
    pipe: Any = copy.copy(sd)
    pipe.unet = copy.deepcopy(sd.unet)
    compiling(pipe)
    with pytest.raises(ValueError, match="is compiled, and a compiled graph ignores") as error:
        check_steerable(pipe)
    mend = re.search("run `(.*)` first", str(error.value))
    assert mend
    exec(mend[1], {"pipe": pipe})  # what it tells is Python
    check_steerable(pipe)
    assert torch.equal(draw(pipe, ["a coat"]), draw(sd, ["a coat"]))


@pytest.mark.parametrize(
    "cache",
    [
        diffusers.FirstBlockCacheConfig(threshold=0.1),
        diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
        diffusers.TaylorSeerCacheConfig(cache_interval=2),
        diffusers.FasterCacheConfig(current_timestep_callback=lambda: 500),
    ],
    ids=lambda one: type(one).__name__,
)
def test_caches_that_skip_blocks_are_refused_until_switched_off(
    flux: DiffusionPipeline, cache: Any
) -> None:
    pipe: Any = copy.copy(flux)
    pipe.transformer = copy.deepcopy(flux.transformer)
    pipe.transformer.enable_cache(cache)
    with pytest.raises(ValueError, match=r"run `pipe\.transformer\.disable_cache\(\)` first"):
        check_steerable(pipe)
    pipe.transformer.disable_cache()
    check_steerable(pipe)


def test_saved_pipelines_are_loaded(sd: DiffusionPipeline, tmp_path: Path) -> None:
    sd.save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), torch.bfloat16)
    assert type(loaded) is type(sd)
    assert loaded.unet.dtype == loaded.text_encoder.dtype == torch.bfloat16
    again = load_pipeline(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again, ["a coat"]), draw(sd, ["a coat"]))


def test_half_precision_on_a_cpu_is_no_reason_to_warn(sd, tmp_path, monkeypatch) -> None:
    """Diffusers says of each model that it will not run there; it does, slowly."""
    from diffusers.pipelines import pipeline_utils

    half = copy.deepcopy(sd)
    half.to(torch.float16, silence_dtype_warnings=True)
    half.save_pretrained(tmp_path)
    told: list[str] = []
    monkeypatch.setattr(pipeline_utils.logger, "warning", told.append)
    loaded = load_pipeline(str(tmp_path))
    loaded.set_progress_bar_config(disable=True)
    assert told == []
    assert loaded.unet.dtype == torch.float16 and draw(loaded, ["a coat"]).isfinite().all()


def test_pipelines_without_an_autoencoder_are_loaded(sd: DiffusionPipeline, tmp_path: Path) -> None:
    latent = copy.copy(sd)
    latent.vae = None
    latent.save_pretrained(tmp_path)
    assert load_pipeline(str(tmp_path)).vae is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_have_the_type_of_their_files(sd, tmp_path, dtype) -> None:
    copy.deepcopy(sd).to(dtype).save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path))
    assert loaded.unet.dtype == loaded.text_encoder.dtype == dtype


def test_a_variant_is_read_where_it_alone_is_there(sd, tmp_path) -> None:
    copy.deepcopy(sd).to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(ValueError, match="cannot be loaded.*variant='fp16' reads"):
        load_pipeline(str(tmp_path))
    loaded = load_pipeline(str(tmp_path), variant="fp16")
    assert loaded.unet.dtype == torch.float16
    assert torch.equal(loaded.unet.conv_in.weight, sd.unet.conv_in.weight.half())


def test_of_two_variants_the_one_that_is_read_tells_the_type(sd, tmp_path) -> None:
    sd.save_pretrained(tmp_path)
    copy.deepcopy(sd).to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert load_pipeline(str(tmp_path)).unet.dtype == torch.float32
    assert load_pipeline(str(tmp_path), variant="fp16").unet.dtype == torch.float16


def test_a_package_that_is_missing_is_named(sd, tmp_path, monkeypatch) -> None:
    sd.save_pretrained(tmp_path)

    def miss(*_: Any, **__: Any) -> None:
        raise ImportError("T5Tokenizer requires the SentencePiece library\nbut it was not found")

    monkeypatch.setattr(type(sd.tokenizer), "from_pretrained", miss)
    with pytest.raises(ValueError) as caught:
        load_pipeline(str(tmp_path))
    message = str(caught.value)
    assert "requires the SentencePiece library but it was not found; install the pack" in message
    assert "\n" not in message


def test_a_class_that_diffusers_has_not_is_named(sd, tmp_path) -> None:
    sd.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "NewestPipeline"))
    with pytest.raises(ValueError, match="cannot be loaded: .*NewestPipeline"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("part", ["pipeline", "unet"])
def test_code_that_comes_with_a_pipeline_is_not_run(sd, tmp_path, part) -> None:
    """Releases of diffusers before the floor of setup.py imported it from folders unasked."""
    folder, proof = tmp_path / "pipe", tmp_path / "ran"
    sd.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    where = folder if part == "pipeline" else folder / part
    (where / "evil.py").write_text(
        f"open({str(proof)!r}, 'w').close()\nfrom diffusers import StableDiffusionPipeline\n"
        "class Evil(StableDiffusionPipeline): pass\n"
    )
    index |= {"_class_name": ["evil", "Evil"]} if part == "pipeline" else {part: ["evil", "Evil"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_pipeline(str(folder))
    assert not proof.exists()


def test_pickled_weights_are_refused(sd: DiffusionPipeline, tmp_path: Path) -> None:
    sd.save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.rglob("*.bin"))
    with pytest.raises(ValueError, match="cannot be loaded: .*safetensors files"):
        load_pipeline(str(tmp_path))


def test_folders_that_hold_no_pipeline_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded.*give a folder that a diffusers"):
        load_pipeline(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="pipeline="):
        load_pipeline(str(tmp_path / "nothing"))
