"""Tiny random pipelines, built from configurations: one for each way of laying out a batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.resnet import ResnetBlock2D
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.hooks import change_outputs, choose_sites
from aim_plugins.modulation.sites import split_site
from vision_bench.diffusion.pipelines import as_module, default_modules

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "blue", "striped", "coat", "boot", "with"]
WIDTH = 32
LENGTH = 8
SIZE = 16
"""Pixels of an image's side; its latents have half as many."""


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    )


def _clip(kind: type = CLIPTextModel) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(WORDS),
            hidden_size=WIDTH,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=WIDTH,
            max_position_embeddings=LENGTH,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=WIDTH, d_ff=37, d_kv=8, num_layers=1, num_heads=4)
    ).eval()


def _vae(channels: int = 4, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=SIZE,
        **more,
    ).eval()


def _unet(**more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    ).eval()


def make_sd() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=_tokenizer(),
        unet=_unet(cross_attention_dim=WIDTH),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_sdxl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=_unet(
            cross_attention_dim=2 * WIDTH,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    )


def make_flux() -> FluxPipeline:
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(1),
        text_encoder=_clip(),
        tokenizer=_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_tokenizer(),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
        ).eval(),
    )


def make_sd3() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIZE // 2,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=WIDTH,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            out_channels=4,
            pos_embed_max_size=SIZE,
            qk_norm="rms_norm",
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(CLIPTextModelWithProjection),
        tokenizer=_tokenizer(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer_2=_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def make_pixart() -> PixArtAlphaPipeline:
    return PixArtAlphaPipeline(
        tokenizer=_tokenizer(),
        text_encoder=_t5(),
        vae=_vae(),
        transformer=PixArtTransformer2DModel(
            sample_size=SIZE // 2,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=WIDTH,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            norm_num_groups=1,
            use_additional_conditions=False,
        ).eval(),
        scheduler=DPMSolverMultistepScheduler(),
    )


def make_pixart_sigma() -> PixArtSigmaPipeline:
    return PixArtSigmaPipeline(**make_pixart().components)


def make_sana() -> SanaPipeline:
    return SanaPipeline(
        tokenizer=_tokenizer(),
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=len(WORDS),
                hidden_size=WIDTH,
                intermediate_size=37,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=8,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        ).eval(),
        vae=AutoencoderDC(
            latent_channels=4,
            encoder_block_types=("ResBlock",) * 3,
            decoder_block_types=("ResBlock",) * 3,
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), ()),
            decoder_qkv_multiscales=((), (), ()),
            upsample_block_type="interpolate",
            downsample_block_type="stride_conv",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
        ).eval(),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=4,
            attention_head_dim=8,
            num_cross_attention_heads=4,
            cross_attention_head_dim=8,
            cross_attention_dim=WIDTH,
            caption_channels=WIDTH,
            sample_size=SIZE // 2,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def draw(pipe: DiffusionPipeline, prompts: Sequence[str], **more: Any) -> torch.Tensor:
    """The latents of two steps, where `more` asks for nothing else; image i has its own noise."""
    images = len(prompts) * more.get("num_images_per_prompt", 1)
    own = {
        PixArtAlphaPipeline: {"use_resolution_binning": False, "clean_caption": False},
        PixArtSigmaPipeline: {"use_resolution_binning": False, "clean_caption": False},
        SanaPipeline: {
            "height": 2 * SIZE,  # takes multiples of 32 alone
            "width": 2 * SIZE,
            "use_resolution_binning": False,
            "clean_caption": False,
            "complex_human_instruction": [],
            "max_sequence_length": LENGTH,
        },
        FluxPipeline: {"max_sequence_length": LENGTH},
        StableDiffusion3Pipeline: {"max_sequence_length": LENGTH},
    }
    arguments = {
        "height": SIZE,
        "width": SIZE,
        "num_inference_steps": 2,
        "output_type": "latent",
        "generator": [torch.Generator().manual_seed(seed) for seed in range(images)],
        **own.get(type(pipe), {}),
        **more,
    }
    return pipe(list(prompts), **arguments).images


