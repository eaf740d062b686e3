"""What symbols of a batch of images cost: bits of the integer tables, and the error of the decoded pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ccm_fast import _backend
from ccm_fast.entropy.likelihood import logistic_likelihood, scale_from_index

from ..models import CrossChannelContextModel
from ..models.quality import lagrange_multiplier
from .distortion import SquaredError, sensitivities
from .filtering import judge_behind_filters
from .rate import tables_of

__all__ = ["Candidate", "Problem", "first", "last", "row_slices"]

# Rows of latents that are rounded at a time: bounds the memory, some 50 bytes a symbol.
CHUNK_SYMBOLS = 1 << 22


@dataclass
class Candidate:
    """Symbols of a batch, with their features and (once known) their Lagrangians."""

    y_hat: Tensor  # float [B, M, h, w]
    z_hat: Tensor  # int16 [B, hz, wz, N]
    psi: Tensor  # uint8 [B, h, w, P]


class Problem:
    """A batch of images, what their symbols cost, and how good their pictures are.

    Args:
        model: a frozen model. Its float entropy networks serve for gradients only.
        quality: float [B].
        error: of the decoded pictures.
        grey: the decoder averages the colours.
        engine: of the integer networks' code lengths: "cpu" or "reference", or "cuda": everything stays where the
            model is, and the host looks at no values.
        threads: of the same.
        filtered: pictures will be seen behind a filter that is fitted to them, and are kept for it.
    """

    def __init__(
        self,
        model: CrossChannelContextModel,
        quality: Tensor,
        error: SquaredError,
        grey: bool,
        engine: str,
        threads: int,
        filtered: bool = False,
    ):
        self.filtered, self.quality = filtered, quality
        #: Whether errors are still to be those behind a filter.
        self.fits_filter = filtered
        self.model, self.frozen, self.error = model, model.frozen, error
        self.options = {"engine": engine, "threads": threads}
        self.threads = threads
        self.queued = engine == "cuda"
        self.where = quality.device if self.queued else torch.device("cpu")
        #: Bits that a (weighted) squared error of 1, summed over pixels and colours, is worth; [B, 1, 1, 1].
        scale = 255.0**2 if model.metric == "mse" else 1.0  # of what an error counts: 255^2 MSE, or 1 - MS-SSIM
        # In double precision: libraries differ in the last bits of powers, and rounding to single hides that.
        price = lagrange_multiplier(quality.double(), model.metric) * (scale / 3)
        self.price = price.to(quality)[:, None, None, None]
        h = sensitivities(model, grey)
        #: Bits that a unit squared error of one symbol costs; [B, M, 1, 1], with weights [B, M, h, w].
        self.curvature = self.price * h[None, :, None, None] * model.inverse_gain(quality).float().square()
        if error.weights is not None:
            self.curvature = self.curvature * error.weights
        self.y_bits, self.z_bits = tables_of(model.frozen, self.where, not self.queued)
        self._leaving: tuple[Tensor, Tensor | None, float] | None = None

    def weigh_errors(self, factor: float) -> None:
        """From now on errors count so many times as much."""
        self.price, self.curvature = self.price * factor, self.curvature * factor

    def fit_filter(self, levels: Tensor) -> None:
        """Judge pictures behind the filters that suit these from now on, see :func:`judge_behind_filters`."""
        judge_behind_filters(self.error, levels, self.quality, self.threads)
        self.fits_filter = False

    def leaving(self) -> tuple[Tensor, Tensor | None, float]:
        """What the operator ``move_symbols`` knows of a step.

        Returns:
            Of every row the bits that one away from the offset takes at least; what g_s reads beside symbols, or None;
            how far a step moves what it reads, at most.
        """
        if self._leaving is None:
            row = torch.arange(len(self.frozen.plan.y_rows))
            zero = torch.zeros_like(row, dtype=torch.int32)
            steps = [zero + step for step in (-1, 1)]
            bits = torch.minimum(*(self.y_bits(row, step) for step in steps)) - self.y_bits(row, zero)
            at = [self.restored(step, zero, row.short()) for step in (steps[0], zero, steps[1])]
            moved = torch.stack([at[0] - at[1], at[2] - at[1]])
            whole = self.model.config.reconstruction == "integer"
            shifts = None if whole else self.frozen.centroid_shifts()
            self._leaving = bits, shifts, float(moved.abs().max())
        return self._leaving

    def parameters(self, c: Candidate) -> tuple[Tensor, Tensor, Tensor]:
        """y_hat as it is decoded (int32), offset and row of every symbol, [B, h, w, M], where code lengths are."""
        y_hat, offset, row = self.frozen.settle(c.psi.to(self.where), last(c.y_hat, self.where), **self.options)
        return y_hat.int(), offset, row

    def hyper(self, z_hat: Tensor, h: int, w: int) -> Tensor:
        """psi of z_hat, on the CPU."""
        return self.frozen.hyper(z_hat.cpu(), h, w, **self.options)

    def restored(self, y_hat: Tensor, offset: Tensor, row: Tensor) -> Tensor:
        """What g_s reads for symbols with these parameters, float32 of their shape."""
        if self.model.config.reconstruction == "integer":
            return y_hat.float()
        return self.frozen.centroids(y_hat, offset, row)

    def lagrangian(self, c: Candidate, known: tuple[Tensor, Tensor, Tensor], error: Tensor) -> Tensor:
        """Float64 [B], bits: of y and z by the tables, and of the picture's error. ``known``: c's parameters."""
        y_hat, offset, row = known
        bits = _backend.load().ops.coded_bits(y_hat, offset, row, *self.y_bits.tables, self.threads)
        z_row = torch.arange(c.z_hat.shape[-1]).expand(c.z_hat.shape)
        bits += self.z_bits(z_row, c.z_hat.cpu().int()).flatten(1).double().sum(1)
        return bits + (self.price.flatten() * error).cpu().double()

    def context_gradient(self, c: Candidate) -> Tensor:
        """Bits that a unit change of each symbol adds to those that have it in their context, by the float net."""
        with torch.enable_grad():
            known = c.y_hat.detach().clone().requires_grad_(True)
            found = self.float_parameters(known, first(c.z_hat, c.y_hat))
            bits = -torch.log2(logistic_likelihood(c.y_hat, *found)).sum()
            return torch.autograd.grad(bits, known)[0]

    def float_parameters(self, known: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of every symbol by the float entropy model, contexts from ``known``; differentiable."""
        dtype = next(self.model.parameters()).dtype
        mean, index = (v.float() for v in self.model.entropy_parameters(known.to(dtype), z.to(dtype)))
        return mean, scale_from_index(index)


def last(y: Tensor, where: torch.device | str = "cpu") -> Tensor:
    """Channel-last symbols, int16."""
    return y.permute(0, 2, 3, 1).to(where, torch.int16).contiguous()


def first(y: Tensor, like: Tensor) -> Tensor:
    """Channel-first floats."""
    return y.permute(0, 3, 1, 2).to(like)


def row_slices(shape: torch.Size) -> list[slice]:
    """Slices of the rows of [B, h, w, M] with about CHUNK_SYMBOLS symbols each."""
    step = max(1, CHUNK_SYMBOLS // (shape[0] * shape[2] * shape[3]))
    return [slice(k, min(k + step, shape[1])) for k in range(0, shape[1], step)]
