"""What the integers cost: code lengths of the float model and of the frozen one, and a fast exact network for them.

:class:`IntegerNetwork` computes what the oracle computes, for whole batches, with torch's float64 convolutions: sums of
products of integers are exact in float64 below 2^53, in any order. Requantization is in int64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccm_fast.integer.plan import RELU8, GroupPlan, IntConv, Plan, TableRows
from ccm_fast.integer.reference_streams import NB_BITS
from ccm_fast.integer.tables import PRECISION, typical_rows
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.models.context import CONTEXT_LIMIT
from ccm_fast.models.entropy import NUM_SCALES, logistic_likelihood, scale_from_index

__all__ = ["Cost", "IntegerNetwork", "TableCost", "image_tensor", "integer_cost", "latents"]


def _clamp_latents(v: Tensor) -> Tensor:
    return v.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)


class _Conv:
    """An :class:`IntConv` as tensors; channel-first batches."""

    def __init__(self, conv: IntConv, device: torch.device | str):
        self.conv = conv
        self.weight = _float64(conv.weight, device).permute(0, 3, 1, 2).contiguous()
        self.bias = _float64(conv.bias, device)
        self.requantize = _Requantize(conv.mult, conv.shift, device)

    def __call__(self, x: Tensor, exact: bool) -> Tensor:
        acc = F.conv2d(x, self.weight, self.bias, padding=self.conv.kernel // 2)
        out = self.requantize(acc, exact)
        if self.conv.output == RELU8:
            out = out.clamp(0, 255 if exact else math.inf)
        return F.pixel_shuffle(out, 2) if self.conv.upsample == 2 else out


def _float64(values: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(values.astype(np.float64)).to(device)


class _Requantize:
    def __init__(self, mult: np.ndarray, shift: np.ndarray, device: torch.device | str):
        self.mult, self.shift = (torch.from_numpy(v.astype(np.int64))[:, None, None].to(device) for v in (mult, shift))
        self.half = torch.ones_like(self.shift) << (self.shift - 1)
        self.factor = self.mult * torch.exp2(-self.shift.double())

    def __call__(self, acc: Tensor, exact: bool) -> Tensor:
        if not exact:
            return acc * self.factor
        return ((acc.to(torch.int64) * self.mult + self.half) >> self.shift).double()


class IntegerNetwork:
    """The entropy network of a plan over whole batches, all steps at once; float64 tensors that hold integers.

    Args:
        plan: the frozen model.
        exact: False leaves out all rounding and saturation of activations (the weights stay integers): what remains
            then is the cost of the weights alone.
        device: where its tensors are; a call for a size that it has seen copies nothing from or to it.

    Raises:
        ValueError: a plan of version 2; those are not made by :func:`ccm_fast.integer.freeze.freeze`.
    """

    def __init__(self, plan: Plan, exact: bool = True, device: torch.device | str = "cpu"):
        if plan.version != 1:
            raise ValueError("the costs of plans with leaky, direct, residual or scaled parts cannot be computed")
        self.plan, self.exact = plan, exact
        self.h_s = [_Conv(c, device) for c in plan.hyper_synthesis]
        self.groups = [_Group(plan, g, exact, device) for g in plan.groups]
        self._rows = _Rows(plan, device)

    def hyper(self, z_hat: Tensor, h: int, w: int) -> Tensor:
        """psi [B, P, h, w] of z_hat [B, N, hz, wz]."""
        x = _clamp_latents(z_hat.double())
        for conv in self.h_s:
            x = conv(x, self.exact)
        return x[..., :h, :w]

    def codes(self, psi: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Mean codes (1/16) and scale codes, each [B, M, h, w]; not yet clamped, and not rounded if not exact."""
        context = _clamp_latents(y_hat.double())
        means, scales, start = [], [], 0
        for channels, group in zip(self.plan.group_channels, self.groups, strict=True):
            out = group(psi, context[:, :start], context[:, start : start + channels])
            means.append(out[:, :channels])
            scales.append(out[:, channels:])
            start += channels
        return torch.cat(means, 1), torch.cat(scales, 1)

    def parameters(self, psi: Tensor, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and row of every symbol, int64 [B, M, h, w]."""
        return self._rows(*self.codes(psi, y_hat))


class _Group:
    def __init__(self, plan: Plan, group: GroupPlan, exact: bool, device: torch.device | str):
        self.plan, self.group, self.exact, self.device = plan, group, exact, device
        self.hyper = _Conv(group.hyper, device)
        self.stack = [_Conv(c, device) for c in group.stack]
        self.skip = _Conv(group.skip, device) if group.skip is not None else None
        self.tail = [_Conv(c, device) for c in [*group.hidden, group.head]]
        self.weight = _float64(group.weight, device)
        self.requantize = _Requantize(group.mult, group.shift, device)
        self.readable: dict[tuple[int, int], list[Tensor]] = {}

    def __call__(self, psi: Tensor, earlier: Tensor, own: Tensor) -> Tensor:
        pre = self.hyper(psi, self.exact)
        if self.stack:
            x = earlier
            for conv in self.stack:
                x = conv(x, self.exact)
            pre = pre + x
        if self.skip is not None:
            pre = pre + self.skip(earlier, self.exact)
        pre = pre + self._spatial(own)
        x = self.requantize(pre, self.exact).clamp(0, 255 if self.exact else math.inf)
        for conv in self.tail:
            x = conv(x, self.exact)
        return x

    def _spatial(self, own: Tensor) -> Tensor:
        (h, w), r = own.shape[-2:], 3
        taps = self.group.taps.tolist()
        windows = [(..., slice(r + di, r + di + h), slice(r + dj, r + dj + w)) for di, dj in taps]
        if (h, w) not in self.readable:
            step = torch.from_numpy(self.plan.steps(h, w))
            steps = F.pad(step, (r, r, r, r), value=torch.iinfo(torch.int64).max)
            self.readable[h, w] = [(steps[window] < step).double().to(self.device) for window in windows]
        padded = F.pad(own, (r, r, r, r))
        out = own.new_zeros(own.shape[0], len(self.weight), h, w)
        for t, (window, readable) in enumerate(zip(windows, self.readable[h, w], strict=True)):
            out += torch.einsum("nc,bchw->bnhw", self.weight[:, t], padded[window] * readable)
        return out


class _Rows:
    def __init__(self, plan: Plan, device: torch.device | str):
        tables = plan.scale_table, plan.fraction_bits, plan.first_row
        self.scale_table, self.bits, self.first = (torch.from_numpy(v.astype(np.int64)).to(device) for v in tables)

    def __call__(self, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and rows, int64, from codes (rounded and clamped here), as in FORMAT.md section 3.3."""
        m = torch.floor(m + 0.5).clamp(-32768, 32767).to(torch.int64)
        s = torch.floor(s + 0.5).clamp(0, len(self.scale_table) - 1).to(torch.int64)
        idx = self.scale_table[s]
        b = self.bits[idx]
        one, d = torch.ones_like(b), 4 - b
        t = ((m + ((one << d) >> 1)) >> d) + ((one << b) >> 1)
        return t >> b, self.first[idx] + (t & ((one << b) - 1))


def offsets_and_rows(plan: Plan, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets and rows, int64, from codes (rounded and clamped here), as in FORMAT.md section 3.3."""
    return _Rows(plan, "cpu")(m, s)


class TableCost:
    """-log2 of the tables' frequencies as one flat array, and the escapes' raw bits (FORMAT.md, section 4).

    Args:
        rows: the tables of y or of z.
        dtype: of the code lengths: float32 is faster, and enough to compare candidates by.
    """

    def __init__(self, rows: TableRows, dtype: torch.dtype = torch.float64):
        cdf = rows.cdf.astype(np.int64)
        end = np.append(cdf[1:], 0)  # an entry ends where the next one begins, the last of a row at 65536
        end[rows.start[1:] - 1] = 1 << PRECISION
        self._bits = torch.from_numpy(PRECISION - np.log2((end - cdf).astype(np.float64))).to(dtype)
        self._lo = torch.from_numpy(rows.lo.astype(np.int32))
        self._escape = torch.from_numpy(rows.n.astype(np.int32) - 1)
        self._start = torch.from_numpy(rows.start[:-1].astype(np.int32))

    def __call__(self, row: Tensor, symbol: Tensor) -> Tensor:
        """Bits of symbols without their offsets; both integer tensors of one shape, on the CPU."""
        row = row.int()
        entry = symbol - self._lo[row]
        escape = self._escape[row]
        outside = (entry < 0) | (entry >= escape)
        bits = self._bits[self._start[row] + torch.where(outside, escape, entry)]
        if bool(outside.any()):  # few, if any: only those are worked out
            below, above = entry[outside], (entry - escape)[outside]
            value = torch.where(below < 0, -2 * below - 1, 2 * above).clamp(min=1)
            bits[outside] += NB_BITS + torch.floor(torch.log2(value.double())).to(bits.dtype)
        return bits


def image_tensor(image: Tensor | np.ndarray) -> Tensor:
    """An image as float32 [3, H, W] in [0, 1].

    Args:
        image: float [3, H, W] in [0, 1], or uint8 [H, W, 3] or [3, H, W].

    Raises:
        TypeError, ValueError: anything else.
    """
    x = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image
    if not isinstance(x, Tensor):
        raise TypeError(f"an image is a tensor or an array, not {type(image).__name__}")
    if x.ndim != 3:
        raise ValueError(f"an image has three dimensions, not {x.ndim}")
    if x.shape[0] != 3 and x.shape[2] == 3:
        x = x.permute(2, 0, 1)
    if x.shape[0] != 3:
        raise ValueError(f"an image has three channels; got the shape {tuple(x.shape)}")
    return x.float() / 255.0 if x.dtype == torch.uint8 else x.float()


@torch.no_grad()
def latents(model: CrossChannelContextModel, images: Tensor, quality: float) -> tuple[Tensor, Tensor]:
    """y_hat [B, M, h, w] and z_hat [B, N, hz, wz] of images [B, 3, H, W] in [0, 1], whole numbers in float32.

    Symbols of y are those that the float model's own encoder would code (:meth:`CrossChannelContextModel.coded`).
    """
    y = model.analysis(images, torch.full((images.shape[0],), float(quality)))
    z_hat = torch.round(model.h_a(y))
    return model.coded(y, z_hat), z_hat


class Cost(NamedTuple):
    """Code length of a set of images at one quality, in bits.

    Attributes:
        quality: the quality.
        pixels: of all images.
        float_bits: part ("z", "y0", "y1", ...) -> bits of the float model.
        integer_bits: the same of the frozen model.
        causes: cause -> added bits of all parts: "tables" (grids of mean and scale, 16-bit probabilities, escapes),
            "weights" (8-bit weights), "activations" (rounding and saturation of activations) and "shapes" (tables that
            fit better than the usual shape: less than none); they add up.
    """

    quality: float
    pixels: int
    float_bits: dict[str, float]
    integer_bits: dict[str, float]
    causes: dict[str, float]

    @property
    def growth(self) -> float:
        """Relative growth of the code length."""
        return sum(self.integer_bits.values()) / sum(self.float_bits.values()) - 1.0

    @property
    def integer_growth(self) -> float:
        """The same with tables of the usual shape: what integers alone cost."""
        return self.growth - self.causes["shapes"] / sum(self.float_bits.values())

    def __str__(self) -> str:
        total = sum(self.float_bits.values())
        parts = ", ".join(
            f"{k} {v:.0f} -> {self.integer_bits[k]:.0f} ({100 * (self.integer_bits[k] / v - 1):+.2f} %)"
            for k, v in self.float_bits.items()
        )
        causes = ", ".join(f"{k} {100 * v / total:+.3f} %" for k, v in self.causes.items())
        return (
            f"quality {self.quality:g}: {total / self.pixels:.4f} bpp, integers {100 * self.growth:+.3f} % ({causes}); "
            f"bits: {parts}"
        )


class _Meter:
    """Adds up code lengths of y and z in every variant."""

    def __init__(self, model: CrossChannelContextModel, plan: Plan):
        self.model, self.plan = model, plan
        self.exact, self.smooth = IntegerNetwork(plan), IntegerNetwork(plan, exact=False)
        self.y_cost, self.z_cost = TableCost(plan.y_rows), TableCost(plan.z_rows)
        # Plans have the rows of `typical_rows`, or of the same lengths: see freeze.
        own = len(plan.y_rows) != len(typical_rows()) or (plan.y_rows.n != typical_rows().n).any()
        self.typical_cost = self.y_cost if own else TableCost(typical_rows())

    def __call__(self, y_hat: Tensor, z_hat: Tensor) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        plan, h, w = self.plan, *y_hat.shape[-2:]
        y, z = y_hat.to(torch.int64), z_hat.to(torch.int64)

        mean, index = self.model.entropy_parameters(y_hat, z_hat)
        mean, index = mean.double(), index.double()
        real = -torch.log2(logistic_likelihood(y_hat.double(), mean, scale_from_index(index)))
        real_z = -torch.log2(self.model.z_prior(z_hat).double())

        per_index = (len(plan.scale_table) - 1) / (NUM_SCALES - 1)
        variants = {
            "tables": (16 * mean, index * per_index),
            "weights": self.smooth.codes(self.smooth.hyper(z_hat, h, w), y_hat),
            "activations": self.exact.codes(self.exact.hyper(z_hat, h, w), y_hat),
        }
        bits = {}
        for name, (m, s) in variants.items():
            offset, row = offsets_and_rows(plan, m, s)
            bits[name] = self.typical_cost(row, y - offset)
        bits["shapes"] = self.y_cost(row, y - offset)  # of the last variant, what is coded
        channel = torch.arange(plan.hyper_channels)[None, :, None, None].expand_as(z)
        coded_z = float(self.z_cost(channel, z).sum())

        def parts(of_y: Tensor, of_z: float) -> dict[str, float]:
            out = {"z": of_z}
            for g, part in enumerate(of_y.split(list(plan.group_channels), dim=1)):
                out[f"y{g}"] = float(part.sum())
            return out

        causes, before = {}, float(real.sum() + real_z.sum())
        for name, value in bits.items():
            after = float(value.sum()) + coded_z
            causes[name], before = after - before, after
        return parts(real, float(real_z.sum())), parts(bits["shapes"], coded_z), causes


def _added(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {k: a.get(k, 0.0) + v for k, v in b.items()}


@torch.no_grad()
def integer_cost(
    model: CrossChannelContextModel,
    plan: Plan,
    images: Iterable[Tensor | np.ndarray],
    qualities: Sequence[float] = (2.0, 4.0, 6.0),
) -> list[Cost]:
    """Code lengths of the float model and of its frozen one, summed over images.

    Latents are as the float model codes them. Float: exact likelihoods with continuous means and scales, at least 1e-9.
    Integer: -log2 of the frequencies of the table entries that would be coded, and the raw bits of escapes.

    Args:
        model: the float model, in evaluation mode.
        plan: its frozen entropy model, a :class:`Plan` or something with one as ``.plan``.
        images: as for :func:`image_tensor`.
        qualities: where to measure.

    Returns:
        One :class:`Cost` per quality.
    """
    plan = getattr(plan, "plan", plan)
    meter = _Meter(model, plan)
    totals: dict[float, list[dict[str, float]]] = {q: [{}, {}, {}] for q in qualities}
    pixels = 0
    for image in images:
        x = image_tensor(image)[None]
        pixels += x.shape[-2] * x.shape[-1]
        for q in qualities:
            found = meter(*latents(model, x, q))
            totals[q] = [_added(a, b) for a, b in zip(totals[q], found, strict=True)]
    return [Cost(q, pixels, *totals[q]) for q in qualities]
