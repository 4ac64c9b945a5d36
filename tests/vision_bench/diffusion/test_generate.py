from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler

from tests.vision_bench.diffusion.conftest import SIZE, make_sd, random_maps
from vision_bench.diffusion.generate import GeneratedImage, generate_images
from vision_bench.diffusion.steering import ImageMaps

PROMPTS = ["a red coat", "a blue boot", "striped coat"]
SEEDS = [7, 7, 11]
STRENGTHS = [0.0, 0.5, 1.0]
RUN: dict[str, Any] = {"num_inference_steps": 2, "height": SIZE, "width": SIZE}


@pytest.fixture(scope="module")
def maps(sd: DiffusionPipeline) -> ImageMaps:
    return ImageMaps({site: {None: one} for site, one in random_maps(sd).items()})


@pytest.fixture(scope="module")
def images(sd: DiffusionPipeline, maps: ImageMaps) -> list[GeneratedImage]:
    return list(generate_images(sd, maps, PROMPTS, STRENGTHS, SEEDS, batch_size=4, **RUN))


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_images_come_prompt_by_prompt(images: list[GeneratedImage]) -> None:
    assert [one[:2] for one in images] == list(itertools.product(range(3), STRENGTHS))
    assert {one.image.size for one in images} == {(SIZE, SIZE)}


def test_each_image_is_what_a_run_of_its_own_gives(
    sd: DiffusionPipeline, maps: ImageMaps, images: list[GeneratedImage]
) -> None:
    """With the noise of the prompt's seed, whatever the strength and the batch."""
    for index, strength, image in images:
        generator = torch.Generator().manual_seed(SEEDS[index])
        with maps.applied(sd, [strength]):
            alone = sd(PROMPTS[index], generator=generator, **RUN).images[0]
        assert (
            np.abs(pixels(image) - pixels(alone)).max() <= 1
        )  # rounding of floats, then to 8 bits


def test_strengths_change_images(images: list[GeneratedImage]) -> None:
    for index in range(3):
        plain, _, full = (pixels(one.image) for one in images if one.prompt == index)
        assert np.abs(plain - full).max() > 3


@pytest.mark.parametrize("batch_size", [1, 9])
def test_batches_of_another_size_give_the_same_images(
    sd: DiffusionPipeline, maps: ImageMaps, images: list[GeneratedImage], batch_size: int
) -> None:
    others = generate_images(sd, maps, PROMPTS, STRENGTHS, SEEDS, batch_size=batch_size, **RUN)
    for one, other in zip(images, others, strict=True):
        assert np.abs(pixels(one.image) - pixels(other.image)).max() <= 1


def test_what_is_missing_comes_out_with_the_same_bits(
    sd: DiffusionPipeline, maps: ImageMaps, images: list[GeneratedImage]
) -> None:
    calls: list[int] = []
    watching = sd.vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    done = {one[:2] for one in images[:6]}
    others = list(
        generate_images(sd, maps, PROMPTS, STRENGTHS, SEEDS, batch_size=4, done=done, **RUN)
    )
    watching.remove()
    # The first batch of four is done; the second is not, and is made whole.
    assert [one[:2] for one in others] == [one[:2] for one in images[4:]]
    assert len(calls) == 5  # each decoded by itself
    for one, other in zip(images[4:], others, strict=True):
        assert np.array_equal(pixels(one.image), pixels(other.image))


def test_schedulers_that_draw_noise_draw_the_same_for_all_strengths() -> None:
    torch.manual_seed(0)
    pipe = make_sd()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    site = "unet.conv_norm_out"
    (one,) = random_maps(pipe, [site]).values()
    maps = ImageMaps({site: {None: one}})
    made = generate_images(
        pipe, maps, PROMPTS[:2], [0.0, 1.0], [3, 3], **{**RUN, "num_inference_steps": 3}
    )
    plain = [image for _, strength, image in made if strength == 0]
    for prompt, image in zip(PROMPTS, plain, strict=False):
        noise = torch.Generator().manual_seed(3)
        alone = pipe(prompt, generator=noise, **{**RUN, "num_inference_steps": 3}).images[0]
        assert np.abs(pixels(image) - pixels(alone)).max() <= 1


def test_decoding_in_slices_ends_with_the_images(
    sd: DiffusionPipeline, maps: ImageMaps, images: list[GeneratedImage]
) -> None:
    assert not sd.vae.use_slicing
    sd.vae.enable_slicing()
    next(generate_images(sd, maps, PROMPTS, [1.0], SEEDS, **RUN))
    assert sd.vae.use_slicing
    sd.vae.disable_slicing()


def test_a_negative_prompt_is_every_images(sd: DiffusionPipeline, maps: ImageMaps) -> None:
    made = generate_images(sd, maps, PROMPTS[:1], [0.0, 1.0], [7], negative_prompt="striped", **RUN)
    first = next(made).image
    noise = torch.Generator().manual_seed(7)
    alone = sd(PROMPTS[0], negative_prompt="striped", generator=noise, **RUN).images[0]
    assert np.abs(pixels(first) - pixels(alone)).max() <= 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": []}, "prompts=.*give a list of at least one text"),
        ({"prompts": "a coat"}, "prompts='a coat': give a list"),
        ({"seeds": [1]}, "seeds: 1 were given for 3 prompts"),
        ({"strengths": []}, "strengths is empty"),
        ({"strengths": [1.0, 1.0]}, "has one twice"),
        ({"strengths": [float("inf")]}, "must be finite"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(
    sd: DiffusionPipeline, maps: ImageMaps, wrong: dict[str, Any], message: str
) -> None:
    given = {"prompts": PROMPTS, "strengths": STRENGTHS, "seeds": SEEDS, **wrong}
    with pytest.raises(ValueError, match=message):
        generate_images(sd, maps, **given)


def test_pipelines_without_an_autoencoder_make_no_images(maps: ImageMaps) -> None:
    pipe = make_sd()
    pipe.vae = None
    with pytest.raises(ValueError, match="StableDiffusionPipeline has no 'vae'"):
        generate_images(pipe, maps, PROMPTS, STRENGTHS, SEEDS)
