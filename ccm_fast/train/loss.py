"""Rate-distortion objective over a range of qualities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.quality import MIDDLE, lagrange_multiplier
from .ssimulacra2 import ssimulacra2

# "visual": what each measure counts, at the slopes of equal rate. A network that is trained for one alone finds what
# that one does not see.
_VISUAL = {"ssimulacra2": 0.5, "ms-ssim": 0.25, "mse": 0.25}

__all__ = ["psnr", "rate_distortion_loss", "rate_loss"]


def _weight(quality: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """lambda, and what an image's Lagrangian counts.

    Without 1 / sqrt(lambda) the highest quality, whose lambda is a hundred times the lowest one's, would get nearly all
    of the gradient.
    """
    lam = lagrange_multiplier(quality, metric)
    return lam, torch.sqrt(lagrange_multiplier(torch.tensor(MIDDLE), metric) / lam)


def rate_loss(
    likelihoods: dict[str, Tensor], pixels: int, quality: Tensor, metric: str = "mse", z_weight: float = 1.0
) -> dict[str, Tensor]:
    """The rate's part of :func:`rate_distortion_loss`, for an entropy model on fixed latents.

    Returns:
        ``loss`` (scalar), and per image [B]: ``bpp``, ``bpp_y``, ``bpp_z``.
    """
    bits = {k: -torch.log2(v.float()).flatten(1).sum(1) / pixels for k, v in likelihoods.items()}
    loss = ((bits["y"] + z_weight * bits["z"]) * _weight(quality, metric)[1]).mean()
    return {"loss": loss, "bpp": bits["y"] + bits["z"], "bpp_y": bits["y"], "bpp_z": bits["z"]}


class _Finite(torch.autograd.Function):
    """Its argument; gradients that are no numbers are zero."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.nan_to_num(0.0, 0.0, 0.0)


def _structure(x: Tensor, x_hat: Tensor) -> Tensor:
    """1 - MS-SSIM, [B].

    A colour whose contrasts run against the original's, which happens at the lowest qualities, has an MS-SSIM of 0, and
    there the roots of the package have no derivative: such a colour has none here.
    """
    from pytorch_msssim import ms_ssim

    return 1.0 - ms_ssim(_Finite.apply(x_hat.float()), x, data_range=1.0, size_average=False)


def rate_distortion_loss(
    x: Tensor, out: dict, quality: Tensor, metric: str = "mse", z_weight: float = 1.0
) -> dict[str, Tensor]:
    """Loss terms of a batch.

    Args:
        x: images [B, 3, H, W] in [0, 1].
        out: result of the model's forward.
        quality: float [B].
        metric: "mse", "ms-ssim" (needs pytorch-msssim) or "visual" (needs the package ssimulacra2, too), where
            SSIMULACRA2 counts for one half, MS-SSIM and squared errors for a quarter each.
        z_weight: what the rate of z counts in the loss.

    Returns:
        ``loss`` (scalar), and per image [B]: ``bpp``, ``bpp_y``, ``bpp_z``, ``mse`` (values in [0, 1]), ``distortion``.

    Raises:
        ValueError: another metric.
    """
    terms = rate_loss(out["likelihoods"], x.shape[-2] * x.shape[-1], quality, metric, z_weight)
    mse = (out["x_hat"].float() - x).square().flatten(1).mean(1)
    lam, weight = _weight(quality, metric)
    if metric == "mse":
        distortion = 255.0**2 * mse
    elif metric == "ms-ssim":
        distortion = _structure(x, out["x_hat"])
    else:
        errors = {
            "ssimulacra2": 100.0 - ssimulacra2(out["x_hat"].float(), x),
            "ms-ssim": _structure(x, out["x_hat"]) * (lagrange_multiplier(quality, "ms-ssim") / lam),
            "mse": 255.0**2 * mse * (lagrange_multiplier(quality, "mse") / lam),
        }
        distortion = sum((share * errors[name] for name, share in _VISUAL.items()), torch.zeros_like(mse))
    return {**terms, "loss": terms["loss"] + (lam * distortion * weight).mean(), "mse": mse, "distortion": distortion}


def psnr(mse: Tensor | float) -> float:
    """PSNR in dB of a mean squared error of values in [0, 1]."""
    return -10.0 * math.log10(max(float(mse), 1e-12))
