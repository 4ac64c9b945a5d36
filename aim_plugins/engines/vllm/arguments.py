"""What an engine of vLLM is made with, and what its requests may ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aim_plugins.engines.sampling import SAMPLING_OPTIONS, sampling_settings, warpers
from aim_plugins.engines.vllm.checkpoint import check_checkpoint
from aim_plugins.engines.vllm.conditions import CONDITIONS_KEY, WATCHED_KEY, widths_of
from aim_plugins.engines.vllm.transports import CONFIG_KEY, FORCE_KEY
from aim_plugins.engines.vllm.versions import require_supported
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column

WORKER_EXTENSION = "aim_plugins.engines.vllm.worker.ScoringExtension"
PROCESSOR = "aim_plugins.engines.vllm.processor:ChangesVLLMProcessor"

_WITHOUT_EFFECT = frozenset({"do_sample", "pad_token_id", "use_cache"})
_NEUTRAL = {"repetition_penalty": 1.0, "num_return_sequences": 1, "num_beams": 1}
"""Options that vLLM has not, or applies after the noise, at values that change nothing."""


def llm_arguments(
    model: str = "",
    columns: Sequence[Column] = (),
    *,
    transports: Mapping[str, str | Path] | None = None,
    conditions: Mapping[str, str | Path] | None = None,
    **given: Any,
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for an engine that modulates.

    Args:
        model: Folder or hub name of the model, against which what columns have learned is checked.
        columns: What will be asked; names the folders of its maps itself.
        transports: Folders of transports that requests may ask for besides, by name.
        conditions: Folders of conditions that requests may ask for besides, by name.
        **given: Arguments of one's own; they are kept.

    Returns:
        They and what `VLLMEngine` needs.

    Raises:
        ValueError: If `given` asks for speculative decoding or names another worker extension, or
            columns ask for what this engine cannot run or for a change of another model.
        ImportError: If vLLM is too old.
    """
    require_supported()
    if given.get("speculative_config"):
        raise ValueError(
            f"speculative_config={given['speculative_config']!r} would silently turn modulation "
            "off, since vLLM leaves logits processors out of speculative decoding: leave it out"
        )
    if given.get("worker_extension_cls", WORKER_EXTENSION) != WORKER_EXTENSION:
        raise ValueError(
            f"worker_extension_cls={given['worker_extension_cls']!r} takes the place of "
            f"{WORKER_EXTENSION}: derive your class from that one, or leave it out"
        )
    folders, met = _resolved(transports), _resolved(conditions)
    forced = set()
    for change in dict.fromkeys(change for column in columns for change in column.changes):
        if change.acts_on == "logits":
            continue
        folder = str(Path(_checked_folder(change, model, given)).resolve())
        if folders.setdefault(change.label, folder) != folder:
            raise ValueError(
                f"{change.name}={change.folder!r} and {folders[change.label]!r} have one name: "
                f"tell them apart, as in {change.name}_NAME=DIR"
            )
        if change.force:
            forced.add(change.label)
    # Named although it is installed: vLLM then hands tokens over also when it schedules ahead.
    processors = [*(given.get("logits_processors") or ()), PROCESSOR]
    watched = widths_of(
        change.condition for column in columns for change in column.changes if change.condition
    )
    entries = {
        CONFIG_KEY: folders,
        FORCE_KEY: sorted(forced),
        CONDITIONS_KEY: met,
        WATCHED_KEY: watched,
    }
    if own := {key: entry for key, entry in entries.items() if entry}:
        given["additional_config"] = dict(given.get("additional_config") or {}) | own
    return {**given, "worker_extension_cls": WORKER_EXTENSION, "logits_processors": processors}


def _resolved(folders: Mapping[str, str | Path] | None) -> dict[str, str]:
    return {name: str(Path(one).resolve()) for name, one in (folders or {}).items()}


def _checked_folder(change: Change, model: str, given: dict[str, Any]) -> str:
    """The folder that workers read a change's maps from, if it was learned on this model."""
    if change.maps is None:
        raise ValueError(
            f"{change.name} changes {change.acts_on} in a way that vLLM cannot compile into its "
            "model: use the Hugging Face engine"
        )
    if not change.folder:
        raise ValueError(
            f"{change.name}= holds maps, which vLLM's workers read from a folder: write one with "
            f"{change.name}.save(DIR), and give {change.name}=DIR"
        )
    if not change.force:
        named = {name: given.get(name) for name in ("revision", "download_dir")}
        check_checkpoint(model, change.learned.metadata, **named)
        if (known := change.condition and change.condition.metadata) is not None:
            check_checkpoint(model, known, **named)
    return change.folder


def keyed_sampling_settings(
    options: dict[str, Any], own: dict[str, Any]
) -> dict[str, float] | None:
    """How tokens are drawn, by options of `model.generate`.

    Args:
        options: The options.
        own: Entries of the model's generation config.

    Returns:
        What shapes the distribution, or None for greedy decoding.

    Raises:
        ValueError: If an option is beyond what vLLM carries out alike, or out of range.
    """
    options = {k: v for k, v in options.items() if k not in _NEUTRAL or v != _NEUTRAL[k]}
    unknown = sorted(set(options) - set(SAMPLING_OPTIONS) - _WITHOUT_EFFECT)
    if unknown:
        raise ValueError(
            f"{unknown[0]}={options[unknown[0]]!r} cannot be given to the vLLM engine, which knows "
            f"{', '.join(sorted({*SAMPLING_OPTIONS, 'do_sample'}))}; use the Hugging Face engine"
        )
    if not options.get("do_sample", own.get("do_sample")):
        return None
    settings = sampling_settings(own, options)
    warpers(settings)
    return settings
