"""`vision-bench coverage sensitivity`: how coverage changes when inputs of a suite are attacked.

RQ3 of WISDOM: a share of correctly classified inputs is replaced by what an attack makes of them.
Only inputs that are replaced are attacked, and the same ones in every run of the largest size. The
baseline of the same size replaces them by as many other correctly classified images, unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.identity import seed_of
from aim_plugins.sweep.page import Exhibit
from aim_plugins.sweep.store import SweepStore
from vision_bench.coverage.questions.attacked import Attacked, Attacker
from vision_bench.coverage.questions.front import Answer, picture_of
from vision_bench.coverage.questions.gauge import Gauge, Pool, Values, joined
from vision_bench.coverage.questions.question import Question
from vision_bench.coverage.questions.sensitivity_answer import CLEAN, Run, answer_of
from vision_bench.coverage.questions.settings import SensitivitySettings

Rows = Int[Tensor, " rows"]


@dataclass(frozen=True)
class Draw:
    """The inputs of a run, as rows of the pool.

    Attributes:
        kept: Those that stay.
        victims: Those that are replaced, the first ones at the smallest share.
        others: Clean images that replace them for comparison.
    """

    kept: Rows
    victims: Rows
    others: Rows


class Sensitivity(Question[SensitivitySettings]):
    """What attacked inputs do to coverage."""

    def check_suite(self, images: int) -> None:
        self._check_enough(images, "images")

    def _check_enough(self, count: int, what: str) -> None:
        largest = self.settings.sizes[-1]
        needed = largest + round(largest * self.settings.shares[-1])
        if count < needed:
            raise ValueError(
                f"sizes={largest}: the suite has {count} {what}, and with those that replace "
                f"others for comparison it takes {needed}; give smaller sizes"
            )

    def ask(self, store: SweepStore) -> Answer:
        settings = self.settings
        gauge, pool = self.gauge(store), self.pool()
        generator = torch.Generator().manual_seed(seed_of(settings.seed, "victims"))
        right = pool.right.nonzero()[:, 0]
        self._check_enough(len(right), "correctly classified images")
        right = right[torch.randperm(len(right), generator=generator)]
        count = round(settings.sizes[-1] * settings.shares[-1])
        victims, free = right[:count], right[count:]
        attacker = Attacker(self.subject, self.suite, settings, store)
        attacked = {
            name: attacker.attack(name, pool.positions[victims]) for name in settings.attacks
        }
        runs = []
        for size in settings.sizes:
            for run in range(settings.runs):
                key = f"suite,{size},{run}"
                if (held := store.read_batch(key)) is None:
                    held = self._run(gauge, pool, attacked, self._draw(victims, free, size, run))
                    store.write_batch(key, held)
                runs.append(Run(size, run, held))
        success = {name: one.success for name, one in attacked.items()}
        counts = {name: (one.fooled, one.tried) for name, one in attacked.items()}
        exhibits = [one for each in attacked.values() for one in self._exhibits(each)]
        return answer_of(runs, success, counts, settings, self.suite.title, exhibits)

    def _draw(self, victims: Rows, free: Rows, size: int, run: int) -> Draw:
        """Draws a suite, and the clean images that replace a part of it."""
        seed = seed_of(self.settings.seed, "suite", size, run)
        generator = torch.Generator().manual_seed(seed)
        count = round(size * self.settings.shares[-1])
        chosen = victims[torch.randperm(len(victims), generator=generator)[:count]]
        drawn = free[torch.randperm(len(free), generator=generator)]
        return Draw(drawn[: size - count], chosen, drawn[size - count : size])

    def _run(
        self, gauge: Gauge, pool: Pool, attacked: dict[str, Attacked], draw: Draw
    ) -> dict[str, Any]:
        """Coverage of a suite, and of it with a part replaced, by name and share."""
        gauge.go_back(gauge.empty)
        gauge.update(pool.batch(draw.kept))
        start = gauge.seal()
        size = len(draw.kept) + len(draw.victims)
        found: dict[str, Values] = {}

        def measure(key: str, count: int, source: Pool, rows: Rows) -> None:
            gauge.go_back(start)
            # In the places of those that they replace, for criteria that depend on order.
            gauge.update(joined(source.batch(rows[:count]), pool.batch(draw.victims[count:])))
            found[key] = gauge.values

        measure("", 0, pool, draw.victims)
        for share in self.settings.shares:
            count = round(size * share)
            measure(f"{CLEAN},{share!r}", count, pool, draw.others)
            for name, one in attacked.items():
                rows = one.pool.rows_of(pool.positions[draw.victims])
                measure(f"{name},{share!r}", count, one.pool, rows)
        return found

    def _exhibits(self, attacked: Attacked) -> list[Exhibit]:
        pool, classes = attacked.pool, self.suite.classes
        shown = []
        for row in range(len(attacked.before)):
            label, now = int(pool.labels[row]), int(pool.predicted[row])
            pictures = {
                classes[label]: picture_of(attacked.before[row]),
                f"taken for {classes[now]}": picture_of(attacked.after[row]),
            }
            shown.append(Exhibit(pictures, attacked.name))
        return shown
