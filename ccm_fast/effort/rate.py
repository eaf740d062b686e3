"""Code lengths by the integer tables: what symbols cost in a file, for many candidates at once."""

from __future__ import annotations

import weakref

import torch

from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.network import TableCost

__all__ = ["tables_of"]


_known: weakref.WeakKeyDictionary[FrozenEntropyModel, tuple[TableCost, TableCost]] = weakref.WeakKeyDictionary()


def tables_of(frozen: FrozenEntropyModel) -> tuple[TableCost, TableCost]:
    """The code lengths of y's and of z's tables, made once per model."""
    if frozen not in _known:
        plan = frozen.plan
        y_bits = TableCost(plan.y_rows, torch.float32, plan.skip_rows)
        _known[frozen] = y_bits, TableCost(plan.z_rows, torch.float32)
    return _known[frozen]
