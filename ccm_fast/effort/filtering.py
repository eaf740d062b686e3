"""Passes that know of the picture filter behind them.

A file's filter takes a part of the errors off, whatever the symbols. What it adds to a picture hardly changes while
symbols move, so that it is fitted once, and added to all pictures that are judged: moves then look for what the filter
leaves. The file's own filter is fitted to the last picture.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ccm_fast.picture_filter import added_by_filter

from ..stream.quality import quality_code
from .distortion import SquaredError

__all__ = ["judge_behind_filters"]

# Rows of the original that are read at a time, as floats.
_ROWS = 256


def judge_behind_filters(error: SquaredError, levels: Tensor, quality: Tensor, threads: int) -> None:
    """From now on errors are those behind the filters that suit some pictures.

    Args:
        error: of pictures near these.
        levels: the pictures, int16 [B, C, H, W] of :meth:`SquaredError.put`.
        quality: of each, which says what a bit is worth.
        threads: of the codec.
    """
    added = torch.zeros_like(levels)
    for k, (own, q) in enumerate(zip(levels, quality.tolist(), strict=True)):
        found = added_by_filter(own, _samples(error, k, len(own)), quality_code(q), threads)
        if found is not None:
            added[k] = found
    error.add_to_pictures(added)


def _samples(error: SquaredError, image: int, colours: int) -> np.ndarray:
    """An image of the batch, uint16 [H, W, 3], or [H, W] of one colour."""
    H, W = error.size
    out = np.empty((H, W, colours), np.uint16)
    for top in range(0, H, _ROWS):
        rows = slice(top, min(top + _ROWS, H))
        part = error.read(rows, slice(0, W))[image, :colours].float()
        out[rows] = part.mul(65535).round_().permute(1, 2, 0).cpu().numpy()
    return out if colours > 1 else out[..., 0]
