"""A small Stable Diffusion, trained on pictures and their captions, and loaded as the real one is.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv:2112.10752),
with the text tower of the demo's CLIP. It predicts velocities (Salimans and Ho, arXiv:2202.00512)
under a schedule that ends in pure noise (Lin et al., arXiv:2305.08891); eight steps are enough.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vision_bench.demo.store import make_once
from vision_bench.demo.text_to_image.autoencoder import (
    CHANNELS,
    SCALE,
    build_autoencoder,
    decoder_loss,
    signal_to_noise,
)
from vision_bench.demo.text_to_image.judge import Judge
from vision_bench.demo.text_to_image.tokens import LENGTH
from vision_bench.demo.text_to_image.train_clip import clip_folder
from vision_bench.demo.text_to_image.world import (
    COLOURS,
    GARMENTS,
    MOON,
    SIDE,
    STYLES,
    Garments,
    caption,
    draw_subjects,
    load_garments,
    render,
)
from vision_bench.demo.training import fit, reproducible

STEPS = 8
"""Denoising steps that are enough."""
GUIDANCE = 3.0
"""The scale of classifier-free guidance at which the record's shares were measured."""


@dataclass(frozen=True)
class PipelineRecipe:
    """How the pipeline is trained.

    Attributes:
        epochs: Passes of the denoiser over the training garments.
        batch_size: Pictures in a step.
        learning_rate: The highest one of AdamW; it rises and falls once (OneCycle).
        clip_norm: The longest gradient of a step.
        silent: Share of pictures whose caption is empty, for classifier-free guidance.
        mentioned: How likely a caption mentions each thing that is there.
        decoder_pictures: What the decoder learns from.
        decoder_batch_size: Pictures in one of its steps.
        decoder_learning_rate: Its own.
        limit: How many images of the data set are looked through; None takes all.
        seed: Of the first weights and all draws.
        version: Changes with the training code and the world.
    """

    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 2e-3
    clip_norm: float = 1.0
    silent: float = 0.1
    mentioned: float = 0.97
    decoder_pictures: int = 16_000
    decoder_batch_size: int = 16
    decoder_learning_rate: float = 3e-3
    limit: int | None = None
    seed: int = 0
    version: int = 1


def pipeline_folder() -> Path:
    """Folder of the trained pipeline in the cache; trains it on the first call.

    Returns:
        A folder for `DiffusionPipeline.from_pretrained`, whose record notes how well the demo's
        CLIP recognises what was asked for, and the decoder's quality in decibels.
    """
    recipe, clip = PipelineRecipe(), clip_folder()

    def make(folder: Path) -> dict[str, Any]:
        from transformers import CLIPModel, CLIPProcessor

        model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
        garments, test = load_garments("train", recipe.limit), load_garments("test", recipe.limit)
        pipeline = train_pipeline(garments, model, processor.tokenizer, recipe)
        pipeline.save_pretrained(folder)
        pictures = render(test.shapes, draw_subjects(random.Random(recipe.seed), test.names))
        decibels = signal_to_noise(pipeline.vae, pictures)
        return {**obedience(pipeline, Judge(model.eval(), processor)), "decoder_psnr": decibels}

    # The CLIP's folder is named after its own recipe.
    return make_once("text-to-image", {**asdict(recipe), "clip": clip.name}, make)


def train_pipeline(
    garments: Garments,
    clip: Any,
    tokenizer: Any,
    recipe: PipelineRecipe,
    *,
    progress: bool = True,
) -> Any:
    """Trains a pipeline on one thread of the CPU.

    Args:
        garments: What the pictures are made of.
        clip: A `CLIPModel`, of which the text tower is copied, and learns on.
        tokenizer: That of the CLIP.
        recipe: Settings.
        progress: Whether to show a progress bar.

    Returns:
        A `StableDiffusionPipeline` with modules in eval mode.
    """
    from diffusers import StableDiffusionPipeline

    with reproducible(recipe.seed):
        autoencoder = train_autoencoder(garments, recipe, progress=progress)
        denoiser = build_denoiser(clip.config.text_config.hidden_size)
        text = copy_text_tower(clip)
        scheduler = build_scheduler()
        parameters = [*denoiser.parameters(), *text.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.01)

        def clip_gradient(*_: Any) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)

        optimizer.register_step_pre_hook(clip_gradient)
        pipeline = StableDiffusionPipeline(
            vae=autoencoder.eval(),
            text_encoder=text,
            tokenizer=tokenizer,
            unet=denoiser,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        fit(
            optimizer,
            denoising_loss(pipeline, garments, recipe),
            count=len(garments.names),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            title="training a denoiser",
            progress=progress,
        )
    denoiser.eval()
    text.eval()
    return pipeline


def train_autoencoder(garments: Garments, recipe: PipelineRecipe, *, progress: bool) -> Any:
    """An `AutoencoderTiny` with a fitted encoder and a trained decoder."""
    count = min(recipe.decoder_pictures, len(garments.names))
    some = slice(0, 1000)
    subjects = draw_subjects(random.Random(recipe.seed), garments.names[some])
    autoencoder = build_autoencoder(render(garments.shapes[some], subjects))
    # Convolutions of few channels take a third less time so.
    autoencoder.decoder.to(memory_format=torch.channels_last)
    fit(
        torch.optim.AdamW(autoencoder.decoder.parameters(), lr=recipe.decoder_learning_rate),
        decoder_loss(autoencoder, garments, recipe.seed),
        count=count,
        batch_size=recipe.decoder_batch_size,
        epochs=1,
        title="training a decoder",
        progress=progress,
    )
    return autoencoder.to(memory_format=torch.contiguous_format)


def build_denoiser(text_width: int) -> Any:
    """A `UNet2DConditionModel` with random weights; it reads captions at 4 x 4 places."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE // SCALE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_scheduler() -> Any:
    """A `DDIMScheduler` whose last timestep is pure noise, and whose steps begin there."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,
        rescale_betas_zero_snr=True,
    )


