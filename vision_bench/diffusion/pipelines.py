"""Diffusers pipelines as what is steered: the denoiser, modules by name, what forbids hooks.

A pipeline is no module; its components are. A site is therefore named `component.module`, such as
`unet.mid_block.resnets.0.norm1` or `transformer.transformer_blocks.0:1`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from aim_plugins.core.files import check_model_name

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DENOISERS = ("unet", "transformer")
"""Names that pipelines give to the network that runs at every step."""

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Types that pipelines run in, as safetensors files name them; others are run in float32."""

_SKIPPING = re.compile("cache|fbc|broadcast|skip")
"""Parts of the names of diffusers' hooks that leave out modules at some steps."""


def load_pipeline(
    name: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    variant: str | None = None,
    offload: str = "none",
) -> DiffusionPipeline:
    """Loads a text-to-image pipeline, from safetensors files alone and without its code.

    Args:
        name: A folder that `save_pretrained` wrote, or a name on the hub.
        dtype: Type of the weights; None for that of the denoiser's file.
        device: Where it is to run.
        variant: Which of several sets of files, such as "fp16" for `*.fp16.safetensors`.
        offload: What waits in the machine's memory: "none" of the weights, the components that do
            not run ("model"), or every layer until it runs ("sequential").

    Raises:
        ValueError: If there is none, its weights are no safetensors files of that variant, or a
            package that it needs is missing; if there is no accelerator to offload from.
        FileNotFoundError: If it is a path to no folder.
    """
    from diffusers import DiffusionPipeline

    check_model_name(name, "pipeline")
    if offload != "none" and torch.device(device).type == "cpu":
        raise ValueError(
            f"offload={offload!r} keeps weights in the machine's memory until an accelerator "
            "needs them, and the pipeline runs on the CPU: leave it out, or give --device cuda"
        )
    try:
        folder = name
        if not Path(name).is_dir():
            folder = DiffusionPipeline.download(name, variant=variant, use_safetensors=True)
        config = DiffusionPipeline.load_config(folder)
        # Components that a folder says are none have to be named again, if the class wants them.
        absent = {part: None for part, entry in config.items() if entry == [None, None]}
        pipe = DiffusionPipeline.from_pretrained(
            folder,
            dtype=_saved_dtype(Path(folder), variant) if dtype is None else dtype,
            use_safetensors=True,
            variant=variant,
            **absent,
        )
    except (OSError, ValueError, ImportError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 300 else f"{reason[:300].rpartition(' ')[0]} …"
        if not Path(name).is_dir():
            reason = f"there is no folder {name!r} here, and of the hub: {reason}"
        files = f"{'*' if variant is None else f'*.{variant}'}.safetensors"
        mend = (
            "install the package that it names"
            if isinstance(error, ImportError)
            else f"give a folder that a diffusers pipeline's save_pretrained wrote, with {files} "
            "files (variant='fp16' reads *.fp16.safetensors)"
        )
        raise ValueError(f"pipeline={name!r} cannot be loaded: {reason}; {mend}") from error
    if offload == "none":
        return pipe.to(device, silence_dtype_warnings=True)  # half precision runs on a CPU too
    moves = {
        "model": pipe.enable_model_cpu_offload,
        "sequential": pipe.enable_sequential_cpu_offload,
    }
    moves[offload](device=device)
    return pipe


def _saved_dtype(folder: Path, variant: str | None) -> torch.dtype:
    """Type of most of the denoiser's weights in files, of whole numbers float32."""
    for file in sorted(path for one in DENOISERS for path in folder.glob(f"{one}/*.safetensors")):
        if variant is not None and f".{variant}." not in file.name:
            continue
        if variant is None and re.search(r"\.(fp16|bf16|non_ema)\.", file.name):
            continue
        with safe_open(file, framework="pt") as weights:
            kinds = Counter(weights.get_slice(one).get_dtype() for one in weights.keys())  # noqa: SIM118
        return _DTYPES.get(kinds.most_common(1)[0][0], torch.float32)
    return torch.float32


def denoiser_of(pipe: DiffusionPipeline) -> tuple[str, nn.Module]:
    """The network that runs at every step, with the component's name.

    Raises:
        ValueError: If the pipeline has none, or several.
    """
    modules = dict(_modules(pipe))
    found = [name for name in modules if re.fullmatch(rf"({'|'.join(DENOISERS)})(_\d+)?", name)]
    if len(found) != 1:
        raise ValueError(
            f"pipeline: {type(pipe).__name__} has {len(found) or 'no'} denoisers "
            f"({', '.join(found or modules)}): give one whose {' or '.join(DENOISERS)} alone runs "
            "at every step"
        )
    return found[0], modules[found[0]]


def as_module(pipe: DiffusionPipeline) -> nn.Module:
    """A module whose children are the pipeline's components, so that sites are found by name.

    The components are shared, not copied; the module is not to be run or moved.
    """
    # Errors about names tell the class that was searched.
    root: nn.Module = type(type(pipe).__name__, (nn.Module,), {})()
    for name, module in _modules(pipe):
        root.add_module(name, module)
    return root


def check_steerable(pipe: DiffusionPipeline) -> tuple[str, nn.Module]:
    """Refuses a denoiser in which hooks would not run, or not at every step.

    Returns:
        The denoiser, as `denoiser_of` has it.

    Raises:
        ValueError: If the denoiser is compiled, wholly or in part, as a compiled graph ignores
            hooks that are attached later; or if it has a cache that leaves out blocks.
    """
    component, denoiser = denoiser_of(pipe)
    for name, module in denoiser.named_modules():
        if undo := _undoing(component, name, module):
            raise ValueError(
                f"pipeline: {_path(component, name)!r} is compiled, and a compiled graph ignores "
                f"what is attached to its modules later: run `{undo}` first"
            )
        # Of what a module has not, its own lookup takes long to say so.
        hooks = getattr(vars(module).get("_diffusers_hook"), "hooks", {})
        if skipping := [hook for hook in hooks if _SKIPPING.search(hook)]:
            raise ValueError(
                f"pipeline: {_path(component, name)!r} has the cache {skipping[0]!r}, which leaves "
                f"out modules at some steps: run `pipe.{component}.disable_cache()` first"
            )
    return component, denoiser


def default_modules(pipe: DiffusionPipeline) -> list[str]:
    """Patterns of the sites to transport, where none are given.

    These are the sites of the paper for the UNet of Stable Diffusion and for FLUX, and the outputs
    of all blocks for other transformers. Streams of text and image are separate outputs there.

    Raises:
        ValueError: If the denoiser's class is not known.

    Source: arXiv 2410.23054, in its public code.
    """
    component, denoiser = denoiser_of(pipe)
    kind = type(denoiser).__name__
    blocks = rf"{component}\.transformer_blocks\.\d+"
    if kind == "UNet2DConditionModel":
        return [rf"{component}\..*norm.*"]
    if kind == "FluxTransformer2DModel":
        # The paper's releases of diffusers returned both streams of a single block as one.
        single = rf"{component}\.single_transformer_blocks\.([0-9]|11)"
        return [f"{blocks}:0", f"{blocks}:1", f"{single}:0", f"{single}:1"]
    if kind == "SD3Transformer2DModel":
        # The last block returns no text.
        last = len(denoiser.get_submodule("transformer_blocks")) - 1  # type: ignore[arg-type]
        text = [rf"{component}\.transformer_blocks\.(?!{last}$)\d+:0"] if last else []
        return [*text, f"{blocks}:1"]
    if kind in ("PixArtTransformer2DModel", "SanaTransformer2DModel"):
        return [blocks]
    raise ValueError(
        f"modules: no sites are known for the denoiser {component!r} of the class {kind}: give "
        rf"patterns of modules, such as '{component}\..*norm.*' (norms) or '{blocks}' (blocks)"
    )


def _modules(pipe: DiffusionPipeline) -> Iterator[tuple[str, nn.Module]]:
    components: dict[str, Any] = pipe.components  # type: ignore[attr-defined]
    return ((name, one) for name, one in components.items() if isinstance(one, nn.Module))


def _path(component: str, name: str) -> str:
    return f"{component}.{name}" if name else component


def _undoing(component: str, name: str, module: nn.Module) -> str:
    """What undoes the compilation of a module itself; empty if it is not compiled."""
    denoiser = f"pipe.{component}"
    if "_orig_mod" in module._modules:
        if not name:
            return f"{denoiser} = {denoiser}._orig_mod"
        plain = f"{denoiser}.get_submodule({name!r})._orig_mod"
        return f"{denoiser}.set_submodule({name!r}, {plain})"
    if module._compiled_call_impl is not None:
        return f"for module in {denoiser}.modules(): module._compiled_call_impl = None"
    if hasattr(module.forward, "_torchdynamo_orig_callable"):
        place = f"{denoiser}.get_submodule({name!r})" if name else denoiser
        return f"del {place}.forward"
    return ""
