"""Holds what was seen of forward passes against what was asked for, when they are over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from aim_plugins.core.errors import ReceiptError, first_few
from aim_plugins.core.strengths import format_strength
from aim_plugins.modulation.changes import Change
from aim_plugins.modulation.sites import split_site
from aim_plugins.modulation.windows import window_bounds
from aim_plugins.modulation.witness import MAPS, Witness


class Settlement:
    """What the passes that a witness has seen did to each row.

    Args:
        witness: Has seen all passes.
    """

    def __init__(self, witness: Witness) -> None:
        self._seen = witness

    def rows(
        self,
        rows: Sequence[Sequence[Change]],
        token_ids: Int[Tensor, "rows tokens"],
        *,
        passes: int,
        known: int = 0,
        layout: Any = None,
    ) -> list[dict[Change, int]]:
        """Holds what was seen against what was asked for.

        Args:
            rows: Changes of activations or weights of each row, or of all rows.
            token_ids: Tokens of each row before the first pass, padding included.
            passes: How many passes there were at least, of which each but the first reads a token
                that the one before has led to.
            known: How many of the tokens came from a cache.
            layout: As in `Change.applied`.

        Returns:
            For each row, the number of sites at which each of its changes acted.

        Raises:
            ReceiptError: If a row was not changed as it was asked to be, naming the first.
        """
        count = len(token_ids)
        rows = list(rows) * count if len(rows) == 1 else list(rows)
        members: dict[Change, list[int]] = {}
        for row, changes in enumerate(rows):
            for change in changes:
                members.setdefault(change, []).append(row)
        if members:
            self._settle_passes(token_ids, passes, known)
        planned = token_ids.shape[1] - known + passes - 1
        found: list[dict[Change, int]] = [{} for _ in rows]
        for change, asking in members.items():
            # The same maps under two names may be asked to cancel each other.
            own = [row for row in asking if change.maps is None or _total(change, rows[row])]
            for row in set(asking).difference(own):
                found[row][change] = len(change.maps.maps)
            if not own:
                continue
            try:
                sites = self._settle_sites(change)
                if change.maps is not None:
                    if change.positions != "all" and not (layout and layout.whole):
                        self._settle_plan(passes, planned)
                    wanted = self._wanted_tokens(change.positions, count, layout)
                    self._settle_tokens(change, own, rows, wanted)
                acted = self._settle_effect(change, own, rows, sites)
            except _Refused as refused:
                raise ReceiptError(
                    f"row {own[refused.place] + 1} of {count}: asked for {change.name} "
                    f"{format_strength(change.strength)}, {refused}"
                ) from None
            for row, number in zip(own, acted, strict=True):
                found[row][change] = number
        return found

    def weights(self, changes: Sequence[Change], *, passes: int) -> dict[Change, int]:
        """The parameters that changes of weights have changed, for passes of any rows.

        Args:
            changes: The changes.
            passes: How many passes there were at least.

        Raises:
            ReceiptError: If none was, or the model ran without them.
        """
        found = {}
        for change in changes:
            try:
                found[change] = len(self._settle_sites(change))
            except _Refused as refused:
                raise ReceiptError(
                    f"asked for {change.name} {format_strength(change.strength)}, {refused}"
                ) from None
        if changes:
            self._settle_count(passes)
        return found

    def _settle_count(self, passes: int) -> None:
        if len(self._seen.passes) < passes:
            raise ReceiptError(
                f"{len(self._seen.passes)} of {passes} forward passes went through the model's own "
                "modules: a compiled graph or a replica ran in their place, past every change, or "
                "the model decodes speculatively"
            )

    def _settle_passes(self, token_ids: Tensor, passes: int, known: int) -> None:
        count, seen = len(token_ids), sum(width for _, width in self._seen.passes)
        tokens = token_ids.shape[1] - known + passes - 1
        self._settle_count(passes)
        if any(rows % count for rows, _ in self._seen.passes):
            raise ReceiptError(
                f"the model ran on {self._seen.passes[0][0]} rows, where {count} were asked for"
            )
        if seen < tokens:
            raise ReceiptError(
                f"the model read {seen} of {tokens} tokens of each row: others came from a cache "
                "that was filled elsewhere, maybe under another modulation"
            )
        if self._seen.first is not None:
            own = token_ids[:, known:].repeat_interleave(len(self._seen.first) // count, 0)
            width = min(own.shape[1], self._seen.first.shape[1])
            own = own[:, :width].to(self._seen.first.device)
            if not torch.equal(self._seen.first[:, :width], own):
                raise ReceiptError("the model read other rows than were asked for, or reordered")

    def _settle_plan(self, passes: int, planned: int) -> None:
        """Refuses passes in which positions, which a window asks for, are not those planned."""
        seen = sum(width for _, width in self._seen.passes)
        if seen != planned or len(self._seen.passes) < passes:
            raise _Refused(
                "which counts tokens one by one, and the model read them otherwise: it keeps no "
                "cache, or decodes speculatively"
            )

    def _wanted_tokens(self, window: str, count: int, layout: Any) -> Int[np.ndarray, " rows"]:
        """Tokens of each row that a window was to reach in all passes."""
        widths = [width for _, width in self._seen.passes]
        if window == "all":
            return np.full(count, sum(widths))
        if layout is None:  # the last of each pass
            return np.full(count, len(widths))
        bounds = window_bounds(window, layout.prompts, layout.firsts)
        start, stop = (np.asarray(torch.as_tensor(one).cpu()) for one in bounds)
        total, position = np.zeros(count, dtype=np.int64), layout.cached
        for width in widths:
            first = 0 if layout.whole else position
            reached = np.minimum(stop, first + width) - np.maximum(start, first)
            total, position = total + np.maximum(reached, 0), position + width
        return total

    def _settle_sites(self, change: Change) -> Sequence[str]:
        """The sites at which a change acted in every pass."""
        if change.acts_on == "weights":
            if not (changed := self._seen.parameters.get(change.name)):
                raise _Refused("and no parameter has changed")
            return changed
        notes = self._seen.sites.get(change.name if change.maps is None else MAPS, {})
        known = change.sites(self._seen.model)
        sites = list(notes) if known is None else known
        if not sites and known is None:
            raise _Refused("which left no trace: let its `applied` act by `change_outputs`")
        calls = {site: notes[site].calls if site in notes else 0 for site in sites}
        missed = [site for site, number in calls.items() if number < len(self._seen.passes)]
        if missed:
            raise _Refused(
                f"changed at {len(sites) - len(missed)} of {len(sites)} sites: {first_few(missed)} "
                f"had it in {calls[missed[0]]} of {len(self._seen.passes)} passes"
            )
        return sites

    def _settle_tokens(
        self,
        change: Change,
        own: Sequence[int],
        rows: Sequence[Sequence[Change]],
        wanted: Int[np.ndarray, " rows"],
    ) -> None:
        """Checks that maps moved every token that they were to, once, at the row's strength."""
        key = _key(change)
        if key is None or (applied := self._seen.applied.get(key)) is None:
            raise _Refused("and its maps were not applied")
        strengths = [_total(change, row) for row in rows]
        copies = self._seen.passes[0][0] // len(rows)
        moved = applied.tokens(strengths)[:, own]
        low = np.broadcast_to(wanted[own] * copies, moved.shape).copy()
        # The output embeddings may be asked for the last token alone.
        heads = self._are_heads(applied.sites)
        low[heads] = len(self._seen.passes) * copies if change.positions == "all" else 0
        high = moved if change.positions == "all" else low.copy()
        high[heads] = moved[heads]
        for site, number in zip(applied.sites, applied.calls(), strict=True):
            if number > len(self._seen.passes):
                raise _Refused(f"and had {site} {number} times in {len(self._seen.passes)} passes")
        if (wrong := np.argwhere((moved < low) | (moved > high))).size:
            site, place = wrong[0]
            raise _Refused(
                f"changed so {moved[site, place]} of {low[site, place]} tokens at "
                f"{applied.sites[site]}",
                int(place),
            )

    def _settle_effect(
        self,
        change: Change,
        own: Sequence[int],
        rows: Sequence[Sequence[Change]],
        sites: Sequence[str],
    ) -> list[int]:
        """Sites that handed on something else than they got, where that was compared."""
        kind = change.name if change.maps is None else MAPS
        moved = self._seen.moved.get(kind)
        # Other windows need not reach the last token, which is what is compared.
        if moved is None or not change.certain or change.positions not in ("all", "last"):
            return [len(sites)] * len(own)
        places = [list(self._seen.sites[kind]).index(site) for site in sites]
        by_site = moved.reshape(*moved.shape[:2], len(rows), -1).any(3).any(0)[places]
        acted = []
        for place, row in enumerate(own):
            number = int(by_site[:, row].sum())
            if not self._alone(change, rows[row]):
                number = len(sites)
            elif not number:
                raise _Refused(
                    f"and what its {len(sites)} sites handed on is what they got: its maps were "
                    "overwritten, or rounding loses so small a strength, which float32 "
                    "(dtype=float32) or a larger one would mend",
                    place,
                )
            acted.append(number)
        return acted

    def _alone(self, change: Change, row: Sequence[Change]) -> bool:
        """Whether no other maps of a row act where a change's do, so that nothing cancels them."""
        notes = self._seen.sites.get(MAPS, {})
        others = [one for one in row if one != change and one.maps is not None]
        taken = {id(notes[site]) for one in others for site in one.maps.maps if site in notes}
        return (
            change.maps is None
            or not others
            or taken.isdisjoint(id(notes[site]) for site in change.maps.maps)
        )

    def _are_heads(self, sites: Sequence[str]) -> list[bool]:
        """Whether sites are the output embeddings."""
        head = getattr(self._seen.model, "get_output_embeddings", lambda: None)()
        modules = () if head is None else self._seen.model.named_modules()
        own = [name for name, one in modules if one is head]
        names = [split_site(site)[0] for site in sites]
        return [any(f".{one}".endswith(f".{name}") for one in own) for name in names]


def _key(change: Change) -> tuple[str, str] | None:
    """Under what maps and window a change's strengths are noted."""
    return None if change.maps is None else (change.maps.fingerprint, change.positions)


def _total(change: Change, row: Sequence[Change]) -> float:
    """The strength of a change's maps in a row, whatever the names under which it asks for them."""
    key = _key(change)
    own = (one.strength for one in row if _key(one) == key)
    return float(np.float32(sum(own, start=0.0)))


class _Refused(Exception):
    """Why a change of a row does not hold, and which of its rows."""

    def __init__(self, reason: str, place: int = 0) -> None:
        super().__init__(reason)
        self.place = place
