"""How pictures change with the strength of a transport, by the features of a CLIP.

| score                    | of a picture at strength λ                                            |
|--------------------------|-----------------------------------------------------------------------|
| `concept_presence`       | share of "A picture of {concept}." against "A picture of something."  |
| `image_similarity`       | cosine with the picture of the same noise at λ = 0 (AcT's IMGScore)   |
| `prompt_similarity`      | cosine with the plain caption, which should stay (AcT's CLIPScore)    |
| `target_similarity`      | cosine with the text that the transport leads to                      |
| `directional_similarity` | cosine of the picture's change since λ = 0 with the change in words   |

The presence is CLIP's own zero-shot probability: cosines of 0.30 and 0.20 give 0.99995. Scores
differ from those of `calculate_clip_score.py` of github.com/apple/ml-act in three ways. There, the
presence is taken without the scale that CLIP learned for cosines, so that these give 0.525. The
change in words of a concept that is to go is from the caption to "caption without it"; here it is
from "caption with it" to the caption, since a CLIP takes little notice of what is denied. And the
direction of a picture that is the same as at λ = 0 is that of rounding; here it is 0, and left out
at λ = 0 itself.

Source: arXiv:2410.23054; directional similarity: Gal et al., "StyleGAN-NADA", arXiv:2108.00946.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.strengths import format_strength
from aim_plugins.sweep.estimates import mean
from aim_plugins.sweep.intervals import point_intervals
from aim_plugins.sweep.paired import Interval, mean_difference
from aim_plugins.sweep.table import Row, pool_draws
from vision_bench.models.names import spoken_name
from vision_bench.text_to_image.judge import ClipJudge
from vision_bench.text_to_image.tasks import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

PRESENCE = "concept_presence"
IMAGE, PROMPT, TARGET = "image_similarity", "prompt_similarity", "target_similarity"
DIRECTION = "directional_similarity"

_WITH, _AGAINST = "A picture of {}.", "A picture of something."
_STILL = 1e-4
"""Change of a picture's features below which it is rounding."""


@dataclass(frozen=True)
class ImageScores:
    """Scores of each picture.

    Attributes:
        strengths: The strengths, one of which is 0.
        values: By metric, scores [images, strengths]; of the direction NaN at 0, where there is
            none.
    """

    strengths: tuple[float, ...]
    values: Mapping[str, Float[Tensor, "images strengths"]]

    def rows(self, task: str) -> list[Row]:
        """Their means over images, with errors, as lines of a sweep's table.

        At 0 the similarity of a picture with itself is 1 by definition, and has no error.

        Args:
            task: What the prompts are called.
        """
        rows = []
        for metric, table in self.values.items():
            for strength, column in zip(self.strengths, table.T.tolist(), strict=True):
                if strength == 0 and metric == DIRECTION:
                    continue
                row = mean(column).row(task, metric, strength)
                if strength == 0 and metric == IMAGE:
                    row = Row(task, metric, strength, None, 1.0, None, row.n)
                rows.append(row)
        return rows

    def means(self, metric: str) -> dict[float, Interval]:
        """By strength, the mean over images with the 95 % interval that reports show.

        Args:
            metric: One of `values`.
        """
        points = pool_draws(row for row in self.rows("") if row.metric == metric)
        ends = point_intervals(points)
        return {
            point.strength: Interval(point.value, low, high)
            for point, (low, high) in zip(points, ends, strict=True)
        }

    def changes(self, metric: str) -> dict[float, Interval]:
        """By strength other than 0, how far the mean is above that at 0, in pairs of images.

        Args:
            metric: One of `values`; of the direction there is no value at 0, and so no change.
        """
        if metric == DIRECTION:
            return {}
        # Differences of values from 0 to 1 are bounded where all of them are equal.
        low, span = (0.0, 1.0) if metric == PRESENCE else (-1.0, 2.0)
        columns = ((self.values[metric] - low) / span).T.tolist()
        plain, found = columns[self.strengths.index(0)], {}
        for strength, column in zip(self.strengths, columns, strict=True):
            if strength != 0:
                one = mean_difference(column, plain)
                found[strength] = Interval(span * one.value, span * one.low, span * one.high)
        return found


