"""What a decoded symbol stands for: the expected value of y, given the symbol.

The decoder knows a mean and a scale for every symbol; g_s of models with ``reconstruction="centroid"`` reads this
instead of y_hat: the mean of what was coded with the symbol's row and place in it when the model was frozen
(:class:`ShiftFit`), or the centroid of the Gaussian between y_hat - 1/2 and y_hat + 1/2. This is float and lies behind
the entropy decoder: nothing that is decoded depends on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccm_fast.entropy.likelihood import centroid
from ccm_fast.entropy.plan import Plan
from ccm_fast.entropy.tables import row_means

__all__ = ["REACH", "Centroids", "ShiftFit", "gaussian_shifts"]

#: Distances from a row's offset that have shifts of their own; those beyond share the last one's. It differs by less
#: than 0.02 there: a scale large enough to make such symbols likely has flat intervals.
REACH = 24


def gaussian_shifts(plan: Plan) -> Tensor:
    """What to add to symbols that are centroids of Gaussians, float64 [rows, 2 REACH + 1].

    Raises:
        ValueError: a residual plan, whose y_hat holds its means already.
    """
    if plan.residual:
        raise ValueError("latents of residual models are reconstructed around their means already")
    mean, scale = (torch.from_numpy(v)[:, None] for v in row_means(plan))
    symbol = torch.arange(-REACH, REACH + 1, dtype=torch.float64).expand(len(mean), -1)
    return centroid(symbol, mean.expand_as(symbol), scale.expand_as(symbol)) - symbol


class ShiftFit:
    """Shifts that restore y with the least squared error, from what was coded.

    An encoder does not round to the nearest: it moves symbols towards their means where that saves bits, so what is
    coded as a symbol lies further out than its interval. Means of a row's symbols know that, and what distributions
    with a scale look like: 0.05 dB at quality 1, 0.02 at quality 8 (``ccm-small``, Kodak) at the same bits. Tables for
    each group, or for each quality, gain no more than a few thousandths.

    Args:
        plan: the model's, whose centroids stand for :data:`PRIOR` symbols of each kind.
    """

    #: Symbols that weigh as much as the Gaussian's centroid.
    PRIOR = 100

    def __init__(self, plan: Plan):
        self.prior = gaussian_shifts(plan)
        self.count = torch.zeros(self.prior.numel(), dtype=torch.float64)
        self.sum = torch.zeros_like(self.count)

    def add(self, y: Tensor, y_hat: Tensor, offset: Tensor, row: Tensor) -> None:
        """Count symbols.

        Args:
            y: float, what was coded, any shape.
            y_hat: int16 of that shape, as what.
            offset: of each symbol, from ``parameters``.
            row: of each symbol, too.
        """
        v = y_hat.int() - offset.int()
        near = v.abs() <= REACH
        at = row[near].long() * (2 * REACH + 1) + v[near] + REACH
        self.count += torch.bincount(at, minlength=len(self.count))
        self.sum += torch.bincount(at, (y - y_hat)[near].double(), minlength=len(self.count))

    def result(self) -> Tensor:
        """Shifts, float16 [rows, 2 REACH + 1]."""
        prior = self.prior.flatten()
        found = (self.sum + self.PRIOR * prior) / (self.count + self.PRIOR)
        return found.view_as(self.prior).to(torch.float16)


class Centroids:
    """What all symbols of a plan stand for, as a table of (row, symbol).

    Args:
        plan: a frozen model.
        device: where the table and the latents are.
        shifts: [rows, 2 REACH + 1], what to add to symbols; None: :func:`gaussian_shifts`.

    Raises:
        ValueError: a residual plan, whose y_hat holds its means already.
    """

    def __init__(self, plan: Plan, device: torch.device | str = "cpu", shifts: Tensor | None = None):
        shifts = gaussian_shifts(plan) if shifts is None else shifts
        self.table = shifts.float().contiguous().to(device)

    def __call__(self, y_hat: Tensor, offset: Tensor, row: Tensor) -> Tensor:
        """float32 of y_hat's shape.

        Args:
            y_hat: integer symbols, any shape.
            offset: of each symbol, from ``parameters``.
            row: of each symbol, too; whole numbers.
        """
        v = (y_hat.to(torch.int32) - offset).clamp_(-REACH, REACH)
        return y_hat + self.table.flatten()[row.to(torch.int32, copy=True).mul_(2 * REACH + 1).add_(v).add_(REACH)]
