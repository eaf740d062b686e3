"""Code lengths by the integer tables: what symbols cost in a file, for many candidates at once."""

from __future__ import annotations

import weakref

import torch

from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.network import TableCost

__all__ = ["tables_of"]


_known: weakref.WeakKeyDictionary[FrozenEntropyModel, dict[tuple[str, bool], tuple[TableCost, TableCost]]]
_known = weakref.WeakKeyDictionary()


def tables_of(
    frozen: FrozenEntropyModel, device: torch.device | str = "cpu", waits: bool = True
) -> tuple[TableCost, TableCost]:
    """The code lengths of y's and of z's tables, made once per model and device; arguments as for TableCost."""
    kept = _known.setdefault(frozen, {})
    key = str(device), waits
    if key not in kept:
        plan = frozen.plan
        y_bits = TableCost(plan.y_rows, torch.float32, plan.skip_rows, device, waits)
        kept[key] = y_bits, TableCost(plan.z_rows, torch.float32, 0, device, waits)
    return kept[key]
