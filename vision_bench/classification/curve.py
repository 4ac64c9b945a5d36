"""A classifier under logit noise, exact and sampled.

AIM's modulations, "AI Model Modulation with Logits Redistribution" (arXiv:2603.12755): every logit
receives independent noise N(0, σ²) (utility), or chosen classes receive ±|n| (focus), and the
argmax is the answer. Its expected accuracy at every σ follows exactly from the clean logits;
sampled runs, which a deployed model is, scatter around it.

    python -m vision_bench.classification --dataset cifar10 --model resnet56 --weights FILE \
        --num-perturb-steps 101 --perturb-step 0.2 --plot

measures a model by name (see `commands`); `accelerate launch -m` in the place of `python -m`
shares the pass over the data between devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from aim_plugins.core.strengths import parse_strengths
from aim_plugins.modulation.ordering import check_labels, focus_probabilities, label_probability
from aim_plugins.sweep.table import Row
from vision_bench.classification.sampled_runs import TOP_K, SampledRun, document_blocks, sample_run


@dataclass(frozen=True)
class ExactLaw:
    """Expectation over the noise of a classifier's right answers; all tensors are float64.

    Attributes:
        probability: Sum over the documents of each class of the probability of a right answer.
        squares: Sum of its squares.
        documents: Documents of each class.
    """

    probability: Float[Tensor, "strengths classes"]
    squares: Float[Tensor, "strengths classes"]
    documents: Int64[Tensor, " classes"]

    @property
    def accuracy(self) -> Float[Tensor, " strengths"]:
        """Expected accuracy."""
        return self.probability.sum(1) / self.documents.sum()

    @property
    def stderr(self) -> Float[Tensor, " strengths"]:
        """Its standard error over documents, as a sample of all documents."""
        return _stderr_of_sums(self.probability.sum(1), self.squares.sum(1), self.documents.sum())

    @property
    def noise_std(self) -> Float[Tensor, " strengths"]:
        """Standard deviation over the noise of one run's accuracy on these documents."""
        variance = (self.probability - self.squares).sum(1).clamp(min=0)
        return variance.sqrt() / self.documents.sum()

    def to_json(self) -> dict[str, Any]:
        """The law as JSON that `from_json` reads back exactly."""
        return {name: value.tolist() for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ExactLaw:
        """Reads what `to_json` wrote."""
        dtypes = {"documents": torch.int64}
        return cls(
            **{
                name: torch.tensor(value, dtype=dtypes.get(name, torch.float64))
                for name, value in record.items()
            }
        )


def exact_law(
    logits: Float[Tensor, "documents classes"],
    labels: Int[Tensor, " documents"],
    stds: Sequence[float],
    *,
    targets: Mapping[int, int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> ExactLaw:
    """Computes the expected right answers at every strength, without sampling.

    Args:
        logits: Clean logits, on any device; −inf marks an impossible class.
        labels: Class index of each document.
        stds: Noise standard deviations in logit units.
        targets: For focus modulation, class index → +1 (noise upwards) or −1 (noise downwards).
        advance: Called with the number of documents finished, for a progress bar.

    Returns:
        The law; its tensors are on the CPU.

    Raises:
        ValueError: If logits or labels are not usable, or a target is no class.
    """
    classes = logits.shape[1]
    check_labels(labels, logits)
    probability, squares = torch.zeros(2, len(stds), classes, dtype=torch.float64)
    for block in document_blocks(*logits.shape):
        label = labels[block].to(logits.device).long()
        if targets is None:
            right = label_probability(logits[block], label, stds)
        else:
            right = torch.stack(
                [
                    focus_probabilities(logits[block], targets, std)
                    .gather(1, label[:, None])
                    .squeeze(1)
                    for std in stds
                ]
            )
        probability.index_add_(1, label.cpu(), right.cpu())
        squares.index_add_(1, label.cpu(), right.square().cpu())
        if advance is not None:
            advance(len(label))
    documents = torch.bincount(labels.cpu().long(), minlength=classes)
    return ExactLaw(probability, squares, documents)


@dataclass(frozen=True)
class AccuracyCurve:
    """Right answers, confidence and entropy at every strength.

    Attributes:
        stds: Noise standard deviations in logit units.
        law: Exact expectation over the noise of the right answers.
        runs: Sampled runs, one for each draw; every strength scales the same noise.
    """

    stds: tuple[float, ...]
    law: ExactLaw
    runs: tuple[SampledRun, ...]

    @property
    def n(self) -> int:
        """Number of documents."""
        return int(self.law.documents.sum())

    @property
    def expected(self) -> Float[Tensor, " strengths"]:
        """Exact expectation over the noise of the accuracy on these documents."""
        return self.law.accuracy

    @property
    def sampled(self) -> Float[Tensor, "strengths draws"]:
        """Accuracy of each draw."""
        empty = torch.zeros(len(self.stds), 0, dtype=torch.float64)
        return torch.stack([run.accuracy for run in self.runs], 1) if self.runs else empty

    @property
    def sampled_stderr(self) -> Float[Tensor, "strengths draws"]:
        """Standard error of each sampled accuracy over documents."""
        return _stderr_of_share(self.sampled, torch.tensor(self.n))

    def rows(self, task: str) -> list[Row]:
        """The curve as rows of a sweep's table.

        Args:
            task: Name of the data set and model in the table.

        Returns:
            By metric: accuracy `acc` of each draw and its exact law `acc_expected`; the share of
            labels among the best classes `acc_top5` (where there are more classes); the mean
            predictive entropy `entropy` in nats; the expected calibration error `ece`.
        """
        rows = self._sampled_rows(task, "acc", self.sampled, self.sampled_stderr)
        for std, value, stderr in zip(self.stds, self.expected, self.law.stderr, strict=True):
            rows.append(Row(task, "acc_expected", std, None, float(value), float(stderr), self.n))
        if not self.runs:
            return rows
        n, top_k = torch.tensor(self.n), self.runs[0].top_k
        if top_k < len(self.law.documents):
            share = torch.stack([run.in_top_k for run in self.runs], 1) / n.double()
            rows += self._sampled_rows(task, f"acc_top{top_k}", share, _stderr_of_share(share, n))
        sums = torch.stack([run.entropy for run in self.runs], 1)
        squares = torch.stack([run.entropy_squares for run in self.runs], 1)
        rows += self._sampled_rows(task, "entropy", sums / n, _stderr_of_sums(sums, squares, n))
        errors = torch.stack([run.reliability.error() for run in self.runs], 1)
        return rows + self._sampled_rows(task, "ece", errors, None)

    def class_rows(self, task: str, names: Mapping[int, str]) -> list[Row]:
        """Recall and precision of single classes.

        Args:
            task: Name of the data set and model in the table.
            names: The classes wanted and their names.

        Returns:
            Rows of tasks `TASK.NAME` with the metrics `recall`, its exact law `recall_expected`,
            and `precision` where the class was an answer. A class without documents has none.
        """
        rows = []
        for index, name in names.items():
            n = self.law.documents[index]
            if not n:
                continue
            curve = f"{task}.{name}"
            right = [run.correct[:, index] for run in self.runs]
            for draw, hits in enumerate(right):
                rows += self._share_rows(curve, "recall", draw, hits, n.expand_as(hits))
            sums, squares = self.law.probability[:, index], self.law.squares[:, index]
            errors = _stderr_of_sums(sums, squares, n)
            for std, value, error in zip(self.stds, sums / n, errors, strict=True):
                rows.append(_row(curve, "recall_expected", std, None, value, error, n))
            for draw, (hits, run) in enumerate(zip(right, self.runs, strict=True)):
                rows += self._share_rows(curve, "precision", draw, hits, run.predicted[:, index])
        return rows

    def _share_rows(
        self, task: str, metric: str, draw: int, right: Tensor, counts: Tensor
    ) -> list[Row]:
        """A share of right answers at every strength that has any answers."""
        rows = []
        for std, hits, n in zip(self.stds, right, counts, strict=True):
            if n:
                share = hits.double() / n
                rows.append(_row(task, metric, std, draw, share, _stderr_of_share(share, n), n))
        return rows

    def _sampled_rows(
        self, task: str, metric: str, values: Tensor, errors: Tensor | None
    ) -> list[Row]:
        return [
            _row(
                task,
                metric,
                std,
                draw,
                values[level, draw],
                None if errors is None else errors[level, draw],
                self.n,
            )
            for level, std in enumerate(self.stds)
            for draw in range(values.shape[1])
        ]


def accuracy_curve(
    logits: Float[Tensor, "documents classes"],
    labels: Int[Tensor, " documents"],
    stds: str | SupportsFloat | Sequence[SupportsFloat],
    *,
    draws: int = 1,
    seed: int = 0,
    targets: Mapping[int, int] | None = None,
    top_k: int = TOP_K,
) -> AccuracyCurve:
    """Measures a classifier against noise strength, exactly and by sampling.

    Args:
        logits: Clean logits of a labelled data set; −inf marks an impossible class.
        labels: Class index of each document.
        stds: Noise standard deviations in logit units, or a grid such as "0:20:0.2".
        draws: Sampled runs per strength; draw d has the seed `seed + d`. 0 leaves sampling out.
        seed: Seed of the first draw.
        targets: For focus modulation, class index → +1 (noise upwards) or −1 (noise downwards);
            without it every class receives noise.
        top_k: How many of the best classes count for the top-k accuracy.

    Returns:
        The curve.

    Raises:
        ValueError: If there are no documents, `draws` is negative, a std is negative or not finite,
            a target is no class, or logits or labels are not usable.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    >>> accuracy_curve(logits, torch.tensor([0, 1]), [0, 1], draws=0).expected
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    strengths = parse_strengths(stds, name="stds")
    if draws < 0:
        raise ValueError(f"draws={draws} is negative: give 0 or more")
    check_top_k(top_k)
    if len(logits) == 0:
        raise ValueError("logits hold no document: give at least one row")
    law = exact_law(logits, labels, strengths, targets=targets)
    runs = [
        sample_run(logits, labels, strengths, seed=seed + draw, targets=targets, top_k=top_k)
        for draw in range(draws)
    ]
    return AccuracyCurve(strengths, law, tuple(runs))


def check_top_k(top_k: int) -> None:
    """Refuses a k below 1."""
    if top_k < 1:
        raise ValueError(f"top_k={top_k} is below 1: give the number of best classes that count")


def _row(
    task: str,
    metric: str,
    std: float,
    draw: int | None,
    value: Tensor,
    error: Tensor | None,
    n: Tensor | int,
) -> Row:
    return Row(
        task, metric, std, draw, float(value), None if error is None else float(error), int(n)
    )


def _stderr_of_sums(sums: Tensor, squares: Tensor, n: Tensor) -> Tensor:
    """Standard error of a mean over n documents, from the sums of values and of their squares."""
    variance = (squares / n - (sums / n).square()).clamp(min=0)
    return (variance / (n - 1)).sqrt() if n > 1 else torch.full_like(variance, torch.nan)


def _stderr_of_share(share: Tensor, n: Tensor) -> Tensor:
    """The same for answers that are right or wrong."""
    return _stderr_of_sums(share * n, share * n, n)
