"""Receipts in vLLM: what is made of what its workers saw of each request, see `watching`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from aim_plugins.core.errors import ReceiptError, first_few
from aim_plugins.core.strengths import format_strength
from aim_plugins.engines.vllm.watching import SeenAnswer, Taken, looked_at
from aim_plugins.modulation.activations import ActivationMaps
from aim_plugins.modulation.applied_strengths import checksum
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.columns import Column
from aim_plugins.modulation.windows import window_bounds
from aim_plugins.transport.vectors import affine_maps


def that_ran(engines: Sequence[Sequence[Taken]]) -> Sequence[Taken]:
    """The workers of the replica that has run an answer.

    Args:
        engines: What the workers of each replica have seen of that answer alone.

    Returns:
        Those of the one of which any has seen it; of the first one where nobody has.

    Raises:
        ReceiptError: If several have run it.
    """
    ran = [workers for workers in engines if any(seen != [None] for seen, *_ in workers)]
    if len(ran) > 1:
        raise ReceiptError(f"{len(ran)} replicas of the engine have run one answer: start it again")
    return ran[0] if ran else engines[0]


def together(workers: Sequence[Taken]) -> tuple[list[SeenAnswer | None], list[str | None]]:
    """What the workers of one engine have seen of some answers.

    Args:
        workers: What each has seen.

    Returns:
        Of each answer the tokens that all have computed, the steps of those that have logits, and
        what lay on any device, None if one has not seen it; and the transport of each place.
    """
    answers = [_one_of(seen) for seen in zip(*(found for found, *_ in workers), strict=True)]
    return answers, max((names for _, names, _ in workers), key=len, default=[])


def _one_of(workers: Sequence[SeenAnswer | None]) -> SeenAnswer | None:
    seen = [one for one in workers if one is not None]
    if len(seen) < len(workers):
        return None
    firsts, stops, steps, moved, strengths = zip(*seen, strict=True)
    return (
        max(firsts),
        min(stops),
        max(steps),
        all(moved),
        [row for own in strengths for row in own],
    )


def map_sums(transports: Mapping[str, ActivationMaps]) -> dict[str, dict[str, int]]:
    """The bits of an engine's maps, as `watching.map_bits` should find them at each site."""
    return {name: _sums_of(maps) for name, maps in transports.items()}


_SUMS: weakref.WeakKeyDictionary[ActivationMaps, dict[str, int]] = weakref.WeakKeyDictionary()
"""Sums of the maps that somebody holds."""


def _sums_of(maps: ActivationMaps) -> dict[str, int]:
    if maps not in _SUMS:
        _SUMS[maps] = {
            site: int(checksum([one.scale - 1, one.shift, one.support_min, one.support_max]))
            for site, one in affine_maps(maps.maps, "vLLM").items()
        }
    return _SUMS[maps]


def check_maps_intact(workers: Sequence[Taken], wanted: Mapping[str, Mapping[str, int]]) -> None:
    """Refuses workers whose hooks are gone or whose maps are others.

    Args:
        workers: What each has found.
        wanted: The bits of the maps, by the names of their transports.

    Raises:
        ReceiptError: Naming the modules.
    """
    for _, _, sums in workers:
        for name, own in wanted.items():
            found = sums.get(name, {})
            if wrong := [site for site, one in own.items() if found.get(site) != one]:
                raise ReceiptError(
                    f"{first_few(wrong)} of the worker move activations no longer as the "
                    "transport: hooks were removed, or maps overwritten; start the engine again"
                )


def settle(
    column: Column,
    seen: SeenAnswer | None,
    *,
    transports: Sequence[str | None],
    prompt: int,
    new: int,
    place: str,
    context: int | None = None,
) -> dict[Change, int]:
    """Holds what workers saw of an answer against its column.

    Args:
        column: The column.
        seen: What all workers have seen; None if one has not seen it.
        transports: The transport of each place of the strengths, None where there is none.
        prompt: Tokens of the prompt.
        new: Tokens of the answer; 0 where the prompt alone was scored.
        place: Which row it is, for errors.
        context: Tokens that count as the prompt for windows, if not all of it.

    Returns:
        Sites at which each change of activations acted.

    Raises:
        ReceiptError: If the answer was not changed as it was asked to be.
    """
    changes = column.effective.changes
    wanted = " and ".join(f"{one.name} {format_strength(one.strength)}" for one in changes)
    wanted = wanted or "the plain model"
    if seen is None and not changes:
        return {}
    if seen is None:
        raise ReceiptError(f"{place}: asked for {wanted}, and a worker has not seen the request")
    first, stop, steps, moved, strengths = seen
    read = prompt + max(new - 1, 0)
    if stop < read:
        raise ReceiptError(
            f"{place}: asked for {wanted}, and {stop} of its {read} tokens were computed"
        )
    logits = column.acting_on("logits")
    if new and logits and steps < new:
        raise ReceiptError(f"{place}: asked for {wanted}, changed at {steps} of {new} steps")
    if new and any(one.certain for one in logits) and not moved:
        raise ReceiptError(f"{place}: asked for {wanted}, and its logits are what they were")
    moving = column.acting_on("activations")
    length = prompt if context is None else context
    windows = [window_bounds(one.positions, length) for one in moving]
    computed = [one for one in looked_at(windows, length) if first <= one < read]
    if reason := _why_others(moving, strengths, transports, length, computed):
        raise ReceiptError(f"{place}: asked for {wanted}, and {reason}")
    return {one: len(one.maps.maps) for one in moving}


def _why_others(
    moving: Sequence[Change],
    seen: Sequence[Sequence[float]],
    transports: Sequence[str | None],
    prompt: int,
    computed: Sequence[int],
) -> str | None:
    """How strengths at tokens differ from those that were asked for; None if they do not."""
    by_name = {one.label: one for one in moving}
    for position, *found in seen:
        for name, strength in zip(transports, found, strict=True):
            wanted = 0.0
            if name is not None and (change := by_name.get(name)) is not None:
                start, stop = window_bounds(change.positions, prompt)
                wanted = change.strength if start <= position < stop else 0.0
            if np.float32(wanted) != np.float32(strength):
                what = f"that of {name}" if name else "the strength"
                shown = format_strength(float(f"{strength:.7g}"))  # as of float32
                return (
                    f"{what} at its token {int(position)} was {shown} instead of "
                    f"{format_strength(wanted)}"
                )
    if seen and (gone := by_name.keys() - set(transports)):
        return f"its transport {min(gone)} was not there: load it again"
    if (moving and not seen) or not {int(one) for one, *_ in seen}.issuperset(computed):
        return "the strengths at its tokens were never seen"
    return None
