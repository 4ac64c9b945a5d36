"""Loading what an evaluation runs: the steered model, and a judge."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError

from aim_plugins.core.devices import best_device, model_window
from aim_plugins.core.errors import first_few
from aim_plugins.core.files import check_model_name
from aim_plugins.demo_model import demo_model_folder
from aim_plugins.engines.engine import Journal
from aim_plugins.engines.huggingface import HuggingFaceEngine

DEMO_MODEL = "demo:smollm2"
_DEFAULT_WINDOW = 2048
"""Tokens of an input where neither the model nor its tokenizer knows a bound."""

_REASON = 300
"""Characters of another library's reason that an error repeats."""


def local_name(name: str) -> str:
    """A model's name as transformers takes it: the demo model's word becomes its folder."""
    return str(demo_model_folder()) if name == DEMO_MODEL else name


def read_model_config(argument: str, name: str, *, trust_remote_code: bool = False) -> Any:
    """Reads a model's configuration, without its weights.

    Args:
        argument: Name of the argument that names the model, for the error.
        name: Name on the hub, a local folder, or "demo:smollm2".
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ValueError: If there is no such model.
    """
    from transformers import AutoConfig

    name = local_name(name)
    check_model_name(name, argument)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = _in_a_line(error)
        raise ValueError(f"{argument}={name!r}: no model was found there: {reason}") from error


def causal_class(config: Any) -> Any:
    """The class of transformers that loads a causal language model with its head.

    Of a model that sees, that is the whole one, whose text tower answers requests without images.

    Args:
        config: The model's configuration.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = config.model_type
    sees = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not config.is_encoder_decoder
    if sees and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def refuse_random_weights(argument: str, name: str, loading: Mapping[str, Any]) -> None:
    """Refuses a model whose weights were not all in its checkpoint.

    transformers draws those at random and goes on, as for a head that the checkpoint lacks.

    Args:
        argument: Name of the argument that names the model, for the error.
        name: The model.
        loading: What `from_pretrained` tells with `output_loading_info`.

    Raises:
        ValueError: If weights are missing; they are named.
    """
    missing = sorted(map(str, loading["missing_keys"]))
    if missing:
        kind = "classifier" if argument == "classifier" else "causal model"
        raise ValueError(
            f"{argument}={name!r} lacks the weights {first_few(missing)}, which would be random: "
            f"give a model that was trained as a {kind}"
        )


def check_judge(name: str, *, chat: bool | None = None, trust_remote_code: bool = False) -> None:
    """Refuses a judge that is missing or no causal language model, before its weights are loaded.

    Args:
        name: Name on the hub, a local folder, or "demo:smollm2".
        chat: Whether it has to have a chat template.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ValueError: If so.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_model_config("judge", name, trust_remote_code=trust_remote_code)
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (
        "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    )
    heads = config.architectures or []
    if not causal or any(head.endswith("ForSequenceClassification") for head in heads):
        kind = ", ".join(heads) or config.model_type
        raise ValueError(f"judge={name!r} is a {kind}: give a causal language model, which answers")
    if chat:
        tokenizer = AutoTokenizer.from_pretrained(
            local_name(name), trust_remote_code=trust_remote_code
        )
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"judge_chat=yes, but the tokenizer of judge={name!r} has no chat template: "
                "give auto or no"
            )


def load_engine(
    name: str,
    *,
    argument: str = "pretrained",
    dtype: str = "auto",
    device: str | None = None,
    max_length: int | None = None,
    journal: Journal | None = None,
    trust_remote_code: bool = False,
) -> HuggingFaceEngine:
    """Loads a causal language model and its tokenizer.

    Args:
        name: Name on the hub, a local folder, or "demo:smollm2".
        argument: Name of the argument that names the model, for errors.
        dtype: Such as "float32"; "auto" keeps the checkpoint's.
        device: Where it runs; by default an accelerator if there is one.
        max_length: Longest sequence in tokens; by default the model's window.
        journal: Keeps finished batches.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ValueError: If the model is not there, cannot be read or its checkpoint lacks weights, or
            `dtype`, `device` or `max_length` is not usable.
    """
    from transformers import AutoTokenizer

    name = local_name(name)
    check_model_name(name, argument)
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype={dtype!r} is unknown: write auto, float32, bfloat16 or float16")
    place = best_device(device)
    options = {"trust_remote_code": trust_remote_code}
    config = read_model_config(argument, name, **options)
    try:
        loaded: Any = causal_class(config).from_pretrained(
            name, dtype=dtype, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, SafetensorError) as error:
        reason = _in_a_line(error)
        raise ValueError(f"{argument}={name!r} cannot be loaded: {reason}") from error
    model, loading = loaded
    refuse_random_weights(argument, name, loading)
    window = model_window(model.config, tokenizer) or _DEFAULT_WINDOW
    if max_length is not None and not 2 <= max_length <= window:
        raise ValueError(f"max_length={max_length}: give 2 to {window}, the model's window")
    return HuggingFaceEngine(
        model.to(place).eval(),
        tokenizer,
        max_length=max_length or window,
        softmax_dtype=torch.float32,
        journal=journal,
    )


def _in_a_line(error: Exception) -> str:
    return textwrap.shorten(str(error), _REASON, placeholder=" ...")
