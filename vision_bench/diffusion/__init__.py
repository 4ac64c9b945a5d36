"""Transports of activations on text-to-image pipelines, with a strength for each image of a batch.

    transport = fit_transport(pipe, source, target, num_inference_steps=4, guidance_scale=0.0)
    transport.save("striped")
    with ImageTransport.load("striped").applied(pipe, [0.0, 0.5, 1.0]):
        images = pipe(["a coat"] * 3, num_inference_steps=4, guidance_scale=0.0).images

The names below are loaded when first used, so that checks of settings do not wait for diffusers.

Source: "Controlling Language and Diffusion Models by Transporting Activations", arXiv 2410.23054.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_bench.diffusion.artifact import ImageTransport, ImageTransportMetadata
    from vision_bench.diffusion.fit import fit_transport
    from vision_bench.diffusion.generate import GeneratedImage, generate_images
    from vision_bench.diffusion.pipelines import load_pipeline
    from vision_bench.diffusion.steering import ImageMaps

__all__ = [
    "GeneratedImage",
    "ImageMaps",
    "ImageTransport",
    "ImageTransportMetadata",
    "fit_transport",
    "generate_images",
    "load_pipeline",
]

_MODULES = {
    "GeneratedImage": "generate",
    "ImageMaps": "steering",
    "ImageTransport": "artifact",
    "ImageTransportMetadata": "artifact",
    "fit_transport": "fit",
    "generate_images": "generate",
    "load_pipeline": "pipelines",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