def random_maps(
    pipe: DiffusionPipeline, patterns: Sequence[str] | None = None, seed: int = 0
) -> dict[str, AffineMap]:
    """A random map for each site that runs, of the width that the test finds for it."""
    root = as_module(pipe)
    widths: dict[str, int] = {}

    def note(site: str) -> Any:
        module = root.get_submodule(split_site(site)[0])

        def keep(output: torch.Tensor) -> None:
            widths[site] = output.shape[1 if lies_first(module) else -1]

        return keep

    sites = choose_sites(root, patterns or default_modules(pipe))
    with change_outputs(root, {site: note(site) for site in sites}):
        draw(pipe, ["a coat"])
    generator = torch.Generator().manual_seed(seed)
    return {
        site: AffineMap.everywhere(
            1 + 0.2 * torch.randn(width, generator=generator),
            0.2 * torch.randn(width, generator=generator),
        )
        for site, width in widths.items()
    }


def lies_first(module: torch.nn.Module) -> bool:
    """Whether neurons are on axis 1, of the modules that the tests transport."""
    return isinstance(module, torch.nn.GroupNorm | torch.nn.Conv2d | ResnetBlock2D)


def made(make: Any) -> DiffusionPipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = make()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def sd() -> DiffusionPipeline:
    """Stable Diffusion: a UNet, guidance in one batch."""
    return made(make_sd)


@pytest.fixture(scope="session")
def sdxl() -> DiffusionPipeline:
    """Stable Diffusion XL: no guidance where guidance_scale is at most 1."""
    return made(make_sdxl)


@pytest.fixture(scope="session")
def flux() -> DiffusionPipeline:
    """FLUX: streams of text and image; with true_cfg_scale two calls a step."""
    return made(make_flux)


@pytest.fixture(scope="session")
def sd3() -> DiffusionPipeline:
    """Stable Diffusion 3: streams of text and image, norms of queries; guidance in one batch."""
    return made(make_sd3)


@pytest.fixture(scope="session")
def pixart() -> DiffusionPipeline:
    """PixArt: blocks with one output, guidance in one batch."""
    return made(make_pixart)


@pytest.fixture(scope="session")
def pixart_sigma() -> DiffusionPipeline:
    """PixArt of its second generation, which checks captions in another way."""
    return made(make_pixart_sigma)


@pytest.fixture(scope="session")
def sana() -> DiffusionPipeline:
    """Sana: blocks with one output, linear attention, timesteps that are scaled, guidance."""
    return made(make_sana)


@pytest.fixture
def offloading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes accelerate's offload of whole models visible without a device to move them to.

    Weights that it puts away are NaN until it brings them back.
    """
    hooks = pytest.importorskip("accelerate.hooks")
    kept: dict[torch.nn.Parameter, torch.Tensor] = {}

    def put_away(hook: Any, model: torch.nn.Module) -> torch.nn.Module:
        for one in model.parameters():
            kept.setdefault(one, one.data.clone())
            one.data.fill_(torch.nan)
        return model

    def bring(hook: Any, model: torch.nn.Module, *given: Any, **named: Any) -> Any:
        if hook.prev_module_hook is not None:
            hook.prev_module_hook.offload()
        for one in model.parameters():
            one.data.copy_(kept[one])
        return given, named

    monkeypatch.setattr(hooks.CpuOffload, "init_hook", put_away)
    monkeypatch.setattr(hooks.CpuOffload, "pre_forward", bring)


@pytest.fixture
def pag(sd: Any) -> DiffusionPipeline:
    """Stable Diffusion with perturbed-attention guidance: rows that are no side of guidance.

    New for each test, as a run that fails leaves its attention behind.
    """
    parts = {**sd.components, "unet": copy.deepcopy(sd.unet)}
    pipe = StableDiffusionPAGPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
