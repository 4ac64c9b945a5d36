"""The two sides that a transport is learned from, and the prompts that it is tried on.

A transport carries activations of the *source* sentences to those of the *target* sentences
(arXiv:2410.23054, section 3). Both come from files of one's own or from the corpora of the paper:

>>> from aim_plugins.transport.data.datasets import load_sides
>>> load_sides("jigsaw", "data/jigsaw", n_source=700, n_target=700)    # doctest: +SKIP
>>> load_sides("onesec", "data", concept="football")                   # doctest: +SKIP

Draws depend on the seed and the texts alone, so they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.errors import did_you_mean
from aim_plugins.transport.data.corpora import (
    onesec_concepts,
    read_jigsaw,
    read_onesec,
    read_rtp,
    read_truthfulqa,
    split_folds,
)
from aim_plugins.transport.data.loaders import load_named
from aim_plugins.transport.data.text_files import choose, read_sentences

__all__ = ["Sides", "file_sides", "load_prompts", "load_sides", "read_sentences"]

NON_TOXIC = "non-toxic"
_QUESTION_TEMPLATE = "Q: {question}\n\nA: {answer}"


@dataclass(frozen=True)
class Sides:
    """What a transport is fitted to.

    Attributes:
        source: Sentences that the transport starts from.
        target: Sentences whose activations it leads to.
        held_out: Questions of the folds that are not fitted (TruthfulQA), for the evaluation.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    held_out: tuple[str, ...] = ()


def load_sides(name: str, root: str | Path, **options: Any) -> Sides:
    """Loads both sides from local files.

    Args:
        name: "files", "rtp", "jigsaw", "onesec" or "truthfulqa".
        root: The folder of the files (`aim_plugins.transport.data.corpora` says which).
        options: `n_source`, `n_target` (by default all) and `seed` of the draw, and
            files: `source`, `target` (names of files), `field` (by default "text");
            rtp: `threshold` (toxicity that divides the sides, by default 0.5), `part`
            ("prompt", "continuation", "both"), `challenging` (True keeps only such prompts);
            jigsaw: `source`, `target` (a label such as "toxic", "any", or "non-toxic"), `file`;
            onesec: `concept`, `against` ("negative": the concept's own negative sentences;
            "others": the positive sentences of all other concepts);
            truthfulqa: `fold`, `n_folds`, `answers` ("all" or "best"), `template`.

    Returns:
        The sides. Everything that is drawn is drawn with `seed`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the name or an option is unknown, a file is malformed, or a side has no
            sentence or fewer than asked for.
    """
    return load_named(name, _SIDES, {"root": root, **options})


def load_prompts(prompts: str | Path | Mapping[str, Any]) -> tuple[str, ...]:
    """Loads prompts to continue.

    Args:
        prompts: A file of sentences, or what a config says: `dict(name="rtp", root=..., n=1000,
            seed=0, threshold=..., challenging=...)`, where a threshold keeps prompts of at least
            that toxicity; `dict(name="files", root=FILE, n=..., seed=..., field=...)`;
            `dict(name="repeat", text=..., n=...)`, one prompt to sample from n times.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If an option is unknown, a file is malformed, or prompts are too few.
    """
    if isinstance(prompts, (str, Path)):
        return tuple(read_sentences(prompts))
    options = dict(prompts)
    return load_named(str(options.pop("name", "files")), _PROMPTS, options)


