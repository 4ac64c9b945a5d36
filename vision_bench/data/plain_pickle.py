"""Reading the pickles CIFAR is published in, without letting them run anything.

A pickle may name any function of any installed package and call it, so an untrusted one is a
program. These files need only lists, text, numbers and NumPy arrays of numbers: whatever else a
pickle names is refused, and NumPy's own names stand for the inert classes below, so that no code of
NumPy sees the pickle's content either.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)
_MEMO_ENTRIES = 1 << 22
"""Numbered values at most: CIFAR's files number some 100,000, one for each image's name."""

_NUMBERS = frozenset({"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"})


def load_plain_pickle(path: str | Path) -> dict[str, Any]:
    """Reads a pickled dictionary of plain values and NumPy arrays of numbers.

    Args:
        path: A file such as CIFAR's `test_batch`, of any pickle protocol; bytes that Python 2 wrote
            read as Latin-1 text.

    Returns:
        The dictionary.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds something else, or names any function or class
            that such data does not need. Nothing it names is imported or called.
    """
    content = Path(path).read_bytes()
    try:
        _check_memo(content)
        value = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
        if type(value) is not dict:
            raise TypeError(f"it holds a {type(value).__name__}, not a dictionary")
        return {
            str(name): item.array() if isinstance(item, _Array) else item
            for name, item in value.items()
        }
    except _ERRORS as error:
        raise ValueError(f"{path}: not a pickle of plain values and arrays ({error})") from error


def _check_memo(content: bytes) -> None:
    """Refuses numbers of values for which the unpickler would make a table of any size."""
    for opcode, number, _ in pickletools.genops(content):
        if opcode.name not in ("PUT", "BINPUT", "LONG_BINPUT"):
            continue
        assert number is not None
        if not 0 <= number < _MEMO_ENTRIES:
            raise pickle.UnpicklingError(
                f"it numbers a value {number}: no data set has so many, the file may be malicious"
            )


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which data does not need: the file may be malicious, "
                "and is not loaded"
            )
        # A new one each time: a pickle may not leave marks on the next.
        return stand_in()


class _StandIn:
    """Something a pickle may name; it has no attributes to set."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the attributes of a function")


class _NdarrayClass(_StandIn):
    """Stands for `numpy.ndarray`, which is only ever an argument of `_reconstruct`."""

    __slots__ = ()


class _Reconstruct(_StandIn):
    """Stands for NumPy's `_reconstruct`, which makes an empty array to be filled by its state."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, typecode: Any) -> _Array:
        if not isinstance(kind, _NdarrayClass):
            raise pickle.UnpicklingError("it builds an array of another class")
        return _Array()


class _DtypeClass(_StandIn):
    """Stands for `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = False) -> _Dtype:
        if not isinstance(code, str) or code not in _NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of plain numbers")
        return _Dtype(code)


class _Encode(_StandIn):
    """Stands for `_codecs.encode`, by which Python 3 writes bytes in the old protocols."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("it encodes something other than Latin-1 text")
        return text.encode("latin1")


class _Dtype:
    """A type of numbers, and the byte order its state adds."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"an array has the byte order {order!r}")
        self.order = order


class _Array:
    """An array, described by its state."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array, after checking that its description is one of plain numbers."""
        _, shape, dtype, fortran_order, data = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(data, str | bytes):
            raise TypeError("it holds an array whose content is not plain bytes")
        raw = data.encode("latin1") if isinstance(data, str) else data
        numbers = np.frombuffer(raw, np.dtype(dtype.code).newbyteorder(dtype.order))
        return numbers.reshape(shape, order="F" if fortran_order else "C")


_STAND_INS: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy", "ndarray"): _NdarrayClass,
    ("numpy", "dtype"): _DtypeClass,
    ("_codecs", "encode"): _Encode,
}
