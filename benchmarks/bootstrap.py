"""Standard errors of bootstrapped metrics in a sweep: lm-evaluation-harness's loop against ours.

    python -m benchmarks.bootstrap [--columns 85]

Both in one process, on the harness's own number of resamples: 100,000 for perplexity, F1 and
Matthews' correlation, 100 for BLEU. The time of a sweep is that of one column, times the columns.
"""

from __future__ import annotations

import argparse
import math
import os
import random

from lm_eval.api import metrics

from aim_plugins.harnesses.lm_eval.bootstrap import STATISTICS, standard_error
from benchmarks._timing import paired_medians, write_result

DOCUMENTS = 2000
WORDS = ("the", "cat", "sat", "on", "a", "mat", "near", "old", "harbour", "town", "in", "winter")


def main() -> None:
    parser = argparse.ArgumentParser(description="bootstrap of a sweep's metrics")
    parser.add_argument("--columns", type=int, default=85)
    columns = parser.parse_args().columns
    os.environ["DISABLE_MULTIPROC"] = "1"
    results = {}
    for metric, (items, iterations) in cases().items():
        # What takes minutes in the harness is timed on a hundredth of its resamples.
        share = 100 if iterations >= 10_000 else 1
        theirs, ours = [], []

        def harness(metric=metric, items=items, count=iterations // share, found=theirs):
            found.append(metrics.bootstrap_stderr(metric, items, count))

        def arrays(metric=metric, items=items, count=iterations, found=ours):
            found.append(standard_error(STATISTICS[metric](items), len(items), count))

        seconds = paired_medians({"harness": harness, "arrays": arrays}, rounds=3)
        harness_seconds = seconds["harness"] * share
        results[metric.__name__] = {
            "resamples": iterations,
            "harness_seconds_a_column": harness_seconds,
            "seconds_a_column": seconds["arrays"],
            "ratio": harness_seconds / seconds["arrays"],
            "harness_minutes_a_sweep": harness_seconds * columns / 60,
            "minutes_a_sweep": seconds["arrays"] * columns / 60,
            "harness_value": theirs[-1],
            "value": ours[-1],
            "relative_error_expected": 1 / math.sqrt(2 * iterations / share),
        }
        print(f"{metric.__name__}: harness / arrays = {results[metric.__name__]['ratio']:.0f}")
        assert harness_seconds > 5 * seconds["arrays"]
    write_result("bootstrap", {"documents": DOCUMENTS, "columns": columns, "metrics": results})


def cases() -> dict:
    """Metrics of the harness, each with its documents' items and its number of resamples."""
    drawn = random.Random(7)
    numbers = [drawn.gauss(-2, 0.5) for _ in range(DOCUMENTS)]
    labels = [
        (index % 2, int(drawn.random() < 0.3 + 0.4 * (index % 2))) for index in range(DOCUMENTS)
    ]
    texts = [" ".join(drawn.choices(WORDS, k=12)) for _ in range(DOCUMENTS)]
    pairs = [(text, " ".join(drawn.sample(text.split(), 10))) for text in texts]
    return {
        metrics.perplexity: (numbers, 100_000),
        metrics.f1_score: (labels, 100_000),
        metrics.matthews_corrcoef: (labels, 100_000),
        metrics.bleu: (pairs, 100),
    }


if __name__ == "__main__":
    main()