def file_sides(
    root: str | Path,
    *,
    source: str,
    target: str,
    field: str = "text",
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    """Both sides from two files of one folder; `load_sides` says what the options are."""
    root = Path(root)
    return _draw(
        read_sentences(root / source, field=field),
        read_sentences(root / target, field=field),
        (n_source, n_target, seed),
        (str(root / source), str(root / target)),
    )


def _rtp(
    root: str | Path,
    *,
    threshold: float = 0.5,
    part: str = "prompt",
    challenging: bool = False,
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    scored = [
        (record.text, record.toxicity)
        for record in read_rtp(root, part=part)
        if record.toxicity is not None and (record.challenging or not challenging)
    ]
    toxic = [text for text, toxicity in scored if toxicity >= threshold]
    harmless = [text for text, toxicity in scored if toxicity < threshold]
    names = (
        f"{root}: source (toxicity >= {threshold})",
        f"{root}: target (toxicity < {threshold})",
    )
    return _draw(toxic, harmless, (n_source, n_target, seed), names)


def _jigsaw(
    root: str | Path,
    *,
    source: str = "toxic",
    target: str = NON_TOXIC,
    file: str | None = None,
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    comments = read_jigsaw(root, file=file)
    return _draw(
        _labelled(comments, source),
        _labelled(comments, target),
        (n_source, n_target, seed),
        (f"{root}: source={source!r}", f"{root}: target={target!r}"),
    )


def _onesec(
    root: str | Path,
    *,
    concept: str,
    against: str = "negative",
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    negative, positive = read_onesec(root, concept)
    if against not in ("negative", "others"):
        raise ValueError(f"against={against!r}: give negative or others")
    if against == "others":
        others = [name for name in onesec_concepts(root) if not _is_sense(name, concept)]
        negative = [sentence for name in others for sentence in read_onesec(root, name)[1]]
    names = (f"{root}: sentences without {concept!r}", f"{root}: sentences with {concept!r}")
    return _draw(negative, positive, (n_source, n_target, seed), names)


def _truthfulqa(
    root: str | Path,
    *,
    fold: int = 0,
    n_folds: int = 2,
    answers: str = "all",
    template: str = _QUESTION_TEMPLATE,
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    if answers not in ("all", "best"):
        raise ValueError(f"answers={answers!r}: give all (as in MC2) or best (as in MC1)")
    folds = split_folds(read_truthfulqa(root), n_folds, seed)
    if not 0 <= fold < n_folds:
        raise ValueError(f"fold={fold}: give 0 to {n_folds - 1}")
    source: list[str] = []
    target: list[str] = []
    for question in folds[fold]:
        right = question.correct if answers == "all" else (question.best,)
        source.extend(_fill(template, question.question, answer) for answer in question.incorrect)
        target.extend(_fill(template, question.question, answer) for answer in right)
    names = (f"{root}: incorrect answers", f"{root}: correct answers")
    sides = _draw(source, target, (n_source, n_target, seed), names)
    rest = [question for i, other in enumerate(folds) if i != fold for question in other]
    return Sides(sides.source, sides.target, tuple(question.question for question in rest))


def _rtp_prompts(
    root: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    threshold: float | None = None,
    challenging: bool = False,
) -> tuple[str, ...]:
    texts = [
        record.text
        for record in read_rtp(root)
        if (record.challenging or not challenging)
        and (threshold is None or (record.toxicity is not None and record.toxicity >= threshold))
    ]
    return choose(texts, n, seed, f"{root}: prompts")


def _file_prompts(
    root: str | Path, *, n: int | None = None, seed: int = 0, field: str = "text"
) -> tuple[str, ...]:
    return choose(read_sentences(root, field=field), n, seed, str(root))


def _repeated_prompt(*, text: str, n: int) -> tuple[str, ...]:
    if n < 1:
        raise ValueError(f"n={n}: give 1 or more")
    return (text,) * n


_SIDES: dict[str, Callable[..., Sides]] = {
    "files": file_sides,
    "rtp": _rtp,
    "jigsaw": _jigsaw,
    "onesec": _onesec,
    "truthfulqa": _truthfulqa,
}
_PROMPTS: dict[str, Callable[..., tuple[str, ...]]] = {
    "files": _file_prompts,
    "rtp": _rtp_prompts,
    "repeat": _repeated_prompt,
}


def _draw(
    source: list[str],
    target: list[str],
    draw: tuple[int | None, int | None, int],
    names: tuple[str, str],
) -> Sides:
    n_source, n_target, seed = draw
    return Sides(
        choose(source, n_source, seed, names[0]),
        choose(target, n_target, seed, names[1]),
    )


def _fill(template: str, question: str, answer: str) -> str:
    if "{question}" not in template or "{answer}" not in template:
        raise ValueError(f"template={template!r}: needs {{question}} and {{answer}}")
    # Not str.format, which would read further braces of the template as fields.
    return template.replace("{question}", question).replace("{answer}", answer)


def _labelled(comments: list[tuple[str, dict[str, bool]]], label: str) -> list[str]:
    if not comments:
        return []
    known = [*comments[0][1], "any", NON_TOXIC]
    if label not in known:
        raise ValueError(f"label {label!r} is unknown; {did_you_mean(label, known)}")
    if label == NON_TOXIC:
        return [text for text, labels in comments if not any(labels.values())]
    return [
        text
        for text, labels in comments
        if (any(labels.values()) if label == "any" else labels[label])
    ]


def _is_sense(name: str, concept: str) -> bool:
    return concept in (name, name.rpartition("-")[0])
