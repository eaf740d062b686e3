"""Running g_a and g_s over large images in tiles, seamlessly.

A tile is computed together with a margin of at least the transform's receptive field and the margin is thrown away, so
tiles carry the values that the whole image would have had; only the order of float additions inside the convolutions
may differ. Beyond the image's border the layers' own zero padding applies, as without tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .models.inference import inference
from .models.transforms import AnalysisTransform, Merge, ResidualBlock, Split, SynthesisTransform

__all__ = ["TILE_PIXELS", "Tile", "analyse", "margin", "pixels_of", "plan_tiles", "synthesize"]

STRIDE = 16  # pixels a latent spans in each direction
# Measured with ccm-small: a tile of this size takes about 0.1 kB a pixel at the peak, and the margins of its tiles cost
# 18 % more computation than no tiles would.
TILE_PIXELS = 8 << 20


#: Modules that pass their input through their children in order, up to a residual.
_CHAINS = (nn.Sequential, AnalysisTransform, SynthesisTransform, ResidualBlock)
_POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus)
_POINTWISE += (nn.Sigmoid, nn.Tanh, nn.Identity)


class _UnknownFieldError(TypeError):
    """Of this layer nobody knows what its outputs depend on."""


def _is_square(module: nn.Module) -> bool:
    """Whether a convolution treats both axes alike, and knows only zeros outside; True for what is none."""
    if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return True
    pairs = module.kernel_size, module.stride, module.padding, module.dilation
    return module.padding_mode == "zeros" and all(len(set(pair)) == 1 for pair in pairs)


def _input_span(module: nn.Module, low: int, high: int) -> tuple[int, int]:
    """The input positions that output positions low..high depend on (one axis), for a chain of layers."""
    if isinstance(module, (Split, Merge)):
        spans = [_input_span(path, low, high) for path in module.paths()]
        low, high = min(s[0] for s in spans), max(s[1] for s in spans)
    elif type(module) in _CHAINS:
        for child in reversed(list(module.children())):
            low, high = _input_span(child, low, high)
    elif not _is_square(module):
        raise _UnknownFieldError
    elif type(module) is nn.Conv2d:
        reach = module.dilation[0] * (module.kernel_size[0] - 1)
        low = low * module.stride[0] - module.padding[0]
        high = high * module.stride[0] - module.padding[0] + reach
    elif type(module) is nn.ConvTranspose2d:
        reach = module.dilation[0] * (module.kernel_size[0] - 1)
        low = -((reach - low - module.padding[0]) // module.stride[0])
        high = (high + module.padding[0]) // module.stride[0]
    elif isinstance(module, nn.PixelUnshuffle):
        low, high = low * module.downscale_factor, (high + 1) * module.downscale_factor - 1
    elif isinstance(module, nn.PixelShuffle):
        low, high = low // module.upscale_factor, high // module.upscale_factor
    elif type(module) not in _POINTWISE:
        raise _UnknownFieldError
    return low, high


def margin(transform: nn.Module, kind: str) -> int | None:
    """How many latents around a tile its values depend on; None: nobody knows, and the transform must not be tiled.

    It is known of the package's own transforms, and of ``nn.Sequential`` of convolutions, transposed ones, pixel
    (un)shuffles and pointwise layers. Any other module may say it itself, by an attribute ``margin``, a whole number:
    a latent does not depend on pixels farther from its own 16x16 than 16 times so many, or a pixel on latents farther
    than so many from its own.

    Args:
        transform: g_a or g_s.
        kind: "analysis" (16 pixels -> 1 latent) or "synthesis" (1 latent -> 16 pixels).

    Raises:
        TypeError: ``margin`` is no whole number.
    """
    if (said := getattr(transform, "margin", None)) is not None:
        if isinstance(said, bool) or not isinstance(said, int) or said < 0:
            raise TypeError(f"the attribute margin of {type(transform).__name__} must be a whole number, not {said!r}")
        return said
    try:
        if kind == "analysis":
            low, high = _input_span(transform, 0, 0)
            return max(-(low // STRIDE), high // STRIDE)
        low, high = _input_span(transform, 0, STRIDE - 1)
        return max(-low, high)
    except _UnknownFieldError:
        return None


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


def plan_tiles(h: int, w: int, around: int | None, budget: int) -> list[Tile]:
    """Cut a plane of h x w latents into tiles whose outer rectangles have at most about ``budget`` latents.

    Of all regular grids the one with the least computation is taken; one tile if the plane fits, or if what it would
    have to have ``around`` it is not known (None).
    """
    if h * w <= budget or around is None:
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
    y, fast = None, inference(g_a)
    for t in tiles:
        rows = slice(STRIDE * t.outer_i0, STRIDE * t.outer_i1)
        columns = slice(STRIDE * t.outer_j0, STRIDE * t.outer_j1)
        part = fast(read(rows, columns).contiguous(memory_format=torch.channels_last))
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
    fast = inference(g_s)
    for t in plan_tiles(h, w, margin(g_s, "synthesis"), max(1, tile_pixels // STRIDE**2)):
        latents = read(slice(t.outer_i0, t.outer_i1), slice(t.outer_j0, t.outer_j1))
        pixels = fast(latents.contiguous(memory_format=torch.channels_last))
        rows, columns = (slice(STRIDE * s.start, STRIDE * s.stop) for s in t.inside)
        yield (
            slice(STRIDE * t.i0, STRIDE * t.i1),
            slice(STRIDE * t.j0, STRIDE * t.j1),
            pixels[:, :, rows, columns],
        )


def pixels_of(
    g_s: nn.Module,
    y_hat: Tensor,
    size: tuple[int, int],
    grey: Iterable[int],
    gain: Tensor,
    tile_pixels: int = TILE_PIXELS,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The images of y_hat, in pieces: yields (rows, columns, float [B, 3, rows, columns] in [0, 1]).

    Nothing here waits for a GPU or copies to it.

    Args:
        g_s: the synthesis transform.
        y_hat: what it reads, [B, h, w, M], without gains.
        size: (H, W), pixels.
        grey: numbers of those images whose colours are averaged.
        gain: [B, M, 1, 1].
        tile_pixels: larger batches are transformed in tiles of so many pixels in all.
    """
    weight = next(g_s.parameters())
    H, W = size

    def read(rows: slice, columns: slice) -> Tensor:
        return y_hat[:, rows, columns].to(weight).permute(0, 3, 1, 2) * gain

    for rows, columns, pixels in synthesize(g_s, read, *y_hat.shape[1:3], tile_pixels // len(y_hat)):
        pixels = pixels[..., : H - rows.start, : W - columns.start].clamp(0, 1)
        for k in grey:  # a list of them as an index would be copied to the GPU
            pixels[k] = pixels[k].mean(0, keepdim=True)
        yield slice(rows.start, min(rows.stop, H)), slice(columns.start, min(columns.stop, W)), pixels
