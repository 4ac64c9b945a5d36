"""A segmentation sweep: images per second, where the time goes, and the memory peak.

    python -m benchmarks.vision_segmentation [--side 512] [--images 4] [--device cuda]

For each image: the forward pass of SegFormer-B0; upsampling of its quarter-size logits; keyed noise
for every pixel and class; the argmax at every strength at once; confusion matrices. The peer counts
the same image with a loop over strengths on full-size logits, as AIM's script does. By default
CPU seconds (of all threads); with an accelerator, seconds on the clock.

Weights are random, so counting is timed on made logits, smooth ones as a trained model's are: the
time of the argmax depends on how many classes compete for a pixel.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._timing import cpu_seconds, paired_times, wall_seconds, write_result
from vision_bench.logits.upsampling import tile_rows, upsample_rows
from vision_bench.models.load import load_model
from vision_bench.perturbators import UtilityPerturbator, image_key, pixel_noise
from vision_bench.segmentation.curve import segmentation_curve
from vision_bench.segmentation.envelope import upper_envelope

NAME = "image"
SPREAD = 4.0
"""Standard deviation of the made logits over classes."""


def made_logits(classes: int, side: int, device: str) -> Tensor:
    """Quarter-size logits that vary smoothly, [classes, side / 4, side / 4], in half precision."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, classes, max(2, side // 64), max(2, side // 64), generator=generator)
    smooth = functional.interpolate(coarse, size=(side // 4, side // 4), mode="bicubic")
    return (SPREAD * smooth[0]).half().to(device)


def made_labels(classes: int, side: int) -> Tensor:
    """Labels [side, side] in blocks."""
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, classes, (1, 1, 8, 8), generator=generator)
    return functional.interpolate(blocks.float(), size=(side, side))[0, 0].long()


def sweep(logits: Tensor, labels: Tensor, stds: Sequence[float]) -> Tensor:
    """Confusion matrices at every strength, by the library."""
    return segmentation_curve([(logits, labels, NAME)], UtilityPerturbator(0.0), stds).confusion[0]


def loop(logits: Tensor, labels: Tensor, stds: Sequence[float]) -> Tensor:
    """The same with a loop over strengths on full-size logits, and the same noise."""
    classes, size = len(logits), (labels.shape[0], labels.shape[1])
    full = upsample_rows(logits, size, range(size[0]))
    cells = labels.flatten().to(logits.device) * classes
    pixels = range(labels.numel())
    counts = []
    for std in stds:
        noise = pixel_noise(image_key(NAME), list(range(classes)), pixels, device=logits.device)
        predicted = (full + std * noise).argmax(0)
        counts.append(torch.bincount(cells + predicted, minlength=classes**2))
    return torch.stack(counts).view(-1, classes, classes).cpu()


COUNTERS = {"sweep": sweep, "loop over strengths": loop}


class Stages:
    """The parts of a sweep over one image, each on what the parts before it left."""

    def __init__(self, options: argparse.Namespace, stds: Sequence[float]) -> None:
        self.stds, self.device, self.classes = stds, options.device, options.classes
        self.model = load_model(
            "segformer-b0", weights="random", classes=options.classes, device=options.device
        )
        self.image = torch.randn(1, 3, options.side, options.side, device=options.device)
        self.logits = made_logits(options.classes, options.side, options.device)
        self.labels = made_labels(options.classes, options.side)
        self.size = (options.side, options.side)
        self.truth = self.labels.flatten().to(self.device)
        self.tiles = list(tile_rows(self.classes, self.size))
        self.clean = [upsample_rows(self.logits, self.size, rows) for rows in self.tiles]
        self.noisy = [self._noise(rows) for rows in self.tiles]
        self.envelopes = [
            upper_envelope(clean, noise, stds)
            for clean, noise in zip(self.clean, self.noisy, strict=True)
        ]

    def forward(self) -> None:
        with torch.inference_mode():
            self.model.module(self.image)

    def upsampling(self) -> None:
        for rows in self.tiles:
            upsample_rows(self.logits, self.size, rows)

    def noise(self) -> None:
        for rows in self.tiles:
            self._noise(rows)

    def argmax(self) -> None:
        for clean, noise in zip(self.clean, self.noisy, strict=True):
            upper_envelope(clean, noise, self.stds)

    def confusion(self) -> None:
        shape = (len(self.stds), self.classes + 1, self.classes)
        counts = torch.zeros(shape, dtype=torch.int64, device=self.device)
        for rows, envelope in zip(self.tiles, self.envelopes, strict=True):
            envelope.add_changes(self.truth[self._pixels(rows)], counts)
        counts.cumsum_(0)

    def _noise(self, rows: range) -> Tensor:
        pixels = self._pixels(rows)
        members = list(range(self.classes))
        return pixel_noise(
            image_key(NAME), members, range(pixels.start, pixels.stop), device=self.device
        ).float()

    def _pixels(self, rows: range) -> slice:
        return slice(rows.start * self.size[1], rows.stop * self.size[1])


def measure_time(options: argparse.Namespace, stds: Sequence[float]) -> dict[str, Any]:
    """Seconds an image: the stages, the whole sweep, and the loop over strengths."""
    stages = Stages(options, stds)
    logits, labels = stages.logits, stages.labels

    def finished(work: Callable[[], Any]) -> Callable[[], Any]:
        if options.device == "cpu":
            return work

        def run() -> None:
            work()
            torch.accelerator.synchronize()

        return run

    parts = [stages.forward, stages.upsampling, stages.noise, stages.argmax, stages.confusion]
    contestants: dict[str, Callable[[], Any]] = {part.__name__: part for part in parts}
    contestants["sweep"] = lambda: sweep(logits, labels, stds)
    contestants["loop over strengths"] = lambda: loop(logits, labels, stds)
    times = paired_times(
        {name: finished(work) for name, work in contestants.items()},
        rounds=options.images,
        clock=cpu_seconds if options.device == "cpu" else wall_seconds,
    )
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ratios = [b / a for a, b in zip(times["sweep"], times["loop over strengths"], strict=True)]
    whole = seconds["forward"] + seconds["sweep"]
    counted = sum(seconds[part.__name__] for part in parts)
    return {
        "seconds an image": seconds,
        "share of the time": {p.__name__: seconds[p.__name__] / counted for p in parts},
        f"images per {'CPU ' if options.device == 'cpu' else ''}second": 1 / whole,
        "loop over strengths / sweep": statistics.median(ratios),
    }


def peak_memory(work: Callable[[], Any], device: str) -> float:
    """MiB that some work adds to the memory of this process, or of the accelerator, at its peak."""
    if device != "cpu":
        before = torch.accelerator.memory_allocated()
        torch.accelerator.reset_peak_memory_stats()
        work()
        return (torch.accelerator.max_memory_allocated() - before) / 2**20
    # Memory that was freed but not given back would hide what is taken.
    ctypes.CDLL(None).malloc_trim(0)
    # Linux: "5" sets the peak of the resident memory back to the present.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 2**10


def _resident(name: str) -> int:
    """KiB, from Linux's status of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description="segmentation sweeps: time and memory")
    parser.add_argument("--side", type=int, default=128, help="of the image, in pixels")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--levels", type=int, default=26, help="strengths from 0 to 10")
    parser.add_argument("--images", type=int, default=5, help="repetitions, of which the median")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stds = [10 * level / (options.levels - 1) for level in range(options.levels)]
    shape = {name: getattr(options, name) for name in ("side", "classes", "levels", "images")}
    logits = made_logits(options.classes, options.side, options.device)
    labels = made_labels(options.classes, options.side)
    counts: dict[str, Tensor] = {}

    def count(name: str) -> Callable[[], None]:
        return lambda: counts.update({name: COUNTERS[name](logits, labels, stds)})

    result = {
        "shape": shape,
        **measure_time(options, stds),
        "MiB added at the peak": {n: peak_memory(count(n), options.device) for n in COUNTERS},
        "counts agree": torch.equal(*counts.values()),
    }
    print(json.dumps(result, indent=2))
    print(f"written: {write_result(f'vision_segmentation_{options.side}', result)}")


if __name__ == "__main__":
    main()
