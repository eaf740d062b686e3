"""Running g_a and g_s over large images in tiles, seamlessly.

A tile is computed together with a margin of at least the transform's receptive field and the margin is thrown away, so
tiles carry the values that the whole image would have had; only the order of float additions inside the convolutions
may differ. Beyond the image's border the layers' own zero padding applies, as without tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .models.inference import inference
from .models.transforms import Merge, Split

__all__ = ["TILE_PIXELS", "Tile", "analyse", "margin", "plan_tiles", "synthesize"]

STRIDE = 16  # pixels a latent spans in each direction
# Measured with ccm-small: a tile of this size takes about 0.1 kB a pixel at the peak, and the margins of its tiles cost
# 18 % more computation than no tiles would.
TILE_PIXELS = 8 << 20


def _input_span(module: nn.Module, low: int, high: int) -> tuple[int, int]:
    """The input positions that output positions low..high depend on (one axis), for a chain of layers."""
    if isinstance(module, (Split, Merge)):
        spans = [_input_span(path, low, high) for path in module.paths()]
        return min(s[0] for s in spans), max(s[1] for s in spans)
    if children := list(module.children()):
        for child in reversed(children):
            low, high = _input_span(child, low, high)
    elif isinstance(module, nn.Conv2d):
        reach = module.dilation[0] * (module.kernel_size[0] - 1)
        low = low * module.stride[0] - module.padding[0]
        high = high * module.stride[0] - module.padding[0] + reach
    elif isinstance(module, nn.PixelUnshuffle):
        low, high = low * module.downscale_factor, (high + 1) * module.downscale_factor - 1
    elif isinstance(module, nn.PixelShuffle):
        low, high = low // module.upscale_factor, high // module.upscale_factor
    elif not isinstance(module, (nn.ReLU, nn.LeakyReLU, nn.Identity)):
        raise TypeError(f"cannot compute the receptive field of {type(module).__name__}: run it without tiles")
    return low, high


def margin(transform: nn.Module, kind: str) -> int:
    """How many latents around a tile its values depend on.

    Args:
        transform: a module whose leaves, in order, are convolutions, pixel (un)shuffles and pointwise layers, with
            branches in :class:`~ccm_fast.models.transforms.Split` and ``Merge`` only.
        kind: "analysis" (16 pixels -> 1 latent) or "synthesis" (1 latent -> 16 pixels).
    """
    if kind == "analysis":
        low, high = _input_span(transform, 0, 0)
        return max(-(low // STRIDE), high // STRIDE)
    low, high = _input_span(transform, 0, STRIDE - 1)
    return max(-low, high)


@dataclass(frozen=True)
class Tile:
    """A rectangle of latents [i0, i1) x [j0, j1) and the larger one that has to be computed for it, the outer one."""

    i0: int
    i1: int
    j0: int
    j1: int
    outer_i0: int
    outer_i1: int
    outer_j0: int
    outer_j1: int

    @property
    def inside(self) -> tuple[slice, slice]:
        """The tile within its outer rectangle, in latents."""
        return (
            slice(self.i0 - self.outer_i0, self.i1 - self.outer_i0),
            slice(self.j0 - self.outer_j0, self.j1 - self.outer_j0),
        )


def _cuts(size: int, parts: int) -> list[int]:
    return [size * k // parts for k in range(parts + 1)]


def plan_tiles(h: int, w: int, around: int, budget: int) -> list[Tile]:
    """Cut a plane of h x w latents into tiles whose outer rectangles have at most about ``budget`` latents.

    Of all regular grids the one with the least computation is taken; one tile if the plane fits.
    """
    if h * w <= budget:
        return [Tile(0, h, 0, w, 0, h, 0, w)]
    best = None
    for rows in range(1, h + 1):
        high = min(h, -(-h // rows) + 2 * around)
        room = budget // high - 2 * around  # inner width of a tile that fits
        if high * w > budget and room < 1:
            continue
        cols = 1 if high * w <= budget else -(-w // room)
        cost = rows * cols * high * min(w, -(-w // cols) + 2 * around)
        if best is None or cost < best[0]:
            best = cost, rows, cols
        elif cost > 2 * best[0]:  # smaller tiles only cost more from here on
            break
    _, rows, cols = best or (0, h, w)  # a budget below any tile: the smallest there are
    ys, xs = _cuts(h, rows), _cuts(w, cols)
    return [
        Tile(i0, i1, j0, j1, max(0, i0 - around), min(h, i1 + around), max(0, j0 - around), min(w, j1 + around))
        for i0, i1 in pairwise(ys)
        for j0, j1 in pairwise(xs)
    ]


def analyse(
    g_a: nn.Module, read: Callable[[slice, slice], Tensor], h: int, w: int, tile_pixels: int = TILE_PIXELS
) -> Tensor:
    """y [B, M, h, w] of an image that is read piece by piece.

    Args:
        g_a: the analysis transform; on a CPU its fast copy runs (:mod:`ccm_fast.models.inference`).
        read: returns the pixels float [B, 3, rows, columns] of two slices; they lie within 16 h x 16 w.
        h: rows of latents.
        w: columns of latents.
        tile_pixels: pixels (of all B images) to process at a time.
    """
    tiles = plan_tiles(h, w, margin(g_a, "analysis"), max(1, tile_pixels // STRIDE**2))
    y = None
    for t in tiles:
        rows = slice(STRIDE * t.outer_i0, STRIDE * t.outer_i1)
        columns = slice(STRIDE * t.outer_j0, STRIDE * t.outer_j1)
        part = inference(g_a)(read(rows, columns).contiguous(memory_format=torch.channels_last))
        if len(tiles) == 1:
            return part
        if y is None:
            y = torch.empty_like(part[:, :, :1, :1].expand(-1, -1, h, w), memory_format=torch.channels_last)
        y[:, :, t.i0 : t.i1, t.j0 : t.j1] = part[:, :, t.inside[0], t.inside[1]]
    return y


def synthesize(
    g_s: nn.Module, read: Callable[[slice, slice], Tensor], h: int, w: int, tile_pixels: int = TILE_PIXELS
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The image of h x w latents, tile by tile: yields (rows, columns, pixels float [B, 3, ...], not clamped).

    Args:
        g_s: the synthesis transform; on a CPU its fast copy runs (:mod:`ccm_fast.models.inference`).
        read: returns its input [B, M, rows, columns] for two slices of latents.
        h: rows of latents.
        w: columns of latents.
        tile_pixels: pixels (of all B images) to process at a time.
    """
    for t in plan_tiles(h, w, margin(g_s, "synthesis"), max(1, tile_pixels // STRIDE**2)):
        latents = read(slice(t.outer_i0, t.outer_i1), slice(t.outer_j0, t.outer_j1))
        pixels = inference(g_s)(latents.contiguous(memory_format=torch.channels_last))
        rows, columns = (slice(STRIDE * s.start, STRIDE * s.stop) for s in t.inside)
        yield (
            slice(STRIDE * t.i0, STRIDE * t.i1),
            slice(STRIDE * t.j0, STRIDE * t.j1),
            pixels[:, :, rows, columns],
        )
