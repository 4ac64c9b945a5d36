"""Learning and running transports of a text-to-image pipeline, against the pipeline without us.

    python -m benchmarks.images [fit] [strengths] [hooks] [blocks] [memory]

- fit: a causal fit of 33 norms on 64 + 64 prompts, at the first step and at each of eight, against
  one plain denoising run of these prompts.
- strengths: 11 strengths of one prompt, and of four, in one batch, against 11 runs with hooks.
- hooks: 11 prompts at 11 strengths, their maps with the support of the fit, against the plain
  pipeline.
- blocks: the same hooks on the norms of one block each of SDXL's widths, at 16 x 16 places.
- memory: what a prompt adds to a causal fit in lockstep, against the formula of `waiting_bytes`.

The demo's Stable Diffusion (1.45 million weights in its denoiser, eight steps, guidance in one
batch) with random weights, on which no figure here depends, and random text. One thread; CPU
seconds.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.hooks import change_outputs
from benchmarks._timing import paired_times, write_parts
from vision_bench.demo.text_to_image.tokens import LENGTH, make_tokenizer
from vision_bench.demo.text_to_image.train_pipeline import (
    GUIDANCE,
    STEPS,
    build_denoiser,
    build_scheduler,
)
from vision_bench.diffusion import ImageTransport, fit_transport
from vision_bench.diffusion.neurons import neurons_axis
from vision_bench.diffusion.placement import RowStrengths, place

COLOURS = ("red", "blue", "green", "black", "white", "golden", "grey", "brown")
GARMENTS = ("coat", "boot", "shirt", "bag", "dress", "sandal", "hat", "scarf")
STRENGTHS = [step / 10 for step in range(11)]
WIDTH = 64
"""Of the text."""
SIDE = 64
"""What makes latents of 8 x 8, as the demo's, where no autoencoder tells their scale."""


def make_pipeline() -> Any:
    """The demo's pipeline without its autoencoder."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer([*COLOURS, *GARMENTS, "a", "with", "stripes"])
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pipe = StableDiffusionPipeline(
        vae=None,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=build_denoiser(WIDTH).eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sides(count: int = 64) -> tuple[list[str], list[str]]:
    """Prompts without stripes, and with them."""
    plain = [f"a {colour} {garment}" for colour in COLOURS for garment in GARMENTS][:count]
    return plain, [f"{prompt} with stripes" for prompt in plain]


CALL: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}


def denoise(pipe: Any, prompts: list[str]) -> Tensor:
    """Latents of prompts in one batch, all from the same noise."""
    generators = [torch.Generator().manual_seed(0) for _ in prompts]
    size = {"height": SIDE, "width": SIDE}
    return pipe(prompts, generator=generators, output_type="latent", **CALL, **size).images


def learn(pipe: Any, count: int = 64, **options: Any) -> ImageTransport:
    """A fit on all prompts in one batch, if not asked for several."""
    options = {"batch_size": 2 * count, "height": SIDE, "width": SIDE, **CALL, **options}
    return fit_transport(pipe, *sides(count), progress=False, **options)


def compare(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Median CPU seconds, and the median ratio of each to the first of the same round."""
    times = paired_times(dict(contestants), rounds=rounds)
    base, *others = times
    ratios = {
        f"{name} / {base}": statistics.median(
            one / plain for one, plain in zip(times[name], times[base], strict=True)
        )
        for name in others
    }
    return {"cpu_seconds": {name: statistics.median(times[name]) for name in times}, **ratios}


def fit(rounds: int = 3) -> dict[str, Any]:
    """Causal fits, and a plain run of the same prompts."""
    pipe = make_pipeline()
    source, target = sides()
    return compare(
        {
            "plain run": lambda: denoise(pipe, source + target),
            "first": lambda: learn(pipe),
            "each": lambda: learn(pipe, timesteps="each"),
            "each, at once": lambda: learn(pipe, timesteps="each", incremental="atonce"),
        },
        rounds,
    )


def strengths(rounds: int = 3) -> dict[str, Any]:
    """11 strengths in one batch, and 11 runs of the pipeline with the same hooks."""
    pipe = make_pipeline()
    transport = learn(pipe)
    result: dict[str, Any] = {}
    for count in (1, 4):
        prompts = sides(count)[0]

        def one_batch(prompts: list[str] = prompts) -> None:
            rows = [strength for strength in STRENGTHS for _ in prompts]
            with transport.applied(pipe, rows):
                denoise(pipe, prompts * len(STRENGTHS))

        def one_by_one(prompts: list[str] = prompts) -> None:
            for strength in STRENGTHS:
                with transport.applied(pipe, [strength] * len(prompts)):
                    denoise(pipe, prompts)

        contestants = {"one batch": one_batch, "11 runs": one_by_one}
        result |= {
            f"prompts: {count}; {name}": one for name, one in compare(contestants, rounds).items()
        }
    return result


def hooks(rounds: int = 11) -> dict[str, Any]:
    """A batch without transport, and at 11 strengths."""
    pipe = make_pipeline()
    prompts = sides(len(STRENGTHS))[0]
    transports = {support: learn(pipe, support=support) for support in ("clip", "none")}

    def hooked(support: str) -> None:
        with transports[support].applied(pipe, STRENGTHS):
            denoise(pipe, prompts)

    return compare(
        {
            "plain": lambda: denoise(pipe, prompts),
            "hooks": lambda: hooked("clip"),
            "hooks without support": lambda: hooked("none"),
        },
        rounds,
    )


