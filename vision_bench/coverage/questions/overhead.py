"""`vision-bench coverage overhead`: what measuring coverage costs beside running the model.

RQ5 of WISDOM. Images are read before, so that decoding does not hide the difference. The model
alone, each criterion alone, and all in one pass are timed in turns, in an order that is rotated,
and compared turn by turn. CPU seconds are those of all threads of the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from aim_plugins.coverage.reference import Reference
from aim_plugins.coverage.registry import make_criteria
from aim_plugins.coverage.settings import OF_TRACES
from aim_plugins.sweep.store import SweepStore
from vision_bench.coverage.learn import judged, learn_reference
from vision_bench.coverage.questions.front import Answer
from vision_bench.coverage.questions.overhead_answer import PLAIN, TOGETHER, Cost, answer_of
from vision_bench.coverage.questions.question import Question
from vision_bench.coverage.questions.settings import OverheadSettings
from vision_bench.coverage.subject import Images
from vision_bench.logits.forward import forward

_LEARNED = OF_TRACES | {"KMNC", "NBC", "SNAC", "MDSC", "IDC"}
"""Criteria that know something of the training set."""
_IMAGES, _TRAINING = 1000, 5000
"""Images that are measured and learned from by default, as many as WISDOM's script takes."""

T = TypeVar("T")


class Overhead(Question[OverheadSettings]):
    """What coverage costs."""

    def __init__(self, settings: OverheadSettings, command: Sequence[str] = ()) -> None:
        limit = settings.train_limit or _TRAINING
        super().__init__(replace(settings, train_limit=limit), command)

    _warm = False  # whether something ran before, as the first pass is slower

    @property
    def arguments(self) -> dict[str, object]:
        settings = self.settings
        return super().arguments | {"batch_size": settings.batch_size, "device": settings.device}

    def ask(self, store: SweepStore) -> Answer:
        settings = self.settings
        reference = self.learned(store, self.settings)
        chosen = self.positions[: settings.num_samples or _IMAGES]
        images = list(self.subject.images(self.suite, chosen, "images"))
        names = [PLAIN, *settings.criteria, TOGETHER]
        store.update_manifest(threads=torch.get_num_threads(), where=str(self.subject.device))
        turns: list[dict[str, Cost]] = []
        for turn in range(settings.runs):
            if (held := store.read_batch(f"turn,{turn}")) is None:
                if not self._warm:
                    self._run(images[:1], TOGETHER, reference)
                    self._warm = True
                order = [names[(place + turn) % len(names)] for place in range(len(names))]
                timed = {name: self._run(images, name, reference) for name in order}
                held = {name: timed[name] for name in names}
                store.write_batch(f"turn,{turn}", held)
            turns.append({name: Cost(*cost) for name, cost in held.items()})
        builds = self._builds(store)
        count = sum(len(one.positions) for one in images)
        inputs = reference.metadata.inputs
        return answer_of(turns, builds, count, inputs, settings, self.suite.title)

    def _run(self, images: list[Images], name: str, reference: Reference) -> list[float]:
        """CPU seconds and seconds of measuring images."""
        if name == PLAIN:
            return self._time(lambda: self._plain(images))
        settings = self.settings
        if name != TOGETHER:
            settings = replace(settings, criteria=(name,))

        def measure() -> None:
            criteria = make_criteria(reference, settings)
            for seen in self.subject.see(images):
                batch = judged(seen, self.suite, settings)
                for one in criteria.values():
                    one.update(batch)
            _ = [one.value for one in criteria.values()]

        return self._time(measure)

    def _plain(self, images: list[Images]) -> None:
        with torch.inference_mode():
            for one in images:
                forward(self.subject.model, one.pixels).float().cpu()

    def _builds(self, store: SweepStore) -> list[dict[str, Cost]]:
        """What learning a reference costs for each criterion alone, and for all."""
        settings, found = self.settings, []
        assert self.training is not None  # the settings refuse a reference
        for turn in range(settings.builds):
            costs: dict[str, Cost] = {}
            for name in (*settings.criteria, TOGETHER):
                if name != TOGETHER and settings.compat == "none" and name not in _LEARNED:
                    costs[name] = Cost(0.0, 0.0)
                    continue
                key = f"build,{turn},{name}"
                if (held := store.read_batch(key)) is None:
                    own = settings if name == TOGETHER else replace(settings, criteria=(name,))
                    held = self._time(self._learner(own))
                    store.write_batch(key, held)
                costs[name] = Cost(*held)
            found.append(costs)
        return found

    def _learner(self, settings: OverheadSettings) -> Callable[[], Reference]:
        training = self.training
        assert training is not None  # asked by the caller
        return lambda: learn_reference(self.subject, training, settings)

    def _time(self, work: Callable[[], T]) -> list[float]:
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        self._wait()
        return [time.process_time() - cpu, time.perf_counter() - wall]

    def _wait(self) -> None:
        if self.subject.device.type == "cuda":
            torch.cuda.synchronize(self.subject.device)
