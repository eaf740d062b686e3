"""Distortion of 8-bit RGB images.

PSNR and MS-SSIM say how far two pictures are apart, SSIMULACRA2 how far apart they look: it agrees with what people
answer (100: no difference, 90: none that is seen, 70: high, 50: medium, 30: low quality; it goes below 0). All are
taken image by image, on the rounded 8-bit values that a decoder writes, and averaged over the images afterwards, as
CompressAI and the papers do. (PSNR of the mean error is lower: on Kodak by 0.1 to
0.5 dB for JPEG and WebP.)
"""

from __future__ import annotations

import importlib.util
import io
from importlib.metadata import version

import numpy as np
from PIL import Image

from ..psnr import psnr

__all__ = ["MS_SSIM_MIN_SIDE", "ms_ssim", "psnr", "ssimulacra2", "ssimulacra2_version"]

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


def ssimulacra2_version() -> str | None:
    """Of the package that measures it; None: it is not installed (pip install ccm-fast[eval])."""
    return version("ssimulacra2") if importlib.util.find_spec("ssimulacra2") else None


def ssimulacra2(a: np.ndarray, b: np.ndarray) -> float | None:
    """Of two uint8 arrays [H, W, 3], the original first, by the package ssimulacra2.

    None where that is not installed, and for images with a side below 8 pixels.
    """
    if ssimulacra2_version() is None or min(a.shape[:2]) < 8:
        return None
    from ssimulacra2 import compute_ssimulacra2

    files = []
    for pixels in (a, b):  # it takes files
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "BMP")
        file.seek(0)
        files.append(file)
    return float(compute_ssimulacra2(*files))
