"""CLIP as transformers saves it, and as a classifier of classes that texts name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from aim_plugins.core.identity import model_fingerprint
from vision_bench.models.architectures import clip
from vision_bench.models.checkpoints import load_weights, read_state_dict
from vision_bench.models.known_preprocessing import folder_preprocessing
from vision_bench.models.libraries import refuse_incomplete, report_left_to_us, require
from vision_bench.models.model import VisionModel
from vision_bench.models.names import HUB, RANDOM
from vision_bench.models.preprocessing import Choice, KnownPreprocessing, Preprocessing


def load_clip(
    name: str,
    source: str,
    weights: str | Path | None,
    class_names: Sequence[str] | None,
    prompts: Sequence[str],
    asked: Choice | None,
) -> VisionModel:
    """Loads a CLIP that transformers saved, as a classifier of classes that texts name."""
    if weights in (HUB, RANDOM):
        raise ValueError(
            f"weights={weights!r} of {name!r}, which has weights: leave them out, or give the file "
            "of an edited model"
        )
    if class_names is None:
        raise ValueError(
            f"model={name!r} tells classes by their names, which are not known here: choose a "
            "model with an output for each class"
        )
    module, tokenizer = read_clip(source, name)
    texts = clip.text_features(module, tokenizer, class_names, prompts or clip.PROMPTS)
    side = module.config.vision_config.image_size
    usual = Preprocessing(
        size=side, crop=side, mean=clip.MEAN, std=clip.STD, interpolation="bicubic"
    )
    known = folder_preprocessing(source, Path(source).is_dir(), crops=True) or KnownPreprocessing(
        usual, "that of CLIP's authors", False
    )
    known = known.settle(asked, name=name)
    zero_shot = clip.ZeroShotClip(module, texts)
    if weights is not None:
        # Classes are told by the texts of the data at hand, whatever they were when it was saved.
        state = {**read_state_dict(weights), clip.HEAD: zero_shot.head.weight.detach()}
        load_weights(zero_shot, state, name=name, source=weights)
    # A folder's name says nothing: the same model may lie in two places.
    fingerprint = model_fingerprint(zero_shot)
    return VisionModel(
        name,
        zero_shot.eval(),
        "classification",
        len(class_names),
        known.preprocessing,
        fingerprint,
        known.source,
    )


def read_clip(source: str, name: str, argument: str = "model") -> tuple[Any, Any]:
    """Reads a CLIP that transformers saved, in single precision, and its tokenizer.

    Args:
        source: A folder, or a name on the hub.
        name: What it is called, for errors.
        argument: The argument that names it, for errors.

    Returns:
        The `CLIPModel` in evaluation mode, and the tokenizer.

    Raises:
        ValueError: If there is no CLIP, weights are missing, or there is no tokenizer.
    """
    transformers = require("transformers")
    with report_left_to_us(transformers):
        return _read_clip(transformers, source, name, argument)


def _read_clip(transformers: ModuleType, source: str, name: str, argument: str) -> tuple[Any, Any]:
    local = Path(source).is_dir()
    where = "folder" if local else "hub name (and no folder here)"
    try:
        config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
        if config.model_type != "clip":
            raise ValueError(f"it holds a model of the kind {config.model_type!r}")
        module, report = transformers.CLIPModel.from_pretrained(
            source,
            local_files_only=local,
            dtype=torch.float32,  # in which the other models here compute
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{argument}={name!r}: transformers loads no CLIP from this {where}: {error}"
        ) from error
    # Files of older versions hold these constants.
    report["unexpected_keys"] = [
        key for key in report["unexpected_keys"] if not key.endswith("position_ids")
    ]
    refuse_incomplete(report, name, source)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
        # Without files, transformers makes one that knows no words.
        if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            raise ValueError("there is no tokenizer.json, nor vocab.json with merges.txt")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{argument}={name!r}: transformers loads no tokenizer from this {where}, which "
            f"texts need: {error}"
        ) from error
    return module.eval(), tokenizer