def score_images(
    judge: ClipJudge,
    pictures: Iterable[Image],
    prompts: Sequence[Prompt],
    strengths: Sequence[float],
    *,
    concept: str | None = None,
) -> ImageScores:
    """Scores pictures by a CLIP.

    Args:
        judge: The CLIP.
        pictures: Of the first prompt a picture at each strength, then of the second, and so on.
        prompts: What each picture was made of; one of which there are several pictures at each
            strength is given as often. Without sources and targets, there are no scores by these.
        strengths: The strengths, one of which is 0.
        concept: What transports lead into pictures or out of them, such as "art_nouveau"; without
            one, there is no score of its presence.

    Raises:
        ValueError: If there are no prompts, no strength is 0, or pictures are too few or many.
    """
    columns = tuple(map(float, strengths))
    if 0 not in columns:
        given = ", ".join(map(format_strength, columns))
        raise ValueError(f"strengths={given}: add 0, whose pictures the others are compared with")
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    features = judge.image_features(pictures)
    wanted = len(prompts) * len(columns)
    if len(features) != wanted:
        raise ValueError(
            f"there are {len(features)} pictures of {len(prompts)} prompts at {len(columns)} "
            f"strengths: give {wanted}, at each strength one of every prompt"
        )
    images = features.unflatten(0, (len(prompts), len(columns)))
    plain = images[:, columns.index(0)]
    values = {}
    if concept is not None:
        spoken = spoken_name(concept.replace("-", " "))  # names of subsets, as in AcT
        one, other = judge.text_features([_WITH.format(spoken), _AGAINST])
        values[PRESENCE] = zero_shot_share(images, one, other, judge.logit_scale)
    values[IMAGE] = cosines(images, plain)
    values[PROMPT] = cosines(images, judge.text_features([one.plain for one in prompts]))
    sources = [one.source for one in prompts if one.source is not None]
    targets = [one.target for one in prompts if one.target is not None]
    if len(sources) == len(targets) == len(prompts):
        target = judge.text_features(targets)
        values[TARGET] = cosines(images, target)
        words = target - judge.text_features(sources)
        values[DIRECTION] = directional_similarity(images, plain, words)
        values[DIRECTION][:, columns.index(0)] = torch.nan
    return ImageScores(columns, values)


def cosines(
    images: Float[Tensor, "images strengths width"], others: Float[Tensor, "images width"]
) -> Float[Tensor, "images strengths"]:
    """Cosine of each picture's features with others of its own, all of length 1."""
    return torch.einsum("isw,iw->is", images, others).clamp(-1, 1)


def zero_shot_share(
    images: Float[Tensor, "images strengths width"],
    concept: Float[Tensor, " width"],
    against: Float[Tensor, " width"],
    scale: float,
) -> Float[Tensor, "images strengths"]:
    """Probability that a picture is of the first of two texts.

    Args:
        images: Features of the pictures, of length 1.
        concept: Features of the first text, of length 1.
        against: Features of the second text, of length 1.
        scale: What the CLIP multiplies cosines by.

    Returns:
        The softmax of both scaled cosines, of the first.

    >>> cosines = torch.tensor([[[0.30, 0.20]]], dtype=torch.float64)
    >>> one, other = torch.eye(2, dtype=torch.float64)
    >>> [round(float(zero_shot_share(cosines, one, other, scale)), 5) for scale in (100, 1)]
    [0.99995, 0.52498]
    """
    return torch.sigmoid(scale * (images @ concept - images @ against))


def directional_similarity(
    images: Float[Tensor, "images strengths width"],
    plain: Float[Tensor, "images width"],
    words: Float[Tensor, "images width"],
) -> Float[Tensor, "images strengths"]:
    """Cosine of the change of each picture with the change of its text.

    Args:
        images: Features of the pictures.
        plain: Those of the pictures at strength 0.
        words: Features of the text that is led to, less those of the one that is left.

    Returns:
        The cosines; 0 where a picture, or its text, has not changed.
    """
    moved = images - plain[:, None]
    reach, length = moved.norm(dim=-1), words.norm(dim=-1)[:, None]
    told = (reach > _STILL) & (length > _STILL)
    along = torch.einsum("isw,iw->is", moved, words)
    return torch.where(told, along / (reach * length).clamp_min(_STILL**2), 0.0).clamp(-1, 1)
