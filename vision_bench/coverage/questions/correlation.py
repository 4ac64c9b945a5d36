"""`vision-bench coverage correlation`: whether suites of more coverage are better suites.

RQ4 of WISDOM: suites of several sizes, stratified by class, clean or with a share of images
attacked, and the correlation of their coverage with output impartiality. Coverage and the number of
mistakes found both grow with a suite's size, whatever the criterion. So each correlation is also
taken among suites of the same size, and of the same size and mixture.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.identity import seed_of
from aim_plugins.sweep.store import SweepStore
from vision_bench.coverage.questions.attacked import Attacker
from vision_bench.coverage.questions.correlation_answer import Suite, answer_of
from vision_bench.coverage.questions.front import Answer
from vision_bench.coverage.questions.gauge import Gauge, Pool
from vision_bench.coverage.questions.question import Question
from vision_bench.coverage.questions.settings import CorrelationSettings
from vision_bench.coverage.questions.statistics import impartiality

Rows = Int[Tensor, " rows"]


class Correlation(Question[CorrelationSettings]):
    """What coverage goes along with."""

    def check_suite(self, images: int) -> None:
        if images < self.settings.sizes[-1]:
            raise ValueError(
                f"sizes={self.settings.sizes[-1]}: the suite has {images} images; give smaller "
                "sizes"
            )

    def ask(self, store: SweepStore) -> Answer:
        settings = self.settings
        gauge, pool = self.gauge(store), self.pool()
        self.check_suite(len(pool))
        every = torch.arange(len(pool))
        count = max(round(size * one) for size in settings.sizes for one in settings.mixtures)
        attacker = Attacker(self.subject, self.suite, settings, store)
        attacked, success = None, None
        if count:
            chosen = stratified(pool, every, count, seed_of(settings.seed, "victims"))
            found = attacker.attack(settings.attacks[0], pool.positions[chosen])
            attacked, success = found.pool, found.success
        suites: dict[tuple[int, ...], Suite] = {}
        for size in settings.sizes:
            for mixture in settings.mixtures:
                for run in range(settings.runs):
                    parts = self._draw(pool, attacked, size, mixture, run)
                    key = f"suite,{size},{mixture!r},{run}"
                    if (held := store.read_batch(key)) is None:
                        held = self._measure(gauge, pool, attacked, *parts)
                        store.write_batch(key, held)
                    # A suite of all attacked images is the same one in every run: it counts once.
                    same = (size, *parts[0].sort().values.tolist(), -1)
                    same += tuple(parts[1].sort().values.tolist())
                    suites.setdefault(same, Suite(size, mixture, run, **held))
        return answer_of(list(suites.values()), success, settings, self.suite.title)

    def _draw(
        self, pool: Pool, attacked: Pool | None, size: int, mixture: float, run: int
    ) -> tuple[Rows, Rows]:
        """Rows of clean images, and of attacked ones, both stratified; no image is in both."""
        seed = seed_of(self.settings.seed, "suite", size, mixture, run)
        count = round(size * mixture)
        rows: Rows = torch.empty(0, dtype=torch.int64)
        free = torch.ones(len(pool), dtype=torch.bool)
        if count and attacked is not None:
            rows = stratified(attacked, torch.arange(len(attacked)), count, seed)
            free[pool.rows_of(attacked.positions[rows])] = False
        return stratified(pool, free.nonzero()[:, 0], size - count, seed + 1), rows

    def _measure(
        self, gauge: Gauge, pool: Pool, attacked: Pool | None, clean: Rows, rows: Rows
    ) -> dict[str, Any]:
        gauge.go_back(gauge.empty)
        predicted, mistakes = [], 0
        for source, chosen in ((pool, clean), (attacked, rows)):
            if source is None or not len(chosen):
                continue
            gauge.update(source.batch(chosen))
            predicted.append(source.predicted[chosen])
            mistakes += int((~source.right[chosen]).sum())
        counts = torch.cat(predicted).bincount().tolist()
        classes = len(self.suite.classes)
        evenness = impartiality(counts, classes)
        return {"coverage": gauge.values, "impartiality": evenness, "mistakes": mistakes}


def stratified(pool: Pool, rows: Rows, count: int, seed: int) -> Rows:
    """Draws images as evenly over the classes of their labels as there are images.

    Args:
        pool: The images.
        rows: Those that may be drawn.
        count: How many.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = rows[torch.randperm(len(rows), generator=generator)]
    labels = pool.labels[rows]
    turn = torch.empty(len(rows), dtype=torch.int64)
    for label in labels.unique().tolist():
        own = labels == label
        turn[own] = torch.arange(int(own.sum()))
    # All classes' first images, then their second ones; which classes are left out is random.
    return rows[turn.argsort(stable=True)[:count]]
