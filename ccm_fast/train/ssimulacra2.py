"""SSIMULACRA2 of batches, with gradients: what eyes see, as a loss.

The measure is that of Jon Sneyers (Cloudinary, 2022; libjxl's tools/ssimulacra2.cc is its specification): SSIM and two
comparisons of edges (ringing and blocks that were not there, detail that is lost) at six resolutions of three colours
that follow the eye (XYB), as means and as 4-norms, summed with 108 weights that were fitted to people's judgements. The
weights are those of the package ``ssimulacra2``, which `ccm-fast eval` measures with.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ssimulacra2"]

SCALES = 6
# Of the window, and where the specification cuts it off.
_SIGMA, _RADIUS = 1.5, 5
_C2 = 0.0009
# Light to what the three kinds of cones take of it (libjxl's opsin absorbance), and what they see in the dark.
_OPSIN = ((0.3, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342268924547819, 0.20476744424496821, 0.5518098665095536))
_BIAS = 0.0037930732552754493
# Roots and powers have no derivatives at zero; a 4-norm of this is 1e-5.
_TINY = 1e-20


@cache
def _weights() -> Tensor:
    """[3 colours, 6 scales, 2 norms, 3 kinds (SSIM, artifacts, lost detail)]."""
    from ssimulacra2.ssimulacra2 import weights

    return torch.from_numpy(weights).float().view(3, SCALES, 2, 3)


def _linear(x: Tensor) -> Tensor:
    """Light of sRGB values in [0, 1]."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def _xyb(light: Tensor) -> Tensor:
    """The positive XYB of linear light, [B, 3, H, W]."""
    matrix = light.new_tensor(_OPSIN)[:, :, None, None]
    cones = (F.conv2d(light, matrix) + _BIAS).clamp(min=_TINY) ** (1 / 3) - _BIAS ** (1 / 3)
    x, y, b = (cones[:, 0] - cones[:, 1]) / 2, (cones[:, 0] + cones[:, 1]) / 2, cones[:, 2]
    return torch.stack([14 * x + 0.42, y + 0.01, b - y + 0.55], 1)


@cache
def _window(size: int) -> Tensor:
    """The blur of a row, mirrored at its ends, as a matrix [size, size]: products are a fifth of convolutions' time."""
    taps = torch.exp(-0.5 * (torch.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    rows = F.pad(torch.eye(size)[:, None], (_RADIUS, _RADIUS), mode="reflect")
    return F.conv1d(rows, (taps / taps.sum())[None, None])[:, 0].T.contiguous()


def _blur(x: Tensor) -> Tensor:
    return _window(x.shape[2]).to(x) @ x @ _window(x.shape[3]).to(x).T


def _norms(x: Tensor) -> Tensor:
    """Mean and 4-norm over places, [B, 3, 2]."""
    return torch.stack([x.mean((2, 3)), (x.square().square().mean((2, 3)) + _TINY) ** 0.25], 2)


def ssimulacra2(x_hat: Tensor, x: Tensor) -> Tensor:
    """Scores of pictures, 100 (no difference) and less; 90 is as good as the original to nearly all eyes.

    Args:
        x_hat: float32 [B, 3, H, W], sRGB in [0, 1] (what lies outside is cut off, with gradients of zero).
        x: the originals.

    Returns:
        [B], of all resolutions that have eight pixels. The package mirrors rows and columns at the borders in another
        way, and gives slightly other numbers there.

    Raises:
        ModuleNotFoundError: ``ssimulacra2`` is not installed (pip install ccm-fast[eval]).
    """
    a, b = _linear(x), _linear(x_hat.clamp(0, 1))
    total = x.new_zeros(x.shape[0])
    for scale in range(SCALES):
        if min(a.shape[2:]) < 8:
            break
        u, v = _xyb(a), _xyb(b)
        mu, mv, uu, vv, uv = _blur(torch.cat([u, v, u * u, v * v, u * v], 1)).split(3, 1)
        similar = (2 * (uv - mu * mv) + _C2) / ((uu - mu * mu) + (vv - mv * mv) + _C2)
        missing = (1 - (1 - (mu - mv).square()) * similar).clamp(min=0)
        edges = (1 + (v - mv).abs()) / (1 + (u - mu).abs()) - 1
        kinds = torch.stack([_norms(missing), _norms(edges.clamp(min=0)), _norms((-edges).clamp(min=0))], 3)
        total = total + (kinds * _weights()[:, scale].to(kinds)).sum((1, 2, 3))
        a, b = F.avg_pool2d(a, 2, ceil_mode=True), F.avg_pool2d(b, 2, ceil_mode=True)
    t = 0.9562382616834844 * total
    t = 2.326765642916932 * t - 0.020884521182843837 * t**2 + 6.248496625763138e-05 * t**3
    return 100 - 10 * t.clamp(min=_TINY) ** 0.6276336467831387
