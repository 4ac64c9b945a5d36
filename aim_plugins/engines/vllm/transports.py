"""Which transports an engine of vLLM has, and what its requests may ask of them.

An engine is told of them by `additional_config={"aim_transports": {"praise": DIR, "sea": DIR}}`,
and a request of their strengths by `extra_args={"aim_strength_praise": 0.5, "aim_strength_sea": 1}`
(in a body sent to a server `vllm_xargs`). Several that act at once add, see
`aim_plugins.modulation.activations.applied_maps`.

Keys and values of a prompt depend on the strengths, so every request's prefix-cache salt names the
maps and their strengths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aim_plugins.core.errors import did_you_mean
from aim_plugins.engines.vllm.parameters import RequestModulation, asked_for
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.named_kinds import is_label
from aim_plugins.transport.artifact import LearnedTransport
from aim_plugins.transport.vectors import affine_maps

CONFIG_KEY = "aim_transports"
"""Entry of vLLM's `additional_config` that names the transports and their folders."""

LOADING_KEY = "aim_loading"
"""Entry that says what may be loaded while the engine runs, see `Loading`."""

FORCE_KEY = "aim_force_transports"
"""Entry with the names of those for which the refusal of another model is only a warning."""


@dataclass(frozen=True)
class Loading:
    """What may be loaded while an engine runs, by `additional_config={"aim_loading": {...}}`.

    Attributes:
        folder: Transports in folders of it may be loaded, and no others.
        slots: How many may be there at a time, beside those of the start.
        sites: Patterns of the modules that they may move; none stands for those that transports
            of the start move. They are fixed at the start, as they are compiled with the model.
    """

    folder: Path
    slots: int = 4
    sites: tuple[str, ...] = ()


def configured_loading(vllm_config: Any) -> Loading | None:
    """What may be loaded while an engine with this configuration runs; None where nothing may.

    Raises:
        ValueError: If the entry is malformed, or loading cannot reach all parts of the engine.
    """
    config = vllm_config.additional_config
    given = config.get(LOADING_KEY) if isinstance(config, Mapping) else None
    if given is None:
        return None
    known = ("folder", "slots", "sites")
    if not isinstance(given, Mapping) or not set(given) <= set(known) or "folder" not in given:
        raise ValueError(
            f"{LOADING_KEY}={given!r} does not say what may be loaded: give "
            '{"folder": "DIR"}, and beside it "slots" and "sites"'
        )
    folder, slots, sites = Path(str(given["folder"])), given.get("slots", 4), given.get("sites", ())
    sites = (sites,) if isinstance(sites, str) else sites
    if not isinstance(sites, Sequence) or not all(isinstance(one, str) for one in sites):
        raise ValueError(
            f'{LOADING_KEY}: sites={sites!r} is no pattern such as ".*layernorm", nor a list'
        )
    if not folder.is_dir():
        raise ValueError(f"{LOADING_KEY}: folder={str(folder)!r} is no folder")
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= 64:
        raise ValueError(f"{LOADING_KEY}: slots={slots!r} is no number from 1 to 64")
    if not sites and not configured_folders(vllm_config):
        raise ValueError(
            f"{LOADING_KEY} names no modules that transports may move: give sites, such as "
            '".*layernorm", or a transport to start with'
        )
    if reason := why_not(vllm_config):
        raise ValueError(f"{LOADING_KEY}: {reason}")
    if not is_one_engine(vllm_config):
        raise ValueError(
            f"{LOADING_KEY} reaches one engine behind one API server: leave out "
            "--data-parallel-size and --api-server-count, or start with all transports"
        )
    return Loading(folder.resolve(), slots, tuple(sites))


def is_one_engine(vllm_config: Any) -> bool:
    """Whether a configuration is of one engine behind one API server."""
    parallel = vllm_config.parallel_config
    return parallel.data_parallel_size == 1 and getattr(parallel, "_api_process_count", 1) <= 1


def configured_folders(vllm_config: Any) -> dict[str, Path]:
    """The names and folders of the transports that an engine's configuration names.

    A transport without a name, as of `transport=DIR` in a harness, has the empty one.

    Raises:
        ValueError: If the entry is no mapping of names to folders.
    """
    return named_folders(vllm_config, CONFIG_KEY, "aim_strength_NAME may end in", unnamed=True)


