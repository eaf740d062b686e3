"""The picture's squared error: exactly, its gradient, and what one symbol contributes to it on average."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast import _backend
from ccm_fast.picture_filter import WHITE, levels_of

from ..models.inference import inference
from ..models.state import weights_state
from ..tiles import STRIDE, Tile, margin, plan_tiles
from .gradient import synthesis_gradient

if TYPE_CHECKING:
    from ccm_fast.freezing.fitting import Latents

    from ..models import CrossChannelContextModel

__all__ = ["SquaredError", "grey_sensitivities", "photographs_sensitivities", "sensitivities"]

# Latents of the pictures that the sensitivities are measured on; a border that zero padding reaches does not count.
_SIDE, _BORDER, _PROBES = 16, 3, 2
# Sides of the cells of pixels that g_s gives at last.
_CELL = 4
# What photographs' sensitivities are of a grey picture's, where nobody has measured them.
_PHOTOGRAPHS = 1.5
_known: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()
_measured: weakref.WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor]] = weakref.WeakKeyDictionary()


def sensitivities(model: CrossChannelContextModel, grey: bool) -> Tensor:
    """Mean of ||d x_hat / d y_c||^2 for every channel c that g_s reads, float32 [M].

    Those that freezing has measured on photographs, or what can be measured without any.

    Args:
        model: frozen or not.
        grey: for decoders that average the three colours.

    Returns:
        Squared error of a picture in [0, 1], summed over pixels and colours, for a unit step of one value that g_s
        reads (after the inverse gain); on g_s' device.
    """
    if model.sensitivities is not None:
        return _placed(model)[int(grey)]
    return _PHOTOGRAPHS * grey_sensitivities(model.g_s, model.config.latent_channels, grey)


def _placed(model: CrossChannelContextModel) -> Tensor:
    """The model's measured sensitivities on g_s' device, copied there once."""
    own, device = model.sensitivities, next(model.g_s.parameters()).device
    kept = _measured.get(model.g_s)
    if kept is None or kept[0] is not own or kept[1].device != device:
        kept = _measured[model.g_s] = own, own.to(device)
    return kept[1]


def photographs_sensitivities(model: CrossChannelContextModel, crops: Sequence[Latents]) -> Tensor:
    """See :func:`sensitivities`, of decoded photographs; float32 [2, M], the second for decoders that average colours.

    The diagonal of J^T J by random signs r behind the transform (Hutchinson's estimator: E[(J^T r)_i^2] is the squared
    norm of column i), averaged over positions and crops.

    Args:
        model: its transforms and gains, on the CPU.
        crops: at least one.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(2, model.config.latent_channels)
    for crop in crops:
        border = max(0, min(_BORDER, (min(crop.y_hat.shape[2:]) - 1) // 2))
        inner = slice(border, -border or None)
        with torch.enable_grad():
            y = (crop.y_hat * model.inverse_gain(torch.tensor([crop.quality]))).detach().requires_grad_(True)
            x = model.g_s(y.contiguous(memory_format=torch.channels_last))
            signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
            for k, r in enumerate((signs, signs[:, :1].expand_as(x) * 3**-0.5)):
                (grad,) = torch.autograd.grad(x, y, r, retain_graph=True)
                total[k] += grad[:, :, inner, inner].square().mean((0, 2, 3))
    return total / len(crops)


def grey_sensitivities(g_s: nn.Module, channels: int, grey: bool) -> Tensor:
    """See :func:`sensitivities`, of a plain grey picture; kept until the weights change.

    The deeper g_s is, the less a grey picture says about photographs: their coarse channels move the pictures of
    ``ccm-small`` 1.8 to 2 times as much (before its last residual block 1.4 to 1.5 times), single ones three times.

    Args:
        g_s: the synthesis transform.
        channels: of its input.
        grey: for decoders that average the three colours.
    """
    state = weights_state(g_s), grey
    kept = _known.setdefault(g_s, {})
    if state not in kept:
        weight = next(g_s.parameters())
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode(False), torch.enable_grad():
            y = torch.zeros(_PROBES, channels, _SIDE, _SIDE, dtype=weight.dtype, device=weight.device)
            y.requires_grad_(True)
            x = g_s(y.contiguous(memory_format=torch.channels_last))
            shape = x[:, :1].shape if grey else x.shape
            signs = torch.randint(0, 2, shape, generator=generator).to(x) * 2 - 1
            if grey:  # the mean of three colours, counted three times: 3 * (sum / 3)^2
                signs = signs.expand_as(x) * 3**-0.5
            (grad,) = torch.autograd.grad(x, y, signs)
        inner = slice(_BORDER, _SIDE - _BORDER)
        kept.clear() if len(kept) > 1 else None
        kept[state] = grad[:, :, inner, inner].float().square().mean((0, 2, 3))
    return kept[state]


class SquaredError:
    """The error of the pictures that y_hat decodes to, summed over pixels and colours in [0, 1], tile by tile.

    Args:
        g_s: the synthesis transform.
        gain: the decoder's gain, [B, M, 1, 1].
        read: the pixels, float [B, 3, rows, columns], of two slices.
        size: (H, W) of the images.
        grey: the decoder averages the colours.
        tile_pixels: of all B images, to process at a time.
        weights: of the pixels in each latent's place, [B, 1, h, w]; None: all count alike.
    """

    def __init__(
        self,
        g_s: nn.Module,
        gain: Tensor,
        read: Callable[[slice, slice], Tensor],
        size: tuple[int, int],
        grey: bool,
        tile_pixels: int,
        weights: Tensor | None = None,
    ):
        self.g_s, self.gain, self.read, self.size, self.grey = g_s, gain, read, size, grey
        self.weights = weights
        self.added: Tensor | None = None
        self._wanted: dict[Tile, tuple[Tensor, Tensor | None]] = {}
        self.h, self.w = (-(-s // STRIDE) for s in size)
        self.tiles = plan_tiles(self.h, self.w, margin(g_s, "synthesis"), max(1, tile_pixels // STRIDE**2))

    def _latents(self, y_hat: Tensor) -> Tensor:
        latents = (y_hat * self.gain).to(next(self.g_s.parameters()).dtype)
        return latents.contiguous(memory_format=torch.channels_last)

    def add_to_pictures(self, added: Tensor | None) -> None:
        """From now on errors are those of pictures to which this is added; None: nothing.

        Args:
            added: int16 [B, C, H, W] in 1/WHITE: what a filter does to pictures near those that will be looked at. C is
                1 for decoders that average the colours.
        """
        self.added = added
        self._wanted.clear()

    def _pixels(self, rows: slice, columns: slice) -> Tensor:
        """What pictures ought to be, float32 [B, 3, rows, columns]."""
        x = self.read(rows, columns).float()
        return x if self.added is None else x - self.added[..., rows, columns].to(x.device) * (1 / WHITE)

    def _inside(self, x_hat: Tensor, tile: Tile) -> tuple[slice, slice, Tensor]:
        """Rows and columns of a tile in the image, and its pixels [B, C, rows, columns] of its outer rectangle's."""
        H, W = self.size
        rows = slice(STRIDE * tile.i0, min(STRIDE * tile.i1, H))
        columns = slice(STRIDE * tile.j0, min(STRIDE * tile.j1, W))
        top, left = STRIDE * tile.outer_i0, STRIDE * tile.outer_j0
        x_hat = x_hat[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left].clamp(0, 1)
        return rows, columns, x_hat.mean(1, keepdim=True) if self.grey else x_hat

    def put(self, x_hat: Tensor, tile: Tile, levels: Tensor) -> None:
        """Put a tile's part of the pictures where :meth:`new_levels` has made place for them.

        Args:
            x_hat: what g_s gives for the tile's outer rectangle, [B, 3, rows, columns].
            tile: where.
            levels: int16 [B, C, H, W].
        """
        rows, columns, pixels = self._inside(x_hat, tile)
        levels[..., rows, columns] = levels_of(pixels)

    def of_pixels(self, x_hat: Tensor, tile: Tile) -> Tensor:
        """The error in a tile, float32 [B], of what g_s gives for its outer rectangle, [B, 3, rows, columns]."""
        rows, columns, pixels = self._inside(x_hat, tile)
        error = (pixels - self._pixels(rows, columns).to(pixels)).float().square()
        if self.weights is not None:
            error = error * self._pixel_weights(tile, *error.shape[2:])
        return error.flatten(1).sum(1)

    def _pixel_weights(self, tile: Tile, height: int, width: int) -> Tensor:
        weights = self.weights[:, :, tile.i0 : tile.i1, tile.j0 : tile.j1]
        return weights.repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)[..., :height, :width]

    def new_levels(self, images: int) -> Tensor:
        """A place for the pictures of a batch, int16 [B, C, H, W] of :func:`ccm_fast.picture_filter.levels_of`.

        C is 1 for decoders that average the colours.
        """
        return torch.empty(images, 1 if self.grey else 3, *self.size, dtype=torch.int16)

    def __call__(self, y_hat: Tensor, levels: Tensor | None = None) -> Tensor:
        """The error of each image, float32 [B], of y_hat [B, M, h, w]; ``levels``: where to :meth:`put` pictures."""
        total = y_hat.new_zeros(len(y_hat), dtype=torch.float32)
        with torch.no_grad():
            g_s = inference(self.g_s)
            for t in self.tiles:
                part = y_hat[:, :, t.outer_i0 : t.outer_i1, t.outer_j0 : t.outer_j1]
                x_hat = g_s(self._latents(part))
                total += self.of_pixels(x_hat, t)
                if levels is not None:
                    self.put(x_hat, t, levels)
        return total

    def gradient(self, y_hat: Tensor, levels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The error of each image [B], and its gradient [B, M, h, w]: exact, tiles overlap by their margins.

        ``levels``: where to :meth:`put` the pictures.
        """
        total = y_hat.new_zeros(len(y_hat), dtype=torch.float32)
        grad = torch.zeros_like(y_hat)
        fast = synthesis_gradient(self.g_s)
        for t in self.tiles:
            outer = (slice(None), slice(None), slice(t.outer_i0, t.outer_i1), slice(t.outer_j0, t.outer_j1))
            if fast is None:
                with torch.enable_grad():
                    part = y_hat[outer].detach().clone().requires_grad_(True)
                    x_hat = self.g_s(self._latents(part))
                    error = self.of_pixels(x_hat, t)
                    grad[outer] += torch.autograd.grad(error.sum(), part)[0]
                total += error.detach()
                if levels is not None:
                    self.put(x_hat.detach(), t, levels)
            else:
                cells, fine, back = fast.run(self._latents(y_hat[outer].detach()))
                if levels is not None:
                    self.put(_pixels_of_cells(cells, fine), t, levels)
                if t not in self._wanted:
                    self._wanted[t] = self._cells_of(t)
                total += _backend.load().ops.cell_errors(cells, fine, *self._wanted[t], torch.get_num_threads())
                grad[outer] += back() * self.gain
        return total, grad

    def of_levels(self, levels: Tensor) -> Tensor:
        """The error of each image, float32 [B], of pictures as :meth:`put` leaves them."""
        total = torch.zeros(len(levels), dtype=torch.float32)
        for t in self.tiles:
            inner = Tile(t.i0, t.i1, t.j0, t.j1, t.i0, t.i1, t.j0, t.j1)
            rows, columns = slice(STRIDE * t.i0, STRIDE * t.i1), slice(STRIDE * t.j0, STRIDE * t.j1)
            total += self.of_pixels(levels[..., rows, columns].float().mul_(1 / WHITE).expand(-1, 3, -1, -1), inner)
        return total

    def _cells_of(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        """The pixels of a tile's outer rectangle, [B, rows, columns, colours, 16], and what their errors count.

        Weights, [B, rows, columns, 16], are None where all count alike; what lies outside of the tile or of the image
        counts nothing.
        """
        H, W = self.size
        rows = slice(STRIDE * tile.i0, min(STRIDE * tile.i1, H))
        columns = slice(STRIDE * tile.j0, min(STRIDE * tile.j1, W))
        top, left = STRIDE * tile.outer_i0, STRIDE * tile.outer_j0
        inside = (..., slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        x = self._pixels(rows, columns)
        if self.grey:
            x = x.mean(1, keepdim=True)  # the colours are one
        height, width = (STRIDE * n for n in (tile.outer_i1 - tile.outer_i0, tile.outer_j1 - tile.outer_j0))

        def placed(values: Tensor) -> Tensor:
            if values.shape[2:] != (height, width):
                plane = values.new_zeros(*values.shape[:2], height, width)
                plane[inside] = values
                values = plane
            B, C = values.shape[:2]
            cells = values.view(B, C, height // _CELL, _CELL, width // _CELL, _CELL).permute(0, 2, 4, 1, 3, 5)
            return cells.reshape(B, height // _CELL, width // _CELL, C, _CELL**2)

        if self.weights is None and x.shape[2:] == (height, width):
            return placed(x), None
        weights = x.new_ones(1, 1, *x.shape[2:])
        if self.weights is not None:
            weights = self._pixel_weights(tile, *x.shape[2:])
        return placed(x), placed(weights)[..., 0, :].expand(len(x), -1, -1, -1).contiguous()


def _pixels_of_cells(cells: Tensor, fine: Tensor | None) -> Tensor:
    """Pixels [B, 3, rows, columns] of what :meth:`SynthesisGradient.run` gives."""
    B, H, W, C = cells.shape
    if fine is not None:
        h, w = fine.shape[1:3]
        f = H // h
        parts = fine.view(B, h, w, f, f, C).permute(0, 1, 3, 2, 4, 5)
        cells = (cells.view(B, h, f, w, f, C) + parts).view(B, H, W, C)
    return F.pixel_shuffle(cells.permute(0, 3, 1, 2) * 0.25 + 0.5, _CELL)
