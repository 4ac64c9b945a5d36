"""`vision-bench images generate`: what a steered pipeline draws, at every strength.

OUT/
  images/strength=0.5/7.png   image 7 at strength 0.5
  images.jsonl                a line for each file: its number, prompt, seed and strength
  sheet.png                   the first images side by side, a row each, with λ above the columns
  animations/7.gif            image 7 over all strengths, with λ in the frame
  manifest.json
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from aim_plugins.core.commands import say
from aim_plugins.core.files import is_temporary
from aim_plugins.core.identity import fingerprint, model_fingerprint
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.study import FolderStudy
from aim_plugins.sweep.trackers import Trackers
from aim_plugins.transport.artifact import tokenizer_sha256
from aim_plugins.transport.change import Transport, warn_once
from vision_bench.diffusion.artifact import ImageTransport
from vision_bench.diffusion.denoising import check_call, scheduler_config
from vision_bench.diffusion.generate import GeneratedImage, generate_images
from vision_bench.pictures import save_picture
from vision_bench.text_to_image.fit import open_pipeline
from vision_bench.text_to_image.images import IMAGES, ImageFile, plan_images, write_images
from vision_bench.text_to_image.pictures import contact_sheet, write_animation
from vision_bench.text_to_image.settings import GenerateSettings
from vision_bench.text_to_image.tasks import load_prompts

SHEET = "sheet.png"
ANIMATIONS = "animations"


class GenerationStudy(FolderStudy):
    """Images of prompts at the strengths of a transport.

    Args:
        settings: The settings.
        command: The words that repeat the study.

    Attributes:
        transport: The transport.
        prompts: The prompts that are drawn.
        concept: What transports lead into their pictures or out of them, where that is known.
        images: The files of each image, by strength.

    Raises:
        ValueError: If a file or the transport is not usable.
    """

    packages = ("aim-plugins", "torch", "diffusers")
    axes = (Transport.axis,)

    def __init__(self, settings: GenerateSettings, command: Sequence[str]) -> None:
        self.settings = settings
        self.command = command
        self.output = settings.output
        self.transport = ImageTransport.load(settings.transport)
        found = load_prompts(settings.prompts)
        prompts, self.concept = found.prompts, found.concept
        if settings.max_batches is not None:
            prompts = prompts[: settings.max_batches * settings.batch_size]
        self.prompts = prompts
        self.images = plan_images(
            [one.text for one in prompts],
            settings.strengths,
            per_prompt=settings.images_per_prompt,
            seed=settings.seed,
        )
        self._pipe: Any = None
        self._making: Iterator[GeneratedImage] = iter(())

    @property
    def call(self) -> dict[str, Any]:
        """Arguments of the pipeline's call: those of the fit, unless the settings say otherwise."""
        known = self.transport.metadata
        names = ("num_inference_steps", "guidance_scale", "height", "width")
        fitted = {name: getattr(known, name) for name in names} | dict(known.call)
        return {
            name: one for name, one in (fitted | self.settings.arguments).items() if one is not None
        }

    @property
    def arguments(self) -> dict[str, Any]:
        """What determines the images."""
        settings = self.settings
        return {
            "command": "images generate",
            "pipeline": settings.pipeline,
            "dtype": self._dtype,
            "variant": settings.variant,
            "transport": self.transport.fingerprint,
            "method": self.transport.metadata.method,
            "prompts": fingerprint([one.text for one in self.prompts]),
            "strength": list(settings.strengths),
            "images_per_prompt": settings.images_per_prompt,
            "seed": settings.seed,
            "call": self.call,
        }

    @property
    def _dtype(self) -> str | None:
        """Type of the pipeline's weights: that of the fit, unless the settings say otherwise."""
        fitted = self.transport.metadata.model_signature.get("dtype")
        known = fitted if fitted in ("float32", "bfloat16", "float16") else None
        return self.settings.dtype or known

    def load(self) -> None:
        """Loads the pipeline, where an image is missing."""
        done, total = self._done(), sum(map(len, self.images))
        if done:
            say(f"{self.output}: {len(done)} of {total} images are there")
        if len(done) == total:
            return
        settings, known = self.settings, self.transport.metadata
        if warning := known.warning_of(settings.strengths):
            warn_once(warning)
        self._pipe = open_pipeline(settings, self._dtype)
        self.transport.check_pipeline(self._pipe, force=settings.force)
        call = self.call
        check_call(self._pipe, call)
        self.transport.check_use(self._pipe, call)
        self._making = generate_images(
            self._pipe,
            self.transport,
            [files[0].prompt for files in self.images],
            settings.strengths,
            [files[0].seed for files in self.images],
            batch_size=settings.batch_size,
            done=done,
            **call,
        )

    def measure(self, store: SweepStore) -> None:
        if self._pipe is None:
            return
        store.pin_manifest(
            pipeline_fingerprint=_fingerprints(self._pipe),
            tokenizers=_tokenizers(self._pipe),
            scheduler=scheduler_config(self._pipe),
        )
        _remove_leftovers(self.output / IMAGES)
        done = self._done()
        with tqdm(total=sum(map(len, self.images)), initial=len(done), desc="Images") as bar:
            for made in self._making:
                if (made.prompt, made.strength) in done:  # its batch was cut off
                    continue
                path = self.output / self._file(made.prompt, made.strength).file
                path.parent.mkdir(parents=True, exist_ok=True)
                save_picture(path, made.image)
                bar.update()

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        """Writes the table, the sheet and the animations of all images; returns the sheet."""
        table = write_images(self.output, self.images)
        sheet = save_picture(self.output / SHEET, contact_sheet(self.output, self.images))
        folder = self.output / ANIMATIONS
        if self.settings.create_gif:
            folder.mkdir(exist_ok=True)
            _remove_leftovers(folder)
            for files in tqdm(self.images, desc="Animations"):
                write_animation(folder / f"{files[0].number}.gif", self.output, files)
        strengths = len(self.settings.strengths)
        print(f"{len(self.images)} images at {strengths} strengths, of {len(self.prompts)} prompts")
        print(self.output / IMAGES)
        print(table)
        print(sheet)
        if self.settings.create_gif:
            print(folder)
        return sheet

    def _done(self) -> set[tuple[int, float]]:
        """Image and strength of each file that is there; files are whole or absent."""
        return {
            (one.number, one.strength)
            for files in self.images
            for one in files
            if (self.output / one.file).is_file()
        }

    def _file(self, number: int, strength: float) -> ImageFile:
        return next(one for one in self.images[number] if one.strength == strength)


def _fingerprints(pipe: Any) -> dict[str, str]:
    """A fingerprint of each of a pipeline's models."""
    return {
        name: model_fingerprint(one)
        for name, one in pipe.components.items()
        if isinstance(one, nn.Module)
    }


def _tokenizers(pipe: Any) -> dict[str, str]:
    """A fingerprint of the rules of each of a pipeline's tokenizers."""
    return {
        name: tokenizer_sha256(one)
        for name, one in pipe.components.items()
        if hasattr(one, "get_vocab")
    }


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed writes have left."""
    for path in filter(is_temporary, folder.rglob("*")):
        path.unlink(missing_ok=True)
