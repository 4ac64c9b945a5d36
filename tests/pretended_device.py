"""An accelerator that is only pretended: what a GPU would refuse is refused, and syncs are counted.

`torch.device("pretended")` is PyTorch's slot for backends of others (PrivateUse1), with a tensor
subclass instead of kernels: every operation runs on the CPU, on tensors that only look as if they
lay elsewhere. So code that asks where a tensor is, moves it, or makes another beside it gets the
answers of a GPU, and values are real. What PyTorch refuses on a GPU is refused here:

- an operation on tensors of both devices, but for scalars in pointwise operations, for indices of
  a tensor on the accelerator, and for copies;
- `numpy()` of a tensor on the accelerator, and a CPU generator for a draw on the accelerator.

Draws on the accelerator come from a generator of its own, as on a GPU.

A *sync* is where the host waits for the accelerator, by PyTorch's own definition (what
`torch.cuda.set_sync_debug_mode` warns of): a value read (`item`, `bool`, `tolist`), a blocking copy
in either direction, and results whose shape depends on values (`nonzero`, masks as indices).

Source: `torch.utils.backend_registration`, whose Python backends have no C++.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "pretended"

_aten = torch.ops.aten

_READING = {
    *(_aten._local_scalar_dense, _aten.equal, _aten.nonzero, _aten.masked_select),
    *(_aten._unique, _aten._unique2, _aten.unique_dim, _aten.unique_consecutive),
    *(_aten.bincount, _aten.histc, _aten._linalg_check_errors),
}
"""Operations whose shape, result or error depends on values that only the accelerator knows."""

_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_COPYING = {_aten._to_copy, _aten.copy_, _aten.copy}
_TAKES_SCALARS = {_aten.where, _aten.masked_fill, _aten.masked_fill_, _aten.fill, _aten.fill_}
"""Not tagged as pointwise, but they take a scalar of the CPU."""


_FACTORIES = (
    *("empty.memory_format", "empty_strided"),
    *("arange", "arange.start", "arange.start_step", "linspace", "eye", "eye.m"),
    *("randperm", "randperm.generator"),
)
"""What makes tensors on the device; all other factories are made of the first two."""


class MixedDevicesError(RuntimeError):
    """Tensors of the CPU and of the accelerator met in one operation."""


class Sync(NamedTuple):
    """A wait of the host for the accelerator.

    Attributes:
        operation: What waited.
        package: The package whose code asked for it.
        place: File and line there.
    """

    operation: str
    package: str
    place: str


@dataclass
class _Accelerator:
    """What is noted while the accelerator is there, and the state of its generator."""

    there: bool = False
    syncs: list[Sync] = field(default_factory=list)
    random_state: torch.Tensor | None = None


_accelerator = _Accelerator()


class _Backend(backend_registration._DummyBackendModule):
    """What `torch.pretended` is."""

    def is_available(self) -> bool:
        return _accelerator.there

    def device_count(self) -> int:
        return int(_accelerator.there)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        # Other draws than the CPU's of the same seed.
        _accelerator.random_state = torch.Generator().manual_seed(seed ^ 0x5EED).get_state()


class _Hook(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        return _accelerator.there


class PretendedTensor(torch.Tensor):
    """A tensor on the accelerator; `held` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> PretendedTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy: use cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.held!r})"


@contextlib.contextmanager
def pretended_device() -> Iterator[list[Sync]]:
    """Lets the accelerator be there while the block runs.

    Yields:
        The syncs of the block, which grow as it runs.
    """
    _register()
    outer = _accelerator.there, _accelerator.syncs
    _accelerator.there, _accelerator.syncs = True, []
    torch.pretended.manual_seed_all(0)
    try:
        # The engine's threads for devices were started before this one was known.
        with torch.autograd.set_multithreading_enabled(False):
            yield _accelerator.syncs
    finally:
        _accelerator.there, _accelerator.syncs = outer


def by_place(syncs: list[Sync], package: str | None = None) -> dict[str, int]:
    """How often each operation waited at each place, for a message; of one package, or of all."""
    return dict(
        Counter(
            f"{one.operation} {one.package} {one.place}"
            for one in syncs
            if package in (None, one.package)
        )
    )


