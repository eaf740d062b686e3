"""What a frozen model need not code: symbols that are almost always what their networks expect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor

from ccm_fast.entropy.plan import CODED, Plan

__all__ = ["CERTAIN", "leave_out"]

#: Probability from which on a channel of z with one value in all that was seen is not coded.
CERTAIN = 0.9999


def _constants(plan: Plan, seen: Iterable[Tensor]) -> np.ndarray | None:
    """int32 [N]: values of the channels of z that never vary, and CODED."""
    values = np.full(plan.hyper_channels, CODED, np.int32)
    for c in range(plan.hyper_channels):
        frequency = np.diff(plan.z_rows.row(c))
        k = int(frequency.argmax())
        if frequency[k] >= CERTAIN * (1 << 16) and k + 1 < len(frequency):  # the last one is the escape
            values[c] = plan.z_rows.lo[c] + k
    for z_hat in seen:
        varies = (z_hat.flatten(2) != z_hat.new_tensor(values)[None, :, None]).any(2).any(0).numpy()
        values[varies] = CODED
    return values if (values != CODED).any() else None


def leave_out(plan: Plan, skip: int, seen: Iterable[Tensor]) -> Plan:
    """The plan with less to code.

    Args:
        plan: of :func:`ccm_fast.freeze`.
        skip: the last scale index of symbols of y that are not coded; -1: all are.
        seen: z_hat of photographs, each [B, N, hz, wz].

    Returns:
        A plan whose streams are of version 2, unless nothing is left out.
    """
    return replace(plan, skip=skip, z_values=_constants(plan, seen))
