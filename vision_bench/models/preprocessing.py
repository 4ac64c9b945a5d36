"""What is done to an image before a model sees it, and where that is known from.

Weights do not say how the images of their training were prepared, and other images give other
numbers without an error. So preprocessing is taken from what was published with the weights, or
from what lies beside them, or it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from aim_plugins.core.errors import did_you_mean
from aim_plugins.core.settings import Count, Positive, Settings, bound, make_settings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PUBLISHED = "published"
"""Asks for what the published weights of the architecture were trained with."""

_NEEDED = ("size", "mean", "std")
"""Fields without which nothing is known."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_Finite = Annotated[float, bound("a finite number", math.isfinite)]


@dataclass(frozen=True)
class Preprocessing(Settings):
    """What is done to an RGB image before a model sees it, in this order.

    Attributes:
        size: Side in pixels that the image is resized to; None keeps its size.
        crop: Side of the square cut from the middle after that; None cuts nothing.
        mean: Mean of each channel that is taken off, for values in [0, 1].
        std: Standard deviation of each channel that is divided by.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos", with antialiasing.
        resize: "short" resizes the shorter side and keeps the proportions; "square" resizes both
            sides.
        reduce_labels: Of segmentation, whether label maps of the user's own count classes from 1,
            as `do_reduce_labels` of transformers takes them; 0 is then unlabelled.
    """

    size: Count | None = None
    crop: Count | None = None
    mean: Sequence[_Finite] = IMAGENET_MEAN
    std: Sequence[Positive] = IMAGENET_STD
    interpolation: Interpolation = "bilinear"
    resize: Literal["short", "square"] = "short"
    reduce_labels: bool = False

    def check(self) -> None:
        for name in ("mean", "std"):
            if len(values := getattr(self, name)) != 3:
                raise ValueError(f"{name}={values!r}: give a number for each of red, green, blue")
        if self.size is not None and self.crop is not None and self.crop > self.size:
            raise ValueError(
                f"crop={self.crop} is above size={self.size}, so that images would have a black "
                "rim: give a crop of at most the size, or both"
            )

    def describe(self, rule: str | None = None) -> str:
        """Says in words what is done.

        Args:
            rule: What a data set resizes images by in the place of `size`, `crop` and `resize`.

        >>> Preprocessing(size=256, crop=224).describe().partition(", mean")[0]
        'shorter side to 256 (bilinear), middle 224 x 224'
        """
        parts = [f"resized by {rule!r} ({self.interpolation})"] if rule else []
        if not rule and self.size is not None:
            side = "shorter side" if self.resize == "short" else "both sides"
            parts.append(f"{side} to {self.size} ({self.interpolation})")
        elif not rule:
            parts.append("images keep their size")
        if not rule and self.crop is not None:
            parts.append(f"middle {self.crop} x {self.crop}")
        for name in ("mean", "std"):
            parts.append(f"{name} {' '.join(f'{value:.4g}' for value in getattr(self, name))}")
        return ", ".join(parts)


@dataclass(frozen=True)
class KnownPreprocessing:
    """What is known of a model's preprocessing before anybody is asked.

    Attributes:
        preprocessing: What it is, or what the architecture's published weights were trained with.
        source: Whose it is, in words.
        certain: Whether it is that of the weights at hand.
    """

    preprocessing: Preprocessing
    source: str
    certain: bool

    def settle(
        self, asked: Choice | None, *, name: str, weights: object = None
    ) -> KnownPreprocessing:
        """What holds, given what was asked for.

        Args:
            asked: The setting.
            name: Name of the model, for errors.
            weights: Its weights, for errors; None where the name is itself the folder or file.

        Raises:
            ValueError: If a value is not usable, or the setting is missing where nothing is known.
        """
        chosen = read_choice(asked)
        if chosen == PUBLISHED:
            return replace(self, source=f"as asked, {self.source}", certain=True)
        if self.certain and not chosen:
            return self
        assert not isinstance(chosen, str)
        missing = [] if self.certain else [one for one in _NEEDED if one not in chosen]
        if missing:
            whose = f"model={name!r}"
            if weights is not None:
                whose = f"weights={str(weights)!r} of {name!r}"
            raise ValueError(
                f"preprocessing lacks {', '.join(missing)}: how images were prepared for {whose} "
                f"is not known. Give it, such as {_EXAMPLE!r} "
                f"(size=None keeps their size), or {PUBLISHED!r} for {self.source}: "
                f"{self.preprocessing.describe()}"
            )
        base = self.preprocessing if self.certain else Preprocessing()
        source = "as given"
        if len(chosen) < len(_OF_IMAGES) and self.certain:
            source += f", the rest {self.source}"
        try:
            return KnownPreprocessing(replace(base, **chosen), source, True)
        except ValueError as error:
            raise ValueError(f"preprocessing: {error}") from error


_OF_IMAGES = [one.name for one in fields(Preprocessing) if one.name != "reduce_labels"]
"""Fields that may be asked for; what becomes of labels is a setting of its own."""

_EXAMPLE = "size=224 resize=square mean=0.5,0.5,0.5 std=0.25,0.25,0.25"
"""Of both tasks: a crop is refused where every pixel is judged."""


def read_choice(asked: Choice | None) -> str | dict[str, Any]:
    """Reads the setting `preprocessing`.

    Args:
        asked: Fields of `Preprocessing` in a dictionary or as a text, "published", or None.

    Returns:
        "published", or the fields.

    Raises:
        ValueError: If a field or value is not usable.

    >>> read_choice("size=None mean=0.5,0.5,0.5 resize=square")
    {'size': None, 'mean': (0.5, 0.5, 0.5), 'resize': 'square'}
    """
    if asked == PUBLISHED:
        return PUBLISHED
    if isinstance(asked, str):
        words = [word.partition("=") for word in asked.split()]
        if bad := next((word for word in words if not all(word)), None):
            raise ValueError(
                f"preprocessing holds {''.join(bad)!r}: give {PUBLISHED!r}, or fields such as "
                f"{_EXAMPLE!r}"
            )
        asked = {name: text.split(",") if "," in text else text for name, _, text in words}
    for name in asked or ():
        if name not in _OF_IMAGES:
            raise ValueError(
                f"preprocessing holds {name!r}, which is no field; {did_you_mean(name, _OF_IMAGES)}"
            )
    try:
        read = make_settings(Preprocessing, asked or {}, "preprocessing")
    except ValueError as error:
        text = str(error)
        raise ValueError(text if "preprocessing" in text else f"preprocessing: {text}") from error
    return {name: getattr(read, name) for name in asked or {}}


def _check_choice(name: str, value: Any) -> None:
    read_choice(value)


Choice = Annotated[str | Mapping[str, Any], _check_choice]
"""The setting `preprocessing`: "published", or fields as a text or a dictionary."""