@functools.cache
def _register() -> torch.library.Library:
    """Makes the device known to this process, which cannot be taken back."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend(), _Hook())
    library = torch.library.Library("aten", "IMPL")
    # Also what copies are made of where dispatch to Python is off, as within `torch.tensor`.
    for name in _FACTORIES:
        library.impl(name, _factory(name), "PrivateUse1")
    library.impl("copy_", lambda *args: _run(_aten.copy_.default, args, {}), "PrivateUse1")
    return library


def _factory(name: str) -> Any:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(_aten, packet), overload or "default")

    def factory(*args: Any, **kwargs: Any) -> torch.Tensor:
        _refuse_generator(func, kwargs)
        given = {**kwargs, "device": "cpu", "pin_memory": False}
        return PretendedTensor(_drawn(func, args, given))

    return factory


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the values, if a GPU would."""
    if func._can_decompose() and func not in (_aten.lift_fresh.default,):
        found = func.decompose(*args, **kwargs)
        if found is not NotImplemented:
            return found
    if torch.Tag.inplace_view in func.tags:
        _refuse_mixed(func, args, kwargs)
        func(*tree_map_only(PretendedTensor, lambda one: one.held, args), **kwargs)
        seen, held = args[0], args[0].held
        if (seen.shape, seen.stride()) == (held.shape, held.stride()):
            return args[0]  # as where parametrizations take the storage of another tensor
        with no_dispatch():  # the shape that is seen from outside
            return func(*args, **kwargs)
    asked = kwargs.get("device")
    there = asked is None or torch.device(asked).type == NAME
    _refuse_mixed(func, args, kwargs)
    _refuse_generator(func, kwargs)
    _note_sync(func, args, kwargs, there)
    held, held_kwargs = tree_map_only(PretendedTensor, lambda one: one.held, (args, kwargs))
    if asked is not None:
        held_kwargs["device"] = "cpu"
    found = _drawn(func, held, held_kwargs)
    if func.overloadpacket is _aten.copy_:
        there = isinstance(args[0], PretendedTensor)
    returns = func._schema.returns
    results = found if isinstance(found, tuple) else (found,)
    kept = [
        _same(func, one.alias_info, args, kwargs)
        if one.alias_info is not None and one.alias_info.is_write
        else tree_map_only(torch.Tensor, PretendedTensor, result)
        if there
        else result
        for one, result in zip(returns, results, strict=True)
    ]
    if not returns:
        return None
    return kept[0] if len(kept) == 1 else tuple(kept)


def _same(func: Any, alias: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The argument that an operation writes to and returns."""
    for index, one in enumerate(func._schema.arguments):
        if one.alias_info is not None and one.alias_info.before_set == alias.before_set:
            found = kwargs[one.name] if one.kwarg_only else args[index]
            if isinstance(found, PretendedTensor) and found.shape != found.held.shape:
                raise NotImplementedError(f"{func} resizes a pretended tensor")
            return found
    raise NotImplementedError(f"{func} returns what it was not given")


def _refuse_mixed(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    packet = func.overloadpacket
    if packet in _COPYING:
        return
    # Indices may lie on the CPU, as long as the tensor does not.
    checked = [args[0], args[2]] if packet in _INDEXING and len(args) > 2 else (args, kwargs)
    if packet is _aten.index and isinstance(args[0], PretendedTensor):
        return
    for one in tree_leaves(checked):
        if not isinstance(one, torch.Tensor) or isinstance(one, PretendedTensor):
            continue
        pointwise = torch.Tag.pointwise in func.tags or packet in _TAKES_SCALARS
        if one.dim() == 0 and (pointwise or packet in _INDEXING) and one is not args[0]:
            continue
        if one.dim() == 0 and torch.Tag.pointwise in func.tags and not func._schema.is_mutable:
            continue
        raise MixedDevicesError(
            f"{func} was given a tensor {tuple(one.shape)} of {one.device} beside those of {NAME}, "
            f"at {':'.join(_place()[1:])}"
        )


def _refuse_generator(func: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("generator") is not None:
        raise MixedDevicesError(
            f"{func} on {NAME} was given a generator of the CPU, at {':'.join(_place()[1:])}"
        )


def _note_sync(func: Any, args: Any, kwargs: dict[str, Any], there: bool) -> None:
    packet = func.overloadpacket
    if packet in _COPYING:
        ends = (
            (isinstance(args[0], PretendedTensor), there)
            if packet is _aten._to_copy
            else tuple(isinstance(one, PretendedTensor) for one in args[:2])
        )
        blocking = not (kwargs.get("non_blocking") or (packet is not _aten._to_copy and args[2:]))
        waits = int(ends[0] != ends[1] and blocking)
    elif packet in _INDEXING:
        indices = [one for one in args[1] if one is not None]
        waits = sum(
            one.dtype in (torch.bool, torch.uint8) or not isinstance(one, PretendedTensor)
            for one in indices
        )
    elif packet is _aten.repeat_interleave:
        waits = int(kwargs.get("output_size") is None)
    else:
        waits = int(packet in _READING)
    if waits:
        _accelerator.syncs += [Sync(packet.__name__, *_place())] * waits


def _drawn(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation; what is random draws from the accelerator's own generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    outer = torch.get_rng_state()
    torch.set_rng_state(_accelerator.random_state)
    try:
        return func(*args, **kwargs)
    finally:
        _accelerator.random_state = torch.get_rng_state()
        torch.set_rng_state(outer)


_TORCH = str(Path(torch.__file__).parent)
_WRAPPERS = (_TORCH, __file__, "jaxtyping", "beartype", "contextlib", "functools", "<")


def _place() -> tuple[str, str]:
    """Package and place of the code that asked PyTorch for the operation."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not any(one in name if one.isalpha() else name.startswith(one) for one in _WRAPPERS):
            path = Path(name)
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            return package, f"{path.parent.name}/{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "", ""
