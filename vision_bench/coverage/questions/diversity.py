"""`vision-bench coverage diversity`: what perturbed images add to a suite, and what real ones do.

RQ2 of WISDOM, after section 5.3 of DeepImportance: noise on an image's most relevant pixels makes
the suite U_I, noise on as many random ones U_R. A criterion that notices what matters to the model
should value U_I more. As many more real images, which add variety of the kind that a tester wants,
are the baseline of the same size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from aim_plugins.core.identity import seed_of
from aim_plugins.coverage.criteria.criterion import Batch
from aim_plugins.sweep.page import Exhibit
from aim_plugins.sweep.store import SweepStore
from vision_bench.attacks import NormalisedModel
from vision_bench.coverage.learn import judged
from vision_bench.coverage.questions.attacked import to_bytes
from vision_bench.coverage.questions.diversity_answer import (
    IMPORTANT,
    KINDS,
    ORIGINAL,
    RANDOM,
    REAL,
    answer_of,
)
from vision_bench.coverage.questions.front import Answer, picture_of
from vision_bench.coverage.questions.gauge import Gauge, Seal
from vision_bench.coverage.questions.noise import (
    add_noise,
    most_relevant,
    pixel_relevance,
    random_pixels,
    share_of,
)
from vision_bench.coverage.questions.question import Question
from vision_bench.coverage.questions.settings import DiversitySettings
from vision_bench.coverage.subject import Images, Seen

_SHOWN = 5
"""Images shown with their noise."""

Record = dict[str, Any]
"""Coverage by label, and how many of the images seen are classified correctly."""


class Diversity(Question[DiversitySettings]):
    """What noise on important pixels adds to coverage."""

    def check_suite(self, images: int) -> None:
        size = self._size(images)
        if not 0 < 2 * size <= (most := len(self.suite)):
            raise ValueError(
                f"num_samples={self.settings.num_samples}: as many real images are added for "
                f"comparison, and the data set has {most}; give 1 to {most // 2}"
            )

    def _size(self, images: int) -> int:
        # Two thirds are left, so that runs draw other real images.
        few = 0 if self.settings.idc_test_all else self.settings.num_samples
        return few or images // 3

    def ask(self, store: SweepStore) -> Answer:
        settings = self.settings
        order = torch.randperm(
            len(self.suite), generator=torch.Generator().manual_seed(settings.seed)
        ).tolist()
        size = self._size(len(order))
        self.original, self.rest = order[:size], order[size:]
        known = self.subject.model.preprocessing
        self.pixels = NormalisedModel(self.subject.module, list(known.mean), list(known.std))
        before, records = self._records(store)
        return answer_of(before, records, settings, self.suite.title, size, list(self._exhibits()))

    def _records(self, store: SweepStore) -> tuple[Record, dict[str, list[Record]]]:
        """What was found of the suite alone, and with images of each kind, by run."""
        keys = {kind: [f"{kind},{run}" for run in range(self.settings.runs)] for kind in KINDS}
        missing = [key for one in keys.values() for key in one if store.read_batch(key) is None]
        if missing or store.read_batch(ORIGINAL) is None:
            gauge = self.gauge(store)
            store.write_batch(ORIGINAL, self._record(gauge, self._plain(self.original, ORIGINAL)))
            start = gauge.seal()
            for kind, own in keys.items():
                for run, key in enumerate(own):
                    if key in missing:
                        store.write_batch(key, self._added(gauge, start, kind, run))
        found = {kind: [store.read_batch(key) or {} for key in own] for kind, own in keys.items()}
        return store.read_batch(ORIGINAL) or {}, found

    def _added(self, gauge: Gauge, start: Seal, kind: str, run: int) -> Record:
        """What a run's images of a kind add."""
        gauge.go_back(start)
        title = f"{kind} {run + 1}"
        if kind == REAL:
            seed = seed_of(self.settings.seed, "real", run)
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randperm(len(self.rest), generator=generator)[: len(self.original)]
            positions = [self.rest[place] for place in drawn.tolist()]
            return self._record(gauge, self._plain(positions, title))
        images = self.subject.images(self.suite, self.original, title)
        changed = (self.perturb(one, kind, run) for one in images)
        return self._record(gauge, self.subject.see(changed))

    def _plain(self, positions: list[int], title: str) -> Iterator[Seen]:
        return self.subject.pass_over(self.suite, positions, title)

    def _record(self, gauge: Gauge, seen: Iterator[Seen]) -> Record:
        right = count = 0
        for one in seen:
            batch: Batch = judged(one, self.suite, self.settings)
            gauge.update(batch)
            right += int((one.batch.classes == self.suite.labels[one.positions]).sum())
            count += len(batch)
        return {"coverage": gauge.values, "right": right, "inputs": count}

    def perturb(self, images: Images, kind: str, run: int) -> Images:
        """Images with noise on their most relevant pixels, or on random ones."""
        settings = self.settings
        seed = seed_of(settings.seed, "run", run)
        if kind == RANDOM:
            pixels_each = images.pixels.shape[-2] * images.pixels.shape[-1]
            count = share_of(pixels_each, settings.pixel_share)
            chosen = random_pixels(images.positions, pixels_each, count, seed)
        else:
            relevance = pixel_relevance(self.subject.module, images.pixels)
            chosen = most_relevant(relevance, settings.pixel_share)
        pixels = self.pixels.pixels(images.pixels).clamp(0, 1)
        noisy = add_noise(pixels, chosen, images.positions, settings.noise_std, seed)
        return Images(images.positions, self.pixels.normalise(noisy))

    def _exhibits(self) -> Iterator[Exhibit]:
        for one in self.subject.images(self.suite, self.original[:_SHOWN]):
            shown = {"as it is": one} | {
                kind: self.perturb(one, kind, 0) for kind in (IMPORTANT, RANDOM)
            }
            pixels = {name: to_bytes(self.pixels.pixels(x.pixels)) for name, x in shown.items()}
            for row, position in enumerate(one.positions.tolist()):
                label = self.suite.classes[int(self.suite.labels[position])]
                yield Exhibit({name: picture_of(x[row]) for name, x in pixels.items()}, label)
