"""The two sides that an image transport is learned from, and the prompts that it is tried on.

>>> from vision_bench.text_to_image.tasks import load_prompts, load_sides
>>> texts = "ml-act/data"                                    # a clone of github.com/apple/ml-act
>>> load_sides("coco_styles", "coco", texts=texts, target="anime")           # doctest: +SKIP
>>> load_prompts(dict(name="coco_concepts", root="coco", texts=texts, source="gorilla"))
... # doctest: +SKIP

A *subset* is a kind of prompts: "none" are captions as they are, a style's are captions with tags
of it, and a concept's are captions with a phrase about it. A transport leads from one to another.
Draws depend on the seed and the texts alone, whatever their order, and what is added to a caption
on the seed and the caption alone. (AcT's own draws of tags depend on what was drawn before.)

Source: arXiv:2410.23054, section on text-to-image models, and github.com/apple/ml-act:
`coco_captions.py`, `json_prompts.py` and `task_params`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aim_plugins.transport.data.datasets import Sides, file_sides
from aim_plugins.transport.data.loaders import load_named
from aim_plugins.transport.data.text_files import choose, read_sentences
from vision_bench.text_to_image.additions import Write, with_phrase, with_tags
from vision_bench.text_to_image.captions import NONE, find_subset, read_captions, read_subsets

__all__ = ["Prompt", "PromptSet", "Sides", "load_prompts", "load_sides"]

PER_SIDE = 1024
"""Prompts of a side by default: AcT fits to 32 batches of 64, half of which are of either side."""
EVALUATED = 512
"""Prompts that AcT draws from COCO's validation captions to evaluate on."""
_TAGS = 10
_DENIED = "no_"
"""What begins the name of the subset that denies a concept."""


