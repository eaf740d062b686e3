"""Distortion of 8-bit RGB images.

Both are taken image by image, on the rounded 8-bit values that a decoder writes, and averaged over the images
afterwards, as CompressAI and the papers do. (PSNR of the mean error is lower: on Kodak by 0.1 to 0.5 dB for JPEG and
WebP.)
"""

from __future__ import annotations

import numpy as np

from ..psnr import psnr

__all__ = ["MS_SSIM_MIN_SIDE", "ms_ssim", "psnr"]

MS_SSIM_MIN_SIDE = 161  # five scales of an 11-wide window: (11 - 1) * 2^4 + 1


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Of two uint8 arrays [H, W, 3], by pytorch-msssim: five scales, mean over R, G, B.

    None for images with a side below 161 pixels, on which the fifth scale does not exist.
    """
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return None
    import torch
    from pytorch_msssim import ms_ssim as of

    # Not torch.from_numpy: Pillow's arrays are not writable, and torch warns.
    planes = [torch.tensor(x).permute(2, 0, 1)[None].float() for x in (a, b)]
    with torch.inference_mode():
        return float(of(*planes, data_range=255))
