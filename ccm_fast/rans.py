"""The rANS coder over bytes and NumPy arrays (FORMAT.md, sections 4 and 5), without torch.

>>> import numpy as np
>>> from ccm_fast import rans
>>> tables = rans.Tables(lo=[-1], n=[4], cdf=[0, 16384, 49152, 65535])  # symbols -1, 0, 1 and the escape
>>> rows = np.zeros(5, np.uint16)
>>> data, lanes = rans.encode(tables, np.array([0, 0, 1, -1, 7]), rows)
>>> rans.decode(tables, data, lanes, rows).tolist()
[0, 0, 1, -1, 7]
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from ._backend import load_rans
from .errors import DamagedError, TruncatedError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Tables", "crc32c", "decode", "encode"]

#: Symbols of a stream, and of a step: both are counted in 32 bits.
MAX_SYMBOLS = 2**31 - 1


def _whole(
    values: ArrayLike, name: str, dtype: type[np.generic], low: int, high: int, error: type[Exception] = ValueError
) -> np.ndarray:
    """Values as an array of ``dtype``, to which nothing is cast that it does not hold.

    Raises:
        TypeError: not whole numbers.
        ValueError: more of them than streams can have.
        ``error``: one lies outside low..high.
    """
    array = np.asarray(values)
    if array.size > MAX_SYMBOLS:
        raise ValueError(f"{name}: at most {MAX_SYMBOLS} of them, not {array.size}")
    if array.size == 0 and not isinstance(values, np.ndarray):  # NumPy takes an empty list for one of floats
        array = array.astype(dtype)
    if array.dtype.kind == "O":  # numbers beyond 64 bits
        found = [operator.index(v) for v in array.flat]
        least, most = min(found), max(found)
    elif array.dtype.kind not in "iub":
        raise TypeError(f"{name} must be whole numbers, not of dtype {array.dtype}")
    elif array.dtype == dtype or not array.size:
        return np.ascontiguousarray(array, dtype)
    else:
        least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise error(f"{name} must lie in {low}..{high}, not be {least if least < low else most}")
    return np.ascontiguousarray(array, dtype)


def _rows(rows: ArrayLike, tables: Any) -> np.ndarray:
    return _whole(rows, "rows", np.uint16, 0, min(len(tables), 1 << 16) - 1, IndexError)


def _steps(steps: ArrayLike | None) -> np.ndarray | None:
    return None if steps is None else _whole(steps, "steps", np.int32, 0, MAX_SYMBOLS)


def _number(value: int, name: str, low: int, high: int) -> int:
    value = operator.index(value)
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in {low}..{high}, not be {value}")
    return value


def _bytes(data: bytes | bytearray | memoryview) -> bytes:
    """The bytes of an object that has some; a number, of which ``bytes`` would make so many zeros, has none."""
    return data if isinstance(data, bytes) else memoryview(data).tobytes()


def Tables(lo: ArrayLike, n: ArrayLike, cdf: ArrayLike) -> Any:
    """CDF rows for coding.

    Args:
        lo: int [R], the lowest symbol of each row, -8192..0.
        n: int [R], entries of each row, the escape (its last entry) included, 2..8192.
        cdf: uint16 [sum of n], cumulative frequencies of 65536 at which the entries start, row after row.

    Raises:
        TypeError: not whole numbers.
        ValueError: a row breaks a rule of FORMAT.md, section 4.
    """
    return load_rans().Tables(
        _whole(lo, "lo", np.int32, -MAX_SYMBOLS, MAX_SYMBOLS),
        _whole(n, "n", np.int32, 0, MAX_SYMBOLS),
        _whole(cdf, "cdf", np.uint16, 0, 65535),
    )


def encode(
    tables: Any,
    symbols: ArrayLike,
    rows: ArrayLike,
    steps: ArrayLike | None = None,
    lanes: int = 0,
    version: int = 1,
) -> tuple[bytes, int]:
    """Encode symbols.

    Args:
        tables: from :func:`Tables`.
        symbols: int [K], each in -32767..32767; those outside a row's range are escaped.
        rows: int [K], the row of each symbol.
        steps: int [S], sizes of the steps (each begins at lane 0); one step of everything by default.
        lanes: 1, 2, 4, 8, 16 or 32 interleaved states, in version 2 also 64 or 128; 0: chosen from the payload.
        version: of the stream, 1 or 2.

    Returns:
        The stream and the number of lanes, which the decoder has to be told.

    Raises:
        TypeError: symbols, rows, steps or lanes are not whole numbers, or data is no bytes.
        ValueError: symbols, steps or lanes out of range, or more than 2^31 - 1 symbols.
        IndexError: a row that does not exist.
    """
    symbols, rows = _whole(symbols, "symbols", np.int32, -32767, 32767), _rows(rows, tables)
    lanes, version = _number(lanes, "lanes", 0, 128), _number(version, "version", 1, 2)
    coded: tuple[bytes, int] = load_rans().encode(tables, symbols, rows, _steps(steps), lanes, version)
    return coded


def decode(
    tables: Any,
    data: bytes | bytearray | memoryview,
    lanes: int,
    rows: ArrayLike,
    steps: ArrayLike | None = None,
    version: int = 1,
) -> NDArray[np.int16]:
    """Decode what :func:`encode` wrote, given the same rows, steps and version.

    Returns:
        int16 [K].

    Raises:
        TruncatedError: the stream ends too early. DamagedError: it does not end as every good stream does.
        TypeError, ValueError, IndexError: as in :func:`encode`.
    """
    lanes, version = _number(lanes, "lanes", 1, 128), _number(version, "version", 1, 2)
    data, rows = _bytes(data), _rows(rows, tables)
    symbols: NDArray[np.int16]
    symbols, status = load_rans().decode(tables, data, lanes, rows, _steps(steps), None, version)
    if status == 1:
        raise TruncatedError("the rANS stream ends before its last symbol")
    if status:
        raise DamagedError("the rANS stream is damaged: it does not end in the known state")
    return symbols


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """CRC-32C (Castagnoli) of bytes, continuing from ``crc``, 0..2^32 - 1.

    Raises:
        TypeError: data is no bytes, or crc no whole number.
        ValueError: crc out of range.
    """
    value: int = load_rans().crc32c(_bytes(data), _number(crc, "crc", 0, 2**32 - 1))
    return value
