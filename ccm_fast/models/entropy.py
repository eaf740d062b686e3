"""Float entropy models for training: rounding, what the default encoder codes, and the factorized prior of z.

The integer tables that code files are made from these once, when a model is frozen (ccm_fast.freezing).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.entropy.likelihood import LIKELIHOOD_MIN, logistic_likelihood, lower_bound

__all__ = ["FactorizedPrior", "ste_round", "towards_mean"]

# Bits that a unit squared error of a latent counts where an encoder moves symbols: 1.5 times what it costs by itself
# (ccm_fast.effort.search.SHRINK_PENALTY). That would be 6 / ln 2 = 8.7 for fine quantizers; trained gains make it 6 to
# 8.5 for nine tenths of the channels at all qualities, 7.6 on average.
_ERROR_BITS = 11.4


def ste_round(x: Tensor) -> Tensor:
    """round(x) with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


@torch.no_grad()
def towards_mean(
    y: Tensor, mean: Tensor, scale: Tensor, restored: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """y rounded as the default encoder does it: one step towards the mean where that saves more bits than it costs.

    What training can do about :func:`ccm_fast.effort.search.round_towards_mean`, without tables and sensitivities: code
    lengths are the logistic distribution's, and errors of all channels count alike, which gains see to.

    Args:
        y: latents, not rounded; float of any shape.
        mean: of each, the same shape; and
        scale: likewise.
        restored: what g_s reads for integers, means and scales.

    Returns:
        Integers of y's type and shape.
    """
    out = torch.round(y)
    step = torch.sign(out - torch.round(mean))
    # Few of a hundred at low qualities, one in three at high ones. GPUs would wait to know how many, and compute all.
    where = step != 0 if y.device.type == "cpu" else ...
    y, nearest, step, mean, scale = (v[where] for v in (y, out, step, mean, scale))
    moved = nearest - step
    saved = torch.log2(logistic_likelihood(moved, mean, scale) / logistic_likelihood(nearest, mean, scale))
    before, after = restored(nearest, mean, scale) - y, restored(moved, mean, scale) - y
    out[where] = torch.where(saved > _ERROR_BITS * (after.square() - before.square()), moved, nearest)
    return out


class FactorizedPrior(nn.Module):
    """A learned density for each channel of z (Balle et al. 2018, arXiv 1802.01436, appendix 6.1).

    The cumulative is a small monotone network per channel: matrices made positive by softplus, nonlinearities
    x + tanh(a) tanh(x), a final sigmoid.

    Args:
        channels: N.
        init_scale: width of the initial density, in quantization steps.
    """

    def __init__(self, channels: int, init_scale: float = 10.0, filters: tuple[int, ...] = (3, 3, 3)):
        super().__init__()
        dims = (1, *filters, 1)
        scale = init_scale ** (1 / (len(dims) - 1))
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for k in range(len(dims) - 1):
            start = math.log(math.expm1(1 / scale / dims[k + 1]))
            self.matrices.append(nn.Parameter(torch.full((channels, dims[k + 1], dims[k]), start)))
            self.biases.append(nn.Parameter(torch.rand(channels, dims[k + 1], 1) - 0.5))
            if k < len(dims) - 2:
                self.factors.append(nn.Parameter(torch.zeros(channels, dims[k + 1], 1)))

    def logits_cumulative(self, v: Tensor) -> Tensor:
        """Logits of the cumulative at v, float [N, 1, K] -> [N, 1, K]."""
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            v = torch.matmul(F.softplus(matrix), v) + bias
            if k < len(self.factors):
                v = v + torch.tanh(self.factors[k]) * torch.tanh(v)
        return v

    def forward(self, z: Tensor) -> Tensor:
        """Probability of the unit interval around each value of z [B, N, h, w]."""
        b, n, h, w = z.shape
        v = z.permute(1, 0, 2, 3).reshape(n, 1, -1)
        lower, upper = self.logits_cumulative(v - 0.5), self.logits_cumulative(v + 0.5)
        sign = -torch.sign(lower + upper).detach()  # evaluate on the side of the smaller tail
        p = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return lower_bound(p, LIKELIHOOD_MIN).reshape(n, b, h, w).permute(1, 0, 2, 3)