@dataclass(frozen=True, order=True)
class Prompt:
    """What a pipeline is asked for, and what its picture is compared with.

    Attributes:
        text: What the pipeline is given.
        plain: What should stay in the picture: the caption alone.
        source: What the transport leads away from, in words; None if that is not known.
        target: What it leads to.
    """

    text: str
    plain: str
    source: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts to evaluate on.

    Attributes:
        prompts: The prompts.
        concept: What transports lead into the pictures or out of them; None if that is not known.
    """

    prompts: tuple[Prompt, ...]
    concept: str | None = None


def load_sides(name: str, root: str | Path, **options: Any) -> Sides:
    """Loads both sides from local files.

    Args:
        name: "coco_styles", "coco_concepts", "diffusion_prompts", or "files" as for sentences.
        root: For the first two the folder of COCO's captions, of which those for training are
            taken; for "diffusion_prompts" that file or its folder.
        options: `n_source`, `n_target` and `seed` of the draw, and
            coco_styles: `texts` (`style_prompts.json` or its folder), `target` (a style), `source`
            (by default "none"), `num_tags` (by default 10, the first half of which are the style's
            first ones and the others drawn), `shared`;
            coco_concepts: `texts` (`diffusion_concept_prompts.json` or its folder), `source` (a
            concept), `target` (by default "none"), `shared`;
            diffusion_prompts: `source` and `target` (by default "no_trees" and "trees");
            files: those of `aim_plugins.transport.data.datasets.load_sides`.
            `shared` writes both sides on the same captions; AcT's have none in common.

    Returns:
        The sides. Of COCO each has 1,024 prompts by default, or as many as there are.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the name or an option is unknown, a file is malformed, or there are fewer
            prompts than asked for.
    """
    return load_named(name, _SIDES, {"root": root, **options})


def load_prompts(prompts: str | Path | Mapping[str, Any]) -> PromptSet:
    """Loads prompts to make pictures of.

    Args:
        prompts: A file of prompts, or what a config says, with `n` and `seed` of the draw:
            `dict(name="coco_styles", root=..., texts=..., target=..., source=..., asked=...)`;
            the same with "coco_concepts"; `dict(name="diffusion_prompts", root=..., asked=...)`;
            `dict(name="files", root=FILE, plain=FILE, source=FILE, target=FILE, concept=...)`, of
            whose files the lines go together. COCO's captions are those for validation. `asked` is
            the subset that the pipeline is asked for: by default "none", but for a concept that is
            to go "no_" and the concept, as pipelines draw what a prompt denies.

    Returns:
        The prompts, of COCO 512 by default or as many as there are, with their captions. AcT asks
        for trees in `diffusion_prompts` where it leads to trees; here plain prompts are asked for.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If an option is unknown, a file is malformed, or prompts are too few.
    """
    if isinstance(prompts, (str, Path)):
        return _file_prompts(prompts)
    options = dict(prompts)
    return load_named(str(options.pop("name", "files")), _PROMPTS, options)


def _coco_styles(
    root: str | Path,
    *,
    texts: str | Path,
    target: str,
    source: str = NONE,
    num_tags: int = _TAGS,
    shared: bool = False,
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    subsets = {"source": source, "target": target}
    write = with_tags(texts, subsets, num_tags, seed)
    return _caption_sides(root, write, subsets, shared, n_source, n_target, seed)


def _coco_concepts(
    root: str | Path,
    *,
    texts: str | Path,
    source: str,
    target: str = NONE,
    shared: bool = False,
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    subsets = {"source": source, "target": target}
    write = with_phrase(texts, subsets, seed)
    return _caption_sides(root, write, subsets, shared, n_source, n_target, seed)


def _diffusion_prompts(
    root: str | Path,
    *,
    source: str = "no_trees",
    target: str = "trees",
    n_source: int | None = None,
    n_target: int | None = None,
    seed: int = 0,
) -> Sides:
    path, subsets = read_subsets(root)
    _refuse_equal({"source": source, "target": target})
    starts = find_subset("source", source, subsets, path)
    ends = find_subset("target", target, subsets, path)
    return Sides(
        choose(starts, n_source, seed, f"{path}: source={source!r}"),
        choose(ends, n_target, seed, f"{path}: target={target!r}"),
    )


def _style_prompts(
    root: str | Path,
    *,
    texts: str | Path,
    target: str,
    source: str = NONE,
    asked: str = NONE,
    num_tags: int = _TAGS,
    n: int | None = None,
    seed: int = 0,
) -> PromptSet:
    subsets = {"source": source, "target": target, "asked": asked}
    write = with_tags(texts, subsets, num_tags, seed)
    return _caption_prompts(root, write, subsets, n, seed)


def _concept_prompts(
    root: str | Path,
    *,
    texts: str | Path,
    source: str,
    target: str = NONE,
    asked: str | None = None,
    n: int | None = None,
    seed: int = 0,
) -> PromptSet:
    if asked is None:
        asked = NONE if source == NONE else f"{_DENIED}{source}"
    subsets = {"source": source, "target": target, "asked": asked}
    write = with_phrase(texts, subsets, seed)
    return _caption_prompts(root, write, subsets, n, seed)


def _subset_prompts(
    root: str | Path,
    *,
    source: str = "no_trees",
    target: str = "trees",
    asked: str = NONE,
    n: int | None = None,
    seed: int = 0,
) -> PromptSet:
    path, subsets = read_subsets(root)
    texts = choose(find_subset("asked", asked, subsets, path), n, seed, f"{path}: asked={asked!r}")
    return PromptSet(tuple(Prompt(text, text) for text in texts), _concept(source, target))


def _file_prompts(
    root: str | Path,
    *,
    plain: str | Path | None = None,
    source: str | Path | None = None,
    target: str | Path | None = None,
    concept: str | None = None,
    n: int | None = None,
    seed: int = 0,
    field: str = "text",
) -> PromptSet:
    if (source is None) != (target is None):
        raise ValueError(
            f"source={source!r} and target={target!r}: give both, whose difference is what changes "
            "in words, or neither"
        )
    asked = read_sentences(root, field=field)
    columns: list[Sequence[str | None]] = [asked]
    for option, path in {"plain": plain or root, "source": source, "target": target}.items():
        lines = [None] * len(asked) if path is None else read_sentences(path, field=field)
        if len(lines) != len(asked):
            raise ValueError(
                f"{option}={str(path)!r} holds {len(lines)} texts and {root} {len(asked)}: give "
                "one for each prompt, in the same order"
            )
        columns.append(lines)
    prompts = [Prompt(*row) for row in zip(*columns, strict=True)]
    return PromptSet(choose(prompts, n, seed, str(root)), concept)


_SIDES: dict[str, Callable[..., Sides]] = {
    "coco_styles": _coco_styles,
    "coco_concepts": _coco_concepts,
    "diffusion_prompts": _diffusion_prompts,
    "files": file_sides,
}
_PROMPTS: dict[str, Callable[..., PromptSet]] = {
    "coco_styles": _style_prompts,
    "coco_concepts": _concept_prompts,
    "diffusion_prompts": _subset_prompts,
    "files": _file_prompts,
}


def _caption_sides(
    root: str | Path,
    write: Write,
    subsets: Mapping[str, str],
    shared: bool,
    n_source: int | None,
    n_target: int | None,
    seed: int,
) -> Sides:
    _refuse_equal(subsets)
    captions = read_captions(root, "train")
    most = min(PER_SIDE, len(captions) if shared else len(captions) // 2)
    sizes = []
    for option, size in {"n_source": n_source, "n_target": n_target}.items():
        if size is not None and size < 1:
            raise ValueError(f"{option}={size}: give 1 or more")
        sizes.append(most if size is None else size)
    drawn = choose(
        captions, max(sizes) if shared else sum(sizes), seed, f"{root}: captions of both sides"
    )
    starts, ends = drawn[: sizes[0]], drawn[: sizes[1]] if shared else drawn[sizes[0] :]
    return Sides(
        tuple(write(caption, subsets["source"]) for caption in starts),
        tuple(write(caption, subsets["target"]) for caption in ends),
    )


def _caption_prompts(
    root: str | Path, write: Write, subsets: Mapping[str, str], n: int | None, seed: int
) -> PromptSet:
    _refuse_equal(subsets)
    captions = read_captions(root, "val")
    size = min(EVALUATED, len(captions)) if n is None else n
    prompts = [
        Prompt(
            text=write(caption, subsets["asked"]),
            plain=caption,
            source=write(caption, subsets["source"]),
            target=write(caption, subsets["target"]),
        )
        for caption in choose(captions, size, seed, f"{root}: captions")
    ]
    return PromptSet(tuple(prompts), _concept(subsets["source"], subsets["target"]))


def _concept(source: str, target: str) -> str:
    """What is led in or out: the target, or the source where that denies it or is nothing."""
    found = [one for one in (target, source) if one != NONE and not one.startswith(_DENIED)]
    return (found or [target])[0]


def _refuse_equal(subsets: Mapping[str, str]) -> None:
    if subsets["source"] == subsets["target"]:
        raise ValueError(
            f"source and target are both {subsets['source']!r}: give two subsets, from the first "
            "of which a transport leads to the second"
        )
