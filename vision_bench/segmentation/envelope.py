"""The argmax of noisy logits at many strengths at once.

With noise z that all strengths share, the modulated logit l_c + σ·z_c of a class is a straight line
in σ, and the argmax at σ is the line on top: their upper envelope. A line is on top over one
interval, and of 150 lines some four ever are. So instead of an argmax for each strength, the
envelope is found as quickhull finds a convex hull: of two lines that are on top at two strengths,
take the crossing; either nothing lies above it, and the argmax goes from one to the other there, or
the highest line joins the envelope between them.

Strengths are then compared with each crossing in the arithmetic of a loop over strengths, so that
the result is that of the loop.

Source: Barber, Dobkin and Huhdanpaa, "The Quickhull Algorithm for Convex Hulls", 1996; the lines
(slope z, intercept l) are dual to the points (z, l), and their envelope to the upper hull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_TOLERANCE = 2.0**-21
"""Height above a crossing, relative to the largest summand, below which a line counts as touching.

Rounding displaces each value by less, so that the crossings of an envelope keep their order.
"""


_HUGE = 2.0**100
"""Factor that turns any difference of two logits into more than a number of classes."""


@dataclass(frozen=True)
class Envelope:
    """The argmax of every pixel at every strength, as changes from strength to strength.

    Attributes:
        first: Argmax of each pixel at the first strength.
        pixel: Pixel of each change.
        level: Index of the first strength after it.
        before: Argmax before the change.
        after: Argmax after it. Several changes of a pixel at one level are a chain.
        levels: Number of strengths.
    """

    first: Int64[Tensor, " pixels"]
    pixel: Int64[Tensor, " changes"]
    level: Int64[Tensor, " changes"]
    before: Int64[Tensor, " changes"]
    after: Int64[Tensor, " changes"]
    levels: int

    def argmax(self) -> Int64[Tensor, "levels pixels"]:
        """The argmax written out."""
        # A chain telescopes: summing the steps of the class index ends at its last class.
        steps = self.first.new_zeros(self.levels, len(self.first))
        steps[0] = self.first
        steps.index_put_((self.level, self.pixel), self.after - self.before, accumulate=True)
        return steps.cumsum(0)

    def add_changes(
        self, labels: Int64[Tensor, " pixels"], counts: Int64[Tensor, "levels truth classes"]
    ) -> None:
        """Counts pixels by label and argmax where a strength differs from the one before.

        The cumulative sum of the counts over strengths is the confusion matrix of each: it takes a
        few additions a pixel, however many strengths there are.

        Args:
            labels: Ground truth of each pixel.
            counts: Counts to add to, in place.
        """
        truth, classes = counts.shape[1:]
        changed = (self.level * truth + labels[self.pixel]) * classes
        flat = counts.view(-1)
        for cells, sign in (
            (labels * classes + self.first, 1),
            (changed + self.after, 1),
            (changed + self.before, -1),
        ):
            flat.scatter_add_(0, cells, torch.full_like(cells, sign))


def upper_envelope(
    intercepts: Float[Tensor, "classes pixels"],
    slopes: Float[Tensor, "classes pixels"],
    stds: Sequence[float],
) -> Envelope:
    """Finds the argmax of intercepts + std·slopes at every std.

    Args:
        intercepts: Clean logits; −inf marks an impossible class.
        slopes: Noise of the same type, finite.
        stds: Strengths, rising.

    Returns:
        The argmax of each pixel and its changes; the first class among equals, as in
        `torch.argmax`.

    Raises:
        ValueError: If the strengths do not rise, or a pixel has NaN, +inf or only −inf logits.
    """
    levels = torch.tensor(list(stds), dtype=intercepts.dtype, device=intercepts.device)
    if len(levels) == 0 or (levels.diff() <= 0).any():
        raise ValueError(f"stds={list(stds)!r} do not rise: sort them and name each once")
    # One buffer for all passes: fresh memory of this size costs more than the arithmetic in it.
    work = torch.empty_like(intercepts)
    first, peak = _argmax_at(intercepts, slopes, levels[0], work)
    require_usable(peak)
    last, last_peak = _argmax_at(intercepts, slopes, levels[-1], work)
    steepest = torch.stack(torch.aminmax(slopes)).abs().amax()
    size = torch.maximum(peak.abs().amax(), last_peak.abs().amax()) + 2 * levels[-1] * steepest
    lines = _Lines(intercepts, slopes, levels, _TOLERANCE * size)
    changed = (first != last).nonzero().squeeze(1)
    low, high = (levels[end].repeat(len(changed)) for end in (0, -1))
    edges = lines.cross(changed, first[changed], last[changed], low, high)
    candidates = lines.above(edges, work)
    found = []
    while len(edges.pixel):
        final, edges, candidates = lines.split(edges, candidates)
        found.append(final)
    return Envelope(first, *lines.changes(_concatenate([edges, *found])), len(levels))


def require_usable(best: Float[Tensor, " pixels"]) -> None:
    """Refuses pixels whose best logit is no number; NaN and +inf carry over to the maximum.

    Raises:
        ValueError: If one is not finite.
    """
    if not (finite := best.isfinite()).all():
        worst = int((~finite).nonzero()[0])
        raise ValueError(
            f"logits of pixel {worst} are not usable (the largest is {float(best[worst])}); "
            f"{int((~finite).sum())} pixels have NaN, +inf or only -inf"
        )


@dataclass(frozen=True)
class _Edges:
    """Pairs of lines of which one follows the other, perhaps with further lines between them.

    Attributes:
        pixel: The pixel they belong to.
        before: Class on top at `low`.
        after: Class on top at `high`.
        low: A strength at which `before` is on top.
        high: A larger one, at which `after` is.
        at: Strength of their crossing.
        height: Their value there.
    """

    pixel: Int64[Tensor, " edges"]
    before: Int64[Tensor, " edges"]
    after: Int64[Tensor, " edges"]
    low: Float[Tensor, " edges"]
    high: Float[Tensor, " edges"]
    at: Float[Tensor, " edges"]
    height: Float[Tensor, " edges"]

    def take(self, mask: Bool[Tensor, " edges"]) -> _Edges:
        """Some of the edges."""
        return _Edges(*(getattr(self, field.name)[mask] for field in fields(self)))


@dataclass(frozen=True)
class _Candidates:
    """Lines above the crossing of an edge: only these can join the envelope within it."""

    line: Int64[Tensor, " candidates"]
    edge: Int64[Tensor, " candidates"]


@dataclass(frozen=True)
class _Lines:
    """The lines of a block of pixels, and the strengths of interest."""

    intercepts: Float[Tensor, "classes pixels"]
    slopes: Float[Tensor, "classes pixels"]
    levels: Float[Tensor, " levels"]
    tolerance: Float[Tensor, ""]

    def cross(
        self, pixel: Tensor, before: Tensor, after: Tensor, low: Tensor, high: Tensor
    ) -> _Edges:
        """Crosses the lines `before` and `after`."""
        l0, z0 = self._line(before, pixel)
        l1, z1 = self._line(after, pixel)
        # Lines that rounding alone tells apart may be parallel: any strength between will do.
        at = ((l0 - l1) / (z1 - z0)).nan_to_num(nan=0.0).maximum(low).minimum(high)
        return _Edges(pixel, before, after, low, high, at, (l0 + at * z0).maximum(l1 + at * z1))

    def above(self, edges: _Edges, work: Float[Tensor, "classes pixels"]) -> _Candidates:
        """All lines above the crossings, where each pixel has one edge at most."""
        if len(self.levels) <= 2:
            return _Candidates(*edges.pixel.new_empty(2, 0))
        pixels = self.intercepts.shape[1]
        at, height = edges.at.new_zeros(pixels), edges.at.new_full((pixels,), torch.inf)
        at[edges.pixel], height[edges.pixel] = edges.at, edges.height + self.tolerance
        mask = torch.mul(self.slopes, at, out=work).add_(self.intercepts) > height
        line, pixel = mask.nonzero(as_tuple=True)
        edge = line.new_zeros(pixels)
        edge[edges.pixel] = torch.arange(len(edges.pixel), device=edge.device)
        return _Candidates(line, edge[pixel])

    def split(self, edges: _Edges, candidates: _Candidates) -> tuple[_Edges, _Edges, _Candidates]:
        """Splits edges at their highest candidates.

        Returns:
            The edges that are final, the halves of the others, and the candidates of the halves.
        """
        line, edge = candidates.line, candidates.edge
        intercept, slope = self._line(line, edges.pixel[edge])
        value = intercept + slope * edges.at[edge]
        best = edges.height.new_full(edges.height.shape, -torch.inf)
        best.scatter_reduce_(0, edge, value, "amax")
        middle = torch.full_like(edges.pixel, len(self.slopes))
        highest = value == best[edge]
        middle.scatter_reduce_(0, edge[highest], line[highest], "amin")
        open_ = middle < len(self.slopes)
        parents, middle = edges.take(open_), middle[open_]
        left = self.cross(parents.pixel, parents.before, middle, parents.low, parents.at)
        right = self.cross(parents.pixel, middle, parents.after, parents.at, parents.high)
        halves = _concatenate([left, right])
        # A line between two others in slope can rise above them on its own side only.
        half = (open_.cumsum(0) - 1)[edge]
        half += len(middle) * (slope > self.slopes[middle, parents.pixel][half]).long()
        above = intercept + slope * halves.at[half] > halves.height[half] + self.tolerance
        above &= self._spans_a_level(halves)[half]
        return edges.take(~open_), halves, _Candidates(line[above], half[above])

    def changes(self, edges: _Edges) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixel, level, class before and class after of final edges."""
        level = torch.searchsorted(self.levels, edges.at).clamp(max=len(self.levels) - 1)
        # The crossing is rounded; at the strengths beside it the lines themselves decide.
        earlier = (level > 0) & self._overtaken(edges, (level - 1).clamp(min=0))
        level = torch.where(earlier, level - 1, level + (~self._overtaken(edges, level)).long())
        within = level < len(self.levels)
        return edges.pixel[within], level[within], edges.before[within], edges.after[within]

    def _line(self, line: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Intercept and slope."""
        return self.intercepts[line, pixel], self.slopes[line, pixel]

    def _spans_a_level(self, edges: _Edges) -> Bool[Tensor, " edges"]:
        """Whether a strength lies inside an edge; elsewhere it does not matter what is on top."""
        inside = torch.searchsorted(self.levels, edges.low, right=True)
        return torch.searchsorted(self.levels, edges.high) > inside

    def _overtaken(self, edges: _Edges, level: Int64[Tensor, " edges"]) -> Bool[Tensor, " edges"]:
        """Whether `after` is on top of `before` at a level, as a loop over levels would find."""
        old, new = (
            slope * self.levels[level] + intercept
            for intercept, slope in (
                self._line(edges.before, edges.pixel),
                self._line(edges.after, edges.pixel),
            )
        )
        return (new > old) | ((new == old) & (edges.after < edges.before))


def _concatenate(parts: list[_Edges]) -> _Edges:
    return _Edges(*(torch.cat([getattr(p, field.name) for p in parts]) for field in fields(_Edges)))


def _argmax_at(
    intercepts: Float[Tensor, "classes pixels"],
    slopes: Float[Tensor, "classes pixels"],
    std: Float[Tensor, ""],
    work: Float[Tensor, "classes pixels"],
) -> tuple[Int64[Tensor, " pixels"], Float[Tensor, " pixels"]]:
    """First argmax and maximum of each pixel."""
    values = intercepts if std == 0 else torch.mul(slopes, std, out=work).add_(intercepts)
    best = values.amax(0)
    # Only amax is vectorised over the first dimension, so the class is made part of the value:
    # scaled differences leave −huge below the maximum and 0 at it, to which the class is added.
    classes = torch.arange(len(values), dtype=values.dtype, device=values.device)
    behind = torch.sub(values, best, out=work).mul_(_HUGE).sub_(classes[:, None])
    return behind.amax(0).neg_().long(), best
