"""The entropy network of a plan over whole batches, exact and fast, and the code lengths of its tables.

:class:`IntegerNetwork` computes what the oracle computes with torch's float64 convolutions: sums of products of
integers are exact in float64 below 2^53, in any order. Requantization is in int64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.plan import RELU8, IntConv, Plan, TableRows
from ccm_fast.entropy.reference_streams import NB_BITS
from ccm_fast.entropy.tables import PRECISION

__all__ = ["IntegerNetwork", "TableCost", "offsets_and_rows"]


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
        ValueError: a plan with leaky, direct, residual or scaled parts; :func:`ccm_fast.freezing.freeze.freeze` makes
            none of them.
    """

    def __init__(self, plan: Plan, exact: bool = True, device: torch.device | str = "cpu"):
        if not plan.plain:
            raise ValueError("the costs of plans with leaky, direct, residual or scaled parts cannot be computed")
        self.plan, self.exact = plan, exact
        self.h_s = [_Conv(c, device) for c in plan.hyper_synthesis]
        self.groups = [_Group(plan, g, exact, device) for g in range(len(plan.groups))]
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
    def __init__(self, plan: Plan, g: int, exact: bool, device: torch.device | str):
        group = plan.groups[g]
        self.plan, self.g, self.group, self.exact, self.device = plan, g, group, exact, device
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
            step = torch.from_numpy(self.plan.steps(h, w, self.g))
            # Later than every step; pad() takes a double, which the largest int64 is not.
            steps = F.pad(step, (r, r, r, r), value=1 << 62)
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
        skip_rows: symbols of the rows before this one are not coded: their offsets cost nothing, others are impossible.
        device: of the table and of what is looked up.
        waits: whether the host may look at values, which saves work on a CPU; a GPU would be waited for.
    """

    #: Bits of what is impossible.
    NEVER = 1e6

    def __init__(
        self,
        rows: TableRows,
        dtype: torch.dtype = torch.float64,
        skip_rows: int = 0,
        device: torch.device | str = "cpu",
        waits: bool = True,
    ):
        self._waits = waits
        cdf = rows.cdf.astype(np.int64)
        end = np.append(cdf[1:], 0)  # an entry ends where the next one begins, the last of a row at 65536
        end[rows.start[1:] - 1] = 1 << PRECISION
        self._bits = torch.from_numpy(PRECISION - np.log2((end - cdf).astype(np.float64))).to(dtype)
        self._lo = torch.from_numpy(rows.lo.astype(np.int32))
        self._escape = torch.from_numpy(rows.n.astype(np.int32) - 1)
        self._start = torch.from_numpy(rows.start[:-1].astype(np.int32))
        self._bits[: int(rows.start[skip_rows])] = self.NEVER
        self._bits[self._start[:skip_rows] - self._lo[:skip_rows]] = 0
        tables = self._bits, self._lo, self._escape, self._start
        self._bits, self._lo, self._escape, self._start = (table.to(device) for table in tables)

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bits of all rows' entries; of the rows the symbol of entry 0, the last entry, and the place of the first."""
        return self._bits, self._lo, self._escape, self._start

    def __call__(self, row: Tensor, symbol: Tensor) -> Tensor:
        """Bits of symbols without their offsets; both integer tensors of one shape, on the table's device."""
        row = row.int()
        entry = symbol - self._lo[row]
        escape = self._escape[row]
        outside = (entry < 0) | (entry >= escape)
        bits = self._bits[self._start[row] + torch.where(outside, escape, entry)]
        if not self._waits:
            return torch.where(outside, bits + _escape_bits(entry, entry - escape, bits.dtype), bits)
        if bool(outside.any()):  # few, if any: only those are worked out
            bits[outside] += _escape_bits(entry[outside], (entry - escape)[outside], bits.dtype)
        return bits


def _escape_bits(below: Tensor, above: Tensor, dtype: torch.dtype) -> Tensor:
    """Raw bits of symbols so far below (negative) a row's first entry, or above its last one."""
    value = torch.where(below < 0, -2 * below - 1, 2 * above).clamp(min=1)
    return NB_BITS + (torch.frexp(value.double()).exponent - 1).to(dtype)
