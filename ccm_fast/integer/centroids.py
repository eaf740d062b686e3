"""What a decoded symbol stands for: the expected value of y in the symbol's interval.

The decoder knows a mean and a scale for every symbol; g_s of models with ``reconstruction="centroid"`` reads the
centroid of the Gaussian between y_hat - 1/2 and y_hat + 1/2 instead of y_hat. This is float and lies behind the entropy
decoder: nothing that is decoded depends on it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ccm_fast.integer.plan import Plan
from ccm_fast.integer.tables import scales
from ccm_fast.models.entropy import centroid

__all__ = ["Centroids"]

# Distances from a row's offset that have centroids of their own; those beyond share the last one's shift. It differs by
# less than 0.02 there: a scale large enough to make such symbols likely has flat intervals.
_REACH = 24


class Centroids:
    """Centroids of all symbols of a plan, as a table of (row, symbol).

    Args:
        plan: a frozen model.
        device: where the table and the latents are.

    Raises:
        ValueError: a residual plan, whose y_hat holds its means already.
    """

    def __init__(self, plan: Plan, device: torch.device | str = "cpu"):
        if plan.residual:
            raise ValueError("latents of residual models are reconstructed around their means already")
        bits = plan.fraction_bits.astype(np.int64)
        index = np.repeat(np.arange(len(bits)), 1 << bits)
        fraction = np.arange(len(index)) - plan.first_row[index]
        # t & mask counts from -1/2 of the offset on (FORMAT.md, section 3.3).
        mean = (fraction - ((1 << bits[index]) >> 1)) / (1 << bits[index])
        symbol = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64).expand(len(index), -1)
        mean, scale = (torch.from_numpy(v)[:, None].expand_as(symbol) for v in (mean, scales()[index]))
        self.shift = (centroid(symbol, mean, scale) - symbol).float().flatten().to(device)

    def __call__(self, y_hat: Tensor, offset: Tensor, row: Tensor) -> Tensor:
        """float32 of y_hat's shape.

        Args:
            y_hat: integer symbols, any shape.
            offset: of each symbol, from ``parameters``.
            row: of each symbol, too; whole numbers.
        """
        v = (y_hat.to(torch.int32) - offset).clamp_(-_REACH, _REACH)
        return y_hat + self.shift[row.to(torch.int32).mul_(2 * _REACH + 1).add_(v).add_(_REACH)]
