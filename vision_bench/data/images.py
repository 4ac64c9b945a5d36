"""Reading single images and label maps, whatever their colour type, and saying which are unusable.

A folder of real images holds grey, 16-bit and palette images, and now and then a damaged file.
What can be shown as RGB is converted; what cannot raises `UnreadableImageError`, which data sets
count or pass on.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from vision_bench.models.model import Preprocessing

MAX_INPUT_PIXELS = 1 << 26
"""Pixels of a network's input at most: 800 MB in single precision, and eight 4K frames."""

# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    struct.error,
    zlib.error,
)


class UnreadableImageError(ValueError):
    """An image or its label cannot be used; the message names the file and why."""


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order: files, or slices of an array."""

    names: tuple[str, ...]

    def read(self, index: int) -> Image:
        """One image as 8-bit RGB.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        ...

    def digests(self) -> list[str]:
        """SHA-256 digests that identify the content of all images, in order."""
        ...

    def subset(self, indices: list[int]) -> ImageSource:
        """The images at these positions."""
        ...


def read_image(path: str | Path) -> Image:
    """Reads an image file as 8-bit RGB.

    Grey and palette images are expanded, 16-bit ones scaled to 8 bits, and transparency is dropped.
    Orientation tags are ignored, as in the published evaluations.

    Args:
        path: A file that Pillow can read; of an animation, the first frame.

    Returns:
        A Pillow image of the mode RGB.

    Raises:
        UnreadableImageError: If the file is no image, is damaged, or has no defined brightness.
        OSError: If the system cannot read the file at all.
    """
    return _to_rgb(decode(Path(path))[0], Path(path))


def decode(path: Path) -> tuple[Image, str]:
    """Decodes an image file, of an animation the first frame.

    Returns:
        The image, and the layout of the pixels in the file as Pillow names it, such as "L;4".

    Raises:
        UnreadableImageError: If the file is no image or is damaged.
        OSError: If the system cannot read the file at all.
    """
    import warnings

    from PIL import Image as PillowImage

    try:
        # A damaged header asks for any size; Pillow warns of one and refuses the double of it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(path) as image:
                raw = " ".join(str(tile[3]) for tile in image.tile)
                image.load()
                return image, raw
    except (*_DECODER_ERRORS, PillowImage.DecompressionBombError) as error:
        # A missing file or a failing disk says nothing about the image.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableImageError(f"{path}: not a readable image ({error})") from error


def _to_rgb(image: Image, path: Path) -> Image:
    from PIL import Image as PillowImage

    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion would clip at 255 and turn nearly everything white.
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise UnreadableImageError(
                f"{path}: values from {grey.min()} to {grey.max()} are no 16-bit brightness: "
                "store the image with 8 or 16 bits"
            )
        image = PillowImage.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImageError(
            f"{path}: floating-point pixels have no defined white: "
            "store the image with 8 or 16 bits"
        )
    return image.convert("RGB")


def thumbnail(images: ImageSource, position: int, side: int = 160) -> bytes:
    """A small PNG of an image; tiny images keep their pixels.

    Args:
        images: Where it comes from.
        position: Which one.
        side: Longest side of the picture, in pixels.
    """
    picture = images.read(position).convert("RGB")
    picture.thumbnail((side, side))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def check_input_size(height: int, width: int) -> None:
    """Refuses a network's input that no memory would hold, as of a long and narrow image enlarged.

    Args:
        height: Height the image is to be resized to.
        width: Width the image is to be resized to.

    Raises:
        UnreadableImageError: If it has too many pixels.
    """
    if height * width > MAX_INPUT_PIXELS:
        raise UnreadableImageError(
            f"the network's input would have {width} x {height} pixels, above the limit of "
            f"{MAX_INPUT_PIXELS}: crop the image, or choose another resize rule"
        )


def to_tensor(image: Image, preprocessing: Preprocessing | None) -> Float[Tensor, "3 height width"]:
    """Resizes, crops and normalises an image as its model expects.

    Args:
        image: An RGB image.
        preprocessing: What the model expects; without it the image keeps its size and its values
            are scaled to [0, 1].

    Returns:
        The network's input.

    Raises:
        UnreadableImageError: If resizing would make it enormous.
    """
    if preprocessing is None:
        return scale(image)
    return normalise(scale(_resize_and_crop(image, preprocessing)), preprocessing)


def scale(image: Image) -> Float[Tensor, "3 height width"]:
    """An RGB image as numbers in [0, 1]."""
    pixels: UInt8[np.ndarray, "height width 3"] = np.array(image)
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255).contiguous()


def normalise(
    image: Float[Tensor, "3 height width"], preprocessing: Preprocessing | None
) -> Float[Tensor, "3 height width"]:
    """Subtracts the mean of each channel and divides by its standard deviation."""
    if preprocessing is None:
        return image
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    return (image - mean) / std


def _resize_and_crop(image: Image, preprocessing: Preprocessing) -> Image:
    try:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as transforms
    except ImportError as error:
        raise ImportError(
            "resizing images needs torchvision: pip install 'aim-plugins[vision]'"
        ) from error
    if (side := preprocessing.size) is not None:
        # A single number means the shorter side.
        size = [side, side] if preprocessing.resize == "square" else [side]
        if len(size) == 1:
            check_input_size(side, side * max(image.size) // min(image.size))
        image = transforms.resize(image, size, InterpolationMode(preprocessing.interpolation))
    if preprocessing.crop is not None:
        image = transforms.center_crop(image, [preprocessing.crop, preprocessing.crop])
    return image
