"""Affine maps on activations, with a strength for each row of a batch.

An affine map acts on the outputs of one module, neuron by neuron: T(x) = scale * x + shift, applied
within a support, and at strength λ as (1 - λ) x + λ T(x). Learned maps of most methods reduce to
these four vectors, so there is one kernel; others are kinds of `ActivationMap` of their own.

Source: arXiv 2410.23054, eq. 1 (strength) and section 3.1 (support).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from aim_plugins.core.errors import ReceiptError, first_few
from aim_plugins.modulation.activation_map import ActivationMap, Adding
from aim_plugins.modulation.applied_strengths import checksum
from aim_plugins.modulation.hooks import change_outputs, find_module, split_site
from aim_plugins.modulation.parameters import to_host
from aim_plugins.modulation.token_weights import Layout, TokenWeights, read_strengths
from aim_plugins.modulation.witness import current

Support = tuple[Float[Tensor, " neurons"], Float[Tensor, " neurons"]]


def displace(
    activations: Float[Tensor, "... neurons"],
    slope: Float[Tensor, " neurons"],
    shift: Float[Tensor, " neurons"],
    support: Support | None,
    *,
    clip: bool,
) -> Float[Tensor, "... neurons"]:
    """T(x) - x of T(x) = (1 + slope) x + shift.

    Args:
        activations: The x.
        slope: Scale of the map less 1.
        shift: Shift of the map.
        support: Lower and upper end of the support; None applies the map everywhere.
        clip: Whether x outside moves as its nearest end, instead of not at all.
    """
    if support is None:
        return torch.addcmul(shift, activations, slope)
    low, high = support
    if clip:
        return torch.addcmul(shift, activations.clamp(low, high), slope)
    moved = torch.addcmul(shift, activations, slope)
    return torch.where((low < activations) & (activations < high), moved, 0.0)


@dataclass(frozen=True, eq=False)
class AffineMap(ActivationMap):
    """An affine map of each neuron of a module's output.

    Attributes:
        scale: Factor of each neuron.
        shift: Summand of each neuron, in units of the activation.
        support_min: Lower end of each neuron's support; -inf where it has none.
        support_max: Upper end of each neuron's support; inf where it has none.
        clip: What happens outside the support. False leaves x there as it is, which jumps at its
            ends; True moves x by as much as the nearest end moves: x + T(c) - c, c = clip(x).
    """

    KIND: ClassVar[str] = "affine"
    PARTS: ClassVar[tuple[str, ...]] = ("scale", "shift", "support_min", "support_max")

    scale: Float[Tensor, " neurons"]
    shift: Float[Tensor, " neurons"]
    support_min: Float[Tensor, " neurons"]
    support_max: Float[Tensor, " neurons"]
    clip: bool = False

    @classmethod
    def everywhere(
        cls, scale: Float[Tensor, " neurons"], shift: Float[Tensor, " neurons"]
    ) -> AffineMap:
        """A map without a support."""
        infinite = torch.full_like(scale, torch.inf)
        return cls(scale, shift, -infinite, infinite)

    @property
    def neurons(self) -> int:
        return len(self.scale)

    @property
    def signature(self) -> str:
        return f"{self.clip}|{self.neurons}"

    @functools.cached_property
    def is_bounded(self) -> bool:
        """Whether any neuron has a support."""
        return bool(self.support_min.isfinite().any() or self.support_max.isfinite().any())

    @property
    def moves_all(self) -> bool:
        """Whether it moves some neuron wherever that is, but for single points."""
        endless = self.support_min.isneginf() & self.support_max.isposinf()
        return bool((self.shift.bool() & (endless | self.clip)).any())

    @property
    def support(self) -> Support | None:
        """Both ends of the support; None where no neuron has one."""
        return (self.support_min, self.support_max) if self.is_bounded else None

    def displacement(
        self, activations: Float[Tensor, "... neurons"]
    ) -> Float[Tensor, "... neurons"]:
        """T(x) - x within the support: what is added to activations at strength 1."""
        return displace(activations, self.scale - 1, self.shift, self.support, clip=self.clip)

    def displacement_on(self, device: torch.device | str) -> functools.partial[Tensor]:
        placed = self.to(device)
        return functools.partial(
            displace,
            slope=placed.scale - 1,
            shift=placed.shift,
            support=(placed.support_min, placed.support_max) if self.is_bounded else None,
            clip=placed.clip,
        )

    def adding_on(self, device: torch.device | str) -> Adding:
        # With what it needs computed once.
        return functools.partial(_add, displacement=self.displacement_on(device))


def fingerprint_of(maps: Mapping[str, ActivationMap], setting: str) -> str:
    """SHA-256 over named maps and how they are applied, as 64 hexadecimal digits."""
    digest = hashlib.sha256(setting.encode())
    for name, one in maps.items():
        digest.update(f"|{name}|{one.signature}|".encode())
        for vector in one.parts.values():
            digest.update(vector.detach().cpu().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


class ActivationMaps:
    """Maps of chosen modules, ready to run on a model.

    Args:
        maps: A map for each site (see `hooks`), in the order in which a forward pass reaches them.
        positions: "all" transports every token; "last" the last token of the prompt and every
            token after it, which is what a decoder that transports the last token of each step
            does.

    Raises:
        ValueError: If `positions` is neither.
    """

    def __init__(self, maps: Mapping[str, ActivationMap], positions: str = "all") -> None:
        if positions not in ("all", "last"):
            raise ValueError(f"positions={positions!r} is unknown: write 'all' or 'last'")
        self.maps = dict(maps)
        self.positions = positions
        self._placed: dict[tuple[str, torch.device], Adding] = {}
        self._sums: dict[str, int] = {}

    @functools.cached_property
    def is_certain(self) -> bool:
        """Whether some map surely moves whatever it is given, but for rounding.

        A scale leaves zeros as they are, and a support all that lies outside of it.
        """
        affine = [one for one in self.maps.values() if isinstance(one, AffineMap)]
        return len(affine) == len(self.maps) and any(one.moves_all for one in affine)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over sites, values and positions, as 64 hexadecimal digits."""
        return fingerprint_of(self.maps, self.positions)

    def applied(
        self,
        model: torch.nn.Module,
        strengths: Float[Tensor, " rows"] | Sequence[float] | float,
        layout: Layout | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        """Transports the model's activations while the block runs, see `applied_maps`.

        Args:
            model: The model the maps were learned on.
            strengths: Strength λ of each row of the batches that will be run, or one for all.
            layout: As in `applied_maps`.
        """
        rows = read_strengths(strengths).tolist()
        moves = [[Movement(self, strength, self.positions)] for strength in rows]
        return applied_maps(model, moves, layout)

    def adding_at(self, site: str, activations: Tensor) -> Adding:
        """What adds λ (T(x) - x) at a site, with the map's tensors kept where x lies."""
        self.maps[site].check_width(site, activations.shape[-1])
        return self._place(site, activations.device)

    def _place(self, site: str, device: torch.device) -> Adding:
        if (site, device) not in self._placed:
            self._placed[site, device] = self.maps[site].adding_on(device)
            self._sums[site] = int(checksum(_tensors(self.maps[site].adding_on("cpu"))))
        return self._placed[site, device]

    def check_placed(self) -> None:
        """Refuses vectors that are no more on the device as they came there.

        Raises:
            ReceiptError: If there are any.
        """
        sums = to_host([checksum(_tensors(one)) for one in self._placed.values()])
        found = zip(self._placed, sums, strict=True)
        wrong = [site for (site, _), one in found if int(one) != self._sums[site]]
        if wrong:
            raise ReceiptError(
                f"maps of {first_few(wrong)} were overwritten where they lie, so that they no "
                "longer move activations as they were learned: load the transport again"
            )


def _tensors(adding: Adding) -> list[Tensor]:
    """What a map's `adding_on` computes with."""
    if isinstance(adding, functools.partial):
        given = adding.keywords["displacement"].keywords
        return [given["slope"], given["shift"], *(given["support"] or ())]
    return list(adding.__self__.parts.values())  # type: ignore[attr-defined]


def _add(
    base: Tensor,
    activations: Tensor,
    strengths: Tensor,
    *,
    displacement: Callable[[Tensor], Tensor],
) -> Tensor:
    return torch.addcmul(base, strengths, displacement(activations))


@dataclass(frozen=True)
class Movement:
    """How maps move a row.

    Attributes:
        maps: The maps.
        strength: Their strength λ.
        window: The tokens that they reach, see `windows`.
    """

    maps: ActivationMaps
    strength: float
    window: str = "all"

    @property
    def key(self) -> tuple[str, str]:
        """What tells maps and window from others."""
        return self.maps.fingerprint, self.window


@contextlib.contextmanager
def applied_maps(
    model: torch.nn.Module,
    rows: Sequence[Sequence[Movement]],
    layout: Layout | None = None,
) -> Iterator[None]:
    """Transports the model's activations while the block runs, by one or several maps a row.

    Several maps of one site add what each does to the plain output x of that site:
    x + Σ λ_k (T_k(x) - x).

    Args:
        model: The model the maps were learned on.
        rows: What moves each row of the batches that will be run, or all of them. A module may see
            a multiple of these rows (beams, or tokens laid out as rows), in which case each holds
            for as many consecutive ones. Where all strengths are 0, nothing is attached.
        layout: Where the rows' prompts end, which windows other than "all" ask for. Without it
            "last" is the last position of each pass, as of a decoding step on left-padded prompts.

    Raises:
        ValueError: If a strength is no finite number, a window needs a layout, the model lacks a
            module, or a module has another width; the latter is raised in the forward pass.
    """
    asked = {one.key: one.maps for row in rows for one in row}
    moves: dict[tuple[torch.nn.Module, int], list[_Move]] = {}
    used: dict[tuple[str, str], TokenWeights] = {}
    with contextlib.ExitStack() as stack:
        # In an order of their own, as sums depend on theirs and no row must on the others.
        for key, maps in sorted(asked.items(), key=lambda item: item[0]):
            strengths = read_strengths(
                [sum((one.strength for one in row if one.key == key), start=0.0) for row in rows]
            )
            if not bool((strengths != 0).any()):
                continue
            uniform = strengths[:1] if bool((strengths == strengths[0]).all()) else strengths
            weights = TokenWeights(uniform, key[1], layout)
            used[key] = weights
            stack.enter_context(weights.watching(model))
            for site in maps.maps:
                name, output = split_site(site)
                own = moves.setdefault((find_module(model, name), output), [])
                own.append(_Move(maps, site, weights))
        functions = {own[0].site: functools.partial(_moved, own) for own in moves.values()}
        if (witness := current()) is not None:
            for own in moves.values():
                witness.share(own[0].site, [move.site for move in own])
        stack.enter_context(change_outputs(model, functions))
        yield
    if (witness := current()) is not None:
        for key, weights in used.items():
            asked[key].check_placed()
            witness.applied[key] = weights.applied()


@dataclass(frozen=True)
class _Move:
    """What one of several maps adds at a site."""

    maps: ActivationMaps
    site: str
    weights: TokenWeights

    def __call__(self, activations: Tensor, moved: Tensor) -> Tensor:
        """Adds to `moved` what the map does to `activations`."""
        weight = self.weights.of(activations, self.site)
        added = self.maps.adding_at(self.site, activations)(moved, activations, weight)
        # An infinite displacement times 0 is no 0.
        return torch.where(weight == 0, moved, added) if self.weights.partial else added


def _moved(moves: Sequence[_Move], activations: Tensor) -> Tensor:
    # Maps are float32; a half-precision model's activations are rounded once, at the end.
    exact = activations.to(torch.promote_types(activations.dtype, torch.float32))
    moved = exact
    for move in moves:
        moved = move(exact, moved)
    return moved.to(activations.dtype)
