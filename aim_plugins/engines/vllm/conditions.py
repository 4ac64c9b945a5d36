"""Conditions in vLLM: which prompts a request's transports act on.

An engine is told of them by `additional_config={"aim_conditions": {"harmful": DIR}}`, and a request
asks `{"aim_strength_refuse": 1, "aim_condition_refuse": "harmful"}`.

They are decided ahead of a request, in a *probe*: its prompt at strength 0, one token long, of
which workers keep the states that are looked at (`worker_states`). The request is then admitted as
one that asks for its transports outright, or not at all: whatever comes behind knows no conditions.
The probe's keys and values stay in the prefix cache as those of any plain request, which a prompt
that meets no condition goes on from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aim_plugins.core.errors import ReceiptError, did_you_mean
from aim_plugins.engines.vllm.transports import is_one_engine, named_folders, why_not
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.conditions import Condition, ConditionText
from aim_plugins.transport.conditions.artifact import LearnedCondition

CONDITIONS_KEY = "aim_conditions"
"""Entry of vLLM's `additional_config` that names the conditions and their folders."""

WATCHED_KEY = "aim_watched"
"""Entry with the widths of modules whose states conditions of no folder look at, by their names."""

DECIDED_ARGUMENT = "_aim_decided"
"""Entry of a request's `extra_args` that says what was decided: the arguments that were `asked`,
and by the names of changes the `similarities` to their conditions."""


def configured_conditions(vllm_config: Any) -> dict[str, Condition]:
    """The conditions that an engine's configuration names, by their names.

    Raises:
        ValueError: If one cannot be read, or the engine cannot decide any.
    """
    folders = named_folders(vllm_config, CONDITIONS_KEY, "aim_condition_NAME may ask for")
    if folders and (reason := _why_not(vllm_config)):
        raise ValueError(f"{CONDITIONS_KEY}={ {n: str(f) for n, f in folders.items()} }: {reason}")
    return {name: LearnedCondition.load(folder).condition for name, folder in folders.items()}


def watched_widths(vllm_config: Any, conditions: Mapping[str, Condition]) -> dict[str, int]:
    """The sites at which an engine can look at prompts, with their widths.

    Args:
        vllm_config: Its configuration.
        conditions: Those that it names.

    Raises:
        ValueError: If the engine cannot, or two of them contradict each other.
    """
    config = vllm_config.additional_config
    others = config.get(WATCHED_KEY, {}) if isinstance(config, Mapping) else {}
    if others and (reason := _why_not(vllm_config)):
        raise ValueError(f"{WATCHED_KEY}={dict(others)}: {reason}")
    found = {site: (WATCHED_KEY, width) for site, width in others.items()}
    for name, one in conditions.items():
        width = len(one.direction)
        other, known = found.setdefault(one.site, (name, width))
        if known != width:
            raise ValueError(
                f"{CONDITIONS_KEY}: {other!r} looks at {known} neurons of {one.site!r} and "
                f"{name!r} at {width}: leave out the one of another model"
            )
    return {site: width for site, (_, width) in found.items()}


def widths_of(conditions: Iterable[Condition]) -> dict[str, int]:
    """The sites that conditions look at, with their widths."""
    return {one.site: len(one.direction) for one in conditions}


def check_watched(conditions: Iterable[Condition], widths: Mapping[str, int]) -> None:
    """Refuses conditions that look at prompts where an engine does not.

    Args:
        conditions: The conditions.
        widths: The engine's sites, with their widths.

    Raises:
        ValueError: Naming the first site.
    """
    for site, width in widths_of(conditions).items():
        if widths.get(site) != width:
            raise ValueError(
                f"condition: this engine does not look at {width} neurons of {site!r}: make it "
                "with LLM(model, **llm_arguments(model, columns)), or with conditions={'NAME': DIR}"
            )


def _why_not(vllm_config: Any) -> str | None:
    if not is_one_engine(vllm_config):
        return (
            "conditions are decided by one engine behind one API server: leave out "
            "--data-parallel-size and --api-server-count"
        )
    return why_not(vllm_config)


def named_condition(change: Change, conditions: Mapping[str, Condition]) -> Condition:
    """The condition that a request asks for.

    Args:
        change: A change of the request, with the text of a condition.
        conditions: The engine's, by name.

    Raises:
        ValueError: If the engine has none of that name.
    """
    text: ConditionText = change.condition
    if (learned := conditions.get(text.named)) is not None:
        return text.of(learned)
    asked = f"{condition_argument(change)}={str(text)!r}"
    if not conditions:
        raise ValueError(
            f"{asked}: this engine has no condition: make it with "
            'LLM(model, **llm_arguments(conditions={"NAME": DIR})), or start vLLM with '
            f'--additional-config \'{{"{CONDITIONS_KEY}": {{"NAME": "DIR"}}}}\''
        )
    raise ValueError(
        f"{asked}: this engine has no condition of that name: "
        f"{did_you_mean(text.named, conditions)}"
    )


def condition_argument(change: Change) -> str:
    """The argument by which a request asks for a change's condition."""
    outright = change.decided(True)
    return next(name for name in change.request if outright and name not in outright.request)


def why_undecided(changes: Iterable[Change]) -> str | None:
    """Why changes cannot be carried out whose condition nobody has decided; None if they can."""
    for change in changes:
        if change.condition is not None:
            return (
                f"{condition_argument(change)}={str(change.condition)!r} is decided ahead of a "
                "request, which LLM.generate and add_request do not: ask a server, "
                "AsyncLLM.generate, or aim_plugins.engines.vllm.VLLMEngine"
            )
    return None


def decided_arguments(given: Mapping[str, Any], outcomes: Mapping[Change, bool]) -> dict[str, Any]:
    """The arguments of a request whose conditions are decided.

    Args:
        given: Those of the request.
        outcomes: Of its changes that have a condition: whether it was met.
    """
    names = {name for change in outcomes for name in change.request_names()}
    found = {name: value for name, value in given.items() if name not in names}
    for change, held in outcomes.items():
        if (one := change.decided(held)) is not None:
            found |= one.request
    return found


def states_of(workers: Sequence[Sequence[list[list[float]] | str]]) -> list[list[Tensor]]:
    """The states of prompts, one for each place that was watched.

    Args:
        workers: What `worker_states.WatchedStates.states` returns, of every worker.

    Raises:
        ReceiptError: If one has not seen a whole prompt.
    """
    for found in (one for answers in workers for one in answers):
        if isinstance(found, str):
            raise ReceiptError(f"a condition could not be decided: {found}")
    # Workers that share a model have the same.
    return [[torch.tensor(one) for one in states] for states in workers[0]]
