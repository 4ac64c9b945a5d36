"""The results as files that programs read."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

from aim_plugins.heads.wording import Findings


def results_csv(found: Findings) -> str:
    """A line for each component: what it adds, its rank, and whether the edit ablates it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "component", "rank", "mean", "low", "high", "helps", "in_edit"])
    ranks = {number: rank for rank, number in enumerate(found.ranking, 1)}
    chosen = set(found.edit)
    for number, name in enumerate(found.components.names()):
        mean = found.contribution(number)
        helps = float((found.weights[:, number] > 0).float().mean())
        ends = map(repr, (mean.value, mean.low, mean.high, helps))
        writer.writerow([number, name, ranks[number], *ends, int(number in chosen)])
    return text.getvalue()


def results_json(found: Findings) -> str:
    """Correlations, the choice, and every log-likelihood with and without components."""
    content = {
        "task": found.settings.task,
        "output": found.settings.output_fn,
        "edit": [found.name(one) for one in found.edit],
        "correlations": {
            name: {f"{share:g}": list(values) for share, values in by_share.items()}
            for name, by_share in found.prediction.correlations.items()
        },
        "validation": asdict(found.path),
        "outcomes": {name: asdict(one) for name, one in found.outcomes.items()},
        "rank_test": asdict(found.prediction.top),
        "alone": [asdict(one) | {"name": found.name(one.number)} for one in found.alone],
    }
    return json.dumps(content, indent=2) + "\n"