def copy_text_tower(clip: Any) -> Any:
    """The text tower of a `CLIPModel` as a `CLIPTextModel` of its own."""
    from transformers import CLIPTextModel

    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    return text


def denoising_loss(
    pipeline: Any, garments: Garments, recipe: PipelineRecipe
) -> Callable[[Tensor], Tensor]:
    """The squared error of velocities, of a batch of garments painted and described afresh."""
    draws = random.Random(recipe.seed)
    timesteps = pipeline.scheduler.config.num_train_timesteps

    def loss_of(chosen: Tensor) -> Tensor:
        subjects = draw_subjects(draws, [garments.names[index] for index in chosen.tolist()])
        pictures = render(garments.shapes[chosen], subjects)
        texts = [
            ""
            if draws.random() < recipe.silent
            else caption(draws, subject, mentioned=recipe.mentioned)
            for subject in subjects
        ]
        inputs = pipeline.tokenizer(
            texts, padding="max_length", max_length=LENGTH, return_tensors="pt"
        )
        with torch.no_grad():
            latents = pipeline.vae.encode(pictures * 2 - 1).latents
            latents = latents * pipeline.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        times = torch.randint(timesteps, (len(latents),))
        read = pipeline.text_encoder(inputs.input_ids).last_hidden_state
        noisy = pipeline.scheduler.add_noise(latents, noise, times)
        predicted = pipeline.unet(noisy, times, read).sample
        return F.mse_loss(predicted, pipeline.scheduler.get_velocity(latents, noise, times))

    return loss_of


@torch.no_grad()
def make_pictures(
    pipeline: Any, prompts: Sequence[str], seed: int = 0, *, guidance: float = GUIDANCE
) -> Float[Tensor, "n 3 SIDE SIDE"]:
    """A picture for each prompt, from noise that depends on the seed and the prompt's position."""
    pipeline.set_progress_bar_config(disable=True)
    shape = (CHANNELS, SIDE // SCALE, SIDE // SCALE)
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    latents = torch.stack([torch.randn(shape, generator=one) for one in generators])
    made = pipeline(
        list(prompts),
        latents=latents,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="pt",
    )
    return made.images


def obedience(pipeline: Any, judge: Judge, repeats: int = 5) -> dict[str, float]:
    """How often a pipeline draws what it is asked for, as a judge sees it.

    Args:
        pipeline: The pipeline.
        judge: Says what pictures show.
        repeats: Pictures of each garment in each colour.

    Returns:
        Shares: of the right garment and colour where nothing else is asked for, of stripes, night
        and moons where they are asked for, and of moons that are not, or are asked to be absent.
    """
    things = [(g, c) for g in range(len(GARMENTS)) for c in range(len(COLOURS))] * repeats
    garments, colours = list(GARMENTS), list(COLOURS)
    plain = [f"a picture of a {colours[c]} {garments[g]}" for g, c in things]

    def answers(phrase: str) -> dict[str, list[int]]:
        return judge.answers(make_pictures(pipeline, [f"{one} {phrase}".strip() for one in plain]))

    def share(given: Sequence[int], wanted: Sequence[int]) -> float:
        return sum(a == b for a, b in zip(given, wanted, strict=True)) / len(things)

    def always(number: int) -> list[int]:
        return [number] * len(things)

    seen = answers("")
    return {
        "garment": share(seen["garment"], [g for g, _ in things]),
        "colour": share(seen["colour"], [c for _, c in things]),
        "plain": share(seen["style"], always(STYLES.index("plain"))),
        "stripes": share(answers("with stripes")["style"], always(STYLES.index("striped"))),
        "night": share(answers("at night")["style"], always(STYLES.index("night"))),
        "moon": share(answers("with a moon")[MOON], always(1)),
        "moon_unasked": share(seen[MOON], always(1)),
        "moon_without": share(answers("without a moon")[MOON], always(1)),
        "pictures": len(things),
    }
