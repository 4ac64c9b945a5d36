"""What determines a metric of an evaluation, so that only like is held against like."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aim_plugins.core.identity import fingerprint
from aim_plugins.steering.scores import PERPLEXITY, TEXT_METRICS

_SHOWN = 60
_HASH_LENGTH = 64


class Difference(NamedTuple):
    """A setting that two evaluations do not share.

    Attributes:
        name: The setting.
        one: Its value in the first, for readers.
        other: Its value in the second.
    """

    name: str
    one: str
    other: str


class _Group(NamedTuple):
    """Settings that belong together.

    Attributes:
        name: What they describe.
        mark: Fingerprint of it; where both evaluations have one, it decides. "" if unknown.
        settings: Values by name; those that are missing are unknown.
    """

    name: str
    mark: str
    settings: Mapping[str, Any]


def find_difference(
    one: Mapping[str, Any], other: Mapping[str, Any], task: str, metric: str
) -> Difference | None:
    """Finds a setting that makes a metric of two evaluations something else in each.

    Args:
        one: Manifest of an evaluation.
        other: Manifest of another; what only one of them holds is not compared.
        task: Task of the metric.
        metric: The metric.

    Returns:
        The first such setting; None if they were measured alike.
    """
    pairs = zip(_groups(one, task, metric), _groups(other, task, metric), strict=False)
    for left, right in pairs:
        if left.mark and left.mark == right.mark:
            continue
        for name in left.settings:
            if name in right.settings and left.settings[name] != right.settings[name]:
                return Difference(name, _show(left.settings[name]), _show(right.settings[name]))
        if left.mark and right.mark:
            name = f"fingerprint of the {left.name}"
            return Difference(name, _show(left.mark), _show(right.mark))
    return None


def _groups(manifest: Mapping[str, Any], task: str, metric: str) -> Iterator[_Group]:
    """What determines a metric: first the model, then what it is asked, then who judges."""
    known: Mapping[str, Any] = manifest["arguments"]
    yield _model_group("model", manifest, _chosen(known, "pretrained", "dtype", "max_length"))
    label = known.get("label")
    if metric == PERPLEXITY and task in (documents := known.get("perplexity") or {}):
        yield _Group("text", "", {f"perplexity[{task!r}]": documents[task]})
    elif metric in TEXT_METRICS or (label and metric.startswith(f"{label}_")):
        yield _Group("prompts", "", _texts(manifest))
        if metric == "judged_presence":
            judge = dict(known.get("judge") or {})
            model = {"judge": judge.pop("model")} if judge else {}
            yield _model_group("judge", manifest, model)
            yield _Group("question", "", _flat("judge", judge))
        elif metric == "concept_presence":
            yield _Group("lexicon", "", _chosen(known, "lexicon"))
        elif metric not in TEXT_METRICS:
            yield _model_group("classifier", manifest, _chosen(known, "classifier"))
    elif known.get("tasks"):
        asked = {k: v for k, v in known["tasks"].items() if k != "names"}
        yield _Group("tasks", "", _flat("tasks", asked))


def _model_group(name: str, manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> _Group:
    return _Group(name, str(manifest.get(f"{name}_fingerprint") or ""), settings)


def _texts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the texts were written with."""
    known = manifest.get("texts") or _chosen(manifest["arguments"], "prompts", "decoding")
    record = {name: value for name, value in known.items() if value is not None}
    return _flat("decoding", record.pop("decoding", {})) | record


def _chosen(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _flat(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in settings.items()}


def _show(value: Any) -> str:
    """A value short enough for a line, which still tells it from another."""
    if isinstance(value, str) and len(value) == _HASH_LENGTH:
        return f"{value[:12]}…"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({fingerprint(value)[:12]})"
