"""Which files get a picture filter, and what it is fitted to, by torch on any device.

The native codec finds a filter for sums over a picture's pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .effort import level_for, tune_for
from .models import CrossChannelContextModel
from .picture_filter import WHITE, pieces_of
from .stream.container import FILTER

__all__ = ["filter_sums", "sends_filters", "with_filter"]

# Half octaves of activity (FORMAT.md, section 8): classes are made of these.
_BOUNDS = (256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11585, 16384, 23170, 32768)


def sends_filters(model: CrossChannelContextModel, effort: int | None, tune: str | None) -> bool:
    """Whether files have filters: those of efforts above 1 that look at squared errors."""
    squared = tune_for(model, tune) == "psnr" and model.trained_for == "mse"
    return squared and level_for(model, effort).rounding


def with_filter(chunks: Mapping[str, bytes], found: bytes) -> dict[str, bytes]:
    """A picture's chunks with its filter's, which may be empty: there is none then. One of another file is dropped."""
    kept = {kind: data for kind, data in chunks.items() if kind != FILTER}
    return kept | ({FILTER: found} if found else {})


def filter_sums(levels: Tensor, original: Tensor) -> Tensor:
    """Products of taps with each other and with what pixels lack of the original, summed over each bin of activity.

    Nothing waits for the device.

    Args:
        levels: int16 [C, H, W] of :func:`ccm_fast.picture_filter.levels_of`: the decoded picture.
        original: float32 [C, H, W] in [0, 1].

    Returns:
        float64 [16, 6 C, 6 C + C], as ``_native.fit_filters`` reads it.
    """
    colours = len(levels)
    taps_count = 6 * colours
    sums = torch.zeros(len(_BOUNDS) + 1, taps_count, taps_count + colours, dtype=torch.float64, device=levels.device)
    for rows, pixels, taps, kind in pieces_of(levels, _BOUNDS):
        lacks = original[:, rows] * WHITE - pixels
        # A product a row: sums of floats over few pixels, then of these as doubles.
        left = taps.flatten(0, 1).transpose(0, 1)
        right = torch.cat([taps.flatten(0, 1), lacks]).permute(1, 2, 0).contiguous()
        for k in range(len(sums)):
            inside = (kind == k)[:, None].to(left.dtype)
            sums[k] += ((left * inside) @ right).sum(0, dtype=torch.float64)
    return sums
