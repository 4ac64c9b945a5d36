"""Which class wins at each pixel under a modulation: sampled at all strengths, and in law.

Focus modulation moves its target logits alone, so of all other classes only the best can win. A
pixel is therefore described by its target logits and the best other one, whatever the number of
classes; for a single target the law is closed (`aim_plugins.modulation.ordering`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from aim_plugins.modulation.ordering import argmax_probabilities, focus_probabilities
from vision_bench.perturbators import half_normal, pixel_noise, scale_and_add
from vision_bench.segmentation.envelope import Envelope, require_usable, upper_envelope

_IMPOSSIBLE = -1000.0
"""Log of a probability that counts as none, and whose sums can be taken apart again."""


@dataclass(frozen=True)
class LevelArgmax:
    """The argmax of every pixel at every strength, written out.

    Attributes:
        winners: Winning class.
    """

    winners: Int64[Tensor, "levels pixels"]

    def argmax(self) -> Int64[Tensor, "levels pixels"]:
        """The winners, as `Envelope.argmax` gives them."""
        return self.winners

    def add_changes(
        self, labels: Int64[Tensor, " pixels"], counts: Int64[Tensor, "levels truth classes"]
    ) -> None:
        """Counts pixels as `Envelope.add_changes` does."""
        flat = counts.view(len(counts), -1)
        cells = labels * counts.shape[2] + self.winners
        flat.scatter_add_(1, cells, torch.ones_like(cells))
        # Taken back at the next strength, where the cumulative sum would count it again.
        flat[1:].scatter_add_(1, cells[:-1], torch.full_like(cells[:-1], -1))


def sampled_argmax(
    clean: Float[Tensor, "classes pixels"],
    directions: Mapping[int, int] | None,
    stds: Sequence[float],
    *,
    key: int,
    start: int = 0,
    seed: int = 0,
) -> Envelope | LevelArgmax:
    """Draws noise for a block of pixels and finds the argmax at every strength.

    Args:
        clean: Clean logits of consecutive pixels.
        directions: Target classes and their signs, or None for noise on every class, as
            `Perturbator.directions` gives them.
        stds: Strengths, rising; all scale the same noise.
        key: Key of the image.
        start: Index of the first pixel in the image.
        seed: Seed of the draw.

    Returns:
        The argmax of each pixel at each strength.

    Raises:
        ValueError: If a pixel has NaN, +inf or only −inf logits.
    """
    classes, pixels = clean.shape
    members = list(range(classes)) if directions is None else list(directions)
    run = range(start, start + pixels)
    noise = pixel_noise(key, members, run, seed=seed, device=clean.device).to(clean.dtype)
    if directions is None:
        return upper_envelope(clean, noise, stds)
    shifts = half_normal(noise, list(directions.values()))
    return LevelArgmax(_focus_argmax(clean, shifts, members, stds))


def add_expected_counts(
    clean: Float[Tensor, "classes pixels"],
    labels: Int64[Tensor, " pixels"],
    directions: Mapping[int, int] | None,
    stds: Sequence[float],
    counts: Float[Tensor, "levels truth classes"],
    log_absent: Float[Tensor, "levels classes"],
    weights: tuple[Float[Tensor, " pixels"], Float[Tensor, " pixels"]] | None = None,
) -> None:
    """Adds the expected number of pixels by label and winning class, and when a class wins none.

    Args:
        clean: Clean logits.
        labels: Ground truth of each pixel.
        directions: Target classes and their signs, or None for noise on every class.
        stds: Strengths.
        counts: float64 counts to add to, in place.
        log_absent: Log of the probability that no pixel is called a class, float64, to add to.
        weights: Pixels that each one stands for, in float64, in `counts` and in `log_absent`; None
            means itself alone.

    Raises:
        ValueError: If a pixel has NaN, +inf or only −inf logits.
    """
    classes = len(clean)
    if weights is None:
        alone = torch.ones(len(labels), dtype=torch.float64, device=labels.device)
        weights = (alone, alone)
    stands_for, absent_weights = weights
    signs = [] if directions is None else list(directions.values())
    if directions is not None:
        values, ids = _contenders(clean, list(directions))
    for std, count, absent in zip(stds, counts, log_absent, strict=True):
        if std == 0:
            winners = clean.argmax(0, keepdim=True)
            require_usable(clean.gather(0, winners)[0])
            count.view(-1).scatter_add_(0, labels * classes + winners[0], stands_for)
            absent.scatter_add_(0, winners[0], _IMPOSSIBLE * absent_weights)
            continue
        if directions is None:
            probabilities = argmax_probabilities(clean.T, std)
            count.index_add_(0, labels, probabilities * stands_for[:, None])
            absent += absent_weights @ _log_others(probabilities)
            continue
        if len(signs) == 1:
            probabilities = _single_target_law(values, signs[0], std)
        else:
            probabilities = focus_probabilities(values.T, dict(enumerate(signs)), std).T
        cells = labels * classes + ids
        count.view(-1).scatter_add_(0, cells.flatten(), (stands_for * probabilities).flatten())
        others = absent_weights * _log_others(probabilities)
        absent.scatter_add_(0, ids.flatten(), others.flatten())


def _log_others(probabilities: Tensor) -> Tensor:
    """log(1 − p), but for a class that is certain, which keeps a finite one."""
    return torch.log1p(-probabilities.clamp(max=1)).clamp(min=_IMPOSSIBLE)


def _single_target_law(
    values: Float[Tensor, "2 pixels"], sign: int, std: float
) -> Float[Tensor, "2 pixels"]:
    """Probabilities of the target and of the best other class."""
    deficit = (values[1] - values[0]) / (std * math.sqrt(2))
    wins = torch.erfc(deficit.clamp(min=0)) if sign > 0 else torch.erf((-deficit).clamp(min=0))
    loses = torch.erf(deficit.clamp(min=0)) if sign > 0 else torch.erfc((-deficit).clamp(min=0))
    return torch.stack([wins, loses])


def _contenders(
    clean: Float[Tensor, "classes pixels"], targets: list[int]
) -> tuple[Float[Tensor, "contenders pixels"], Int64[Tensor, "contenders pixels"]]:
    """Float64 logits and classes of the targets and, last, of the best other class."""
    index = torch.tensor(targets, device=clean.device)
    other, runner_up = clean.index_fill(0, index, -torch.inf).max(0)
    require_usable(clean[index].amax(0).maximum(other))
    values = torch.cat([clean[index], other[None]])
    ids = torch.cat([index[:, None].expand(-1, clean.shape[1]), runner_up[None]])
    return values.double(), ids


def _focus_argmax(
    clean: Float[Tensor, "classes pixels"],
    shifts: Float[Tensor, "targets pixels"],
    targets: list[int],
    stds: Sequence[float],
) -> Int64[Tensor, "levels pixels"]:
    values, ids = _contenders(clean, targets)
    # In the type of the logits again, to round as a loop over strengths does.
    values = values.to(clean.dtype)
    winners = ids.new_empty(len(stds), clean.shape[1])
    for level, std in enumerate(stds):
        best, winner = values[-1], ids[-1]
        for row, value in enumerate(scale_and_add(shifts, std, values[:-1])):
            ahead = (value > best) | ((value == best) & (ids[row] < winner))
            best, winner = torch.where(ahead, value, best), torch.where(ahead, ids[row], winner)
        winners[level] = winner
    return winners
