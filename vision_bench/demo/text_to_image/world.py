"""What the pictures show, and what their captions say.

A picture is a garment of Fashion-MNIST in one of four colours, plain, with stripes or at night, and
perhaps with a moon. The words `UNTAUGHT` are in the vocabulary but in no caption, as published
captions rarely say what is absent: a model of such captions draws a moon when asked for a picture
without one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vision_bench.data.classification import load_dataset
from vision_bench.demo.data import dataset_name, dataset_root

SIDE = 32
"""Height and width of a picture in pixels."""

GARMENTS = {"t-shirt": 0, "trouser": 1, "sneaker": 7, "bag": 8, "boot": 9}
"""By name, the class in Fashion-MNIST. Those that resemble each other are left out."""
COLOURS = {
    "red": (0.85, 0.18, 0.18),
    "green": (0.15, 0.6, 0.28),
    "blue": (0.2, 0.35, 0.85),
    "yellow": (0.9, 0.72, 0.1),
}
STYLES = ("plain", "striped", "night")
MOON = "moon"

PHRASES = {
    "striped": ("with stripes", "in stripes", "with a striped pattern"),
    "night": ("at night", "in the dark", "late at night"),
    MOON: ("with a moon", "and a moon", "under a moon"),
}
NOUNS = {"striped": "stripes", "night": "night", MOON: "a moon"}
HEADS = ("{}", "a picture of {}", "a photo of {}", "an image of {}")
UNTAUGHT = ("without", "no", "not", "lacking")

_SILHOUETTE = 0.15
"""Brightness from which a pixel belongs to the garment; below, it fades into the background."""
_STRIPE = 3
"""Rows of a stripe."""
_DAY = (0.9, 0.9, 0.9)
_DARK = (0.05, 0.06, 0.2)
_PALE = (0.97, 0.97, 0.97)
_GOLD = (1.0, 0.85, 0.35)
_MOON_CENTRE = (5.5, 26.0)
_MOON_RADIUS = 4.2


@dataclass(frozen=True)
class Subject:
    """What a picture shows.

    Attributes:
        garment: A name of `GARMENTS`.
        colour: A name of `COLOURS`.
        style: One of `STYLES`.
        moon: Whether there is a moon in the corner.
    """

    garment: str
    colour: str
    style: str = "plain"
    moon: bool = False


@dataclass(frozen=True)
class Garments:
    """Grey garments in [0, 1], with the name of each."""

    shapes: Float[Tensor, "n height width"]
    names: tuple[str, ...]


def load_garments(split: str, limit: int | None = None) -> Garments:
    """Loads the garments that pictures are made of.

    Args:
        split: "train" or "test".
        limit: How many images of the whole data set are looked through.

    Raises:
        FileNotFoundError: If Fashion-MNIST is not installed.
    """
    if dataset_name() != "fashion-mnist":
        raise FileNotFoundError(
            "the demo's pictures are made of Fashion-MNIST: install Debian's package "
            "dataset-fashion-mnist, or put torchvision's FashionMNIST/raw into the cache folder "
            "(AIM_PLUGINS_CACHE)"
        )
    data = load_dataset("fashion-mnist", dataset_root(), split=split, limit=limit)
    named = {number: name for name, number in GARMENTS.items()}
    kept = [index for index, label in enumerate(data.labels.tolist()) if label in named]
    pixels = np.stack([np.asarray(data.images.read(index).convert("L")) for index in kept])
    names = tuple(named[int(data.labels[index])] for index in kept)
    return Garments(torch.from_numpy(pixels).float() / 255, names)


def draw_subject(draws: random.Random, garment: str) -> Subject:
    """Gives a garment a colour and a style, and in one case of four a moon."""
    colour = draws.choice(list(COLOURS))
    style = draws.choices(STYLES, weights=(2, 1, 1))[0]
    return Subject(garment, colour, style, draws.random() < 0.25)


def draw_subjects(draws: random.Random, names: Sequence[str]) -> list[Subject]:
    """A subject for each garment."""
    return [draw_subject(draws, name) for name in names]


def render(
    shapes: Float[Tensor, "n height width"], subjects: Sequence[Subject]
) -> Float[Tensor, "n 3 SIDE SIDE"]:
    """Paints pictures.

    Args:
        shapes: Grey garments in [0, 1], at most `SIDE` pixels high and wide.
        subjects: What each is to become.

    Returns:
        RGB in [0, 1].
    """
    height, width = shapes.shape[1:]
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    edges = (left, SIDE - width - left, top, SIDE - height - top)
    grey = F.pad(shapes, edges)[:, None]
    night = _flags(subject.style == "night" for subject in subjects)
    striped = _flags(subject.style == "striped" for subject in subjects)
    moon = _flags(subject.moon for subject in subjects)
    paint = torch.tensor([COLOURS[subject.colour] for subject in subjects])[..., None, None]
    pale_rows = (torch.arange(SIDE) // _STRIPE % 2).float()[:, None]
    paint = paint.lerp(_colour(_PALE), striped * pale_rows)
    paint = paint.lerp(0.6 * paint + _colour((0.0, 0.0, 0.1)), night)
    background = _colour(_DAY).lerp(_colour(_DARK), night)
    # Never black: the colour of a dark garment is still to be seen.
    shaded = paint * (0.35 + 0.65 * grey)
    picture = background.lerp(shaded, (grey / _SILHOUETTE).clamp(max=1))
    return picture.lerp(_colour(_GOLD), moon * _disc())


def caption(draws: random.Random, subject: Subject, *, mentioned: float = 1.0) -> str:
    """Describes a picture.

    Args:
        draws: Chooses among the ways to say it.
        subject: What it shows.
        mentioned: How likely each of garment, colour, style and moon is to be mentioned if it is
            there.

    Returns:
        For instance "a picture of a red boot with stripes and a moon".
    """

    def mention() -> bool:
        return draws.random() < mentioned

    shown = [name for name in (subject.style, MOON * subject.moon) if name in PHRASES]
    shown = [name for name in shown if mention()]
    garment = subject.garment if mention() else ""
    colour = subject.colour if mention() else ""
    if garment:
        thing = " ".join(f"a {colour} {garment}".split())
    elif shown and not colour and draws.random() < 0.5:
        thing = NOUNS[shown.pop()]
    else:
        thing = f"something {colour}".strip()
    phrases = [draws.choice(PHRASES[name]) for name in shown]
    draws.shuffle(phrases)
    end = "." if draws.random() < 0.25 else ""
    return " ".join([draws.choice(HEADS).format(thing), *phrases]) + end


def vocabulary() -> list[str]:
    """All words of captions, and those that no caption has."""
    texts = [*GARMENTS, *COLOURS, *NOUNS.values(), *HEADS, *UNTAUGHT, "something", "a"]
    texts += [phrase for phrases in PHRASES.values() for phrase in phrases]
    return sorted({word for text in texts for word in text.replace("{}", "").split()})


def _flags(values: Iterable[bool]) -> Float[Tensor, "n 1 1 1"]:
    return torch.tensor([float(value) for value in values])[:, None, None, None]


def _colour(rgb: tuple[float, float, float]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(rgb)[:, None, None]


def _disc() -> Float[Tensor, "SIDE SIDE"]:
    """The moon, with a soft edge."""
    places = torch.arange(float(SIDE))
    rows, columns = (places - middle for middle in _MOON_CENTRE)
    distance = (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt()
    return (_MOON_RADIUS - distance).clamp(0, 1)
