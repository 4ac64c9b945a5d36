"""Exact expected accuracy against Monte-Carlo sampling, on the same logits and strengths.

    python -m benchmarks.exact_law [--threads 1] [--repeats 7]

Sampling runs in float32 with `torch.randn`: with noise shared by all strengths, its best case, and
with noise of its own for each strength, as in the AIM paper. Errors are of each document's
probability (root mean square) and of the accuracy of the whole set, largest over the strengths; the
exact law's own error is measured against SciPy's adaptive quadrature.
"""

from __future__ import annotations

import argparse
import math
import statistics

import numpy as np
import torch
from scipy import integrate, special, stats
from torch import Tensor

from aim_plugins.modulation.ordering import label_probability
from benchmarks._timing import paired_times, wall_seconds, write_result

DRAWS = 32
STDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="exact law against sampling")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = {
        "digits, 10 classes": digits_logits(),
        "synthetic, 100 classes": synthetic_logits(rows=1000, classes=100),
        "synthetic, 1000 classes": synthetic_logits(rows=200, classes=1000),
    }
    results = {}
    for name, (logits, labels) in cases.items():
        results[name] = compare(logits, labels, repeats=options.repeats)
        print_case(name, results[name])
    path = write_result("exact_law", {"strengths": STDS, "cases": results})
    print(f"written: {path}")


def compare(logits: Tensor, labels: Tensor, *, repeats: int) -> dict[str, float]:
    """Times both in pairs, and measures what sampling reaches in the exact law's time."""
    exact = label_probability(logits, labels, STDS)
    times = paired_times(
        {
            "exact": lambda: label_probability(logits, labels, STDS),
            "shared": lambda: sampled_probability(logits, labels, draws=DRAWS),
            "own": lambda: sampled_probability(logits, labels, draws=DRAWS, shared_noise=False),
        },
        rounds=repeats,
        clock=wall_seconds,
    )
    exact_times, shared_times, own_times = times["exact"], times["shared"], times["own"]
    ratio = median_ratio(exact_times, shared_times)
    equal_draws = max(1, round(DRAWS * ratio))
    sampled = sampled_probability(logits, labels, draws=DRAWS)
    equal = sampled_probability(logits, labels, draws=equal_draws)
    exact_error = quadrature_error(logits, labels, exact)
    # A share of D draws has the variance p(1 - p) / D.
    variance = float((exact * (1 - exact)).mean(1).max())
    return {
        "documents": len(logits),
        "classes": logits.shape[1],
        "exact_seconds": statistics.median(exact_times),
        "sampled_32_seconds": statistics.median(shared_times),
        "time_ratio_exact_to_32_draws": ratio,
        "time_ratio_exact_to_32_draws_of_own_noise": median_ratio(exact_times, own_times),
        "exact_max_error": exact_error,
        "sampled_32_rms_error": rms_error(sampled, exact),
        "sampled_32_accuracy_error": accuracy_error(sampled, exact),
        "draws_in_equal_time": equal_draws,
        "equal_time_rms_error": rms_error(equal, exact),
        "equal_time_accuracy_error": accuracy_error(equal, exact),
        "draws_for_an_rms_error_of_1e-6": variance / 1e-12,
    }


def print_case(name: str, case: dict[str, float]) -> None:
    print(
        f"{name}: exact / {DRAWS} draws = {case['time_ratio_exact_to_32_draws']:.2f} x the time "
        f"({case['time_ratio_exact_to_32_draws_of_own_noise']:.2f} x without shared noise); "
        f"errors per document {case['exact_max_error']:.0e} (largest) against "
        f"{case['sampled_32_rms_error']:.0e} (rms); in equal time {case['draws_in_equal_time']:.0f}"
        f" draws reach {case['equal_time_rms_error']:.0e} per document and "
        f"{case['equal_time_accuracy_error']:.0e} in accuracy"
    )


def median_ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def sampled_probability(
    logits: Tensor, labels: Tensor, *, draws: int, shared_noise: bool = True
) -> Tensor:
    """Share of draws in which the label wins, [strengths, documents]."""
    wins = torch.zeros(len(STDS), len(logits))
    noisy = torch.empty_like(logits)
    for _ in range(draws):
        noise = torch.randn_like(logits)
        for s, std in enumerate(STDS):
            if not shared_noise:
                noise.normal_()
            torch.add(logits, noise, alpha=std, out=noisy)
            wins[s] += noisy.argmax(1) == labels
    return wins.double() / draws


def rms_error(estimate: Tensor, exact: Tensor) -> float:
    return float((estimate - exact).square().mean(1).sqrt().max())


def accuracy_error(estimate: Tensor, exact: Tensor) -> float:
    return float((estimate.mean(1) - exact.mean(1)).abs().max())


def quadrature_error(logits: Tensor, labels: Tensor, exact: Tensor, documents: int = 20) -> float:
    """Largest error of the exact law on some documents, against adaptive quadrature."""
    worst = 0.0
    for row in range(documents):
        values, label = logits[row].double().numpy(), int(labels[row])
        for s, std in enumerate(STDS):
            gaps = (values[label] - np.delete(values, label)) / std

            def integrand(z: float, gaps: np.ndarray = gaps) -> float:
                return stats.norm._pdf(z) * math.exp(special.log_ndtr(gaps + z).sum())

            value = integrate.quad(integrand, -9, 9, epsabs=1e-11, epsrel=1e-11, limit=400)[0]
            worst = max(worst, abs(value - float(exact[s, row])))
    return worst


def digits_logits() -> tuple[Tensor, Tensor]:
    """Real logits: a logistic regression on scikit-learn's digits."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    images = images / 16
    model = LogisticRegression(C=10, max_iter=500).fit(images[:1000], labels[:1000])
    logits = model.decision_function(images[1000:])
    return torch.from_numpy(logits).float(), torch.from_numpy(labels[1000:]).long()


def synthetic_logits(*, rows: int, classes: int) -> tuple[Tensor, Tensor]:
    """Normal logits in which the label leads by 6 on average."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    logits[torch.arange(rows), labels] += 6
    return logits, labels


if __name__ == "__main__":
    main()