def named_folders(
    vllm_config: Any, key: str, used: str, *, unnamed: bool = False
) -> dict[str, Path]:
    """The names and folders in an entry of an engine's configuration.

    Args:
        vllm_config: The configuration.
        key: The entry.
        used: What the names are for, for errors.
        unnamed: Whether a name may be empty.

    Raises:
        ValueError: If the entry is no mapping of names to folders.
    """
    config = vllm_config.additional_config
    named = config.get(key) if isinstance(config, Mapping) else None
    if named is None:
        return {}
    if not isinstance(named, Mapping) or not all(isinstance(one, str) for one in named.values()):
        raise ValueError(
            f"{key}={named!r} names no folders: give a name and a folder for each, as in "
            f'{{"{key}": {{"NAME": "DIR"}}}}'
        )
    for name in named:
        if not is_label(name) and (name or not unnamed):
            raise ValueError(
                f"{key}: {name!r} is no name that {used}: take letters, digits and underscores, a "
                "letter first, at most 64"
            )
    return {name: Path(folder) for name, folder in named.items()}


def configured_maps(vllm_config: Any) -> dict[str, ActivationMaps]:
    """The maps of the transports that an engine's configuration names, by their names.

    Raises:
        ValueError: If one cannot be read, or the engine cannot run it.
    """
    folders = configured_folders(vllm_config)
    if folders and (reason := why_not(vllm_config)) is not None:
        named = {name: str(folder) for name, folder in folders.items()}
        raise ValueError(f"{CONFIG_KEY}={named}: {reason}")
    found = {name: LearnedTransport.load(folder).maps for name, folder in folders.items()}
    for maps in found.values():
        affine_maps(maps.maps, "vLLM")
    return found


def why_not(vllm_config: Any) -> str | None:
    """Why an engine with this configuration cannot transport activations; None if it can."""
    parallel = vllm_config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        return (
            f"pipeline_parallel_size={parallel.pipeline_parallel_size}: a rank holds some of the "
            "transported layers only; use tensor parallelism, or fold the transport "
            "(aim-plugins transport fold)"
        )
    if vllm_config.speculative_config is not None:
        return (
            "a draft model would decode without the transport: start vLLM without "
            "speculative_config, or fold the transport (aim-plugins transport fold)"
        )
    if parallel.use_ubatching or parallel.prefill_context_parallel_size > 1:
        return (
            "dual batch overlap and prefill context parallelism part a step's tokens, and every "
            "token has its own strength: start vLLM without --enable-dbo, --ubatch-size and "
            "--prefill-context-parallel-size, or fold the transport (aim-plugins transport fold)"
        )
    if vllm_config.cache_config.kv_sharing_fast_prefill:
        return (
            "kv_sharing_fast_prefill runs some layers on a prompt's last token alone: start vLLM "
            "without --kv-sharing-fast-prefill, or fold the transport (aim-plugins transport fold)"
        )
    return None


def check_maps(changes: Iterable[Change], maps: Mapping[str, ActivationMaps]) -> None:
    """Refuses changes of activations by other maps than the engine was made with.

    Args:
        changes: The changes; those of a request have no maps.
        maps: The engine's, by name.

    Raises:
        ValueError: If the engine has no maps of a change's name, or others.
    """
    for change in changes:
        if not maps:
            raise ValueError(
                f"{asked_for(change)}: this engine has no transport: make it with "
                'LLM(model, **llm_arguments(transports={"NAME": DIR})), or start vLLM with '
                f'--additional-config \'{{"{CONFIG_KEY}": {{"NAME": "DIR"}}}}\''
            )
        if (own := maps.get(change.label)) is None:
            unnamed = change.request_names()[0].removesuffix(f"_{change.label}")
            known = [f"{unnamed}_{name}" if name else unnamed for name in maps]
            raise ValueError(
                f"{asked_for(change)}: this engine has no transport of that name: "
                f"{did_you_mean(change.request_names()[0], known)}"
            )
        if change.maps.maps and change.maps.fingerprint != own.fingerprint:
            raise ValueError(
                f"{asked_for(change)}: its transport is another one than the engine was made "
                "with; it may have been fitted again since: start anew"
            )


def cache_salt(
    salt: str | None,
    maps: Mapping[str, ActivationMaps],
    asked: RequestModulation,
    prompt_length: int,
) -> str | None:
    """The prefix-cache salt of a request.

    Args:
        salt: The request's own.
        maps: The engine's transports, by name.
        asked: The request's modulation; where all its strengths are 0 it shares what plain requests
            have cached.
        prompt_length: Tokens of the prompt. Where a window ends or begins there, keys and values of
            the same tokens differ between prompts that end elsewhere.
    """
    # JSON, so that no salt of a client reads like one that is made here.
    if not asked.transports:
        return None if salt is None else json.dumps([salt])
    positions = {name: one.positions for name, one in maps.items()}
    moved = asked.movements(positions, prompt_length)
    return json.dumps([salt, sorted([maps[name].fingerprint, *how] for name, how in moved.items())])
