"""The picture filter of a file (FORMAT.md, section 8) with torch, on any device.

An encoder fits it to the decoded picture by least squares (Wiener filters in classes, as VVC's adaptive loop filter
has them: Tsai et al. 2013, doi 10.1109/JSTSP.2013.2271974); a decoder applies it to the pixels that g_s gives. The
native codec does both by itself; this is for modules of torch. On a GPU one kernel filters a batch
(csrc/transforms/cuda), elsewhere torch's operators do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _native
from .stream.container import FILTER

__all__ = [
    "WHITE",
    "PictureFilter",
    "Samples",
    "added_by_filter",
    "filter_on_gpu",
    "has_kernel",
    "levels_of",
    "records_of",
]

#: Pixels are filtered in units of 1/32 of an 8-bit level.
WHITE = 255 * 32
_MIDDLE = 128 * 32
_REACH, _TAPS, _BINS = 3, 6, 16
# Taps take 100 bytes a pixel for a while.
_BAND_PIXELS = 1 << 19


@dataclass(frozen=True)
class PictureFilter:
    """A filter ready to be applied.

    Attributes:
        bounds: of the picture's activity, ascending: one less than there are classes.
        weights: float32 [classes, C, 6 C]: of the taps of all colours, for every colour; C is 1 for grey pictures.
    """

    bounds: tuple[int, ...]
    weights: Tensor

    @classmethod
    def of(cls, chunks: Mapping[str, bytes], grey: bool) -> PictureFilter | None:
        """That of a file's chunks, if there is one. Raises DamagedError."""
        if FILTER not in chunks:
            return None
        colours = 1 if grey else 3
        bounds, weights = _native.read_filter(chunks[FILTER], colours)
        shape = len(bounds) + 1, colours, _TAPS * colours
        return cls(tuple(bounds), torch.from_numpy(np.frombuffer(weights, np.float32).reshape(shape).copy()))

    def to(self, weights: Tensor) -> PictureFilter:
        """The same with weights that are elsewhere."""
        return PictureFilter(self.bounds, weights)

    def bands(self, levels: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Filtered rows of a picture, one band after another, where it is.

        Args:
            levels: int16 [C, H, W] of :func:`levels_of`.

        Yields:
            which rows, and float32 [C, rows, W] in [0, 1].
        """
        for rows, middle, taps, kind in pieces_of(levels, self.bounds):
            flat = taps.flatten(0, 1).flatten(1)
            out = middle.clone()
            for k, weights in enumerate(self.weights):
                out += (weights @ flat).view_as(out) * (kind == k)
            yield rows, out.div_(WHITE).clamp_(0, 1)


def pieces_of(levels: Tensor, bounds: Sequence[int]) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """What filters see of a picture, one band of rows after another.

    Args:
        levels: int16 [C, H, W] of :func:`levels_of`.
        bounds: of the activity, ascending.

    Yields:
        which rows, their pixels, float32 [C, rows, W], the taps, [C, 6, rows, W], and the class of each, int32 [rows,
        W]: how many bounds the activity reaches.
    """
    H, W = levels.shape[1:]
    rows = max(1, _BAND_PIXELS // W)
    for top in range(0, H, rows):
        bottom = min(top + rows, H)
        first, last = max(0, top - _REACH), min(H, bottom + _REACH)
        over = (_REACH, _REACH, _REACH - (top - first), _REACH - (last - bottom))
        x = F.pad(levels[None, :, first:last].float(), over, mode="replicate")[0]
        yield slice(top, bottom), *_seen(x, bounds)


def _seen(x: Tensor, bounds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, taps and classes of :func:`pieces_of`, of pixels with three more on every side."""
    height, width = x.shape[-2] - 2 * _REACH, x.shape[-1] - 2 * _REACH

    def moved(i: int, j: int) -> Tensor:
        return x[..., _REACH + i :, _REACH + j :][..., :height, :width]

    def ring(i: int, j: int) -> Tensor:
        return moved(i, j) + moved(-i, -j) + moved(j, -i) + moved(-j, i) - 4 * middle

    middle = moved(0, 0)
    taps = torch.stack([(middle - _MIDDLE) / 8, *(ring(*at) for at in ((0, 1), (1, 1), (0, 2), (2, 2), (0, 3)))], 1)
    # Second differences of the colours' sum over 3x3 pixels.
    light = x.sum(0) if len(x) == 3 else 3 * x[0]
    light = light[1:-1, 1:-1]
    twice = 2 * light[1:-1, 1:-1]
    busy = (twice - light[:-2, 1:-1] - light[2:, 1:-1]).abs() + (twice - light[1:-1, :-2] - light[1:-1, 2:]).abs()
    busy = 9 * F.avg_pool2d(busy[None], 3, stride=1)[0]
    kind = torch.zeros(height, width, dtype=torch.int32, device=x.device)
    for bound in bounds:
        kind += busy > bound - 0.5  # sums are whole numbers, but for the mean's last bits
    return middle, taps, kind


def levels_of(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1], of any shape, as filters read them: int16 of that shape, in 1/32 of an 8-bit level."""
    return pixels.float().mul(WHITE).round_().to(torch.int16)


def added_by_filter(levels: Tensor, original: np.ndarray, quality_code: int, threads: int) -> Tensor | None:
    """What the filter that would be fitted to a picture adds to it, in levels; None: there is none.

    Args:
        levels: int16 [C, H, W] of :func:`levels_of`, on the CPU.
        original: uint8 or uint16 [H, W, 3], for C = 1 [H, W].
        quality_code: of the file, which says what a bit is worth.
        threads: of the codec.

    Returns:
        int16 of the shape of ``levels``.
    """
    values = levels.contiguous().numpy()
    chunk = _native.fit_filter(original, values, quality_code, threads)
    if not chunk:
        return None
    behind = np.frombuffer(_native.apply_filter(values, chunk, threads), np.int16).reshape(values.shape)
    return torch.from_numpy(behind - values)


def has_kernel(device: torch.device, engine: str | None = None) -> bool:
    """Whether :func:`filter_on_gpu` is for tensors of a device; it is where engine "cuda" has decoded them."""
    return engine == "cuda" or (device.type == "cuda" and _backend.has_cuda())


def records_of(filters: Sequence[PictureFilter | None]) -> np.ndarray:
    """Filters as the kernel reads them (picture_filter_cuda.h): float32 [B, 881], zeros where there is none."""
    records = np.zeros((len(filters), 2 + _BINS - 1 + _BINS * 3 * 3 * _TAPS), np.float32)
    for record, found in zip(records, filters, strict=True):
        if found is not None:
            weights = found.weights.numpy()
            record[:2] = weights.shape[1], len(weights)
            record[2 : 2 + len(found.bounds)] = found.bounds
            record[1 + _BINS :][: weights.size] = weights.ravel()
    return records


def filter_on_gpu(pixels: Tensor, records: Tensor, out: Tensor) -> None:
    """Filter pictures by one launch, for which nothing waits; it can be captured in a CUDA graph.

    Args:
        pixels: float32 [B, 3, H, W] in [0, 1], of any strides (of grey pictures the first plane counts), or int16
            [B, C, H, W] of :func:`levels_of`.
        records: float32 [B, 881] of :func:`records_of`; pictures without a filter are only rounded.
        out: uint8 or, in [0, 1], float32 [B, 1 to 3, H, W], contiguous: grey ones are repeated in every plane.
    """
    _backend.load().ops.picture_filter(pixels, records, out)


class Samples:
    """Turns the pieces of :func:`ccm_fast.decoding.render` into samples, through filters where pictures have them.

    Args:
        out: uint8 [B, 3, H, W], where the samples come to.
        filters: of each picture, or None.
        records: of :func:`records_of` the filters, on the GPU whose kernel is to filter; None: torch does.
    """

    def __init__(self, out: Tensor, filters: Sequence[PictureFilter | None], records: Tensor | None) -> None:
        self._out, self._filters, self._records = out, filters, records
        self._levels: list[Tensor | None] = [None] * len(out)

    def add(self, rows: slice, columns: slice, pixels: Tensor) -> None:
        """Pixels [B, 3, rows, columns] in [0, 1]. A piece that is the whole picture is filtered at once."""
        if self._records is not None and pixels.shape == self._out.shape:
            filter_on_gpu(pixels.float(), self._records, self._out)
            return
        self._out[:, :, rows, columns] = _rounded(pixels)
        for k, found in enumerate(self._filters):
            if found is None:
                continue
            if (kept := self._levels[k]) is None:
                shape = found.weights.shape[1], *self._out.shape[2:]
                kept = self._levels[k] = torch.empty(shape, dtype=torch.int16, device=self._out.device)
            kept[:, rows, columns] = levels_of(pixels[k, : len(kept)])

    def finish(self) -> None:
        """After the last piece: filters pictures that came in several."""
        for k, (found, kept) in enumerate(zip(self._filters, self._levels, strict=True)):
            if found is None or kept is None:
                continue
            if self._records is not None:
                filter_on_gpu(kept[None], self._records[k : k + 1], self._out[k : k + 1])
                continue
            for rows, pixels in found.to(found.weights.to(kept.device)).bands(kept):
                self._out[k, :, rows] = _rounded(pixels)


def _rounded(pixels: Tensor) -> Tensor:
    return pixels.float().mul(255).round_().to(torch.uint8)
