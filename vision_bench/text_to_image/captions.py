"""Captions, and what AcT adds to them, in the layout that each is published in.

Nothing is downloaded, and none of these texts comes with this package. Where the files come from:

| what             | file                                                                     |
|------------------|--------------------------------------------------------------------------|
| captions         | `annotations/captions_train2017.json` and `captions_val2017.json` of     |
|                  | COCO 2017 (Chen et al. 2015, arXiv:1504.00325)                           |
| tags of styles   | `style_prompts.json`: by style, one text of tags                         |
| phrases about    | `diffusion_concept_prompts.json`: by concept, phrases that place it in a |
| concepts         | picture, and by `no_` and the concept, phrases that deny it              |
| whole prompts    | `diffusion_prompts.json`: by subset, prompts                             |

The last three lie in `data` of github.com/apple/ml-act, whose own scripts keep COCO's captions in a
folder `coco_captions_2017`, without `annotations`.
Files of one's own in these layouts do as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aim_plugins.core.errors import did_you_mean
from aim_plugins.transport.data.text_files import file_in, read_json

STYLES, CONCEPTS, PROMPTS = (
    "style_prompts.json",
    "diffusion_concept_prompts.json",
    "diffusion_prompts.json",
)
NONE = "none"
"""The subset of captions that nothing is added to."""

Parts = Mapping[str, tuple[str, ...]]
"""By subset, the texts that are added to captions."""


def read_captions(root: str | Path, split: str) -> list[str]:
    """Reads captions of COCO.

    Args:
        root: The folder that `annotations` or `coco_captions_2017` lies in, one of these, or a file
            of captions itself.
        split: "train" or "val"; a file is read whatever its split.

    Returns:
        The captions in the file's order, without white space around them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no captions.
    """
    name = f"captions_{split}2017.json"
    path = file_in(root, name, f"annotations/{name}", f"coco_captions_2017/{name}")
    value = read_json(path)
    found = value.get("annotations") if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{path} has no list 'annotations': give a file of COCO's captions")
    captions = []
    for number, one in enumerate(found):
        caption = one.get("caption") if isinstance(one, dict) else None
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(
                f"{path}: annotations[{number}].caption is {json.dumps(caption)[:60]}, not a text: "
                "give a file of COCO's captions, not of its objects"
            )
        captions.append(caption.strip())
    return captions


def read_styles(texts: str | Path) -> tuple[Path, Parts]:
    """Reads the tags of styles.

    Args:
        texts: `style_prompts.json`, or its folder.

    Returns:
        The file, and by style its tags, the telling ones first.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a style is no text of tags.
    """
    path = file_in(texts, STYLES)
    styles = {}
    for name, tags in _by_subset(path).items():
        if not isinstance(tags, str):
            raise ValueError(f"{path}: {name!r} must be one text of tags with commas between them")
        styles[name] = tuple(tag.strip() for tag in tags.split(",") if tag.strip())
    return path, {name: tags for name, tags in styles.items() if name != NONE}


def read_phrases(texts: str | Path) -> tuple[Path, Parts]:
    """Reads the phrases of concepts.

    Args:
        texts: `diffusion_concept_prompts.json`, or its folder.

    Returns:
        The file, and its phrases by concept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a concept has no list of texts.
    """
    path = file_in(texts, CONCEPTS)
    return path, _lists(path)


def read_subsets(root: str | Path) -> tuple[Path, Parts]:
    """Reads whole prompts by subset.

    Args:
        root: `diffusion_prompts.json`, or its folder.

    Returns:
        The file, and its prompts by subset.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a subset is no list of texts.
    """
    path = file_in(root, PROMPTS)
    return path, _lists(path)


def find_subset(option: str, name: str, known: Parts, path: Path) -> tuple[str, ...]:
    """The texts of one subset.

    Args:
        option: The option that names it.
        name: Its name.
        known: All subsets of the file.
        path: The file.

    Raises:
        ValueError: If there is no such subset, or it is empty.
    """
    if name not in known:
        raise ValueError(f"{option}={name!r} is not in {path}; {did_you_mean(name, known)}")
    if not known[name]:
        raise ValueError(f"{path}: {name!r} is empty, and {option} names it: give it texts")
    return known[name]


def _by_subset(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}: give an object with names")
    return value


def _lists(path: Path) -> Parts:
    found = _by_subset(path)
    for name, texts in found.items():
        whole = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if not whole:
            raise ValueError(f"{path}: {name!r} must be a list of texts")
    return {
        name: tuple(text.strip() for text in texts if text.strip()) for name, texts in found.items()
    }
