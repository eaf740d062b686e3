"""The peak signal-to-noise ratio of pictures."""

from __future__ import annotations

import math

from .lazy import np

__all__ = ["psnr"]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, of two pictures of one shape, uint8 or uint16, which need not be of one depth.

    One error over all channels; infinite for equal pictures.
    """
    difference = a.astype(np.float64) / np.iinfo(a.dtype).max - b.astype(np.float64) / np.iinfo(b.dtype).max
    mse = float(np.square(difference).mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)
