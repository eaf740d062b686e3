"""Code lengths by the integer tables: what symbols cost in a file, for many candidates at once."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor

from ..integer.frozen import FrozenEntropyModel
from ..integer.plan import TableRows
from ..integer.reference import NB_BITS
from ..integer.tables import PRECISION

__all__ = ["TableBits", "tables_of"]


class TableBits:
    """-log2 of the tables' frequencies as one flat array, and the escapes' raw bits (FORMAT.md, section 4).

    Args:
        rows: the tables of y or of z.
    """

    def __init__(self, rows: TableRows):
        cdf = rows.cdf.astype(np.int64)
        end = np.append(cdf[1:], 0)  # an entry ends where the next one begins, the last of a row at 65536
        end[rows.start[1:] - 1] = 1 << PRECISION
        self._bits = torch.from_numpy((PRECISION - np.log2((end - cdf).astype(np.float64))).astype(np.float32))
        self._lo = torch.from_numpy(rows.lo.astype(np.int32))
        self._escape = torch.from_numpy(rows.n.astype(np.int32) - 1)
        self._start = torch.from_numpy(rows.start[:-1].astype(np.int32))

    def __call__(self, row: Tensor, symbol: Tensor) -> Tensor:
        """Bits, float32, of symbols without their offsets; both integer tensors of one shape, on the CPU."""
        row = row.int()
        entry = symbol - self._lo[row]
        escape = self._escape[row]
        outside = (entry < 0) | (entry >= escape)
        bits = self._bits[self._start[row] + torch.where(outside, escape, entry)]
        if bool(outside.any()):  # few, if any: only those are worked out
            below, above = entry[outside], (entry - escape)[outside]
            value = torch.where(below < 0, -2 * below - 1, 2 * above).clamp(min=1)
            bits[outside] += NB_BITS + torch.floor(torch.log2(value.double())).float()
        return bits


_known: weakref.WeakKeyDictionary[FrozenEntropyModel, tuple[TableBits, TableBits]] = weakref.WeakKeyDictionary()


def tables_of(frozen: FrozenEntropyModel) -> tuple[TableBits, TableBits]:
    """The code lengths of y's and of z's tables, made once per model."""
    if frozen not in _known:
        _known[frozen] = TableBits(frozen.plan.y_rows), TableBits(frozen.plan.z_rows)
    return _known[frozen]
