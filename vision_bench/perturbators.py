"""AIM's modulations of class logits, for pixels: utility, and focus on one or several classes.

*Utility* adds N(0, σ²) to every logit; *focus* adds ±|n|, n ~ N(0, σ²), to the logits of the target
classes alone. The noise is independent between classes and pixels, and is added to logits of full
resolution: upsampling noisy quarter-resolution logits would average the noise away and correlate
neighbours.

The noise is keyed (`aim_plugins.modulation.noise`): z is a pure function of seed, image, class and
pixel, so neither batches nor tiles nor the other images change it, and every std scales the same z.
An image and a class take the part of the prefix, and pixels that of the token id. Pixels then lie
in the memory of a draw as they do in the logits, a tile of an image is a slice of the ids, no id is
drawn in vain, and focus draws for its targets alone.

    focus = SingleClassPerturbator(std=2.0, target=12)
    classes = focus(logits, "ADE_val_00000001.jpg").argmax(0)

Source: AIM, arXiv 2603.12755, "utility modulation" and "focus modulation".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.strengths import validate_strength
from aim_plugins.modulation.noise import extend_keys, prefix_keys, standard_normal

ImageKey = int | str
"""What names an image: an index, or the name of its file."""

_NOISE_ELEMENTS = 1 << 22
"""Draws held at a time: 16 MiB."""

_P = TypeVar("_P", bound="Perturbator")


class Perturbator:
    """A modulation of class logits by keyed noise of one strength.

    Attributes:
        std: Noise standard deviation in logit units.
        seed: Seed of the draw.
    """

    std: float
    seed: int

    def __call__(
        self, logits: Float[Tensor, "*shape"], key: ImageKey | Sequence[ImageKey] = 0
    ) -> Float[Tensor, "*shape"]:
        """Modulates the logits of an image, or of a batch of images.

        Args:
            logits: [classes, height, width] of one image, [batch, classes, height, width], or
                [batch, classes] of a classifier; at full resolution, after upsampling.
            key: Index or name of the image; for a batch, one for each.

        Returns:
            New logits, in float32 or wider; equal to the given ones at std 0.

        Raises:
            ValueError: If the logits have another number of dimensions, the keys do not fit them,
                or a target is no class.
        """
        if logits.dim() not in (2, 3, 4):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)}: give [classes, height, width] of one "
                "image, [batch, classes, height, width], or [batch, classes]"
            )
        images = logits[None] if logits.dim() == 3 else logits
        keys = _keys_of(key, len(images), batched=logits.dim() != 3)
        directions = self.directions(images.shape[1])
        # Half precision would swallow small noise, and round neighbours to ties.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        result = images.to(dtype, copy=True, memory_format=torch.contiguous_format)
        if self.std > 0:
            for image, name in zip(result.view(*images.shape[:2], -1), keys, strict=True):
                _add_noise(image, name, directions, self.std, self.seed)
        return result.view(logits.shape)

    def at(self: _P, std: float, seed: int | None = None) -> _P:
        """The same modulation at another std, and of another seed where one is given."""
        return replace(self, std=std, seed=self.seed if seed is None else seed)  # type: ignore[type-var]

    def directions(self, classes: int) -> dict[int, int] | None:
        """Target classes and their signs; None where every class gets signed noise."""
        raise NotImplementedError


@dataclass(frozen=True)
class UtilityPerturbator(Perturbator):
    """Utility modulation: adds N(0, std²) to every logit of every pixel.

    Args:
        std: Noise standard deviation in logit units.
        seed: Seed of the draw.

    Raises:
        ValueError: If `std` is negative or not finite.
    """

    std: float
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", validate_strength(self.std, name="std"))

    def directions(self, classes: int) -> None:
        """None: every class gets signed noise."""


@dataclass(frozen=True)
class MultiClassPerturbator(Perturbator):
    """Focus modulation: adds ±|n|, n ~ N(0, std²), to the logits of several classes.

    Targets draw independently and share one std. They use the draws that `UtilityPerturbator` of
    the same seed uses for these classes.

    Args:
        std: Standard deviation of n in logit units.
        targets: Class indices, as the model numbers them (for ADE20K after label reduction).
        positive: Whether a class is made more likely (+|n|) or less (−|n|): one answer for all
            targets, or one for each.
        seed: Seed of the draw.

    Raises:
        ValueError: If `std` is negative or not finite, `targets` is empty, names a class twice or
            something that is no class index, or `positive` does not fit the targets. At the first
            call: if a target is not among the classes of the logits.
    """

    std: float
    targets: Sequence[int]
    positive: bool | Sequence[bool] = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", validate_strength(self.std, name="std"))
        targets = tuple(_validate_target(target) for target in self.targets)
        if not targets:
            raise ValueError(f"targets={self.targets!r} is empty: name at least one class index")
        if len(set(targets)) < len(targets):
            raise ValueError(f"targets={self.targets!r} names a class twice: name each once")
        positive = self.positive
        if not isinstance(positive, bool):
            positive = tuple(positive)
            if len(positive) != len(targets):
                raise ValueError(
                    f"positive={self.positive!r} holds {len(positive)} answers for {len(targets)} "
                    "targets: give one for each, or one for all"
                )
        for answer in (positive,) if isinstance(positive, bool) else positive:
            _validate_positive(answer)
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "positive", positive)

    def directions(self, classes: int) -> dict[int, int]:
        """Target classes and their signs, in the order given."""
        positive = (
            [self.positive] * len(self.targets)
            if isinstance(self.positive, bool)
            else self.positive
        )
        return _directions(self.targets, positive, classes)


@dataclass(frozen=True)
class SingleClassPerturbator(Perturbator):
    """Focus modulation of one class: adds ±|n|, n ~ N(0, std²), to its logit.

    Args:
        std: Standard deviation of n in logit units.
        target: Class index, as the model numbers it (for ADE20K after label reduction).
        positive: Whether the class is made more likely (+|n|) or less (−|n|).
        seed: Seed of the draw.

    Raises:
        ValueError: If `std` is negative or not finite, `target` is no class index or `positive` no
            truth value. At the first call: if the target is not among the classes of the logits.
    """

    std: float
    target: int
    positive: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", validate_strength(self.std, name="std"))
        object.__setattr__(self, "target", _validate_target(self.target))
        _validate_positive(self.positive)

    def directions(self, classes: int) -> dict[int, int]:
        """The target class and its sign."""
        return _directions([self.target], [self.positive], classes)


def image_key(name: ImageKey) -> int:
    """The 64-bit key of an image, from its index or the name of its file.

    A name gives an image the same noise in every subset and order of a data set.

    >>> image_key(3) == image_key(3), image_key("a.jpg") == image_key("b.jpg")
    (True, False)
    """
    if isinstance(name, str):
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "little", signed=True)
    return int(prefix_keys(torch.tensor([[int(name)]])))


def pixel_noise(
    key: int,
    classes: Sequence[int],
    pixels: range,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "classes pixels"]:
    """Draws z ~ N(0, 1) for some classes and a run of pixels of an image.

    Args:
        key: The image's key, from `image_key`.
        classes: Class indices.
        pixels: Indices of consecutive pixels in reading order; runs that start at multiples of
            `aim_plugins.modulation.noise.BLOCK` draw nothing in vain.
        seed: Seed of the draw.
        device: Where to compute.

    Returns:
        float32 draws.
    """
    ids = torch.as_tensor(classes, dtype=torch.int64, device=device)
    image_keys = torch.full_like(ids, key)
    class_keys = extend_keys(image_keys, torch.ones_like(ids), ids)
    return standard_normal(class_keys, len(pixels), seed=seed, offset=pixels.start)


def _add_noise(
    image: Float[Tensor, "classes pixels"],
    name: ImageKey,
    directions: dict[int, int] | None,
    std: float,
    seed: int,
) -> None:
    """Adds noise in place to logits that are the caller's own copy."""
    members = list(range(len(image))) if directions is None else list(directions)
    key, pixels = image_key(name), range(image.shape[1])
    step = max(1, _NOISE_ELEMENTS // max(1, len(pixels)))
    for start in range(0, len(members), step):
        chunk = members[start : start + step]
        noise = pixel_noise(key, chunk, pixels, seed=seed, device=image.device)
        slopes = noise if directions is None else half_normal(noise, [directions[c] for c in chunk])
        image[chunk] = scale_and_add(slopes, std, image[chunk])


def half_normal(
    noise: Float[Tensor, "classes pixels"], signs: Sequence[int]
) -> Float[Tensor, "classes pixels"]:
    """±|z|, by the sign of each class."""
    return noise.abs() * torch.tensor(signs, dtype=noise.dtype, device=noise.device)[:, None]


def scale_and_add(
    noise: Float[Tensor, "classes pixels"], std: float, logits: Float[Tensor, "classes pixels"]
) -> Float[Tensor, "classes pixels"]:
    """logits + std·noise, in a new tensor.

    Two rounded operations, not a fused one: which elements are fused depends on their place in
    memory, and the modulated logits must not.
    """
    return (noise.to(logits.dtype) * std).add_(logits)


def _keys_of(
    key: ImageKey | Sequence[ImageKey], images: int, *, batched: bool
) -> Sequence[ImageKey]:
    if isinstance(key, int | str):
        if images > 1:
            raise ValueError(
                f"key={key!r} is one name for a batch of {images} images, which would share their "
                "noise: give a list with one index or name for each"
            )
        return [key]
    keys = list(key)
    if not batched or len(keys) != images:
        expected = f"a batch of {images} images" if batched else "one image without a batch"
        raise ValueError(f"key holds {len(keys)} names for {expected}: give one for each image")
    return keys


def _directions(targets: Sequence[int], positive: Sequence[bool], classes: int) -> dict[int, int]:
    for target in targets:
        if target >= classes:
            raise ValueError(
                f"target {target} is outside the {classes} classes of the logits, [0, {classes}): "
                "take the index in the model's own numbering"
            )
    return {target: 1 if up else -1 for target, up in zip(targets, positive, strict=True)}


def _validate_target(target: object) -> int:
    if isinstance(target, bool) or not isinstance(target, int) or target < 0:
        raise ValueError(f"target {target!r} is no class index: give an integer from 0 upwards")
    return target


def _validate_positive(positive: object) -> None:
    # The text "false" would count as true.
    if not isinstance(positive, bool):
        raise ValueError(f"positive={positive!r} is neither true nor false: give one of the two")
