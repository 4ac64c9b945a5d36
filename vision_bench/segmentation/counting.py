"""Counts the pixels of image after image at every strength, sampled and in law, tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vision_bench.data.labels import check_labels, counted_pixels
from vision_bench.logits.upsampling import tile_rows, upsample_pixels, upsample_rows
from vision_bench.perturbators import ImageKey, Perturbator, image_key
from vision_bench.segmentation.envelope import Envelope
from vision_bench.segmentation.group_counts import GroupCounter
from vision_bench.segmentation.pixel_argmax import LevelArgmax, add_expected_counts, sampled_argmax
from vision_bench.segmentation.pixel_samples import sample_with_strays


class PixelCounter:
    """Confusion matrices of the images so far.

    Args:
        classes: Number of classes.
        levels: Strengths, rising.
        perturbator: The modulation; its own std is not used. Draw d has its seed plus d.
        draws: Sampled runs per strength.
        exact: Whether to compute the exact law as well.
        exact_pixels: Pixels of an image on which it is computed above std 0; None takes all.

    Raises:
        ValueError: If a target of the modulation is no class.
    """

    def __init__(
        self,
        classes: int,
        levels: tuple[float, ...],
        perturbator: Perturbator,
        draws: int,
        exact: bool,
        exact_pixels: int | None,
    ) -> None:
        self.classes, self.levels, self.perturbator = classes, levels, perturbator
        self.draws, self.exact, self.exact_pixels = draws, exact, exact_pixels
        perturbator.directions(classes)
        shape = (len(levels), classes, classes)
        self.confusion = torch.zeros(draws, *shape, dtype=torch.int64)
        self.expected = torch.zeros(shape, dtype=torch.float64) if exact else None
        # One further run for the exact law.
        runs = [GroupCounter(levels, classes) for _ in range(draws + exact)]
        self.sampled_groups, self.expected_groups = runs[:draws], runs[draws:]
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor, name: ImageKey, ignore_index: int | None) -> None:
        """Counts an image.

        Raises:
            ValueError: If logits or labels do not belong to these classes.
        """
        if len(logits) != self.classes:
            raise ValueError(
                f"logits have {len(logits)} classes and those before {self.classes}: "
                "give the outputs of one model"
            )
        check_labels(labels, self.classes, ignore_index)
        counted = counted_pixels(labels, ignore_index)
        # A row of its own takes the pixels that do not count.
        truth = torch.where(counted, labels.long(), self.classes).to(logits.device).flatten()
        size = (labels.shape[0], labels.shape[1])
        if self.draws:
            counts = self._sampled_counts(logits, truth, size, name)
            self.confusion += counts
            for groups, count in zip(self.sampled_groups, counts, strict=True):
                groups.add(count, self.images)
        if self.expected is not None:
            expected, log_absent = self._expected_counts(logits, truth, size, name)
            self.expected += expected
            self.expected_groups[0].add(expected, self.images, log_absent)
        self.images += 1

    def _sampled_counts(
        self, logits: Tensor, truth: Tensor, size: tuple[int, int], name: ImageKey
    ) -> Int64[Tensor, "draws levels truth predicted"]:
        shape = (self.draws, len(self.levels), self.classes + 1, self.classes)
        counts = torch.zeros(shape, dtype=torch.int64, device=logits.device)
        tiles = sampled_tiles(logits, size, self.perturbator, self.levels, name, range(self.draws))
        for rows, draw, sampled in tiles:
            pixels = slice(rows.start * size[1], rows.stop * size[1])
            sampled.add_changes(truth[pixels], counts[draw])
        return counts.cumsum_(1)[:, :, : self.classes].cpu()

    def _expected_counts(
        self, logits: Tensor, truth: Tensor, size: tuple[int, int], name: ImageKey
    ) -> tuple[Float[Tensor, "levels truth predicted"], Float[Tensor, "levels predicted"]]:
        """Expected counts, and logs of the probabilities that no pixel is called a class."""
        shape = (len(self.levels), self.classes, self.classes)
        counts = torch.zeros(shape, dtype=torch.float64, device=logits.device)
        log_absent = counts.new_zeros(shape[:2])
        directions = self.perturbator.directions(self.classes)
        labelled = int((truth < self.classes).sum())
        budget = labelled if self.exact_pixels is None else self.exact_pixels
        # Without noise the law is an argmax, which costs little for all pixels.
        whole = self.levels.count(0.0) if budget < labelled else len(self.levels)
        noisy = self.levels[whole:]
        strays = torch.full_like(truth, self.classes)
        for rows in tile_rows(self.classes, size):
            tile = slice(rows.start * size[1], rows.stop * size[1])
            pixels = (truth[tile] < self.classes).nonzero().squeeze(1)
            labels = truth[tile][pixels]
            clean = upsample_rows(logits, size, rows).index_select(1, pixels)
            levels, parts = self.levels[:whole], (counts[:whole], log_absent[:whole])
            add_expected_counts(clean, labels, directions, levels, *parts)
            if noisy:
                strays[tile][pixels] = clean.argmax(0)
        if noisy:
            # Where a class of the image wins, its labels are sampled in any case.
            strays[torch.isin(strays, truth)] = self.classes
            seed = image_key(name) % 2**63
            pixels, weights = sample_with_strays(truth, strays, self.classes, budget, seed=seed)
            clean = upsample_pixels(logits, size, pixels)
            parts = (counts[whole:], log_absent[whole:])
            add_expected_counts(clean, truth[pixels], directions, noisy, *parts, weights)
        return counts.cpu(), log_absent.cpu()


def sampled_tiles(
    logits: Tensor,
    size: tuple[int, int],
    perturbator: Perturbator,
    levels: Sequence[float],
    name: ImageKey,
    draws: Iterable[int],
) -> Iterator[tuple[range, int, Envelope | LevelArgmax]]:
    """The argmax of runs of rows, for each draw."""
    directions, key = perturbator.directions(len(logits)), image_key(name)
    for rows in tile_rows(len(logits), size):
        clean = upsample_rows(logits, size, rows)
        for draw in draws:
            yield (
                rows,
                draw,
                sampled_argmax(
                    clean,
                    directions,
                    levels,
                    key=key,
                    start=rows.start * size[1],
                    seed=perturbator.seed + draw,
                ),
            )
