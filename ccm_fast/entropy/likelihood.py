"""Likelihoods of latents as floats: the scale of an index, the logistic distribution, the centroid of an interval.

Training, freezing and the encoder's decisions read them; no decoder does. The integer tables that code files are made
once, when a model is frozen (:mod:`ccm_fast.entropy.tables`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccm_fast.constants import NUM_SCALES, SCALE_MAX, SCALE_MIN

__all__ = [
    "LIKELIHOOD_MIN",
    "centroid",
    "gaussian_likelihood",
    "index_from_scale",
    "logistic_likelihood",
    "lower_bound",
    "scale_from_index",
]

LIKELIHOOD_MIN = 1e-9


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
    is coded with one scale the best scale mixture of Gaussians (:func:`ccm_fast.entropy.tables.fit_shapes`) has a
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
