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

import os

import numpy as np

from ._backend import load
from .errors import DamagedError, TruncatedError

__all__ = ["Tables", "crc32c", "decode", "encode"]


def Tables(lo, n, cdf):
    """CDF rows for coding.

    Args:
        lo: int [R], the lowest symbol of each row, -8192..0.
        n: int [R], entries of each row, the escape (its last entry) included, 2..8192.
        cdf: uint16 [sum of n], cumulative frequencies of 65536 at which the entries start, row after row.

    Raises:
        ValueError: a row breaks a rule of FORMAT.md, section 4.
    """
    return load().rans.Tables(np.asarray(lo), np.asarray(n), np.asarray(cdf))


def encode(tables, symbols, rows, steps=None, lanes: int = 0, version: int = 1) -> tuple[bytes, int]:
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
        ValueError: symbols, steps or lanes out of range. IndexError: a row that does not exist.
    """
    return load().rans.encode(tables, np.asarray(symbols), np.asarray(rows), steps, lanes, version)


def decode(tables, data: bytes, lanes: int, rows, steps=None, version: int = 1) -> np.ndarray:
    """Decode what :func:`encode` wrote, given the same rows, steps and version.

    Returns:
        int16 [K].

    Raises:
        TruncatedError: the stream ends too early. DamagedError: it does not end as every good stream does.
        ValueError, IndexError: as in :func:`encode`.
    """
    vectors = os.environ.get("CCM_FAST_ISA") != "scalar"
    symbols, status = load().rans.decode(tables, bytes(data), lanes, np.asarray(rows), steps, vectors, version)
    if status == 1:
        raise TruncatedError("the rANS stream ends before its last symbol")
    if status:
        raise DamagedError("the rANS stream is damaged: it does not end in the known state")
    return symbols


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C (Castagnoli) of bytes, continuing from ``crc``."""
    return load().rans.crc32c(bytes(data), crc)
