"""A saved image transport is read back whole or refused in one line, and knows its denoiser."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

pytest.importorskip("diffusers")

from diffusers import EulerDiscreteScheduler

from aim_plugins.core.files import sha256_of
from aim_plugins.core.identity import fingerprint
from aim_plugins.modulation.activations import AffineMap
from aim_plugins.transport.artifact import LearnedTransport
from tests.vision_bench.diffusion.conftest import draw
from vision_bench.diffusion.artifact import ImageTransport, ImageTransportMetadata
from vision_bench.diffusion.denoising import scheduler_config
from vision_bench.diffusion.pipelines import denoiser_of
from vision_bench.diffusion.steering import ImageMaps

METADATA_FILE, TENSORS_FILE = "image_transport.json", "image_transport.safetensors"
VECTORS = ("scale", "shift", "support_min", "support_max")

NORM, CONVOLUTION = "unet.mid_block.resnets.0.norm1", "unet.conv_in"
WIDTHS = {NORM: 32, CONVOLUTION: 16}


def make_transport(pipe: Any, timesteps: list[float] | None = None, **fields: Any) -> Any:
    """A transport of random maps, at two sites; one map clips."""
    generator = torch.Generator().manual_seed(0)

    def one(width: int, *, clip: bool) -> AffineMap:
        scale, shift, low = (torch.randn(width, generator=generator) for _ in range(3))
        if not clip:
            return AffineMap.everywhere(scale, shift)
        return AffineMap(scale, shift, low, low.abs() + 1, clip=True)

    maps = {
        site: {key: one(width, clip=site == NORM) for key in timesteps or [None]}
        for site, width in WIDTHS.items()
    }
    known = ImageTransportMetadata.of_model(
        denoiser_of(pipe)[1],
        sites=maps,
        method="linear",
        timesteps="each" if timesteps else "first",
        fitted_timesteps=timesteps or [999.0],
        **{"height": 16, "width": 16, **fields},
    )
    return ImageTransport(ImageMaps(maps), known)


@pytest.fixture
def saved(sd: Any, tmp_path: Path) -> Path:
    return make_transport(sd, [999.0, 0.3]).save(tmp_path / "transport")


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        ImageTransport.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rewrite(folder: Path, *, seal: bool = True, **changes: Any) -> None:
    """Changes the metadata, and the checksum that guards them unless told otherwise."""
    path = folder / METADATA_FILE
    payload = {**json.loads(path.read_text()), **changes}
    if seal:
        payload["sha256"] = fingerprint({one: payload[one] for one in payload if one != "sha256"})
    path.write_text(json.dumps(payload))


@pytest.mark.parametrize("timesteps", [None, [999.0, 749.0, 0.1 + 0.2]])
def test_a_transport_reads_back_bit_for_bit(sd, tmp_path, timesteps) -> None:
    known = {"constant_neurons": {NORM: 2}, "call": {"true_cfg_scale": 2.0}, "rows": "both"}
    transport = make_transport(sd, timesteps, **known)
    loaded = ImageTransport.load(transport.save(tmp_path / "new" / "folder"))
    assert loaded.metadata == transport.metadata
    assert loaded.fingerprint == transport.fingerprint
    assert list(loaded.maps.maps) == list(WIDTHS)
    for site, timed in transport.maps.maps.items():
        assert list(loaded.maps.maps[site]) == list(timed)
        for timestep, one in timed.items():
            other = loaded.maps.maps[site][timestep]
            assert one.clip == other.clip
            assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in VECTORS)


@pytest.mark.parametrize(
    ("timesteps", "names"),
    [(None, [NORM]), ([999.0, 0.3], [f"{NORM}@999", f"{NORM}@0.3"])],
)
def test_the_tensors_are_float32_under_documented_keys(sd, tmp_path, timesteps, names) -> None:
    folder = make_transport(sd, timesteps).save(tmp_path)
    tensors = safetensors.torch.load_file(folder / TENSORS_FILE)
    assert {one.dtype for one in tensors.values()} == {torch.float32}
    of_norm = {name for name in tensors if name.startswith(NORM)}
    assert of_norm == {f"{name}.{vector}" for name in names for vector in VECTORS}


@pytest.mark.parametrize("name", [METADATA_FILE, TENSORS_FILE])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    message = refusal(saved)
    assert name in message and "`vision-bench images fit`" in message


@pytest.mark.parametrize("name", [METADATA_FILE, TENSORS_FILE])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_refused(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    assert "cut short" in refusal(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": ["unet.conv_out", CONVOLUTION]}, "different sites"),
        ({"fitted_timesteps": [999.0, 0.4]}, "different sites"),
        ({"timesteps": "first"}, "different sites"),
        ({"fitted_timesteps": ["first"]}, "values of other types"),
        ({"scheduler": "Euler"}, "values of other types"),
        ({"pooling": "max"}, "pooling='max' is unknown"),
        ({"rows": "all"}, "rows='all' is unknown"),
        ({"kind": "transport"}, "kind='transport'"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(saved, changes, message) -> None:
    rewrite(saved, **changes)
    assert message in refusal(saved)


def test_edited_metadata_are_refused(saved: Path) -> None:
    rewrite(saved, seal=False, guidance_scale=3.0)
    assert "altered" in refusal(saved)


def test_maps_that_are_not_finite_are_refused(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved / TENSORS_FILE)
    tensors[f"{NORM}@999.shift"][0] = torch.nan
    safetensors.torch.save_file(tensors, saved / TENSORS_FILE)
    rewrite(saved, tensors_sha256=sha256_of(saved / TENSORS_FILE))
    assert f"shift of '{NORM}@999' is not finite" in refusal(saved)


def test_a_transport_of_sentences_is_no_transport_of_images(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"has no file 'transport\.json'"):
        LearnedTransport.load(saved)


def test_maps_and_metadata_have_to_agree(sd) -> None:
    transport = make_transport(sd, [999.0, 499.0])
    maps, known = transport.maps.maps, transport.metadata
    for other, message in [
        ({}, "no sites"),
        (dict(reversed(maps.items())), "in the same order"),
        ({site: {None: timed[999.0]} for site, timed in maps.items()}, "are of the timesteps"),
        ({**maps, NORM: {**maps[NORM], 499.0: maps[CONVOLUTION][499.0]}}, "numbers of neurons"),
    ]:
        with pytest.raises(ValueError, match=message):
            ImageTransport(ImageMaps(other), known)
    for options in ({"pooling": "all"}, {"rows": "conditional"}):
        with pytest.raises(ValueError, match=f"metadata.{next(iter(options))}="):
            ImageTransport(ImageMaps(maps, **options), known)


def test_its_own_denoiser_is_known_in_any_precision(sd, caplog) -> None:
    transport = make_transport(sd)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        cast = copy.deepcopy(sd).to(dtype)
        caplog.clear()  # of what diffusers says of casts
        transport.check_pipeline(cast)
        assert not caplog.records


def test_other_weights_are_refused_unless_forced(sd, caplog) -> None:
    transport = make_transport(sd)
    tuned = copy.deepcopy(sd)
    for parameter in tuned.unet.parameters():
        parameter.data.mul_(1.05)
    with pytest.raises(ValueError, match="other weights .*give force=True \\(--force in a command"):
        transport.check_pipeline(tuned)
    transport.check_pipeline(tuned, force=True)
    assert "other weights" in caplog.text


def test_other_weights_are_not_steered_unless_forced(sd, caplog) -> None:
    transport = make_transport(sd)
    tuned = copy.copy(sd)
    tuned.unet = copy.deepcopy(sd.unet)
    tuned.unet.requires_grad_(False).conv_out.weight.mul_(1.5)
    tuned.unet.conv_in.weight.mul_(1.5)
    plain = draw(tuned, ["a coat"])
    with pytest.raises(ValueError, match="was learned on another model.*give force=True"):
        transport.applied(tuned, [1.0])
    for _ in range(2):  # the second time nothing is checked, or warned of, again
        with transport.applied(tuned, [1.0], force=True):
            assert not torch.equal(draw(tuned, ["a coat"]), plain)
    assert caplog.text.count("other weights") == 1
    with transport.applied(sd, [1.0]), transport.maps.applied(tuned, [0.0]):
        assert torch.equal(draw(tuned, ["a coat"]), plain)


def adapt(pipe: Any, name: str = "style", seed: int = 0) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe.unet.add_adapter(config, adapter_name=name)


def of_new_unet(sd: Any) -> Any:
    pipe = copy.copy(sd)
    pipe.unet = copy.deepcopy(sd.unet)
    return pipe


def test_an_adapter_makes_another_denoiser_of_it(sd, caplog) -> None:
    """Also where the signature has as many kinds of weights as it takes, as of a large UNet."""
    transport, pipe = make_transport(sd), of_new_unet(sd)
    assert len(transport.metadata.model_signature["weights"]) == 24
    transport.check_pipeline(pipe)
    adapt(pipe)
    with pytest.raises(ValueError, match="learned on another model.*other weights.*lora_A"):
        transport.applied(pipe, [1.0])
    transport.check_pipeline(pipe, force=True)
    assert "lora_A" in caplog.text
    pipe.unet.disable_adapters()
    make_transport(sd).check_pipeline(pipe)


def test_a_transport_of_an_adapted_denoiser_knows_the_adapter(sd) -> None:
    pipe = of_new_unet(sd)
    adapt(pipe)
    transport = make_transport(pipe)
    again, other = of_new_unet(sd), of_new_unet(sd)
    adapt(again, name="by another name")
    transport.check_pipeline(again)
    again.unet.set_adapters(["by another name"], weights=0.5)
    with pytest.raises(ValueError, match="scaling"):
        transport.applied(again, [1.0])
    adapt(other, seed=1)
    for wrong in (other, sd):
        with pytest.raises(ValueError, match="other weights"):
            transport.check_pipeline(wrong)


def test_a_fused_adapter_is_seen_in_the_weights(sd) -> None:
    transport, pipe = make_transport(sd), of_new_unet(sd)
    adapt(pipe)
    pipe.unet.fuse_lora()
    with pytest.raises(ValueError, match="other weights"):
        transport.check_pipeline(pipe)
    pipe.unet.unload_lora()
    with pytest.raises(ValueError, match="other weights"):
        transport.check_pipeline(pipe)


def test_weights_that_are_offloaded_by_layers_are_known(sd, caplog) -> None:
    accelerate = pytest.importorskip("accelerate")
    transport, pipe = make_transport(sd), of_new_unet(sd)
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
    assert next(pipe.unet.parameters()).is_meta
    transport.check_pipeline(pipe)
    assert make_transport(pipe).metadata.model_signature == transport.metadata.model_signature
    assert not caplog.records
    other = of_new_unet(sd)
    for parameter in other.unet.parameters():
        parameter.data.mul_(1.05)
    accelerate.cpu_offload(other.unet, torch.device("cpu"))
    with pytest.raises(ValueError, match="other weights"):
        transport.check_pipeline(other)


def test_a_compiled_denoiser_is_refused_as_such(sd) -> None:
    compiled = copy.copy(sd)
    compiled.unet = torch.compile(copy.deepcopy(sd.unet), backend="eager")
    with pytest.raises(ValueError, match="is compiled"):
        make_transport(sd).applied(compiled, [1.0])


def test_another_denoiser_is_refused_even_by_force(sd, sdxl, flux) -> None:
    transport = make_transport(sd)
    for force in (False, True):
        with pytest.raises(
            ValueError, match="denoiser of FluxPipeline is its 'transformer'.*'unet'"
        ):
            transport.check_pipeline(flux, force=force)
        narrow = copy.deepcopy(sd)
        narrow.unet.mid_block.resnets[0].norm1 = torch.nn.GroupNorm(4, 8)
        with pytest.raises(ValueError, match="has 8 neurons, its map 32"):
            transport.check_pipeline(narrow, force=force)
        shallow = copy.deepcopy(sd)
        shallow.unet.mid_block = None
        with pytest.raises(ValueError, match=f"has no module '{NORM}'"):
            transport.check_pipeline(shallow, force=force)
    with pytest.raises(ValueError, match="other weights"):
        transport.check_pipeline(sdxl)


def test_another_use_than_that_of_the_fit_is_warned_of(sd, caplog) -> None:
    config = json.loads(json.dumps(scheduler_config(sd)))
    fitted = {"num_inference_steps": 4, "guidance_scale": 3.0, "scheduler": config}
    transport = make_transport(sd, **fitted)
    same = {"height": 16, "width": 16, "num_inference_steps": 4, "guidance_scale": 3}
    transport.check_use(sd, same)
    transport.check_use(sd, {"height": None})
    unknown = {"height": None, "width": None, "scheduler": {"spacing": "of another release"}}
    make_transport(sd, **unknown).check_use(sd, same)
    assert not caplog.records
    for name, value, known in [
        ("height", 24, "16"),
        ("num_inference_steps", 8, "4"),
        ("guidance_scale", 0.0, "3"),
    ]:
        transport.check_use(sd, {**same, name: value})
        assert f"{name}={value:g}, and the transport was learned at {known}:" in caplog.text
        assert len(caplog.records) == 1
        caplog.clear()


def test_another_scheduler_than_that_of_the_fit_is_warned_of(sd, caplog) -> None:
    transport = make_transport(sd, scheduler=scheduler_config(sd))
    other = copy.copy(sd)
    other.scheduler = type(sd.scheduler).from_config(
        sd.scheduler.config, timestep_spacing="trailing"
    )
    transport.check_use(other, {})
    assert "scheduler: timestep_spacing='trailing', and the transport was learned at 'leading'" in (
        caplog.text
    )
    assert len(caplog.records) == 1
    other.scheduler = EulerDiscreteScheduler.from_config(sd.scheduler.config)
    transport.check_use(other, {})
    assert "scheduler: class='EulerDiscreteScheduler', and the" in caplog.text


def test_strengths_that_were_not_learned_for_are_warned_of(sd) -> None:
    known = make_transport(sd, incremental="causal", strength=1.0).metadata
    assert known.warning_of([0.0, 0.5, 1.0]) == ""
    assert known.warning_of([1.5]).endswith("images may break down")
