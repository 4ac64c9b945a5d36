"""`vision-bench images evaluate`: how much of its effect a transport has, and what that costs.

Images are made as by `images generate`, in the same folder; those that are there are taken.

OUT/
  images/, images.jsonl, sheet.png    as of `images generate`
  sweep.csv                           the mean of every score, by strength
  differences.csv                     the same beside strength 0, in pairs of images
  scores.csv                          the scores of every image
  curves/                             pictures
  report.html                         curves, and images beside a slider
  manifest.json
  records/                            the scores so far, from which a killed run goes on
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from aim_plugins.core.files import sha256_of
from aim_plugins.core.identity import fingerprint
from aim_plugins.sweep.front import Front, publish
from aim_plugins.sweep.store import SweepStore
from aim_plugins.sweep.table import table_cell
from aim_plugins.sweep.trackers import Trackers
from vision_bench.models.names import plain_name
from vision_bench.text_to_image.findings import by_prompt, differences_csv, headline
from vision_bench.text_to_image.front import draw_exchange, report_images, show_exchange
from vision_bench.text_to_image.generation import GenerationStudy
from vision_bench.text_to_image.images import ImageFile
from vision_bench.text_to_image.judge import load_judge
from vision_bench.text_to_image.scores import ImageScores, score_images
from vision_bench.text_to_image.settings import EvaluateSettings

_TOGETHER = 8
"""Images, each at all strengths, whose scores are recorded together."""


class EvaluationStudy(GenerationStudy):
    """Scores of images of prompts at the strengths of a transport.

    What is scored by another CLIP or for another concept replaces the scores in the folder; its
    images stay.

    Args:
        settings: The settings.
        command: The words that repeat the study.

    Attributes:
        task: What the prompts are called.
        scores: The scores of every image, once they are measured.

    Raises:
        ValueError: If a file or the transport is not usable.
    """

    settings: EvaluateSettings
    scores: ImageScores

    def __init__(self, settings: EvaluateSettings, command: Sequence[str]) -> None:
        super().__init__(settings, command)
        self.concept = settings.concept or self.concept
        self.task = _task(settings.prompts)

    def load(self) -> None:
        """Loads the CLIP, whose want is told before a pipeline is loaded, and the pipeline."""
        self.judge = load_judge(self.settings.clip, device=self.settings.device)
        super().load()

    def measure(self, store: SweepStore) -> None:
        super().measure(store)
        self._pipe, self._making = None, iter(())  # scoring needs their memory
        store.update_manifest(
            model=plain_name(self.settings.pipeline),
            clip=self.settings.clip,
            clip_fingerprint=self.judge.fingerprint,
            concept=self.concept,
            scored=fingerprint([asdict(one) for one in self.prompts]),
        )
        tables: dict[str, list[torch.Tensor]] = {}
        with tqdm(total=len(self.images), desc="Scores") as bar:
            for start in range(0, len(self.images), _TOGETHER):
                part = self.images[start : start + _TOGETHER]
                for metric, table in self._score(store, part).items():
                    tables.setdefault(metric, []).append(table)
                bar.update(len(part))
        values = {metric: torch.cat(parts) for metric, parts in tables.items()}
        self.scores = ImageScores(self.settings.strengths, values)

    def show(self, store: SweepStore, trackers: Trackers | None = None) -> Path:
        super().show(store, trackers)
        print()
        return publish(self.output, self.front(), store.manifest, trackers)

    def front(self) -> Front:
        """What there is to show of the scores."""
        settings, known = self.settings, self.transport.metadata
        scores = by_prompt(self.scores, settings.images_per_prompt)
        pictures = draw_exchange(scores, self.task, self.concept)
        judged = f"scored by {plain_name(str(settings.clip))}"
        concept = "" if self.concept is None else f"concept {self.concept!r}"
        return Front(
            scores.rows(self.task),
            self.axes,
            subject="; ".join(filter(None, [concept, judged, self._units()])),
            change=f"{known.method} transport",
            headline=headline(scores, self.concept),
            overview=show_exchange(scores, self.task, pictures, self._units()),
            images={
                self.task: report_images(
                    self.output,
                    self.images,
                    self.scores,
                    count=settings.shown,
                    side=settings.shown_side,
                )
            },
            files={"differences.csv": differences_csv(scores), "scores.csv": self._table()},
            pictures={f"{self.task}-exchange.{kind}": one for kind, one in pictures.items()},
        )

    def _score(
        self, store: SweepStore, images: Sequence[Sequence[ImageFile]]
    ) -> dict[str, torch.Tensor]:
        """Scores of some images, which are computed once for what the files hold."""
        per_prompt = self.settings.images_per_prompt
        prompts = [self.prompts[files[0].number // per_prompt] for files in images]
        key = fingerprint(
            {
                "clip": self.judge.fingerprint,
                "concept": self.concept,
                "strengths": list(self.settings.strengths),
                "prompts": [asdict(one) for one in prompts],
                "files": [sha256_of(self.output / one.file) for files in images for one in files],
            }
        )
        held = store.read_batch(key)
        if held is None:
            found = score_images(
                self.judge,
                self._pictures(images),
                prompts,
                self.settings.strengths,
                concept=self.concept,
            )
            held = {metric: table.tolist() for metric, table in found.values.items()}
            store.write_batch(key, held)
        return {metric: torch.tensor(one, dtype=torch.float64) for metric, one in held.items()}

    def _pictures(self, images: Sequence[Sequence[ImageFile]]) -> Iterator[Image.Image]:
        for files in images:
            for one in files:
                with Image.open(self.output / one.file) as image:
                    yield image.convert("RGB")

    def _units(self) -> str:
        """What intervals are over."""
        images, per_prompt = len(self.images), self.settings.images_per_prompt
        if per_prompt == 1 or images == per_prompt:
            return f"{images} images"
        return f"{images // per_prompt} prompts, means over {per_prompt} images of each"

    def _table(self) -> str:
        """The scores of every image as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["number", "strength", *self.scores.values])
        for files in self.images:
            for place, one in enumerate(files):
                row = [table[one.number, place].item() for table in self.scores.values.values()]
                writer.writerow(map(table_cell, [one.number, one.strength, *row]))
        return text.getvalue()


def _task(prompts: Any) -> str:
    """What prompts are called: the file's name, or that of the data in a config."""
    if isinstance(prompts, (str, Path)):
        return Path(prompts).stem
    name = str(prompts.get("name", "files"))
    return Path(prompts["root"]).stem if name == "files" else name
