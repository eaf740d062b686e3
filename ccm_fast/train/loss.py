"""Rate-distortion objective over a range of qualities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["lagrange_multiplier", "rate_distortion_loss"]

# lambda of qualities 1..8 for 255^2 * MSE, log-linear between 0.0018 and 0.18: the end points of CompressAI's models.
_LOW, _HIGH, _LEVELS = 0.0018, 0.18, 8
# For 1 - MS-SSIM: 2.4 to 220, CompressAI's end points for that metric.
_MS_LOW, _MS_HIGH = 2.4, 220.0


def lagrange_multiplier(quality: Tensor, metric: str = "mse") -> Tensor:
    """lambda for qualities in 1..8 (float tensor), weighting 255^2 * MSE or 1 - MS-SSIM against bits per pixel."""
    low, high = (_LOW, _HIGH) if metric == "mse" else (_MS_LOW, _MS_HIGH)
    return low * (high / low) ** ((quality - 1.0) / (_LEVELS - 1))


def rate_distortion_loss(x: Tensor, out: dict, quality: Tensor, metric: str = "mse") -> dict[str, Tensor]:
    """Loss terms of a batch.

    Each image's Lagrangian is divided by sqrt(lambda): without that the highest quality, whose lambda is a hundred
    times the lowest one's, would get nearly all of the gradient.

    Args:
        x: images [B, 3, H, W] in [0, 1].
        out: result of the model's forward.
        quality: float [B].
        metric: "mse" or "ms-ssim" (needs pytorch-msssim).

    Returns:
        ``loss`` (scalar), and per image [B]: ``bpp``, ``bpp_y``, ``bpp_z``, ``mse`` (values in [0, 1]), ``distortion``.
    """
    pixels = x.shape[-2] * x.shape[-1]
    bits = {k: -torch.log2(v.float()).flatten(1).sum(1) / pixels for k, v in out["likelihoods"].items()}
    bpp = sum(bits.values())
    mse = (out["x_hat"].float() - x).square().flatten(1).mean(1)
    if metric == "mse":
        distortion = 255.0**2 * mse
    elif metric == "ms-ssim":
        from pytorch_msssim import ms_ssim

        distortion = 1.0 - ms_ssim(out["x_hat"].float(), x, data_range=1.0, size_average=False)
    else:
        raise ValueError(f"metric must be 'mse' or 'ms-ssim', not {metric!r}")
    lam = lagrange_multiplier(quality, metric)
    middle = lagrange_multiplier(torch.tensor((1 + _LEVELS) / 2), metric)
    loss = ((bpp + lam * distortion) * torch.sqrt(middle / lam)).mean()
    return {"loss": loss, "bpp": bpp, "bpp_y": bits["y"], "bpp_z": bits["z"], "mse": mse, "distortion": distortion}


def psnr(mse: Tensor | float) -> float:
    """PSNR in dB of a mean squared error of values in [0, 1]."""
    return -10.0 * math.log10(max(float(mse), 1e-12))
