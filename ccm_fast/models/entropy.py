"""Float entropy models for training: the logistic distribution of y and the factorized prior of z.

The integer tables that code files are made from these once, when a model is frozen (ccm_fast.integer).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "NUM_SCALES",
    "SCALE_MAX",
    "SCALE_MIN",
    "FactorizedPrior",
    "centroid",
    "gaussian_likelihood",
    "index_from_scale",
    "logistic_likelihood",
    "scale_from_index",
    "ste_round",
    "towards_mean",
]

# 64 log-spaced scales from 0.11 to 256, as in CompressAI and TensorFlow Compression: at 0.11 a symbol at the mean costs
# 1e-5 bits, and neighbouring scales differ by 13 %, which costs less than 0.2 % in rate.
NUM_SCALES = 64
SCALE_MIN = 0.11
SCALE_MAX = 256.0
LIKELIHOOD_MIN = 1e-9
# Bits that a unit squared error of a latent counts where an encoder moves symbols: 1.5 times what it costs by itself
# (ccm_fast.effort.search.SHRINK_PENALTY). That would be 6 / ln 2 = 8.7 for fine quantizers; trained gains make it 6 to
# 8.5 for nine tenths of the channels at all qualities, 7.6 on average.
_ERROR_BITS = 11.4


class _LowerBound(torch.autograd.Function):
    """max(x, bound) that lets through gradients which push x back inside."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x >= bound)
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (inside,) = ctx.saved_tensors
        return grad * (inside | (grad < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), with gradients that may still raise x."""
    return _LowerBound.apply(x, bound)


def ste_round(x: Tensor) -> Tensor:
    """round(x) with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


def scale_from_index(t: Tensor) -> Tensor:
    """sigma of a (fractional) scale index t in [0, 63]: SCALE_MIN * (SCALE_MAX / SCALE_MIN) ** (t / 63)."""
    t = -lower_bound(-lower_bound(t, 0.0), -(NUM_SCALES - 1.0))
    return SCALE_MIN * torch.exp(t * (math.log(SCALE_MAX / SCALE_MIN) / (NUM_SCALES - 1)))


def index_from_scale(scale: Tensor) -> Tensor:
    """The fractional scale index in [0, 63] of a sigma >= 0, of any shape: the inverse of :func:`scale_from_index`."""
    share = (scale / SCALE_MIN).log() / math.log(SCALE_MAX / SCALE_MIN)
    return (share * (NUM_SCALES - 1)).clamp(0, NUM_SCALES - 1)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -(2**-0.5))


def gaussian_likelihood(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Probability of the unit interval around y under N(mean, scale^2); all of one shape.

    Computed on the side of the mean where both terms are small, so that tails keep their precision.
    """
    d = (y - mean).abs()
    return lower_bound(_normal_cdf((0.5 - d) / scale) - _normal_cdf((-0.5 - d) / scale), LIKELIHOOD_MIN)


def logistic_likelihood(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Probability of the unit interval around y under the logistic distribution of this mean and standard deviation.

    Latents are no Gaussians: given their context, more of them are near to the mean, and more of them far away. Of what
    is coded with one scale the best scale mixture of Gaussians (:func:`ccm_fast.integer.tables.fit_shapes`) has a
    kurtosis of 4.7, this has 4.2 and a Gaussian 3. A model trained for Gaussians codes validation crops in 0.0 / 0.4 /
    0.5 / 0.8 % fewer bits by it, at quality 2 / 4 / 6 / 8.

    Computed on the side of the mean where both terms are small, so that tails keep their precision.

    Args:
        y: values, float of any shape.
        mean: of each, the same shape (or one that broadcasts to it).
        scale: standard deviation of each, in quantization steps, positive; likewise.

    Returns:
        Probabilities of y's shape, at least 1e-9.
    """
    d, width = (y - mean).abs(), scale * (math.sqrt(3) / math.pi)
    return lower_bound(torch.sigmoid((0.5 - d) / width) - torch.sigmoid((-0.5 - d) / width), LIKELIHOOD_MIN)


def centroid(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Expected value of N(mean, scale^2) inside the unit interval around each integer y; all of one shape.

    The reconstruction of least squared error: a symbol of 0 whose mean is 0.4 stands for about 0.3, not for 0. Where
    the interval lies so far out that its probability vanishes, it is the end nearer to the mean.
    """
    # Mirrored so that the interval lies above the mean, where the upper tails keep their precision.
    d = y - mean
    sign = torch.where(d < 0, -1.0, 1.0)
    low, high = (d.abs() - 0.5) / scale, (d.abs() + 0.5) / scale
    density = torch.exp(-0.5 * low.square()) - torch.exp(-0.5 * high.square())
    mass = (_normal_cdf(-low) - _normal_cdf(-high)) * math.sqrt(2 * math.pi)
    inside = (scale * density / mass.clamp(min=1e-30)).clamp(d.abs() - 0.5, d.abs() + 0.5)
    return mean + sign * torch.where(mass > 1e-30, inside, d.abs() - 0.5)


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
