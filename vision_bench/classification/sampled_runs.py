"""One run of a noisy classifier at every strength, from its clean logits.

All strengths scale the same keyed noise, so a run is one draw of noise and, for each strength, a
few passes over blocks of logits that stay in the processor's cache. Counts and sums are
kept, and of each document whether its answer is right.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from vision_bench.classification.calibration import BINS, Reliability, confidence_and_entropy
from vision_bench.logits.noise import document_noise

TOP_K = 5

_NOISE_ELEMENTS = 1 << 18
"""Logits of a block: a MiB in single precision."""


@dataclass(frozen=True)
class SampledRun:
    """What a noisy classifier did on a data set, at every strength.

    Attributes:
        seed: Seed of the noise.
        n: Number of documents.
        correct: Right answers to documents of each class.
        predicted: Answers of each class, right or wrong.
        right: Whether the answer to each document is right.
        in_top_k: Documents whose label is among the k best classes.
        top_k: That k.
        entropy: Sum over documents of the predictive entropy, in nats.
        entropy_squares: Sum of its squares.
        reliability: Confidence and accuracy in bins of confidence.
    """

    seed: int
    n: int
    correct: Int64[Tensor, "strengths classes"]
    predicted: Int64[Tensor, "strengths classes"]
    right: Bool[np.ndarray, "strengths documents"]
    in_top_k: Int64[Tensor, " strengths"]
    top_k: int
    entropy: Float[Tensor, " strengths"]
    entropy_squares: Float[Tensor, " strengths"]
    reliability: Reliability

    @property
    def accuracy(self) -> Float[Tensor, " strengths"]:
        """Share of right answers."""
        return self.correct.sum(1).double() / self.n

    def to_json(self) -> dict[str, Any]:
        """The run as JSON that `from_json` reads back exactly."""
        parts = {**vars(self), **vars(self.reliability), "binned_correct": self.reliability.correct}
        packed = np.packbits(self.right, axis=1).tobytes()
        parts |= {"correct": self.correct, "right": base64.b64encode(packed).decode()}
        del parts["reliability"]
        return {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in parts.items()
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SampledRun:
        """Reads what `to_json` wrote."""

        def read(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(record[name], dtype=dtype)

        packed = np.frombuffer(base64.b64decode(record["right"]), dtype=np.uint8)
        rows = packed.reshape(len(record["correct"]), -1)
        return cls(
            right=np.unpackbits(rows, axis=1, count=record["n"]).astype(bool),
            seed=record["seed"],
            n=record["n"],
            correct=read("correct", torch.int64),
            predicted=read("predicted", torch.int64),
            in_top_k=read("in_top_k", torch.int64),
            top_k=record["top_k"],
            entropy=read("entropy"),
            entropy_squares=read("entropy_squares"),
            reliability=Reliability(read("count"), read("confidence"), read("binned_correct")),
        )


def sample_run(
    logits: Float[Tensor, "documents classes"],
    labels: Int[Tensor, " documents"],
    stds: Sequence[float],
    *,
    seed: int = 0,
    targets: Mapping[int, int] | None = None,
    indices: Int[Tensor, " documents"] | None = None,
    top_k: int = TOP_K,
    advance: Callable[[int], object] | None = None,
) -> SampledRun:
    """Draws noise once and measures its effect at every strength.

    The noise of a document depends on its index and the seed alone, so a document keeps its noise
    when others are added behind it, and with `indices` when others are left out.

    Args:
        logits: Clean logits, on any device; −inf marks an impossible class.
        labels: Class index of each document.
        stds: Noise standard deviations in logit units.
        seed: Seed of the noise.
        targets: For focus modulation, class index → +1 (noise upwards) or −1 (noise downwards);
            without it every class receives noise.
        indices: Index of each document in its data set; by default its position.
        top_k: How many of the best classes count for `in_top_k`.
        advance: Called with the number of documents finished, for a progress bar.

    Returns:
        The run; its tensors are on the CPU.
    """
    classes, device = logits.shape[1], logits.device
    # Half-precision logits would swallow small noise.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    correct, predicted = torch.zeros(2, len(stds), classes, dtype=torch.int64, device=device)
    in_top_k = torch.zeros(len(stds), dtype=torch.int64, device=device)
    entropies, squares = torch.zeros(2, len(stds), dtype=torch.float64, device=device)
    binned = torch.zeros(3, len(stds), BINS, dtype=torch.float64, device=device)
    right = np.zeros((len(stds), len(logits)), dtype=bool)
    documents = torch.arange(len(logits)) if indices is None else indices
    for block in document_blocks(*logits.shape):
        clean = logits[block].T.to(dtype).contiguous()
        label = labels[block].to(device).long()
        noise = document_noise(documents[block].to(device), classes, seed, targets, dtype)
        noise = noise.T.contiguous()
        noisy = torch.empty_like(clean)
        for level, std in enumerate(stds):
            # Two rounded operations: which elements are fused would depend on the block.
            noisy.copy_(clean) if std == 0 else torch.mul(noise, std, out=noisy).add_(clean)
            rank = _rank(noisy, label)
            hit = rank == 0
            right[level, block] = hit.cpu().numpy()
            correct[level] += torch.bincount(label[hit], minlength=classes)
            answers = torch.where(hit, label, noisy.max(0).indices)
            predicted[level] += torch.bincount(answers, minlength=classes)
            in_top_k[level] += (rank < top_k).sum()
            confidence, entropy = confidence_and_entropy(noisy)
            entropies[level] += entropy.sum(dtype=torch.float64)
            squares[level] += entropy.double().square().sum()
            bins = Reliability.of(confidence, hit)
            binned[:, level] += torch.stack([bins.count, bins.confidence, bins.correct])
        if advance is not None:
            advance(len(label))
    return SampledRun(
        seed=seed,
        n=len(logits),
        correct=correct.cpu(),
        predicted=predicted.cpu(),
        right=right,
        in_top_k=in_top_k.cpu(),
        top_k=top_k,
        entropy=entropies.cpu(),
        entropy_squares=squares.cpu(),
        reliability=Reliability(*binned.cpu()),
    )


def document_blocks(documents: int, classes: int) -> Iterator[slice]:
    """Cuts the documents into blocks of bounded size."""
    size = max(1, _NOISE_ELEMENTS // classes)
    return (slice(start, min(start + size, documents)) for start in range(0, documents, size))


def _rank(
    noisy: Float[Tensor, "classes documents"], label: Int[Tensor, " documents"]
) -> Int64[Tensor, " documents"]:
    """Classes before the label by falling logit; among equals the first index leads, as in argmax.

    So the label is the answer at rank 0, and among the k best at a rank below k.
    """
    own = noisy.gather(0, label[None])
    rank = (noisy > own).sum(0)
    tied = noisy == own
    if int(tied.count_nonzero()) > len(label):
        earlier = torch.arange(len(noisy), device=noisy.device)[:, None] < label
        rank += (tied & earlier).sum(0)
    return rank
