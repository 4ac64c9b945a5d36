"""Reads the PERTURBATION block of AIM's segmentation configs.

    PERTURBATION:
      METHOD: multi            # single, multi or utility
      RATIO: 0.2               # std of the first level, in logit units
      STEP_SIZE: 0.4           # and the step to the next
      STEP_LIMIT: 10           # number of levels
      TARGET_IDX: 136          # single: the class, and whether it is made more likely
      POSITIVE: true
      TARGETS:                 # multi: the same for each class
        - {index: 136, positive: true}
        - {index: 20, positive: false}

Source: the settings documented beside AIM's code, https://github.com/CurtisYoung18/AIM.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from aim_plugins.core.strengths import MAX_STRENGTHS, validate_strength
from vision_bench.perturbators import (
    MultiClassPerturbator,
    Perturbator,
    SingleClassPerturbator,
    UtilityPerturbator,
)

_CONFIG_KEYS = (
    "METHOD",
    "RATIO",
    "STEP_SIZE",
    "STEP_LIMIT",
    "TARGET_IDX",
    "POSITIVE",
    "TARGETS",
)
_TARGET_KEYS = ("index", "positive")


def perturbators_from_config(
    config: Mapping, *, seed: int = 0, classes: int | None = None
) -> list[Perturbator]:
    """Makes a perturbator for each level of a PERTURBATION block.

    Level i < STEP_LIMIT has the std RATIO + i·STEP_SIZE, counted in decimal. METHOD is `single`
    (TARGET_IDX and POSITIVE), `multi` (TARGETS, a list of `index` and `positive`) or, beyond AIM's
    own, `utility`. Keys that a METHOD does not use are left alone, as one block serves them all.

    Args:
        config: The block, or a whole config that holds it under `PERTURBATION`.
        seed: Seed of the draw.
        classes: Number of classes, to refuse targets beyond them at once.

    Returns:
        The levels, by rising std.

    Raises:
        ValueError: If a key is unknown or missing, or a value is not usable.

    >>> levels = {"RATIO": 0.2, "STEP_SIZE": 0.1, "STEP_LIMIT": 2}
    >>> perturbators_from_config({"METHOD": "single", "TARGET_IDX": 3, **levels})[1]
    SingleClassPerturbator(std=0.3, target=3, positive=True, seed=0)
    """
    block = _perturbation_block(config)
    stds = _level_stds(block)
    first = _perturbator_at(block, stds[0], seed)
    if classes is not None:
        first.directions(classes)
    return [first.at(std) for std in stds]


def _perturbation_block(config: Mapping) -> dict:
    block = config.get("PERTURBATION", config)
    if not isinstance(block, Mapping):
        raise ValueError(f"PERTURBATION={block!r} is no block of settings: write METHOD: ... in it")
    for name in block:
        if name not in _CONFIG_KEYS:
            nearest = difflib.get_close_matches(str(name).upper(), _CONFIG_KEYS, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(
                f"PERTURBATION holds {name!r}, which is none of {', '.join(_CONFIG_KEYS)}{hint}"
            )
    return dict(block)


def _level_stds(block: dict) -> list[float]:
    ratio = validate_strength(_required(block, "RATIO", "0.2"), name="RATIO")
    step = validate_strength(block.get("STEP_SIZE", 0.0), name="STEP_SIZE")
    limit = block.get("STEP_LIMIT", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_STRENGTHS:
        raise ValueError(
            f"STEP_LIMIT={limit!r} is no number of levels: give an integer, 1 to {MAX_STRENGTHS}"
        )
    if limit > 1 and step == 0:
        raise ValueError(
            f"STEP_SIZE is 0 or missing, so that STEP_LIMIT={limit} levels would be the same: "
            "give the step between levels"
        )
    # Through their shortest decimals, as 0.2 + 0.1 is 0.30000000000000004 in binary.
    first, width = Decimal(repr(ratio)), Decimal(repr(step))
    return [float(first + index * width) for index in range(limit)]


def _perturbator_at(block: dict, std: float, seed: int) -> Perturbator:
    method = _required(block, "METHOD", "single")
    positive = block.get("POSITIVE", True)
    if method == "utility":
        return UtilityPerturbator(std, seed)
    if method == "single":
        return SingleClassPerturbator(std, _required(block, "TARGET_IDX", "12"), positive, seed)
    if method != "multi":
        raise ValueError(f"METHOD={method!r} is unknown: give 'single', 'multi' or 'utility'")
    entries = _required(block, "TARGETS", "[{index: 136, positive: true}]")
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError(f"TARGETS={entries!r} is no list: give [{{index: ..., positive: ...}}]")
    for entry in entries:
        _check_target(entry)
    return MultiClassPerturbator(
        std,
        [entry["index"] for entry in entries],
        [entry.get("positive", positive) for entry in entries],
        seed,
    )


def _check_target(entry: object) -> None:
    if not isinstance(entry, Mapping) or "index" not in entry:
        raise ValueError(f"TARGETS holds {entry!r}: give an index and positive for each target")
    # A misspelt `positive` would be taken for the default, which is the opposite modulation.
    for name in entry:
        if name not in _TARGET_KEYS:
            nearest = difflib.get_close_matches(str(name).lower(), _TARGET_KEYS, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ": leave it out"
            raise ValueError(
                f"TARGETS holds {dict(entry)!r}, where {name!r} is none of "
                f"{', '.join(_TARGET_KEYS)}{hint}"
            )


def _required(block: dict, name: str, example: str) -> Any:
    if name not in block:
        raise ValueError(f"PERTURBATION holds no {name}: add one, such as {name}: {example}")
    return block[name]
