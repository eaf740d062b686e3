"""What a quality stands for: how much an error weighs against a bit, in training and for the encoder alike."""

from __future__ import annotations

from torch import Tensor

__all__ = ["MIDDLE", "encoder_metric", "lagrange_multiplier"]

_LOWEST, _HIGHEST = 1.0, 8.0
MIDDLE = (_LOWEST + _HIGHEST) / 2

# lambda of the lowest and the highest quality, log-linear between them: the end points of CompressAI's models; for
# SSIMULACRA2 the slopes of ccm-small's curve on Kodak, so that a quality keeps its rate.
_ENDS = {"mse": (0.0018, 0.18), "ms-ssim": (2.4, 220.0), "visual": (0.003, 0.095)}


def lagrange_multiplier(quality: Tensor, metric: str = "mse") -> Tensor:
    """lambda for qualities in 1..8 (float tensor): what an error weighs against bits per pixel.

    Errors are 255^2 * MSE ("mse"), 1 - MS-SSIM ("ms-ssim") or 100 - SSIMULACRA2 ("visual").

    Raises ValueError for other metrics than "mse", "ms-ssim" and "visual".
    """
    if metric not in _ENDS:
        raise ValueError(f"metric must be 'mse', 'ms-ssim' or 'visual', not {metric!r}")
    low, high = _ENDS[metric]
    return low * (high / low) ** ((quality - _LOWEST) / (_HIGHEST - _LOWEST))


def encoder_metric(metric: str) -> str:
    """What encoders of a model that was trained for ``metric`` count errors by, "mse" or "ms-ssim".

    A quality of "visual" has the rate that it has for squared errors, and their prices.
    """
    return "mse" if metric == "visual" else metric
