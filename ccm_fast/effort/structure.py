"""Where errors hide: weights of squared errors whose sum follows MS-SSIM.

SSIM compares windows by (2 cov + C2) / (var_x + var_y + C2). With an error e that does not depend on the picture x,
y = x + e, and this is

    1 - var_e / (2 var_x + C2)

to first order: an error counts less in a busy window than in a flat one. MS-SSIM (Wang, Simoncelli and Bovik 2003) does
this at five resolutions and weighs them; at coarser ones windows are wider, and less is left of an error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiles import STRIDE

__all__ = ["even_weights", "structure_weights"]

# MS-SSIM's exponents of its resolutions, and what each resolution leaves of the power of an error of the one before:
# with 0.42 the sum is 0.75 to 1.2 times 1 - MS-SSIM on four Kodak photographs at quality 2, 4, 6 and 8.
_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_LEFT = 0.42
_C2 = 0.03**2
# Rows of latents whose pixels are looked at together: bounds the memory.
_ROWS = 16
# Even weights are to this power, and within these ends. BD-rates of ccm-small on four Kodak photographs (default
# effort, quality 2 to 8) against unweighted errors, by PSNR and by MS-SSIM: 0.3 +0.6 and -2.2 %, 0.5 +1.7 and -3.4 %,
# 0.8 +4.9 and -4.6 %, 1 +7.2 and -5.0 %, 1.3 (to 30) +14.9 and -4.7 %.
_POWER = 0.7
_LIMIT = 8.0


def _flatness(x: Tensor, side: int, h: int, w: int) -> Tensor:
    """Mean of 1 / (2 variance + C2) over the windows of 8x8 pixels, four apart, in each of h x w places of ``side``."""
    over = [-s % 4 for s in x.shape[2:]]
    x = F.pad(x, (2, 2 + over[1], 2, 2 + over[0]), mode="replicate")
    mean = F.avg_pool2d(x, 8, 4)
    variance = (F.avg_pool2d(x.square(), 8, 4) - mean.square()).clamp(min=0)
    weight = (1 / (2 * variance + _C2)).mean(1, keepdim=True)
    if side >= 4:
        return F.avg_pool2d(weight, side // 4)
    # At the coarsest resolutions windows are wider than a latent's place.
    weight = F.interpolate(weight, scale_factor=4 // side, mode="bilinear", align_corners=False)
    return weight[..., :h, :w]


def structure_weights(read: Callable[[slice, slice], Tensor], h: int, w: int, device: torch.device | str) -> Tensor:
    """What a squared error of a pixel in the place of each latent adds to 1 - MS-SSIM, float32 [B, 1, h, w].

    The sum of weights times squared errors, over pixels and averaged over colours, is about the number of pixels times
    1 - MS-SSIM.

    Args:
        read: the pixels, float [B, 3, rows, columns] in [0, 1], of two slices, which may reach beyond the image.
        h: rows of latents.
        w: columns of latents.
        device: of the result.
    """
    finest, halves = [], []
    for i in range(0, h, _ROWS):
        rows = min(_ROWS, h - i)
        part = read(slice(STRIDE * i, STRIDE * (i + rows)), slice(0, STRIDE * w)).to(device, torch.float32)
        finest.append(_flatness(part, STRIDE, rows, w))
        halves.append(F.avg_pool2d(part, 2))
    total, x = _EXPONENTS[0] * torch.cat(finest, 2), torch.cat(halves, 2)
    for k, exponent in enumerate(_EXPONENTS[1:], 1):
        total += exponent * _LEFT**k * _flatness(x, STRIDE >> k, h, w)
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    return total


def even_weights(weights: Tensor) -> Tensor:
    """Structure weights drawn together, with a geometric mean of 1 over each image: for a given scale of errors."""
    log = _POWER * weights.log()
    return (log - log.mean((2, 3), keepdim=True)).exp().clamp(1 / _LIMIT, _LIMIT)