def blocks(rounds: int = 11) -> dict[str, Any]:
    """Blocks of SDXL's widest level, a row of guidance for either of two images."""
    torch.manual_seed(0)
    rows, width, side = 4, 1280, 16
    transformer = BasicTransformerBlock(width, 20, 64, cross_attention_dim=2048).eval()
    resnet = ResnetBlock2D(in_channels=width, temb_channels=width).eval()
    tokens, text = torch.randn(rows, side * side, width), torch.randn(rows, 77, 2048)
    image, time = torch.randn(rows, width, side, side), torch.randn(rows, width)
    calls: dict[str, tuple[nn.Module, Callable[[], Any]]] = {
        "transformer block": (
            transformer,
            lambda: transformer(tokens, encoder_hidden_states=text),
        ),
        "residual block": (resnet, lambda: resnet(image, time)),
    }
    result: dict[str, Any] = {}
    for name, (module, call) in calls.items():
        functions = {
            site: move_by_random_map(norm, width, torch.tensor([0.0, 1.0, 0.0, 1.0]))
            for site, norm in module.named_modules()
            if isinstance(norm, nn.LayerNorm | nn.GroupNorm)
        }

        def plain(call: Callable[[], Any] = call) -> None:
            with torch.no_grad():
                call()

        def hooked(
            module: nn.Module = module,
            functions: dict[str, Any] = functions,
            plain: Callable[[], None] = plain,
        ) -> None:
            with change_outputs(module, functions):
                plain()

        compared = compare({"plain": plain, "hooks": hooked}, rounds)
        result |= {f"{name}: {label}": one for label, one in compared.items()}
    return result


def move_by_random_map(
    module: nn.Module, width: int, weights: Tensor
) -> Callable[[Tensor], Tensor]:
    """Moves the outputs of a norm as a fitted transport does."""
    low = torch.full((width,), -3.0)
    one = AffineMap(1 + 0.01 * torch.randn(width), 0.01 * torch.randn(width), low, -low, clip=True)
    rows = RowStrengths(weights, torch.device("cpu"))
    movers: list[Callable[[Tensor], Tensor]] = []

    def move(output: Tensor) -> Tensor:
        if not movers:
            movers.append(place(one, rows, "mean", output, neurons_axis(module, output, "norm")))
        return movers[0](output)

    return move


def memory() -> dict[str, Any]:
    """What a prompt more adds to a causal fit in batches of 8, against what has to wait.

    Of the tensors that are alive where all batches have met, and of the process, whose threads
    keep room of their own.
    """
    pipe = make_pipeline()
    few, many = 16, 64
    prompts = 2 * (many - few)
    tensors = (most_alive(pipe, many) - most_alive(pipe, few)) / prompts
    peaks = {count: fitted_apart(count) for count in (few, many)}
    process = (peaks[many] - peaks[few]) / prompts
    expected = waiting_bytes(pipe)
    return {
        "peak_bytes": {f"{count} + {count} prompts": one for count, one in peaks.items()},
        "bytes of tensors added by a prompt": float(tensors),
        "bytes of the process added by a prompt": float(process),
        "bytes that wait for a prompt by the formula": float(expected),
        "tensors / formula": tensors / expected,
        "process / formula": process / expected,
    }


def most_alive(pipe: Any, count: int) -> int:
    """Bytes of the tensors that Python holds, at the site of a fit where they are the most."""
    most = 0

    def note(_: Any) -> None:
        nonlocal most
        tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in tensors}
        most = max(most, sum(one.nbytes() for one in storages.values()))

    learn(pipe, count, batch_size=8, on_site=note)
    return most


def waiting_bytes(pipe: Any) -> int:
    """The most that a waiting prompt holds, as the denoiser's shapes tell.

    A batch waits in the hook behind a norm and keeps what later modules of the denoiser need. In a
    UNet that is, in a row of the batch, of which a prompt under guidance has two,

        skips + residual + input + output,

    the outputs of the way down that the way up still takes, what a block adds its result to, and
    the norm's own input and output.
    """
    unet = pipe.unet
    most = skips = residual = 0

    def at_skips(module: Any, given: Any, output: Any) -> None:
        nonlocal skips
        skips += sum(one.nbytes for one in (output[1] if isinstance(output, tuple) else [output]))

    def at_block(module: Any, given: Any) -> None:
        nonlocal residual
        residual = given[0].nbytes

    def at_norm(module: Any, given: Any, output: Tensor) -> None:
        nonlocal most
        most = max(most, skips + residual + given[0].nbytes + output.nbytes)

    attached = [one.register_forward_hook(at_skips) for one in (unet.conv_in, *unet.down_blocks)]
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D | BasicTransformerBlock):
            attached.append(module.register_forward_pre_hook(at_block))
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            attached.append(module.register_forward_hook(at_norm))
    with contextlib.ExitStack() as hooks:
        for handle in attached:
            hooks.callback(handle.remove)
        pipe(
            sides(1)[0],
            height=SIDE,
            width=SIDE,
            output_type="latent",
            **{**CALL, "num_inference_steps": 1},
        )
    return most


def fitted_apart(count: int) -> int:
    """Peak of the memory of a process that makes a fit, in bytes.

    With one arena for all threads: each keeps what it has freed, a batch's work for each thread.
    """
    arenas = {"MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", "benchmarks.images", "--fit-alone", str(count)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **arenas}
    )
    return int(done.stdout.split()[-1])


def main(parts: list[str]) -> None:
    """Runs the named parts, all by default."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if parts[:1] == ["--fit-alone"]:
        learn(make_pipeline(), int(parts[1]), batch_size=8)
        # Not getrusage's, which a child inherits from the process that has started it.
        status = Path("/proc/self/status").read_text().splitlines()
        print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")))
        return
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "fit": fit,
        "strengths": strengths,
        "hooks": hooks,
        "blocks": blocks,
        "memory": memory,
    }
    write_parts("images", measures, parts)


if __name__ == "__main__":
    main(sys.argv[1:])
