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
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aim_plugins.modulation.activation_map import ActivationMap, Adding
from aim_plugins.modulation.hooks import change_outputs

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
    def support(self) -> Support | None:
        """Both ends of the support; None where no neuron has one."""
        return (self.support_min, self.support_max) if self.is_bounded else None

    def displacement(
        self, activations: Float[Tensor, "... neurons"]
    ) -> Float[Tensor, "... neurons"]:
        """T(x) - x within the support: what is added to activations at strength 1."""
        return displace(activations, self.scale - 1, self.shift, self.support, clip=self.clip)

    def displacement_on(self, device: torch.device | str) -> Callable[[Tensor], Tensor]:
        placed = self.to(device)
        return functools.partial(
            displace,
            slope=placed.scale - 1,
            shift=placed.shift,
            support=(placed.support_min, placed.support_max) if self.is_bounded else None,
            clip=placed.clip,
        )

    def adding_on(self, device: torch.device | str) -> Adding:
        displacement = self.displacement_on(device)  # with what it needs computed once
        return lambda base, activations, strengths: torch.addcmul(
            base, strengths, displacement(activations)
        )


def fingerprint_of(maps: Mapping[str, ActivationMap], setting: str) -> str:
    """SHA-256 over named maps and how they are applied, as 64 hexadecimal digits."""
    digest = hashlib.sha256(setting.encode())
    for name, one in maps.items():
        digest.update(f"|{name}|{one.signature}|".encode())
        for vector in one.parts.values():
            digest.update(vector.detach().cpu().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def read_strengths(
    strengths: Float[Tensor, " rows"] | Sequence[float] | float,
) -> Float[Tensor, " rows"]:
    """Strengths as a vector on the CPU.

    Raises:
        ValueError: If one is no finite number.
    """
    rows = torch.as_tensor(strengths, dtype=torch.float32).reshape(-1).cpu()
    if not bool(rows.isfinite().all()):
        raise ValueError(f"strengths={strengths!r} must be finite numbers")
    return rows


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

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over sites, values and positions, as 64 hexadecimal digits."""
        return fingerprint_of(self.maps, self.positions)

    @contextlib.contextmanager
    def applied(
        self,
        model: torch.nn.Module,
        strengths: Float[Tensor, " rows"] | Sequence[float] | float,
        starts: Int[Tensor, " rows"] | None = None,
    ) -> Iterator[None]:
        """Transports the model's activations while the block runs.

        Args:
            model: The model the maps were learned on.
            strengths: Strength λ of each row of the batches that will be run, or one for all. A
                module may see a multiple of these rows (beams, or tokens laid out as rows), in
                which case each strength holds for as many consecutive ones. Where all are 0,
                nothing is attached.
            starts: With positions "last", the first transported position of each row in this
                forward pass; None transports the last position only, as a decoding step does on
                left-padded prompts.

        Raises:
            ValueError: If the model lacks a module, or a module has another width; the latter is
                raised in the forward pass.
        """
        rows = read_strengths(strengths)
        if not bool((rows != 0).any()):
            yield
            return
        uniform = rows[:1] if bool((rows == rows[0]).all()) else rows
        weights = _Weights(uniform, starts, last_only=self.positions == "last")
        functions = {site: self._transport(site, one, weights) for site, one in self.maps.items()}
        with weights.watching(model), change_outputs(model, functions):
            yield

    def _transport(
        self, site: str, one: ActivationMap, weights: _Weights
    ) -> Callable[[Tensor], Tensor]:
        def transport(activations: Tensor) -> Tensor:
            one.check_width(site, activations.shape[-1])
            key = (site, activations.device)
            if key not in self._placed:
                self._placed[key] = one.adding_on(activations.device)
            # Maps are float32; a half-precision model's activations are rounded once, at the end.
            exact = activations.to(torch.promote_types(activations.dtype, torch.float32))
            weight = weights.of(activations)
            moved = self._placed[key](exact, exact, weight).to(activations.dtype)
            # An infinite displacement times 0 is no 0.
            return torch.where(weight == 0, activations, moved) if weights.partial else moved

        return transport


class _Weights:
    """The strength of each activation of a batch, broadcast over neurons.

    Attributes:
        partial: Whether some activations are to stay as they are.
    """

    def __init__(
        self, rows: Float[Tensor, " rows"], starts: Tensor | None, *, last_only: bool
    ) -> None:
        self._rows = rows
        self._starts = None if starts is None else starts.cpu()
        self._last_only = last_only
        self.partial = last_only or bool((rows == 0).any())
        self._batch: tuple[int, int] | None = None
        self._kept: dict[Any, Tensor] = {}

    @contextlib.contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Notes the rows and tokens of each batch, which modules may lay out in one dimension."""
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
        if not self._last_only or embeddings is None:
            yield
            return

        def note(module: Any, inputs: Any, embedded: Tensor) -> None:
            self._batch = (embedded.shape[0], embedded.shape[1])

        handle = embeddings.register_forward_hook(note)
        try:
            yield
        finally:
            handle.remove()

    def of(self, activations: Tensor) -> Tensor:
        """Strengths of activations [rows, (tokens,) neurons], in a shape that broadcasts."""
        key = (activations.shape[:-1], activations.device, self._batch)
        if key not in self._kept:
            self._kept[key] = self._spread(activations.shape).to(activations.device)
        return self._kept[key]

    def _spread(self, shape: torch.Size) -> Tensor:
        if not self._last_only:
            if len(self._rows) == 1:
                return self._rows
            return self._repeat(self._rows, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        flat = self._batch is not None and shape[:-1] == (self._batch[0] * self._batch[1],)
        rows, tokens = self._batch if flat and self._batch else shape[:2]
        if len(shape) < 3 and not flat:
            raise ValueError(
                f"positions='last' cannot tell rows from tokens in outputs of the shape "
                f"{tuple(shape)}: leave such modules out of the pattern"
            )
        position = torch.arange(tokens)
        if self._starts is None:
            chosen = (position == tokens - 1)[None]
        else:
            chosen = position[None] >= self._repeat(self._starts, rows)[:, None]
        weights = self._repeat(self._rows, rows)[:, None] * chosen
        if flat:
            return weights.reshape(-1, 1)
        return weights.reshape(rows, tokens, *[1] * (len(shape) - 2))

    @staticmethod
    def _repeat(values: Tensor, count: int) -> Tensor:
        if len(values) == 1:
            return values.expand(count)
        if count % len(values):
            raise ValueError(
                f"strengths has {len(values)} rows, and a module's output {count}: give one for "
                "each row of the batch"
            )
        return values.repeat_interleave(count // len(values))
